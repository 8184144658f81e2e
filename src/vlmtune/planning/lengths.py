"""The first epoch as it will be packed, from texts and image headers: no pixel is decoded, no torch is loaded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, EncodedImage, Encoder
from vlmtune.progress import Progress
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.packing import Layout, PackedSequence, pack
from vlmtune.training.sampler import sample_batches

CLASSIC_MICRO_BATCH = 2
"""Examples that the classic loop pads to the longest of them."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a row, or an epoch, asks of the model.

    `pairs` are queries times the keys each may see, `supervised` the tokens that are learnt, `patch_pairs` patches of a
    picture times patches of the same picture.
    """

    tokens: int = 0
    pairs: int = 0
    supervised: int = 0
    patches: int = 0
    patch_pairs: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.supervised + other.supervised,
            self.patches + other.patches,
            self.patch_pairs + other.patch_pairs,
        )


def work_of(row: PackedSequence) -> Work:
    """What one packed row asks for."""
    pairs = 0
    for segment in row.segments:
        own = segment.end - segment.start
        pairs += own * (segment.prefix_end - segment.prefix_start) + own * (own + 1) // 2
    patches = [_patches(image) for image in row.images]
    return Work(len(row), pairs, len(row.targets), sum(patches), sum(n * n for n in patches))


def _patches(image: EncodedImage) -> int:
    time, rows, columns = image.grid
    return time * rows * columns


@dataclass(frozen=True, slots=True)
class Epoch:
    """The first epoch.

    `tokens`, `image_tokens` and `supervised` are [visits], in the order of the visits. `work` is the sum over all
    packed rows, `kinds` the different rows among them, `alone` the different lessons as rows of their own.
    `padded_tokens` are those of the classic loop.
    """

    rows: int
    steps: int
    packed_rows: int
    tokens: NDArray[np.int64]
    image_tokens: NDArray[np.int64]
    supervised: NDArray[np.int64]
    work: Work
    kinds: frozenset[Work]
    alone: frozenset[Work]
    padded_tokens: int


def first_epoch(lessons: TrainingExamples, target: str | None, progress: Progress) -> Epoch:
    """Encode and pack every visit of the first epoch; later ones differ in which lessons meet in a batch.

    Args:
        lessons: of the train rows, whose encoder reads `ImageHeaders` where nothing shall be decoded.
        target: `dataset.target`.
        progress: hears of every batch.

    Raises:
        DataError: a row cannot be taught; named.
    """
    settings, encoder = lessons.settings, lessons.encoder
    layout = Layout(encoder.checkpoint.family, encoder.renderer.image_id, encoder.image_processor.limits.merge)
    steps = sample_batches(lessons.rows, target, 1, settings.batch_size, settings.seed)
    packed: list[Work] = []
    alone: set[Work] = set()
    sizes: list[tuple[int, int, int]] = []
    padded = 0
    with (
        Prefetch(lessons.encode, steps, settings.workers) as feed,
        progress.step("read train rows", len(steps)) as shown,
    ):
        for batch in feed:
            packed += [work_of(row) for row in pack(batch, layout, settings.pack_tokens)]
            alone |= {work_of(row) for lesson in batch for row in pack([lesson], layout, settings.pack_tokens)}
            sizes += [_sizes(lesson, encoder) for lesson in batch]
            padded += _padded([len(lesson) for lesson in batch])
            shown.advance()
    columns = np.array(sizes, np.int64).reshape(-1, 3).T
    return Epoch(
        rows=len(lessons.rows),
        steps=len(steps),
        packed_rows=len(packed),
        tokens=columns[0],
        image_tokens=columns[1],
        supervised=columns[2],
        work=total(packed),
        kinds=frozenset(packed),
        alone=frozenset(alone),
        padded_tokens=padded,
    )


def total(works: Iterable[Work]) -> Work:
    """The sum."""
    return sum(works, Work())


def _sizes(lesson: Encoded, encoder: Encoder) -> tuple[int, int, int]:
    """(tokens, tokens of pictures, supervised tokens)."""
    return len(lesson), encoder.image_tokens(lesson), lesson.rendered.supervised


def _padded(lengths: Sequence[int]) -> int:
    """Tokens of a batch in which every two lessons are padded to the longer one."""
    groups = [lengths[at : at + CLASSIC_MICRO_BATCH] for at in range(0, len(lengths), CLASSIC_MICRO_BATCH)]
    return sum(len(group) * max(group) for group in groups)

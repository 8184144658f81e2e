"""The first epoch as training will pack it, from texts and image headers alone: decodes no pixel, loads no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import DELTA_CHUNK
from vlmtune.prefetch import Prefetch
from vlmtune.processing.encoder import Encoded, EncodedImage, Encoder
from vlmtune.progress import Progress
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.packing import Layout, PackedSequence, pack
from vlmtune.training.sampler import Share, sample_batches

CLASSIC_MICRO_BATCH = 2
"""Examples per micro-batch of the classic loop, which pads them to the longest."""


@dataclass(frozen=True, slots=True)
class Work:
    """Amount of computation in a sequence or an epoch.

    `pairs` counts the (query, key) pairs that the attention mask allows, `supervised` the tokens with a loss, and
    `patch_pairs` the pairs of patches of the same image. `chunked` is the number of tokens if every segment is rounded
    up to whole chunks of linear attention.
    """

    tokens: int = 0
    pairs: int = 0
    supervised: int = 0
    patches: int = 0
    patch_pairs: int = 0
    sequences: int = 0
    chunked: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.supervised + other.supervised,
            self.patches + other.patches,
            self.patch_pairs + other.patch_pairs,
            self.sequences + other.sequences,
            self.chunked + other.chunked,
        )


def work_of(sequence: PackedSequence) -> Work:
    """The work of one packed sequence."""
    pairs = chunked = 0
    for segment in sequence.segments:
        length = segment.end - segment.start
        # Every token sees the whole prefix, and causally its own segment.
        pairs += length * (segment.prefix_end - segment.prefix_start) + length * (length + 1) // 2
        chunked += _in_chunks(length)
    return Work(len(sequence), pairs, len(sequence.targets), *_patches(sequence.images), 1, chunked)


def work_of_prompt(prompt: Encoded) -> Work:
    """The work of a prompt's forward pass, after which the head says the first token."""
    length = len(prompt)
    return Work(length, length * (length + 1) // 2, 1, *_patches(prompt.images), 1, _in_chunks(length))


def _in_chunks(length: int) -> int:
    return -(-length // DELTA_CHUNK) * DELTA_CHUNK


def _patches(images: Iterable[EncodedImage]) -> tuple[int, int]:
    """Patches, and pairs of those that see each other: of the same frame or tile."""
    frames = [(image.grid[0], image.grid[1] * image.grid[2]) for image in images]
    return sum(count * size for count, size in frames), sum(count * size**2 for count, size in frames)


@dataclass(frozen=True, slots=True)
class Epoch:
    """The first epoch.

    `tokens`, `image_tokens` and `supervised` are [samples], in training order. `work` is the sum over all packed
    sequences, `distinct` the set of their works, and `unpacked` that set if no two examples shared a sequence.
    `padded_tokens` are those of the classic loop.
    """

    rows: int
    steps: int
    packed_sequences: int
    tokens: NDArray[np.int64]
    image_tokens: NDArray[np.int64]
    supervised: NDArray[np.int64]
    work: Work
    distinct: frozenset[Work]
    unpacked: frozenset[Work]
    padded_tokens: int


def first_epoch(
    examples: TrainingExamples, target: str | None, progress: Progress, shares: Sequence[Share] = ()
) -> Epoch:
    """Encode and pack every sample of the first epoch. Later epochs differ in which examples share a batch.

    Args:
        examples: the train rows; their encoder reads `ImageHeaders` unless images should be decoded.
        target: `dataset.target`.
        progress: notified of every batch.
        shares: the further datasets of a mixture.

    Raises:
        DataError: a row cannot be trained on; names it.
    """
    settings, encoder = examples.settings, examples.encoder
    layout = Layout.of(encoder)
    steps = sample_batches(examples.rows, target, 1, settings.batch_size, settings.seed, shares)
    packed: list[Work] = []
    unpacked: set[Work] = set()
    sizes: list[tuple[int, int, int]] = []
    padded = 0
    with (
        Prefetch(examples.encode, steps, settings.workers) as feed,
        progress.step("read train rows", len(steps)) as shown,
    ):
        for batch in feed:
            sequences = pack(batch, layout, settings.pack_tokens, settings.shares_prefixes)
            packed += [work_of(sequence) for sequence in sequences]
            unpacked |= {work_of(pack([example], layout, settings.pack_tokens)[0]) for example in batch}
            sizes += [_sizes(example, encoder) for example in batch]
            padded += _padded([len(example) for example in batch])
            shown.advance()
    columns = np.array(sizes, np.int64).reshape(-1, 3).T
    return Epoch(
        rows=len(examples.rows),
        steps=len(steps),
        packed_sequences=len(packed),
        tokens=columns[0],
        image_tokens=columns[1],
        supervised=columns[2],
        work=total(packed),
        distinct=frozenset(packed),
        unpacked=frozenset(unpacked),
        padded_tokens=padded,
    )


def total(works: Iterable[Work]) -> Work:
    """The sum."""
    return sum(works, Work())


def _sizes(example: Encoded, encoder: Encoder) -> tuple[int, int, int]:
    """(tokens, image tokens, supervised tokens)."""
    return len(example), encoder.image_tokens(example), example.rendered.supervised


def _padded(lengths: Sequence[int]) -> int:
    """Tokens of a batch whose examples are padded in pairs to the longer one."""
    groups = [lengths[at : at + CLASSIC_MICRO_BATCH] for at in range(0, len(lengths), CLASSIC_MICRO_BATCH)]
    return sum(len(group) * max(group) for group in groups)

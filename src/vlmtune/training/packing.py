"""Sequence packing: several examples in one forward pass, without padding, and one prefix per image or video.

A packed sequence is a list of segments. A token attends causally to its own segment, fully to the segment's prefix, if
it has one, and to nothing else; `attention` implements that. Examples about the same images share their longest common
prefix as one segment, and each continues as a branch: five captions of a photo cost one pass over the photo. No torch.

Two captions of one image, prompt P1 P2 P3, answers A1 A2 and B1 B2, and an unrelated example C1 C2 C3 C4 pack into

    index      0   1   2 | 3   4 | 5   6 | 7   8   9  10
    token     P1  P2  P3 |A1  A2 |B1  B2 |C1  C2  C3  C4
    segment    0   0   0 | 1   1 | 2   2 | 3   3   3   3
    prefix     -   -   - |[0, 3) |[0, 3) | -   -   -   -
    position   0   1   2 | 3   4 | 3   4 | 0   1   2   3

Positions continue from the prefix in each branch, exactly as if the example were not packed.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Family
from vlmtune.processing.encoder import Encoded, EncodedImage, Encoder


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) of a packed sequence, and those of its prefix (empty if there is none)."""

    start: int
    end: int
    prefix_start: int = 0
    prefix_end: int = 0


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One packed sequence of S tokens.

    The hidden state at index `predictors[i]` predicts the token `targets[i]`, which belongs to example
    `example_indices[i]`; the last token of a shared prefix is listed once per branch. `positions` is [3, S].
    """

    ids: tuple[int, ...]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    predictors: tuple[int, ...]
    targets: tuple[int, ...]
    example_indices: tuple[int, ...]
    images: tuple[EncodedImage, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a checkpoint represents images and videos: `merge` x `merge` patches become one of `vision_tokens`."""

    family: Family
    vision_tokens: frozenset[int]
    merge: int

    @classmethod
    def of(cls, encoder: Encoder) -> "Layout":
        """That of an encoder's checkpoint."""
        return cls(encoder.checkpoint.family, encoder.renderer.vision_ids, encoder.image_processor.limits.merge)


def pack(
    examples: Sequence[Encoded], layout: Layout, max_tokens: int, share_prefixes: bool = True
) -> list[PackedSequence]:
    """Pack examples into sequences of at most `max_tokens` tokens, best-fit decreasing.

    No example is ever split or truncated; one longer than `max_tokens` gets a sequence of its own. The result is a pure
    function of the arguments.

    Args:
        examples: the examples of a batch; `example_indices` refer to them.
        layout: of the checkpoint.
        max_tokens: tokens per sequence.
        share_prefixes: whether examples with the same images share their prefix.
    """
    groups = [
        part
        for group in _group_by_images(examples, share_prefixes)
        for part in _split_to_fit(group, examples, max_tokens)
    ]
    sizes = [_packed_length(group, examples) for group in groups]
    bins: list[list[int]] = []
    room: list[int] = []
    for n in sorted(range(len(groups)), key=lambda n: (-sizes[n], n)):
        fitting = [b for b, left in enumerate(room) if left >= sizes[n]]
        if fitting:
            best = min(fitting, key=lambda b: (room[b], b))
            bins[best].append(n)
            room[best] -= sizes[n]
        else:
            bins.append([n])
            room.append(max_tokens - sizes[n])
    return [_packed_sequence([groups[n] for n in members], examples, layout) for members in bins]


def filler(layout: Layout) -> PackedSequence:
    """A sequence of two tokens of text, for a process that only takes part in what the others compute."""
    token = next(n for n in itertools.count() if n not in layout.vision_tokens)
    positions = np.tile(np.arange(2), (3, 1))
    return PackedSequence((token, token), positions, (Segment(0, 2),), (0,), (token,), (0,), ())


def _group_by_images(examples: Sequence[Encoded], share_prefixes: bool) -> list[list[int]]:
    """Indices of examples with the same images; an example without images is a group of its own."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for n, example in enumerate(examples):
        images = tuple(image.digest for image in example.images)
        groups[images if share_prefixes and images else n].append(n)
    return list(groups.values())


def _split_to_fit(group: list[int], examples: Sequence[Encoded], max_tokens: int) -> list[list[int]]:
    """Split a group into parts that each fit into one sequence together with their prefix."""
    parts: list[list[int]] = [[]]
    for n in group:
        if parts[-1] and _packed_length([*parts[-1], n], examples) > max_tokens:
            parts.append([])
        parts[-1].append(n)
    return parts


def _packed_length(group: Sequence[int], examples: Sequence[Encoded]) -> int:
    prefix = _prefix_length(group, examples)
    return prefix + sum(len(examples[n]) - prefix for n in group)


def _prefix_length(group: Sequence[int], examples: Sequence[Encoded]) -> int:
    """Length of a group's common prefix, at least one token shorter than any example; 0 for a single example."""
    if len(group) == 1:
        return 0
    texts = [examples[n].rendered.ids for n in group]
    longest = min(map(len, texts)) - 1
    return next((index for index in range(longest) if len({text[index] for text in texts}) > 1), longest)


class _Builder:
    """Builds one packed sequence."""

    def __init__(self, examples: Sequence[Encoded], layout: Layout) -> None:
        self._examples, self._layout = examples, layout
        self.ids: list[int] = []
        self.positions: list[NDArray[np.int64]] = []
        self.segments: list[Segment] = []
        self.predictors: list[int] = []
        self.targets: list[int] = []
        self.example_indices: list[int] = []
        self.images: list[EncodedImage] = []

    def add(self, group: Sequence[int]) -> None:
        """Append a prefix segment if the group shares one, then a branch per example."""
        shared = _prefix_length(group, self._examples)
        prefix = len(self.ids)
        if shared:
            self._append(group[0], 0, shared, Segment(prefix, prefix + shared))
        for n in group:
            start, length = len(self.ids), len(self._examples[n])
            bounds = (prefix, prefix + shared) if shared else (0, 0)
            self._append(n, shared, length, Segment(start, start + length - shared, *bounds))
            self._add_targets(n, shared, prefix, start - shared)

    def _append(self, n: int, start: int, end: int, segment: Segment) -> None:
        """Append tokens [start, end) of example `n` as a segment, with the images that begin in it."""
        example, layout = self._examples[n], self._layout
        ids = example.rendered.ids
        self.ids += ids[start:end]
        positions = layout.family.positions(ids, layout.vision_tokens, example.blocks, layout.merge)
        self.positions.append(positions[:, start:end])
        self.segments.append(segment)
        firsts = _first_tokens(example, layout)
        self.images += [image for image, first in zip(example.images, firsts, strict=True) if start <= first < end]

    def _add_targets(self, n: int, shared: int, prefix: int, branch: int) -> None:
        """Record which index of the sequence predicts each supervised token of example `n`.

        Token t of the example lies at index `prefix` + t while t < `shared`, and at `branch` + t after that. In the
        diagram above, example B (shared 3, prefix 0) starts its branch at index 5, so `branch` is 5 - 3 = 2: its token
        3 (B1) is predicted by its token 2 (P3, in the prefix, index 0 + 2), its token 4 (B2) by its token 3 (B1, index
        2 + 3 = 5). Index 2 therefore predicts A1 for the one example and B1 for the other.
        """
        rendered = self._examples[n].rendered
        for token in range(1, len(rendered)):
            if rendered.loss_mask[token]:
                before = token - 1
                self.predictors.append(before + (prefix if before < shared else branch))
                self.targets.append(rendered.ids[token])
                self.example_indices.append(n)


def _first_tokens(example: Encoded, layout: Layout) -> Iterator[int]:
    """Index of the first token of each image and video."""
    ids, end = example.rendered.ids, 0
    for image in example.images:
        first = None
        for block in image.blocks:
            start = next(index for index in range(end, len(ids)) if ids[index] in layout.vision_tokens)
            first, end = start if first is None else first, start + block.tokens(layout.merge)
        yield end if first is None else first


def _packed_sequence(groups: Sequence[Sequence[int]], examples: Sequence[Encoded], layout: Layout) -> PackedSequence:
    builder = _Builder(examples, layout)
    for group in groups:
        builder.add(group)
    return PackedSequence(
        ids=tuple(builder.ids),
        positions=np.concatenate(builder.positions, axis=1),
        segments=tuple(builder.segments),
        predictors=tuple(builder.predictors),
        targets=tuple(builder.targets),
        example_indices=tuple(builder.example_indices),
        images=tuple(builder.images),
    )

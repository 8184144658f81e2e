"""Lessons as packed rows: several in one forward pass, without padding, those about one picture behind one prefix.

A row is a list of segments. A segment sees itself, causally, and before that the whole of its parent, nothing else;
that is what `attention` computes. Lessons with the same pictures share their longest common beginning as one parent
segment, and each goes on as a branch: five captions of a photo cost one pass of the photo. No torch here.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmtune.families import Family
from vlmtune.processing.encoder import Encoded, Picture


@dataclass(frozen=True, slots=True)
class Segment:
    """Places [start, end) of a row, and those of its parent (start = end where it has none)."""

    start: int
    end: int
    parent_start: int = 0
    parent_end: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of S tokens.

    `predictors[i]` is the place whose hidden state predicts the token `targets[i]`, of lesson `owners[i]`; a shared
    last prefix place stands there once per branch. `positions` is [3, S].
    """

    ids: tuple[int, ...]
    positions: NDArray[np.int64]
    segments: tuple[Segment, ...]
    predictors: tuple[int, ...]
    targets: tuple[int, ...]
    owners: tuple[int, ...]
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a checkpoint's family and processor say about tokens of pictures."""

    family: Family
    image_token: int
    merge: int


def rows_of(lessons: Sequence[Encoded], layout: Layout, most_tokens: int, share: bool = True) -> list[Row]:
    """Pack lessons into rows of at most `most_tokens` tokens, best-fit decreasing.

    A lesson is never split or cut; one longer than `most_tokens` has a row of its own. Depends on the arguments alone.

    Args:
        lessons: all lessons of a global batch; `owners` counts in it.
        layout: of the checkpoint.
        most_tokens: tokens per row.
        share: whether lessons with the same pictures share their beginning.
    """
    groups = [bunch for alike in _alike(lessons, share) for bunch in _fitting(alike, lessons, most_tokens)]
    sizes = [_tokens(bunch, lessons) for bunch in groups]
    order = sorted(range(len(groups)), key=lambda n: (-sizes[n], n))
    bins: list[list[int]] = []
    room: list[int] = []
    for n in order:
        fitting = [b for b, left in enumerate(room) if left >= sizes[n]]
        if fitting:
            best = min(fitting, key=lambda b: (room[b], b))
            bins[best].append(n)
            room[best] -= sizes[n]
        else:
            bins.append([n])
            room.append(most_tokens - sizes[n])
    return [_row([groups[n] for n in chosen], lessons, layout) for chosen in bins]


def _alike(lessons: Sequence[Encoded], share: bool) -> list[list[int]]:
    """Numbers of lessons with the same pictures together; those without pictures each alone."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for n, lesson in enumerate(lessons):
        same = tuple(picture.digest for picture in lesson.pictures)
        groups[same if share and same else n].append(n)
    return list(groups.values())


def _fitting(alike: list[int], lessons: Sequence[Encoded], most_tokens: int) -> list[list[int]]:
    """Cut a group so that each part fits into a row with a prefix of its own."""
    parts: list[list[int]] = [[]]
    for n in alike:
        if parts[-1] and _tokens([*parts[-1], n], lessons) > most_tokens:
            parts.append([])
        parts[-1].append(n)
    return parts


def _tokens(bunch: Sequence[int], lessons: Sequence[Encoded]) -> int:
    shared = _shared(bunch, lessons)
    return shared + sum(len(lessons[n]) - shared for n in bunch)


def _shared(bunch: Sequence[int], lessons: Sequence[Encoded]) -> int:
    """Tokens that all lessons of a bunch begin with; 0 for one alone. Every lesson keeps a token of its own."""
    if len(bunch) == 1:
        return 0
    texts = [lessons[n].rendered.ids for n in bunch]
    most = min(map(len, texts)) - 1
    return next((place for place in range(most) if len({text[place] for text in texts}) > 1), most)


class _Builder:
    """Grows one row."""

    def __init__(self, lessons: Sequence[Encoded], layout: Layout) -> None:
        self._lessons, self._layout = lessons, layout
        self.ids: list[int] = []
        self.positions: list[NDArray[np.int64]] = []
        self.segments: list[Segment] = []
        self.predictors: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []
        self.pictures: list[Picture] = []

    def add(self, bunch: Sequence[int]) -> None:
        """A prefix where the bunch shares one, then a branch per lesson."""
        shared = _shared(bunch, self._lessons)
        prefix = len(self.ids)
        if shared:
            self._take(bunch[0], 0, shared, Segment(prefix, prefix + shared))
        for n in bunch:
            start, length = len(self.ids), len(self._lessons[n])
            parent = (prefix, prefix + shared) if shared else (0, 0)
            self._take(n, shared, length, Segment(start, start + length - shared, *parent))
            self._predict(n, shared, prefix, start - shared)

    def _take(self, n: int, start: int, end: int, segment: Segment) -> None:
        """Tokens [start, end) of a lesson as a segment, with the pictures that begin in it."""
        lesson, layout = self._lessons[n], self._layout
        ids = lesson.rendered.ids
        self.ids += ids[start:end]
        grids = [picture.grid for picture in lesson.pictures]
        places = layout.family.positions(ids, layout.image_token, grids, layout.merge)
        self.positions.append(places[:, start:end])
        self.segments.append(segment)
        begun = 0
        for picture in lesson.pictures:
            first = ids.index(layout.image_token, begun)
            begun = first + math.prod(picture.grid) // layout.merge**2
            if start <= first < end:
                self.pictures.append(picture)

    def _predict(self, n: int, shared: int, prefix: int, branch: int) -> None:
        """Place t of a lesson lies at `prefix` + t in the shared part, at `branch` + t behind it; t predicts t + 1."""
        rendered = self._lessons[n].rendered
        for place in range(1, len(rendered)):
            if rendered.trained[place]:
                before = place - 1
                self.predictors.append(before + (prefix if before < shared else branch))
                self.targets.append(rendered.ids[place])
                self.owners.append(n)


def _row(bunches: Sequence[Sequence[int]], lessons: Sequence[Encoded], layout: Layout) -> Row:
    made = _Builder(lessons, layout)
    for bunch in bunches:
        made.add(bunch)
    return Row(
        ids=tuple(made.ids),
        positions=np.concatenate(made.positions, axis=1),
        segments=tuple(made.segments),
        predictors=tuple(made.predictors),
        targets=tuple(made.targets),
        owners=tuple(made.owners),
        pictures=tuple(made.pictures),
    )

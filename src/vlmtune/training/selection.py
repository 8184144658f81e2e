"""Which step's adapter is kept: the last one, or the best by a judgement on the select rows.

What was judged stands in the curve, so a resumed run knows what the interrupted one knew.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOSS = "select_loss"


@dataclass(frozen=True, slots=True)
class Judge:
    """A number for a model after a step; None where nothing could be measured. `name` is its key in the curve."""

    name: str
    higher_is_better: bool
    score: Callable[[Any, int], float | None]


class Selection:
    """Keeps the adapter of the best step in `work/best-<step>`.

    Args:
        work: of the run.
        by: key of the curve that decides; None keeps the last step.
        higher_is_better: which way.
        patience: judgements without a better one after which training ends; None never ends it.
    """

    def __init__(self, work: Path, by: str | None, higher_is_better: bool, patience: int | None) -> None:
        self._work, self._by, self._patience = work, by, patience
        self._sign = 1.0 if higher_is_better else -1.0
        self.step: int | None = None
        self._best = float("-inf")
        self._since = 0

    @property
    def exhausted(self) -> bool:
        """Whether training may end early."""
        return self._patience is not None and self._since >= self._patience

    @property
    def folder(self) -> Path | None:
        """The best adapter so far."""
        return self._folder(self.step) if self.step is not None else None

    def restore(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Know again what the curve says."""
        for point in points:
            self._hear(point["step"], point)

    def offer(self, step: int, values: Mapping[str, float], save: Callable[[Path], None] | None) -> None:
        """Judge a step; `save` writes its adapter where it is the best so far, None where another process does."""
        if self._hear(step, values) and save is not None:
            target, building = self._folder(step), self._work / "building-best"
            for old in (target, building):
                shutil.rmtree(old, ignore_errors=True)
            save(building)
            building.rename(target)

    def tidy(self) -> None:
        """Forget adapters that were best once."""
        for old in self._work.glob("best-*"):
            if old != self.folder:
                shutil.rmtree(old)

    def _hear(self, step: int, values: Mapping[str, float]) -> bool:
        if self._by is None or self._by not in values:
            return False
        value = self._sign * values[self._by]
        better = value > self._best
        self._since = 0 if better else self._since + 1
        if better:
            self._best, self.step = value, step
        return better

    def _folder(self, step: int) -> Path:
        return self._work / f"best-{step:06d}"

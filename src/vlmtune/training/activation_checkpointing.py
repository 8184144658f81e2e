"""What a row needs of memory: layers that are computed again, and the longest row of an epoch tried before step 1.

A layer under activation checkpointing keeps only its input; the backward pass computes the rest again, dropout
included, so how many there are changes memory and time alone. The first are taken; each saves the same.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import ConfigError
from vlmtune.families import Family
from vlmtune.files import read_json, write_json
from vlmtune.processing.encoder import Encoded
from vlmtune.training.forward_backward import Gradients
from vlmtune.training.packing import Row

if TYPE_CHECKING:
    import torch

CHOSEN = "checkpoint_layers.json"
"""In the work folder: how many layers are checkpointed, for whoever resumes."""
FILLED = 0.95
"""Share of a GPU's memory that the longest row may fill; the rest is lost between blocks of unequal size."""
HELD = 12
"""Bytes beside a trained weight while a later row is computed: AdamW's two moments, the gradient so far."""


def longest_row(lengths: Sequence[int], most_tokens: int) -> int:
    """Tokens that the longest row of a batch can have, packed up to `most_tokens` with no lesson ever cut."""
    return max(*lengths, min(sum(lengths), most_tokens)) if lengths else 0


def fewest(layers: int, fits: Callable[[int], bool]) -> int | None:
    """The fewest checkpointed layers that fit, of `layers`; None where not even all of them do."""
    if fits(0):
        return 0
    if not fits(layers):
        return None
    too_few, enough = 0, layers
    while enough - too_few > 1:
        between = (too_few + enough) // 2
        if fits(between):
            enough = between
        else:
            too_few = between
    return enough


class Memory:
    """Decides how many layers are checkpointed.

    Args:
        base: the model inside its adapter.
        family: says where its language model is.
        gradients: what computes rows.
        asked: `training.checkpoint_layers`.
        work: where the choice is kept.

    Raises:
        ConfigError: more layers are asked for than there are.
    """

    def __init__(self, base: Any, family: Family, gradients: Gradients, asked: int | str, work: Path) -> None:
        self._base, self._gradients, self._asked, self._chosen = base, gradients, asked, work / CHOSEN
        self._layers = list(base.get_submodule(family.language).layers)
        self.checkpoint_layers = 0
        self._peak: int | None = None
        if isinstance(asked, int):
            if asked > len(self._layers):
                raise ConfigError(
                    f"training.checkpoint_layers is {asked}, but this model has {len(self._layers)} layers; use a "
                    "smaller number, or auto"
                )
            self.checkpoint(asked)

    def checkpoint(self, count: int) -> None:
        """From now on, checkpoint the first `count` layers and no others."""
        self.checkpoint_layers = count
        for number, layer in enumerate(self._layers):
            layer.__dict__.pop("forward", None)
            if number < count:
                layer.forward = _computed_again(layer.forward)

    def settle(
        self, tokens: Sequence[Sequence[int]], lessons_of: Callable[[int], Sequence[Encoded]], writes: bool
    ) -> None:
        """Choose by the batch that has the longest row; or take the choice of the run that goes on here.

        Args:
            tokens: of every lesson of every batch.
            lessons_of: the lessons of the n-th batch.
            writes: whether this process keeps the choice.

        Raises:
            EnvironmentProblem: one lesson alone does not fit.
        """
        if self._chosen.is_file() and self._asked in ("auto", chosen := read_json(self._chosen, int)):
            self.checkpoint(chosen)
            return
        if not any(tokens):
            return  # a rank that has no part in any batch
        most = self._gradients.pack_tokens
        self.try_longest(lessons_of(max(range(len(tokens)), key=lambda n: longest_row(tokens[n], most))))
        if writes:
            write_json(self._chosen, self.checkpoint_layers)

    def try_longest(self, lessons: Sequence[Encoded]) -> None:
        """Forward and backward of the longest row of a batch; nothing is learnt from it.

        Where it does not fit with any number of layers that may be checkpointed, rows get shorter.

        Raises:
            EnvironmentProblem: one lesson alone does not fit.
        """
        while True:
            row = max(self._gradients.rows(lessons), key=len)
            found = self._found(row, longest_row([len(lesson) for lesson in lessons], self._gradients.pack_tokens))
            if found is not None:
                self.checkpoint(found)
                return
            self._gradients.shorten_rows(lessons)

    def facts(self) -> dict[str, Any]:
        """What was chosen, and the most memory that the trial took, in bytes; none on a CPU or after resuming."""
        return {"checkpoint_layers": self.checkpoint_layers, "peak_bytes_of_longest_row": self._peak}

    def _found(self, row: Row, longest: int) -> int | None:
        """How many layers to checkpoint for rows of up to `longest` tokens, of which `row` is one; None if none do."""
        if self._asked == "auto" and self._base.device.type == "cuda":
            stretch = max(1.0, longest / len(row))
            return fewest(len(self._layers), lambda count: self._fits(row, count, stretch))
        return None if self._attempt(row, self.checkpoint_layers) is None else self.checkpoint_layers

    def _fits(self, row: Row, count: int, stretch: float) -> bool:
        """Whether a row `stretch` times as long as this one fits with `count` checkpointed layers."""
        import torch

        resting = torch.cuda.memory_allocated()
        peak = self._attempt(row, count)
        if peak is None:
            return False
        held: int = HELD * sum(p.numel() for p in self._base.parameters() if p.requires_grad)
        needed: float = resting + stretch * (peak - resting) + held
        return needed <= FILLED * _room()

    def _attempt(self, row: Row, count: int) -> int | None:
        """Most bytes in use while a row is computed, 0 on a CPU; None where they are not there."""
        import torch

        self.checkpoint(count)
        on_gpu = self._base.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        done = False
        with contextlib.suppress(torch.OutOfMemoryError):
            self._gradients.losses(row).sum().backward()
            done = True
        # Out here the failed pass is really gone: inside `except` its traceback would keep it alive.
        self._gradients.forget()
        if on_gpu:
            self._peak = torch.cuda.max_memory_allocated() if done else self._peak
            torch.cuda.empty_cache()
        return (self._peak or 0) if done else None


def _room() -> float:
    """Bytes of the GPU that this process may use: what it has and what is free, within its allocator's limit."""
    import torch

    free, total = torch.cuda.mem_get_info()
    room = free + torch.cuda.memory_reserved()
    return min(room, torch.cuda.get_per_process_memory_fraction() * total)


def _computed_again(forward: "Callable[..., torch.Tensor]") -> "Callable[..., torch.Tensor]":
    from torch.utils.checkpoint import checkpoint

    def again(*words: Any, **named: Any) -> "torch.Tensor":
        made: torch.Tensor = checkpoint(forward, *words, use_reentrant=False, **named)
        return made

    return again

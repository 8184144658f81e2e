"""Losses and gradients of lessons in packed rows, which get shorter where memory ends.

A global batch's gradient is the same however it is packed; dropout is a function of (seed, step, row).
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.files import write_json
from vlmtune.inputs import Encoded, Inputs
from vlmtune.ranks import Ranks
from vlmtune.training.losses import token_losses
from vlmtune.training.segments import Layout, Row, rows_of
from vlmtune.training.settings import TrainingConfig

if TYPE_CHECKING:
    import torch

TOO_LARGE = (
    "one example alone does not fit into this GPU's memory. Try one of: --set model.max_pixels=401408, "
    "--set training.checkpoint_layers=auto, --set model.quantization=nf4"
)
SHORTER = "row_tokens.json"
"""In the work folder: the length that rows had to be cut to, for whoever resumes."""


class Gradients:
    """The model at work on packed rows.

    Args:
        base: the model inside its adapter.
        weights: what is trained.
        inputs: of the checkpoint.
        device: where the model is.
        settings: of the training.
        work: where a shortened row is noted.
        ranks: this process among others.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is one thing it works with
        self,
        base: Any,
        weights: "Sequence[torch.nn.Parameter]",
        inputs: Inputs,
        device: str,
        settings: TrainingConfig,
        work: Path,
        ranks: Ranks,
    ) -> None:
        self._base, self._weights, self._inputs, self._device = base, weights, inputs, device
        self._settings, self._work, self._ranks = settings, work, ranks
        self.row_tokens = settings.row_tokens

    def rows(self, lessons: Sequence[Encoded]) -> list[Row]:
        """Lessons as packed rows."""
        inputs = self._inputs
        layout = Layout(inputs.checkpoint.family, inputs.renderer.image_id, inputs.patcher.limits.merge)
        return rows_of(lessons, layout, self.row_tokens)

    def losses(self, row: Row) -> "torch.Tensor":
        """Loss of every learnt token of a row, [targets]."""
        return token_losses(self._base, row, self._inputs, self._device)

    def forget(self) -> None:
        """No gradients any more."""
        for weight in self._weights:
            weight.grad = None

    def add(self, lessons: Sequence[Encoded], supervised: int, step: int) -> "torch.Tensor":
        """Add these lessons' part of the gradient of a batch with so many supervised tokens; returns their losses.

        Where a row does not fit into memory, all rows are made half as long and the batch is tried again: the same
        batch, the same gradient.
        """
        import torch

        while True:
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._backward(lessons, supervised, step)
            # Out here the failed pass is really gone: inside `except` its traceback would keep it alive.
            self.forget()
            torch.cuda.empty_cache()
            self.shorten_rows(lessons)

    def _backward(self, lessons: Sequence[Encoded], supervised: int, step: int) -> "torch.Tensor":
        import torch

        summed = torch.zeros(len(lessons), dtype=torch.float64)
        for number, row in enumerate(self.rows(lessons)):
            torch.manual_seed(_seed(self._settings.seed, step, number * self._ranks.world + self._ranks.rank))
            losses = self.losses(row)
            (losses.sum() / supervised).backward()
            summed.index_add_(0, torch.tensor(row.owners), losses.detach().double().cpu())
        return summed

    def shorten_rows(self, lessons: Sequence[Encoded]) -> None:
        """Make rows half as long, for the rest of the run.

        Raises:
            EnvironmentProblem: each of these lessons had a row of its own already.
        """
        if len(self.rows(lessons)) == len(lessons):
            raise EnvironmentProblem(TOO_LARGE)
        self.row_tokens = max(map(len, self.rows(lessons))) // 2
        if self._ranks.first:
            write_json(self._work / SHORTER, self.row_tokens)


def _seed(seed: int, step: int, row: int) -> int:
    return (seed * 1_000_003 + step) * 1_000_003 + row & 0x7FFF_FFFF_FFFF_FFFF

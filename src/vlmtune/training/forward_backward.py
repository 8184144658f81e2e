"""Losses and gradients of lessons in packed rows, which get shorter where memory ends.

A global batch's gradient is the same however it is packed; dropout is a function of (seed, step, row).

What a packed row costs: the loss of every token that is learnt, from one forward pass.

Tried on every run's own first rows before step 1: no lesson of a packed row feels another.

A leak between lessons moves a loss by a thousandth and the gradient by a third; nobody sees it in a curve. The gradient
of one lesson's loss with respect to what enters the language model tells exactly: it is 0, to the bit, at every place
the lesson must not see.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.distributed import Ranks
from vlmtune.errors import EnvironmentProblem
from vlmtune.files import write_json
from vlmtune.processing.encoder import Encoded, Inputs
from vlmtune.training.config import TrainingConfig
from vlmtune.training.packing import Layout, Row, rows_of

if TYPE_CHECKING:
    import torch
from typing import TYPE_CHECKING

from vlmtune.processing.encoder import picture_tensors

if TYPE_CHECKING:
    import torch
from typing import TYPE_CHECKING

from vlmtune.errors import IntegrityError
from vlmtune.families import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def token_losses(model: Any, row: Row, inputs: Inputs, device: str) -> "torch.Tensor":
    """Cross-entropy of each target of a row, [targets], in nats; fp32.

    The head runs at the predicting places alone: at 8B and 1,840 tokens that is 0.1 GB of logits instead of 4.2.

    Args:
        model: the model inside its adapter, whose language model attends inside segments (`attention.use_segments`).
        row: S tokens.
        inputs: of the checkpoint.
        device: where the model is.
    """
    import torch

    places = torch.from_numpy(row.positions)
    # The first of the four rows is the plain text position, which the model only asks masks for.
    places = torch.cat([torch.arange(len(row))[None], places])[:, None]
    hidden = model.base_model(
        input_ids=torch.tensor([row.ids], device=device),
        position_ids=places.to(device),
        use_cache=False,
        segments=row.segments,
        **picture_tensors(row.pictures, inputs, device, model.dtype),
    ).last_hidden_state[0]
    logits = model.get_output_embeddings()(hidden[list(row.predictors)]).float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets, device=device), reduction="none")


TOO_LARGE = (
    "one example alone does not fit into this GPU's memory. Try one of: --set model.max_pixels=401408, "
    "--set training.checkpoint_layers=auto, --set model.quantization=nf4"
)
SHORTER = "pack_tokens.json"
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
        self.pack_tokens = settings.pack_tokens

    def rows(self, lessons: Sequence[Encoded]) -> list[Row]:
        """Lessons as packed rows."""
        inputs = self._inputs
        layout = Layout(inputs.checkpoint.family, inputs.renderer.image_id, inputs.patcher.limits.merge)
        return rows_of(lessons, layout, self.pack_tokens)

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
        self.pack_tokens = max(map(len, self.rows(lessons))) // 2
        if self._ranks.first:
            write_json(self._work / SHORTER, self.pack_tokens)


def _seed(seed: int, step: int, row: int) -> int:
    return (seed * 1_000_003 + step) * 1_000_003 + row & 0x7FFF_FFFF_FFFF_FFFF


def check_isolation(model: Any, family: Family, row: Row, losses: "Callable[[Row], torch.Tensor]") -> None:
    """One backward pass of the row's last lesson, one with a parent where there is any.

    Args:
        model: the model inside its adapter.
        family: says where the language model is.
        row: several lessons.
        losses: token losses of a row, [targets].

    Raises:
        IntegrityError: the lesson feels a place it must not see, or does not feel all of its beginning.
    """
    import torch

    own = next((s for s in reversed(row.segments) if s.parent_end > s.parent_start), row.segments[-1])
    entering: list[torch.Tensor] = []

    def watch(module: Any, words: tuple[Any, ...], named: dict[str, Any]) -> Any:
        hidden = words[0] if words else named["hidden_states"]
        entering.append(hidden.detach().requires_grad_())
        return ((entering[0], *words[1:]), named) if words else (words, {**named, "hidden_states": entering[0]})

    first = model.get_submodule(family.language).layers[0]
    hook = first.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        # What the branch itself predicts: its first token is predicted in the parent, which would feel itself anyway.
        branch = torch.tensor([own.start <= place < own.end for place in row.predictors])
        losses(row)[branch.to(model.device)].sum().backward()
    finally:
        hook.remove()
    felt = entering[0].grad
    assert felt is not None
    strength = felt[0].abs().sum(dim=-1).cpu()
    seen = torch.zeros(len(row), dtype=torch.bool)
    seen[own.start : own.end] = seen[own.parent_start : own.parent_end] = True
    leak = strength[~seen].max().item() if (~seen).any() else 0.0
    # Both ends of a parent: where a kernel aligns queries with the first keys, its last place is not seen.
    begins = [own.parent_start, own.parent_end - 1] if own.parent_end > own.parent_start else [own.start]
    weakest = strength[begins].min().item()
    if leak != 0 or not weakest > 0:
        raise IntegrityError(
            f"packed rows leak: a lesson feels another (gradient {leak:.3g}, must be 0) or not its own beginning "
            f"({weakest:.3g}, must not be 0). This version of transformers or of the attention kernel does not keep to "
            "the rows' bounds; please report it, and install the versions that vlmtune was tested with"
        )

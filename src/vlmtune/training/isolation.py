"""Tried on every run's own first rows before step 1: no lesson of a packed row feels another.

A leak between lessons moves a loss by a thousandth and the gradient by a third; nobody sees it in a curve. The gradient
of one lesson's loss with respect to what enters the language model tells exactly: it is 0, to the bit, at every place
the lesson must not see.
"""

from typing import TYPE_CHECKING, Any

from vlmtune.errors import IntegrityError
from vlmtune.families import Family
from vlmtune.training.segments import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


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

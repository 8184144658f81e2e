"""Activation checkpointing: how many layers recompute their activations, so that the longest sequence fits.

A checkpointed layer keeps only its input; the backward pass recomputes the rest, dropout included, so the number of
checkpointed layers affects memory and time only. Layers are checkpointed from the first one on; each saves the same.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from vlmtune.errors import ConfigError
from vlmtune.families import Family
from vlmtune.files import read_json, write_json
from vlmtune.processing.encoder import Encoded
from vlmtune.training.forward_backward import ForwardBackward, backward
from vlmtune.training.packing import PackedSequence

if TYPE_CHECKING:
    import torch

LAYERS_FILE = "checkpoint_layers.json"
"""In the work folder: how many layers are checkpointed, for a resumed run."""
MAX_MEMORY_SHARE = 0.95
"""Share of a GPU's memory that the longest sequence may fill; the rest is lost to fragmentation."""
OPTIMIZER_BYTES = 12
"""Bytes held per trained weight while a later sequence is computed: AdamW's two moments and the gradient so far."""


def longest_sequence(lengths: Sequence[int], max_tokens: int) -> int:
    """Upper bound on the tokens of a packed sequence of examples with these lengths, packed up to `max_tokens`."""
    return max(*lengths, min(sum(lengths), max_tokens)) if lengths else 0


def fewest_layers(layers: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number of checkpointed layers, of `layers`, that fits; None if not even all of them do."""
    if fits(0):
        return 0
    if not fits(layers):
        return None
    too_few, enough = 0, layers
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_few = middle
    return enough


class ActivationCheckpointing:
    """Decides how many layers are checkpointed, and wraps them.

    Args:
        base: the model inside the PEFT wrapper.
        family: locates the language model in it.
        forward_backward: computes packed sequences.
        requested: `training.checkpoint_layers`.
        work: folder in which the decision is stored.

    Raises:
        ConfigError: more layers are requested than there are.
    """

    def __init__(
        self, base: Any, family: Family, forward_backward: ForwardBackward, requested: int | str, work: Path
    ) -> None:
        self._base, self._forward_backward = base, forward_backward
        self._requested, self._layers_file = requested, work / LAYERS_FILE
        self._layers = list(base.get_submodule(family.language_model).layers)
        self.checkpoint_layers = 0
        self._peak: int | None = None
        if isinstance(requested, int):
            if requested > len(self._layers):
                raise ConfigError(
                    f"training.checkpoint_layers is {requested}, but this model has {len(self._layers)} layers; use a "
                    "smaller number, or auto"
                )
            self.checkpoint(requested)

    def checkpoint(self, count: int) -> None:
        """Checkpoint the first `count` layers and no others."""
        self.checkpoint_layers = count
        for index, layer in enumerate(self._layers):
            layer.__dict__.pop("forward", None)
            if index < count:
                layer.forward = _checkpointed(layer.forward)

    def choose(
        self,
        tokens: Sequence[Sequence[int]],
        examples_of: Callable[[int], Sequence[Encoded]],
        is_main: bool,
        is_sharded: bool = False,
    ) -> None:
        """Try the batch with the longest sequence; a resumed run keeps its earlier decision instead.

        A sharded model is tried once, by all processes together. On GPUs, `auto` checkpoints all of its layers.

        Args:
            tokens: lengths of the examples of each batch, [batches][examples].
            examples_of: returns the examples of the n-th batch.
            is_main: whether this process stores the decision.
            is_sharded: whether the weights are divided among processes.

        Raises:
            EnvironmentProblem: one example alone does not fit.
        """
        limit = self._forward_backward.pack_tokens
        longest = max(range(len(tokens)), key=lambda n: longest_sequence(tokens[n], limit))
        if is_sharded:
            if self._requested == "auto" and self._base.device.type == "cuda":
                self.checkpoint(len(self._layers))
            self._forward_backward.try_together(examples_of(longest))
            return
        if self._layers_file.is_file():
            chosen = read_json(self._layers_file, Annotated[int, Field(ge=0, le=len(self._layers))])
            if self._requested in ("auto", chosen):
                self.checkpoint(chosen)
                return
        if not any(tokens):
            return  # this process has no examples in any batch
        self.try_longest(examples_of(longest))
        if is_main:
            write_json(self._layers_file, self.checkpoint_layers)

    def try_longest(self, examples: Sequence[Encoded]) -> None:
        """Run the forward and backward pass of a batch's longest packed sequence, without an optimizer step.

        While it does not fit with any number of checkpointed layers, the batch is packed into shorter sequences.

        Raises:
            EnvironmentProblem: one example alone does not fit.
        """
        while True:
            sequence = max(self._forward_backward.pack(examples), key=len)
            longest = longest_sequence([len(example) for example in examples], self._forward_backward.pack_tokens)
            layers = self._fitting_layers(sequence, longest)
            if layers is not None:
                self.checkpoint(layers)
                return
            self._forward_backward.halve_pack_tokens(examples)

    def facts(self) -> dict[str, Any]:
        """The decision, and the peak memory of the trial in bytes; None on a CPU or after resuming."""
        return {"checkpoint_layers": self.checkpoint_layers, "peak_bytes_of_longest_sequence": self._peak}

    def _fitting_layers(self, sequence: PackedSequence, longest: int) -> int | None:
        """Layers to checkpoint so that `longest` tokens fit, extrapolated from one sequence; None if nothing helps."""
        if self._requested == "auto" and self._base.device.type == "cuda":
            scale = max(1.0, longest / len(sequence))
            return fewest_layers(len(self._layers), lambda count: self._fits(sequence, count, scale))
        return None if self._try(sequence, self.checkpoint_layers) is None else self.checkpoint_layers

    def _fits(self, sequence: PackedSequence, count: int, scale: float) -> bool:
        """Whether a sequence `scale` times as long as this one fits with `count` checkpointed layers."""
        import torch

        before = torch.cuda.memory_allocated()
        peak = self._try(sequence, count)
        if peak is None:
            return False
        optimizer: int = OPTIMIZER_BYTES * sum(p.numel() for p in self._base.parameters() if p.requires_grad)
        needed: float = before + scale * (peak - before) + optimizer
        return needed <= MAX_MEMORY_SHARE * _available_bytes()

    def _try(self, sequence: PackedSequence, count: int) -> int | None:
        """Peak bytes allocated while computing a sequence, 0 on a CPU; None if it does not fit."""
        import torch

        self.checkpoint(count)
        on_gpu = self._base.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        done = False
        with contextlib.suppress(torch.OutOfMemoryError):
            backward(self._forward_backward.token_losses(sequence).sum())
            done = True
        # Not inside `except`: there, the traceback would keep the tensors of the failed pass alive.
        self._forward_backward.zero_grad()
        if on_gpu:
            self._peak = torch.cuda.max_memory_allocated() if done else self._peak
            torch.cuda.empty_cache()
        return (self._peak or 0) if done else None


def _available_bytes() -> float:
    """GPU memory available to this process: what it holds plus what is free, within its allocator's limit."""
    import torch

    free, total = torch.cuda.mem_get_info()
    available = free + torch.cuda.memory_reserved()
    return min(available, torch.cuda.get_per_process_memory_fraction() * total)


def _checkpointed(forward: "Callable[..., torch.Tensor]") -> "Callable[..., torch.Tensor]":
    from torch.utils.checkpoint import checkpoint

    def recomputing(*args: Any, **kwargs: Any) -> "torch.Tensor":
        output: torch.Tensor = checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return output

    return recomputing

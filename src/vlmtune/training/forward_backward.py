"""Losses and gradients of packed examples, and the test for leakage between them.

A global batch has the same gradient however it is packed; dropout masks are a function of (seed, step, sequence).
"""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.distributed import ProcessGroup
from vlmtune.errors import DoesNotFit, IntegrityError
from vlmtune.families import Family
from vlmtune.files import write_json
from vlmtune.processing.encoder import Encoded, Encoder, image_tensors, to_device
from vlmtune.training.config import TrainingConfig
from vlmtune.training.packing import Layout, PackedSequence, filler, pack
from vlmtune.training.sharding import run_gathered

if TYPE_CHECKING:
    import torch

SMALL_PIXELS = 401_408
"""An image area that is suggested where memory does not suffice: 392 tokens of Qwen3-VL."""
PACK_TOKENS_FILE = "pack_tokens.json"
"""In the work folder: the reduced `pack_tokens`, for a resumed run."""


def too_large(encoder: Encoder, settings: TrainingConfig) -> str:
    """Message for an example that does not fit into memory alone: what could still be changed in these settings."""
    pixels = min(SMALL_PIXELS, encoder.image_processor.limits.max_pixels // 2)
    tries, what = [f"--set model.max_pixels={pixels}"], "one example alone"
    if settings.sharding != "none":
        what = "a packed sequence"
        tries += [f"--set training.pack_tokens={settings.pack_tokens // 2}", "more GPUs"]
    if settings.checkpoint_layers != "auto":
        tries.append("--set training.checkpoint_layers=auto")
    if settings.full:
        tries.append("--set training.method=lora")
    may_quantize = encoder.checkpoint.quantization is None and settings.sharding == "none"
    if may_quantize and "language_model" not in settings.full:
        tries.append("--set model.quantization=nf4")
    if settings.lora.parts and settings.lora.rank > 4:
        tries.append(f"--set training.lora.rank={settings.lora.rank // 2}")
    return (
        f"{what} does not fit into this GPU's memory. Try one of: {', '.join(tries)}, a smaller model, or a "
        "larger GPU: `vlmtune plan CONFIG` lists what each needs"
    )


def backward(loss: "torch.Tensor") -> None:
    """Compute gradients. There are none of text alone where only the merger or the vision tower is trained."""
    if loss.requires_grad:
        loss.backward()


def token_losses(model: Any, sequence: PackedSequence, encoder: Encoder, device: str) -> "torch.Tensor":
    """Cross-entropy of each target of a packed sequence, [targets], in nats; fp32.

    Logits are computed only at positions that predict a target: at 8B and 1,840 tokens, 0.1 GB instead of 4.2. If the
    checkpoint of a mixture of experts asks for it, every loss includes its example's loss of unbalanced routing.

    Args:
        model: the model inside the PEFT wrapper, with packed attention (`attention.enable_packed_attention`).
        sequence: S tokens.
        encoder: of the checkpoint.
        device: of the model.
    """
    import torch

    positions = torch.from_numpy(sequence.positions)
    if encoder.checkpoint.family.rotary_axes == 1:
        positions = positions[:1]  # [1, S]
    else:  # [4, 1, S]: the plain text position, which the model uses for masks only, then the three rotary ones
        positions = torch.cat([torch.arange(len(sequence))[None], positions])[:, None]
    ids, predictors, targets = (
        to_device(torch.tensor(numbers), device) for numbers in (sequence.ids, sequence.predictors, sequence.targets)
    )
    balances = balances_experts(model)

    def logits() -> tuple[torch.Tensor, Any]:
        output = model.base_model(
            input_ids=ids[None],
            position_ids=to_device(positions, device),
            use_cache=False,
            segments=sequence.segments,
            **image_tensors(sequence.images, encoder, device, model.dtype),
            **({"output_router_logits": True} if balances else {}),
        )
        predicted = model.get_output_embeddings()(output.last_hidden_state[0, predictors])
        return predicted, output.router_logits if balances else None

    predicted, router_logits = run_gathered(model, logits)
    losses = torch.nn.functional.cross_entropy(predicted.float(), targets, reduction="none")
    return losses + _routing_losses(model, sequence, router_logits) if balances else losses


def balances_experts(model: Any) -> bool:
    """Whether token losses include a loss of unbalanced routing."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


def _routing_losses(model: Any, sequence: PackedSequence, router_logits: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """The loss of unbalanced routing of each target's example, as its model computes it for that example alone.

    Args:
        model: a mixture of experts.
        sequence: S tokens.
        router_logits: of every layer, [S, experts].

    Returns:
        [targets], times the checkpoint's coefficient.
    """
    import torch

    # The inner model, because sharding changes the class of the outer one.
    balancing = sys.modules[type(model.base_model).__module__].load_balancing_loss_func
    settings = model.config.get_text_config()
    prefixes = {(s.prefix_start, s.prefix_end) for s in sequence.segments}
    ends = [s for s in sequence.segments if (s.start, s.end) not in prefixes]
    losses = {}
    for example, segment in zip(dict.fromkeys(sequence.example_indices), ends, strict=True):
        tokens = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        own = tuple(layer[tokens] for layer in router_logits)
        losses[example] = balancing(own, settings.num_experts, settings.num_experts_per_tok)
    coefficient: float = settings.router_aux_loss_coef
    return coefficient * torch.stack([losses[example] for example in sequence.example_indices])


Weigh = Callable[[PackedSequence, "torch.Tensor"], "torch.Tensor"]
"""Given a packed sequence and the losses of its targets [targets], detached: the weights of these losses [targets]."""


class ForwardBackward:
    """Accumulates the gradient of a global batch, one packed sequence at a time.

    Args:
        base: the model inside the PEFT wrapper.
        weights: the trained weights.
        encoder: of the checkpoint.
        device: of the model.
        settings: of the training run.
        work: folder in which a reduced `pack_tokens` is recorded.
        processes: those that share the global batch.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - independent collaborators
        self,
        base: Any,
        weights: "Sequence[torch.nn.Parameter]",
        encoder: Encoder,
        device: str,
        settings: TrainingConfig,
        work: Path,
        processes: ProcessGroup,
    ) -> None:
        import torch

        self._base, self._weights, self._encoder, self._device = base, weights, encoder, device
        self._settings, self._work, self._processes = settings, work, processes
        self.pack_tokens = settings.pack_tokens
        self.filler = filler(Layout.of(encoder))
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=settings.precision == "fp16")

    def pack(self, examples: Sequence[Encoded]) -> list[PackedSequence]:
        """The examples as packed sequences."""
        encoder = self._encoder
        return pack(examples, Layout.of(encoder), self.pack_tokens, self._settings.shares_prefixes)

    def in_step(self, sequences: list[PackedSequence]) -> list[PackedSequence]:
        """The sequences of this process; with sharding, as many fillers behind them as others have more of them."""
        if self._settings.sharding == "none":
            return sequences
        most = max(self._processes.gather(len(sequences)))
        return [*sequences, *([self.filler] * (most - len(sequences)))]

    def token_losses(self, sequence: PackedSequence) -> "torch.Tensor":
        """Loss of every supervised token of a packed sequence, [targets]."""
        return token_losses(self._base, sequence, self._encoder, self._device)

    def try_together(self, examples: Sequence[Encoded]) -> None:
        """Forward and backward pass of the longest sequence of these examples, in all processes of a sharded model.

        Raises:
            EnvironmentProblem: it does not fit.
        """
        import torch

        try:
            backward(self.token_losses(max(self.pack(examples), key=len, default=self.filler)).sum())
        except torch.OutOfMemoryError:
            raise DoesNotFit(too_large(self._encoder, self._settings)) from None
        self.zero_grad()

    def restore_scale(self, scale: float, growth_tracker: int) -> None:
        """Go on with the loss scale of a checkpoint."""
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": growth_tracker})

    def zero_grad(self) -> None:
        """Drop all gradients, also those that a failed pass has left in weights with an fp32 copy."""
        for weight in (*self._weights, *self._base.parameters()):
            weight.grad = None

    def accumulate(
        self, examples: Sequence[Encoded], supervised: int, step: int, weigh: Weigh | None = None
    ) -> "torch.Tensor":
        """Add these examples' share of the gradient of a global batch.

        When out of memory, `pack_tokens` is halved and the examples are computed again: same batch, same gradient.
        With sharding that is an error, because other processes wait in the middle of the pass.

        Args:
            examples: this process's share of the batch.
            supervised: supervised tokens of the whole global batch, over which the loss is averaged.
            step: number of the optimizer step, from which dropout is seeded.
            weigh: weights of the token losses in the gradient; None weighs all alike.

        Returns:
            Sum of each example's token losses, [examples], fp64, on the CPU.

        Raises:
            EnvironmentProblem: one example alone does not fit.
            IntegrityError: losses that must have a gradient have none.
        """
        import torch

        while True:
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._backward(examples, supervised, step, weigh)
            # Not inside `except`: there, the traceback would keep the tensors of the failed pass alive.
            if self._settings.sharding != "none":
                raise DoesNotFit(too_large(self._encoder, self._settings))
            self.zero_grad()
            torch.cuda.empty_cache()
            self.halve_pack_tokens(examples)

    def _backward(self, examples: Sequence[Encoded], supervised: int, step: int, weigh: Weigh | None) -> "torch.Tensor":
        import torch

        rank, world_size = self._processes.rank, self._processes.world_size
        sequences, taken = self.pack(examples), []
        for index, sequence in enumerate(self.in_step(sequences)):
            torch.manual_seed(_seed(self._settings.seed, step, index * world_size + rank))
            with self._noise(sequence, step):
                losses = self.token_losses(sequence)
            if sequence is self.filler:
                backward(losses.sum() * 0)
            else:
                self._check_gradient(sequence, losses, step)
                weighted = losses if weigh is None else losses * weigh(sequence, losses.detach())
                backward(self.scaler.scale(weighted.sum() / supervised))
                taken.append(losses.detach())
        summed = torch.zeros(len(examples), dtype=torch.float64)
        if taken:  # fetched together: fetching the losses of each sequence would wait for the GPU as often
            owners = torch.tensor([owner for sequence in sequences for owner in sequence.example_indices])
            summed.index_add_(0, owners, torch.cat(taken).cpu().double())
        return summed

    def _check_gradient(self, sequence: PackedSequence, losses: "torch.Tensor", step: int) -> None:
        learns_from_text = "language_model" in (*self._settings.adapted, *self._settings.full)
        if not losses.requires_grad and (sequence.images or learns_from_text):
            raise IntegrityError(
                f"a packed sequence of step {step + 1} has no gradient: its rows would not be learnt. This is an "
                "error of vlmtune or of its libraries; please report it"
            )

    def _noise(self, sequence: PackedSequence, step: int) -> contextlib.AbstractContextManager[None]:
        """NEFTune's noise in an optimizer step: that of an example depends on its place in the batch alone."""
        alpha, seed = self._settings.neftune_alpha, self._settings.seed
        if alpha is None:
            return contextlib.nullcontext()
        rank, world_size = self._processes.rank, self._processes.world_size
        return embedding_noise(self._base, sequence, alpha, lambda n: _seed(seed, step, n * world_size + rank))

    def halve_pack_tokens(self, examples: Sequence[Encoded]) -> None:
        """For the rest of the run, pack up to half the length of the longest sequence of these examples.

        Raises:
            EnvironmentProblem: each of these examples already has a sequence of its own.
        """
        sequences = self.pack(examples)
        if len(sequences) == len(examples):
            raise DoesNotFit(too_large(self._encoder, self._settings))
        self.pack_tokens = max(map(len, sequences)) // 2
        if self._processes.is_main:
            write_json(self._work / PACK_TOKENS_FILE, self.pack_tokens)


@contextlib.contextmanager
def embedding_noise(
    model: Any, sequence: PackedSequence, alpha: float, seed_of: Callable[[int], int]
) -> Iterator[None]:
    """Add NEFTune's noise to the input embeddings: uniform, up to alpha / sqrt(L d) for an example of L tokens.

    As transformers and TRL have it for an example alone, d being the hidden size. Embeddings of images are not changed:
    they take the places of embeddings that were.

    Args:
        model: the model inside the PEFT wrapper.
        sequence: of examples that share no prefix.
        alpha: `training.neftune_alpha`.
        seed_of: seed of the noise of an example, by its index.
    """
    import torch

    def add(module: Any, args: Any, embeddings: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(embeddings, dtype=torch.float32)  # [1, S, d]
        for segment, example in zip(sequence.segments, dict.fromkeys(sequence.example_indices), strict=True):
            generator = torch.Generator(embeddings.device).manual_seed(seed_of(example))
            bound = alpha / math.sqrt((segment.end - segment.start) * embeddings.shape[-1])
            noise[0, segment.start : segment.end].uniform_(-bound, bound, generator=generator)
        return embeddings + noise.to(embeddings.dtype)

    hook = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _seed(seed: int, step: int, sequence: int) -> int:
    return (seed * 1_000_003 + step) * 1_000_003 + sequence & 0x7FFF_FFFF_FFFF_FFFF


def check_packing_leakage(
    model: Any, family: Family, sequence: PackedSequence, losses: "Callable[[PackedSequence], torch.Tensor]"
) -> None:
    """Check by one backward pass that no example of a packed sequence influences another.

    A leak changes a loss by a thousandth and the gradient by a third, which no loss curve shows. The gradient of one
    example's loss with respect to the language model's input embeddings does: it must be exactly 0 at every token that
    the example must not see, and nonzero at its prefix. The last branch is tested, or the last segment if none has a
    prefix. In the diagram of `packing`, the loss of B has a gradient at indices 0-2 and 5-6 only.

    Args:
        model: the model inside the PEFT wrapper.
        family: locates the language model in it.
        sequence: at least two examples.
        losses: computes the token losses of a sequence, [targets].

    Raises:
        IntegrityError: the tested example sees a token it must not see, or misses one of its prefix.
    """
    import torch

    tested = next((s for s in reversed(sequence.segments) if s.prefix_end > s.prefix_start), sequence.segments[-1])
    embeddings: list[torch.Tensor] = []

    def capture(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        embeddings.append(hidden.detach().requires_grad_())
        return ((embeddings[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": embeddings[0]})

    first_layer = model.get_submodule(family.language_model).layers[0]
    hook = first_layer.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        # Only targets predicted inside the branch: its first token is predicted by the last one of the prefix, which
        # has a gradient whether or not the branch sees it.
        branch = torch.tensor([tested.start <= index < tested.end for index in sequence.predictors])
        losses(sequence)[branch.to(model.device)].sum().backward()
    finally:
        hook.remove()
    gradient = embeddings[0].grad
    assert gradient is not None
    strength = gradient[0].abs().sum(dim=-1).cpu()
    visible = torch.zeros(len(sequence), dtype=torch.bool)
    visible[tested.start : tested.end] = visible[tested.prefix_start : tested.prefix_end] = True
    leak = strength[~visible].max().item() if (~visible).any() else 0.0
    # Both ends of the prefix: a kernel that aligns the causal mask at the start would miss the last token.
    ends = [tested.prefix_start, tested.prefix_end - 1] if tested.prefix_end > tested.prefix_start else [tested.start]
    weakest = strength[ends].min().item()
    if leak != 0 or not weakest > 0:
        raise IntegrityError(
            f"packed sequences leak: an example sees another one (gradient {leak:.3g}, must be 0) or misses its own "
            f"prefix ({weakest:.3g}, must not be 0). This version of transformers or of the attention kernel ignores "
            "segment bounds; please report it, and install the versions that vlmtune was tested with"
        )

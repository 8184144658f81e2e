"""The matrices of a checkpoint, as its family reads them from config.json. What training costs follows from them."""

from dataclasses import dataclass
from typing import Literal

PartName = Literal["language_model", "merger", "vision_tower"]
"""Parts of a model that can have adapters: decoder, merger of patches into tokens, blocks of the vision tower."""

NEVER_QUANTIZED = frozenset({"in_proj_a", "in_proj_b", "gate", "shared_expert_gate"})
"""Decay and gate of a Gated DeltaNet, router and gate of a mixture of experts: with a row per head or expert they take
little memory, and are less than a block of some kernels."""

FROM_LAYER_INPUT = frozenset({"q_proj", "k_proj", "v_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"})
"""Matrices that read a layer's input; in the first layer, nothing that is trained lies below them."""
DELTA_CHUNK = 64
"""Tokens that the delta rule computes at once; every segment of a packed sequence is rounded up to a multiple."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight matrix. `name` is the last component of its module's name, `experts.` in front if it is stacked.

    Of `copies` stacked matrices (one per expert), a token is multiplied with `used`.
    """

    name: str
    inputs: int
    outputs: int
    copies: int = 1
    used: int = 1
    bias: bool = False

    @property
    def weights(self) -> int:
        """All copies, without the bias."""
        return self.copies * self.inputs * self.outputs

    @property
    def active(self) -> int:
        """Weights that a token is multiplied with."""
        return self.used * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """All copies, bias included."""
        return self.weights + self.bias * self.copies * self.outputs


@dataclass(frozen=True, slots=True)
class DeltaRule:
    """The recurrence of a Gated DeltaNet: `heads` states of [key, value], behind a convolution over `channels`."""

    heads: int
    key: int
    value: int
    channels: int
    width: int

    @property
    def flops(self) -> int:
        """Of the forward pass per token, in chunks of `DELTA_CHUNK`: products with the state, then inside the chunk."""
        return self.heads * (6 * self.key * self.value + DELTA_CHUNK * (5 * self.key + 3 * self.value))

    @property
    def backward_flops(self) -> int:
        """Of the backward pass per token: twice the products, and three times the two triangular systems of a chunk."""
        return 2 * self.flops + self.heads * DELTA_CHUNK * (self.key + self.value)

    @property
    def convolution(self) -> int:
        """FLOPs of the convolution per token."""
        return 2 * self.width * self.channels


@dataclass(frozen=True, slots=True)
class Layer:
    """A kind of layer of the language model.

    `queries` and `keys` are widths summed over all heads of softmax attention, 0 if it has none. `gated` says whether
    its output is multiplied with a gate. `inner` is the width of the MLP that a token passes through. `other` counts
    the parameters of norms, convolutions and decays.
    """

    linears: tuple[Linear, ...]
    other: int
    heads: int = 0
    queries: int = 0
    keys: int = 0
    gated: bool = False
    inner: int = 0
    delta: DeltaRule | None = None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.other + sum(linear.parameters for linear in self.linears)

    @property
    def active(self) -> int:
        """Weights that a token is multiplied with."""
        return sum(linear.active for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Decoder:
    """The language model: the kinds of its layers, and each layer's kind in order."""

    kinds: tuple[Layer, ...]
    order: tuple[int, ...]
    hidden: int
    vocabulary: int
    tied: bool

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.order)

    @property
    def counts(self) -> tuple[tuple[Layer, int], ...]:
        """Each kind, and how many layers are of it."""
        return tuple((kind, self.order.count(n)) for n, kind in enumerate(self.kinds))

    @property
    def inner(self) -> int:
        """Largest width of an MLP."""
        return max(kind.inner for kind in self.kinds)

    @property
    def quantizable(self) -> int:
        """Weights of the linear layers but the smallest; stacked experts are none, and are never quantized."""
        return sum(
            count * linear.weights
            for kind, count in self.counts
            for linear in kind.linears
            if linear.copies == 1 and linear.name not in NEVER_QUANTIZED
        )

    @property
    def head(self) -> int:
        """Parameters of embeddings, last norm and head; a head that is tied to the embeddings counts once."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.head + sum(count * kind.parameters for kind, count in self.counts)

    @property
    def active_parameters(self) -> int:
        """Parameters that a token passes through: of all experts, those it is sent to."""
        stacked = [(linear, count) for kind, count in self.counts for linear in kind.linears if linear.copies > 1]
        return self.parameters - sum(count * (linear.weights - linear.active) for linear, count in stacked)


@dataclass(frozen=True, slots=True)
class VisionTower:
    """The vision tower. A patch has `patch_values` numbers; `merged_patches` of them become one token.

    `linears` are the matrices of one block, multiplied with every patch, and `merger_linears` those of one merger,
    multiplied with every token. `block_norms` and `merger_norms` count the parameters of one block and of all mergers
    that are in no matrix, `other` all further ones. In `windowed` of the blocks, a patch sees `window` patches; in the
    others, all of its image.
    """

    depth: int
    hidden: int
    inner: int
    patch_values: int
    merged_patches: int
    mergers: int
    out: int
    linears: tuple[Linear, ...]
    merger_linears: tuple[Linear, ...]
    other: int
    windowed: int = 0
    window: int = 0
    block_norms: int = 0
    merger_norms: int = 0

    @property
    def block_weights(self) -> int:
        """Weights of all blocks that are multiplied with every patch."""
        return self.depth * sum(linear.weights for linear in self.linears)

    @property
    def merger_weights(self) -> int:
        """Weights of all mergers that are multiplied with every merged token."""
        return self.mergers * sum(linear.weights for linear in self.merger_linears)

    @property
    def parameters(self) -> int:
        """All parameters, biases and norms included."""
        return self.block_parameters + self.merger_parameters + self.other

    @property
    def block_parameters(self) -> int:
        """Parameters of all blocks."""
        return self.depth * (sum(linear.parameters for linear in self.linears) + self.block_norms)

    @property
    def merger_parameters(self) -> int:
        """Parameters of all mergers."""
        return self.mergers * sum(linear.parameters for linear in self.merger_linears) + self.merger_norms


@dataclass(frozen=True, slots=True)
class Shapes:
    """The matrices of a checkpoint: language model and vision tower."""

    decoder: Decoder
    tower: VisionTower

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.decoder.parameters + self.tower.parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that a token passes through, the vision tower included."""
        return self.decoder.active_parameters + self.tower.parameters

    def parameters_of(self, part: PartName) -> int:
        """All parameters of a part; those of the patch embedding are in none."""
        own = {"merger": self.tower.merger_parameters, "vision_tower": self.tower.block_parameters}
        return own.get(part, self.decoder.parameters)

    def adapted(self, part: PartName) -> list[tuple[Linear, int]]:
        """Matrices of a part that can have adapters, and how often the part repeats each."""
        if part == "language_model":
            return [(linear, count) for kind, count in self.decoder.counts for linear in kind.linears]
        if part == "vision_tower":
            return [(linear, self.tower.depth) for linear in self.tower.linears]
        return [(linear, self.tower.mergers) for linear in self.tower.merger_linears]

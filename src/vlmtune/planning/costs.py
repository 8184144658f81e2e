"""Where the arithmetic and the memory of training go: FLOPs and bytes from the shapes of the matrices. No torch.

A product of [n, a] with [a, b] is 2 n a b FLOPs. Backward passes count what LoRA needs: the gradient at the input of
every frozen matrix, none of the matrix itself. Additions, norms and activation functions are not counted: together they
are far below 1 %. Bytes follow what PyTorch keeps for the backward pass, tensor by tensor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vlmtune.modeling.loading import Quantization
from vlmtune.planning.lengths import Work
from vlmtune.planning.shapes import Linear, Shapes
from vlmtune.training.config import LoraConfig

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits, its share of the scale of 64 weights in 8 bits, and of the scale of 256 such scales in 32."""
LOSS_BYTES = 12
"""Of a logit, where the loss turns round: its log-probability, the gradient at that and at the logit, in fp32."""
STATE_BYTES = 16
"""Of a trained weight: itself, its gradient and AdamW's two moments, each in fp32."""
NORM_BYTES = 4
"""An RMSNorm keeps its input in fp32, whatever the precision."""


@dataclass(frozen=True, slots=True)
class Term:
    """FLOPs of one part of the work. `formula` is of the forward pass, in words."""

    name: str
    formula: str
    forward: int
    backward: int

    @property
    def flops(self) -> int:
        """Both."""
        return self.forward + self.backward


def flops(shapes: Shapes, lora: LoraConfig, work: Work, checkpoint_layers: int = 0) -> list[Term]:
    """FLOPs of one forward and backward pass over some rows, term by term.

    Attention counts the pairs that the segments' causal masks let through; its backward pass computes the scores again,
    as every fused kernel does: 5 products for 2. The first layer's q, k, v need no gradient at the embeddings.

    Args:
        shapes: of the checkpoint.
        lora: which layers have adapters.
        work: the rows.
        checkpoint_layers: layers whose forward pass is computed twice.
    """
    decoder = shapes.decoder
    tokens, layers = work.tokens, decoder.layers
    frozen = 2 * tokens * decoder.layer_weights
    not_needed = 0
    if lora.parts == ["language_model"]:
        not_needed = 2 * tokens * sum(linear.weights for linear in decoder.linears[:3])
    adapters = 2 * tokens * layers * lora.rank * _widths(shapes, lora)
    attention = 4 * work.pairs * decoder.queries * layers
    again = (frozen + adapters + attention) * checkpoint_layers // layers
    head = 2 * work.supervised * decoder.hidden * decoder.vocabulary
    made = [
        Term("language model", "2 x tokens x weights of its layers", frozen, frozen - not_needed),
        Term("its adapters", "2 x tokens x layers x rank x (inputs + outputs)", adapters, 2 * adapters),
        Term("attention", "4 x pairs x heads x head size x layers", attention, attention * 5 // 2),
        Term("head", "2 x supervised tokens x hidden x vocabulary", head, head),
        _tower(shapes, lora, work),
    ]
    if checkpoint_layers:
        made.append(Term("checkpointed layers", "their forward pass once more", 0, again))
    return made


def _widths(shapes: Shapes, lora: LoraConfig) -> int:
    """Inputs + outputs of the language model's adapted matrices, of one layer."""
    return sum(linear.inputs + linear.outputs for linear in _adapted(shapes.decoder.linears, lora)) * (
        "language_model" in lora.parts
    )


def _adapted(linears: Iterable[Linear], lora: LoraConfig) -> list[Linear]:
    return [linear for linear in linears if linear.name in lora.target_modules]


def _tower(shapes: Shapes, lora: LoraConfig, work: Work) -> Term:
    """Forward only where it is frozen; with adapters the way back to the first of them."""
    tower = shapes.tower
    patches, merged = work.patches, work.patches // tower.together
    blocks, attention = 2 * patches * tower.block_weights, 4 * work.patch_pairs * tower.hidden * tower.depth
    mergers = 2 * merged * tower.merger_weights
    forward, backward = 2 * patches * tower.values * tower.hidden + blocks + attention + mergers, 0
    for part, count in (("vision_tower", patches), ("merger", merged)):
        if part in lora.parts:
            linears, times = shapes.adapted(part)
            own = sum(linear.inputs + linear.outputs for linear in _adapted(linears, lora))
            forward += 2 * count * times * lora.rank * own
            backward += 4 * count * times * lora.rank * own
    if "vision_tower" in lora.parts:
        backward += blocks + attention * 5 // 2 + mergers
    elif "merger" in lora.parts:
        backward += mergers
    formula = "2 x patches x weights, 4 x patch pairs x hidden x blocks"
    return Term("vision tower", formula, forward, backward)


def trained_weights(shapes: Shapes, lora: LoraConfig) -> int:
    """Weights of the adapter: rank x (inputs + outputs) of every adapted matrix, and DoRA's length per output."""
    count = 0
    for part in lora.parts:
        linears, times = shapes.adapted(part)
        for linear in _adapted(linears, lora):
            count += times * (lora.rank * (linear.inputs + linear.outputs) + lora.use_dora * linear.outputs)
    return count


def base_bytes(shapes: Shapes, precision: str, quantization: Quantization | None) -> int:
    """The loaded model: in NF4 the matrices of the language model's layers are in 4 bits, all else as it was."""
    width = width_of(precision)
    if quantization is None:
        return width * shapes.parameters
    small = shapes.decoder.layer_weights
    return round(NF4_BYTES * small) + width * (shapes.parameters - small)


def width_of(precision: str) -> int:
    """Bytes of a number."""
    return {"bf16": 2, "fp32": 4}[precision]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the bytes of activations depend on beside shapes and rows.

    On a CPU dropout keeps its mask in the precision of the numbers instead of a byte each, and attention segment by
    segment copies its result once.
    """

    precision: str
    lora: LoraConfig
    quantization: Quantization | None = None
    on_cpu: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return width_of(self.precision)


def activation_bytes(shapes: Shapes, setup: Setup) -> int:
    """What one layer of the language model keeps of one token for the backward pass."""
    decoder, width, lora = shapes.decoder, setup.width, setup.lora
    norms = NORM_BYTES * (2 * decoder.hidden + decoder.queries + decoder.keys)
    attention = width * (2 * decoder.queries + 2 * decoder.keys) + 4 * decoder.heads
    attention += setup.on_cpu * width * decoder.queries
    gates = 3 * width * decoder.inner
    return norms + attention + gates + _adapter_activations(shapes, lora, width, setup.on_cpu)


def _adapter_activations(shapes: Shapes, lora: LoraConfig, width: int, on_cpu: bool) -> int:
    """Inputs of A and of B. Without dropout, matrices that read the same thing keep it once."""
    if "language_model" not in lora.parts:
        return 0
    adapted = _adapted(shapes.decoder.linears, lora)
    kept = width * lora.rank * len(adapted)
    if lora.dropout:
        mask = width if on_cpu else 1
        return kept + sum((width + mask) * linear.inputs for linear in adapted)
    read = {"q_proj": "norm", "k_proj": "norm", "v_proj": "norm", "gate_proj": "norm 2", "up_proj": "norm 2"}
    shared = {read.get(linear.name, linear.name): linear.inputs for linear in adapted}
    # Attention has kept its result already.
    shared.pop("o_proj", None)
    return kept + width * sum(shared.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes over the loaded model while one `row` is computed, at the moments that can be its peak.

    `states` are there all the time: the adapter, its gradients and AdamW's two moments in fp32, and in a half-precision
    model narrowed copies of the adapter. The other fields come on top, each at its own moment: the `tower` at work,
    before anything is kept for the backward pass; the end of the `forward` pass, pixels still there; the `loss` turning
    round at the logits; the `backward` pass, with one layer's gradients on their way.
    """

    row: Work
    states: int
    tower: int
    forward: int
    loss: int
    backward: int

    @property
    def peak(self) -> int:
        """Over the loaded model."""
        return self.states + max(self.tower, self.forward, self.loss, self.backward)


def memory(shapes: Shapes, setup: Setup, rows: Iterable[Work], checkpoint_layers: int) -> Memory:
    """Of the row among `rows` that needs most, with the first `checkpoint_layers` layers keeping only their input."""
    return max((_of_row(shapes, setup, row, checkpoint_layers) for row in rows), key=lambda found: found.peak)


def _of_row(shapes: Shapes, setup: Setup, row: Work, checkpoint_layers: int) -> Memory:
    decoder, tower, width = shapes.decoder, shapes.tower, setup.width
    layer, entrance = activation_bytes(shapes, setup), width * decoder.hidden
    last_norm = NORM_BYTES * decoder.hidden
    kept = row.tokens * ((decoder.layers - checkpoint_layers) * layer + checkpoint_layers * entrance + last_norm)
    kept += _tower_kept(shapes, setup, row)
    # When the backward pass comes to a checkpointed layer, those behind it are done with, and this one is whole again.
    again = row.tokens * (checkpoint_layers * entrance + layer) if checkpoint_layers else 0
    features = width * (tower.mergers - 1) * tower.out // tower.together
    pictures = row.patches * (width * tower.values + features)
    unpacked = width * max(linear.weights for linear in decoder.linears) if setup.quantization is not None else 0
    narrowed = width if setup.precision != "fp32" else 0
    return Memory(
        row=row,
        states=trained_weights(shapes, setup.lora) * (STATE_BYTES + narrowed),
        tower=pictures + row.patches * _tower_passing(shapes, width),
        forward=kept + pictures + row.tokens * width * decoder.inner + unpacked,
        loss=kept + LOSS_BYTES * row.supervised * decoder.vocabulary,
        backward=max(kept, again) + row.tokens * width * (3 * decoder.inner + 2 * decoder.hidden) + unpacked,
    )


def _tower_kept(shapes: Shapes, setup: Setup, row: Work) -> int:
    """Nothing where it is frozen: it then runs without a backward pass."""
    if "vision_tower" not in setup.lora.parts:
        return 0
    tower, width = shapes.tower, setup.width
    inputs = sum(linear.inputs for linear in _adapted(tower.linears, setup.lora))
    mask = (width if setup.on_cpu else 1) * inputs if setup.lora.dropout else 0
    norms, attention, middle = 2 * tower.hidden, 4 * tower.hidden, tower.inner
    return row.patches * tower.depth * (width * (norms + attention + middle + inputs) + mask)


def _tower_passing(shapes: Shapes, width: int) -> int:
    """Per patch, in one block: the residual, and the larger of q and k rotated in fp32 and of the MLP."""
    hidden, inner = shapes.tower.hidden, shapes.tower.inner
    return 2 * width * hidden + max(3 * width * hidden + 4 * 6 * hidden, 2 * width * inner)

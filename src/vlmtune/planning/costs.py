"""FLOPs and memory of training, computed from the shapes of the matrices. No torch.

A product of [n, a] with [a, b] takes 2 n a b FLOPs. The backward pass counts what LoRA needs: the gradient with respect
to the input of every frozen matrix, but not with respect to the matrix. Additions, norms and activation functions,
together far below 1 %, are not counted. Bytes are those that PyTorch keeps for the backward pass, tensor by tensor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vlmtune.modeling.loading import Quantization
from vlmtune.planning.lengths import Work
from vlmtune.planning.shapes import Linear, Shapes
from vlmtune.training.config import LoraConfig

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: 4 bits, its share of an 8-bit scale per 64 weights and of a 32-bit scale per 256 such scales."""
LOSS_BYTES = 12
"""Bytes per logit at the loss: its log-probability and the gradients at both, in fp32."""
STATE_BYTES = 16
"""Bytes per trained weight: itself, its gradient and AdamW's two moments, in fp32."""
NORM_BYTES = 4
"""Bytes per input of an RMSNorm, which is kept in fp32 at any precision."""


@dataclass(frozen=True, slots=True)
class Term:
    """FLOPs of one part of the model. `formula` describes the forward pass in words."""

    name: str
    formula: str
    forward: int
    backward: int

    @property
    def flops(self) -> int:
        """Of both passes."""
        return self.forward + self.backward


def flops(shapes: Shapes, lora: LoraConfig, work: Work, checkpoint_layers: int = 0) -> list[Term]:
    """FLOPs of one forward and backward pass, term by term.

    Attention counts the pairs that the segments' causal masks allow. Its backward pass recomputes the scores, as every
    fused kernel does: 5 products instead of 2. q, k and v of the first layer need no gradient with respect to their
    input, because the embeddings are frozen.

    Args:
        shapes: of the checkpoint.
        lora: which layers have adapters.
        work: of the sequences.
        checkpoint_layers: layers whose forward pass is computed twice.
    """
    decoder = shapes.decoder
    tokens, layers = work.tokens, decoder.layers
    frozen = 2 * tokens * decoder.layer_weights
    unneeded = 0
    if lora.parts == ["language_model"]:
        unneeded = 2 * tokens * sum(linear.weights for linear in decoder.linears[:3])
    adapters = 2 * tokens * layers * lora.rank * _widths(shapes, lora)
    attention = 4 * work.pairs * decoder.queries * layers
    recomputed = (frozen + adapters + attention) * checkpoint_layers // layers
    head = 2 * work.supervised * decoder.hidden * decoder.vocabulary
    terms = [
        Term("language model", "2 x tokens x weights of its layers", frozen, frozen - unneeded),
        Term("its adapters", "2 x tokens x layers x rank x (inputs + outputs)", adapters, 2 * adapters),
        Term("attention", "4 x pairs x heads x head size x layers", attention, attention * 5 // 2),
        Term("head", "2 x supervised tokens x hidden x vocabulary", head, head),
        _tower(shapes, lora, work),
    ]
    if checkpoint_layers:
        terms.append(Term("checkpointed layers", "their forward pass once more", 0, recomputed))
    return terms


def _widths(shapes: Shapes, lora: LoraConfig) -> int:
    """Inputs + outputs of the adapted matrices in one layer of the language model."""
    return sum(linear.inputs + linear.outputs for linear in _adapted(shapes.decoder.linears, lora)) * (
        "language_model" in lora.parts
    )


def _adapted(linears: Iterable[Linear], lora: LoraConfig) -> list[Linear]:
    return [linear for linear in linears if linear.name in lora.target_modules]


def _tower(shapes: Shapes, lora: LoraConfig, work: Work) -> Term:
    """FLOPs of the vision tower: if it is frozen, there is no backward pass; else one down to the first adapter."""
    tower = shapes.tower
    patches, merged = work.patches, work.patches // tower.merged_patches
    blocks, attention = 2 * patches * tower.block_weights, 4 * work.patch_pairs * tower.hidden * tower.depth
    mergers = 2 * merged * tower.merger_weights
    forward, backward = 2 * patches * tower.patch_values * tower.hidden + blocks + attention + mergers, 0
    for part, count in (("vision_tower", patches), ("merger", merged)):
        if part in lora.parts:
            linears, times = shapes.adapted(part)
            widths = sum(linear.inputs + linear.outputs for linear in _adapted(linears, lora))
            forward += 2 * count * times * lora.rank * widths
            backward += 4 * count * times * lora.rank * widths
    if "vision_tower" in lora.parts:
        backward += blocks + attention * 5 // 2 + mergers
    elif "merger" in lora.parts:
        backward += mergers
    formula = "2 x patches x weights, 4 x patch pairs x hidden x blocks"
    return Term("vision tower", formula, forward, backward)


def trained_weights(shapes: Shapes, lora: LoraConfig) -> int:
    """Weights of the adapter: rank x (inputs + outputs) of every adapted matrix, and DoRA's magnitude per output."""
    count = 0
    for part in lora.parts:
        linears, times = shapes.adapted(part)
        for linear in _adapted(linears, lora):
            count += times * (lora.rank * (linear.inputs + linear.outputs) + lora.use_dora * linear.outputs)
    return count


def base_bytes(shapes: Shapes, precision: str, quantization: Quantization | None) -> int:
    """Bytes of the loaded model. NF4 keeps the matrices of the language model's layers in 4 bits, and nothing else."""
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
    """What activation memory depends on in addition to shapes and sequences.

    On a CPU, dropout keeps its mask in the precision of its input instead of one byte per number, and attention, which
    runs segment by segment, copies its result once. `repeated_keys`: the GPU's kernel needs as many key-value heads as
    query heads, so both are kept repeated (torch before 2.12).
    """

    precision: str
    lora: LoraConfig
    quantization: Quantization | None = None
    on_cpu: bool = False
    repeated_keys: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return width_of(self.precision)


def activation_bytes(shapes: Shapes, setup: Setup) -> int:
    """Bytes per token that one layer of the language model keeps for the backward pass."""
    decoder, width, lora = shapes.decoder, setup.width, setup.lora
    norms = NORM_BYTES * (2 * decoder.hidden + decoder.queries + decoder.keys)
    repeated = setup.repeated_keys and setup.precision != "fp32"
    attention = width * (2 * decoder.queries + 2 * (decoder.queries if repeated else decoder.keys)) + 4 * decoder.heads
    attention += setup.on_cpu * width * decoder.queries
    gates = 3 * width * decoder.inner
    return norms + attention + gates + _adapter_activations(shapes, lora, width, setup.on_cpu)


def _adapter_activations(shapes: Shapes, lora: LoraConfig, width: int, on_cpu: bool) -> int:
    """Inputs of A and of B. Without dropout, matrices with the same input keep it once."""
    if "language_model" not in lora.parts:
        return 0
    adapted = _adapted(shapes.decoder.linears, lora)
    kept = width * lora.rank * len(adapted)
    if lora.dropout:
        mask = width if on_cpu else 1
        return kept + sum((width + mask) * linear.inputs for linear in adapted)
    source = {"q_proj": "norm", "k_proj": "norm", "v_proj": "norm", "gate_proj": "norm 2", "up_proj": "norm 2"}
    shared = {source.get(linear.name, linear.name): linear.inputs for linear in adapted}
    # The attention kernel keeps its output anyway.
    shared.pop("o_proj", None)
    return kept + width * sum(shared.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes beyond the loaded model for one packed sequence, at the times at which memory can peak.

    `states` are always allocated: the adapter, its gradients and AdamW's two moments in fp32, and, for a half-precision
    model, copies of the adapter in that precision. Each other field is added to them at a different time: in the
    `vision_tower`, before anything is kept for the backward pass; at the end of the `forward` pass, with the pixels; at
    the `loss`, with the logits; in the `backward` pass, with the gradients of one layer.
    """

    sequence: Work
    states: int
    vision_tower: int
    forward: int
    loss: int
    backward: int

    @property
    def peak(self) -> int:
        """Peak beyond the loaded model."""
        return self.states + max(self.vision_tower, self.forward, self.loss, self.backward)


def memory(shapes: Shapes, setup: Setup, sequences: Iterable[Work], checkpoint_layers: int) -> Memory:
    """Memory of the most expensive sequence if the first `checkpoint_layers` layers keep only their input."""
    return max((_of_sequence(shapes, setup, one, checkpoint_layers) for one in sequences), key=lambda each: each.peak)


def _of_sequence(shapes: Shapes, setup: Setup, sequence: Work, checkpoint_layers: int) -> Memory:
    decoder, tower, width = shapes.decoder, shapes.tower, setup.width
    layer, layer_input = activation_bytes(shapes, setup), width * decoder.hidden
    last_norm = NORM_BYTES * decoder.hidden
    whole = decoder.layers - checkpoint_layers
    kept = sequence.tokens * (whole * layer + checkpoint_layers * layer_input + last_norm)
    kept += _tower_kept(shapes, setup, sequence)
    # When the backward pass reaches a checkpointed layer, the layers after it are freed and this one is recomputed.
    recomputed = sequence.tokens * (checkpoint_layers * layer_input + layer) if checkpoint_layers else 0
    features = width * (tower.mergers - 1) * tower.out // tower.merged_patches
    images = sequence.patches * (width * tower.patch_values + features)
    unpacked = width * max(linear.weights for linear in decoder.linears) if setup.quantization is not None else 0
    narrowed = width if setup.precision != "fp32" else 0
    return Memory(
        sequence=sequence,
        states=trained_weights(shapes, setup.lora) * (STATE_BYTES + narrowed),
        vision_tower=images + sequence.patches * _tower_transient(shapes, width),
        forward=kept + images + sequence.tokens * width * decoder.inner + unpacked,
        loss=kept + LOSS_BYTES * sequence.supervised * decoder.vocabulary,
        backward=max(kept, recomputed) + sequence.tokens * width * (3 * decoder.inner + 2 * decoder.hidden) + unpacked,
    )


def _tower_kept(shapes: Shapes, setup: Setup, sequence: Work) -> int:
    """Bytes kept for the vision tower's backward pass; 0 if it is frozen."""
    if "vision_tower" not in setup.lora.parts:
        return 0
    tower, width = shapes.tower, setup.width
    inputs = sum(linear.inputs for linear in _adapted(tower.linears, setup.lora))
    mask = (width if setup.on_cpu else 1) * inputs if setup.lora.dropout else 0
    norms, attention, mlp = 2 * tower.hidden, 4 * tower.hidden, tower.inner
    return sequence.patches * tower.depth * (width * (norms + attention + mlp + inputs) + mask)


def _tower_transient(shapes: Shapes, width: int) -> int:
    """Bytes per patch in one block: the residual, plus the larger of q and k, rotated in fp32, and the MLP."""
    hidden, inner = shapes.tower.hidden, shapes.tower.inner
    return 2 * width * hidden + max(3 * width * hidden + 4 * 6 * hidden, 2 * width * inner)

"""FLOPs and memory of training, computed from the shapes of the matrices. No torch.

A product of [n, a] with [a, b] takes 2 n a b FLOPs. The backward pass counts what is needed: the gradient with respect
to the input of every frozen matrix, and that with respect to the matrix where it is trained. Additions, norms and
activation functions, together far below 1 %, are not counted. Bytes are those that PyTorch keeps for the backward pass,
tensor by tensor.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from vlmtune.families import DELTA_CHUNK, FROM_LAYER_INPUT, DeltaRule, Layer, Linear, PartName, Shapes
from vlmtune.modeling.quantization import Quantization
from vlmtune.planning.lengths import Work
from vlmtune.training.config import LoraConfig

CARDS = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs among which a model could be divided."""
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


def flops(
    shapes: Shapes, lora: LoraConfig, work: Work, checkpoint_layers: int = 0, full: Collection[PartName] = ()
) -> list[Term]:
    """FLOPs of one forward and backward pass, term by term.

    Attention counts the pairs that the segments' causal masks allow. Its backward pass recomputes the scores, as every
    fused kernel does: 5 products instead of 2. The matrices that read the input of the first layer need no gradient
    with respect to it, because the embeddings are frozen.

    Args:
        shapes: of the checkpoint.
        lora: which layers have adapters.
        work: of the sequences.
        checkpoint_layers: layers whose forward pass is computed twice.
        full: parts that are trained in full.
    """
    decoder, whole = shapes.decoder, "language_model" in full
    kinds = [_layer_terms(kind, lora, work, whole) for kind in decoder.kinds]
    terms = [_summed([kinds[n][row] for n in decoder.order]) for row in range(len(kinds[0]))]
    recomputed = sum(term.forward for n in decoder.order[:checkpoint_layers] for term in kinds[n])
    unneeded = 0
    if lora.parts == ["language_model"] and not full:
        first = decoder.kinds[decoder.order[0]].linears
        unneeded = 2 * work.tokens * sum(linear.active for linear in first if linear.name in FROM_LAYER_INPUT)
    terms[0] = replace(terms[0], backward=terms[0].backward - unneeded)
    head = 2 * work.supervised * decoder.hidden * decoder.vocabulary
    terms = [term for term in terms if term.forward or term.name not in ("linear attention", "its adapters")]
    terms += [
        Term("head", "2 x supervised tokens x hidden x vocabulary", head, 2 * head if whole else head),
        _tower(shapes, lora, work, full),
    ]
    if checkpoint_layers:
        terms.append(Term("checkpointed layers", "their forward pass once more", 0, recomputed))
    return terms


def _summed(terms: Sequence[Term]) -> Term:
    """The same part of several layers."""
    forward, backward = (sum(getattr(term, name) for term in terms) for name in ("forward", "backward"))
    return replace(terms[0], forward=forward, backward=backward)


def _layer_terms(layer: Layer, lora: LoraConfig, work: Work, whole: bool) -> list[Term]:
    """One layer of the language model: its matrices, its adapters, attention, linear attention."""
    frozen, attention = 2 * work.tokens * layer.active, 4 * work.pairs * layer.queries
    forward, backward = (layer.delta.flops, layer.delta.backward_flops) if layer.delta else (0, 0)
    convolution = layer.delta.convolution * work.tokens if layer.delta else 0
    adapters = weight_gradients = 0
    for linear in _adapted(layer.linears, lora) if "language_model" in lora.parts else ():
        if linear.copies == 1:
            adapters += 2 * work.tokens * lora.rank * (linear.inputs + linear.outputs)
        else:  # B x A of every expert, once per sequence; its gradient is that of the whole matrix
            adapters += 2 * work.sequences * lora.rank * linear.weights
            weight_gradients += 2 * work.tokens * linear.active
    return [
        Term("language model", "2 x tokens x weights of its layers", frozen, 2 * frozen if whole else frozen),
        Term(
            "its adapters", "2 x tokens x layers x rank x (inputs + outputs)", adapters, 2 * adapters + weight_gradients
        ),
        Term("attention", "4 x pairs x heads x head size x layers", attention, attention * 5 // 2),
        Term(
            "linear attention",
            "tokens, in chunks of 64, x heads x (6 x key x value + 64 x (5 x key + 3 x value)), convolution",
            forward * work.chunked + convolution,
            backward * work.chunked + (2 * convolution if whole else convolution),
        ),
    ]


def _adapted(linears: Iterable[Linear], lora: LoraConfig) -> list[Linear]:
    assert isinstance(lora.target_modules, list), "names, as `plan` has them"
    return [linear for linear in linears if linear.name in lora.target_modules]


def _tower(shapes: Shapes, lora: LoraConfig, work: Work, full: Collection[PartName]) -> Term:
    """FLOPs of the vision tower: a backward pass down to the first part that is trained, and weight gradients."""
    tower = shapes.tower
    patches, merged = work.patches, work.patches // tower.merged_patches
    pairs = work.patch_pairs * (tower.depth - tower.windowed)
    pairs += min(work.patch_pairs, patches * tower.window) * tower.windowed
    blocks, attention = 2 * patches * tower.block_weights, 4 * pairs * tower.hidden
    mergers = 2 * merged * tower.merger_weights
    forward, backward = 2 * patches * tower.patch_values * tower.hidden + blocks + attention + mergers, 0
    for part, count in (("vision_tower", patches), ("merger", merged)):
        if part in lora.parts:
            widths = sum(times * (one.inputs + one.outputs) for one, times in _adapted_in(shapes, part, lora))
            forward += 2 * count * lora.rank * widths
            backward += 4 * count * lora.rank * widths
    trained = {*lora.parts, *full}
    if "vision_tower" in trained:
        backward += blocks + attention * 5 // 2 + mergers
    elif "merger" in trained:
        backward += mergers
    backward += ("vision_tower" in full) * blocks + ("merger" in full) * mergers
    formula = "2 x patches x weights, 4 x patch pairs x hidden x blocks"
    return Term("vision tower", formula, forward, backward)


def _adapted_in(shapes: Shapes, part: PartName, lora: LoraConfig) -> list[tuple[Linear, int]]:
    """The adapted matrices of a part, and how often each is repeated."""
    return [(one, times) for linear, times in shapes.adapted(part) for one in _adapted([linear], lora)]


def trained_weights(shapes: Shapes, lora: LoraConfig, full: Collection[PartName] = ()) -> int:
    """Weights of the adapter: rank x (inputs + outputs) of every adapted matrix, and DoRA's magnitude per output; and
    all weights of parts that are trained in full.
    """
    count = sum(map(shapes.parameters_of, full))
    for part in lora.parts:
        for linear, times in _adapted_in(shapes, part, lora):
            wide = linear.copies * lora.rank * (linear.inputs + linear.outputs)
            count += times * (wide + lora.use_dora * linear.outputs)
    return count


def base_bytes(shapes: Shapes, precision: str, quantization: Quantization | None, shards: int = 1) -> int:
    """Bytes of the loaded model on one GPU. NF4 keeps the linear layers of the language model in 4 bits, and nothing
    else; `shards` divide the language model (`training.sharding`).
    """
    width = width_of(precision)
    if quantization is None:
        return width * (shapes.parameters - shapes.decoder.parameters + shapes.decoder.parameters // shards)
    small = shapes.decoder.quantizable
    return round(NF4_BYTES * small) + width * (shapes.parameters - small)


def width_of(precision: str) -> int:
    """Bytes of a number."""
    return {"bf16": 2, "fp16": 2, "fp32": 4}[precision]


@dataclass(frozen=True, slots=True)
class Setup:
    """What activation memory depends on in addition to shapes and sequences.

    On a CPU, dropout keeps its mask in the precision of its input instead of one byte per number, and attention, which
    runs segment by segment, copies its result once. `repeated_keys`: the GPU's kernel needs as many key-value heads as
    query heads, so both are kept repeated (torch before 2.12). `shards`: GPUs that divide the language model.
    """

    precision: str
    lora: LoraConfig
    quantization: Quantization | None = None
    on_cpu: bool = False
    repeated_keys: bool = False
    full: tuple[PartName, ...] = ()
    shards: int = 1

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return width_of(self.precision)


def activation_bytes(shapes: Shapes, layer: Layer, setup: Setup) -> int:
    """Bytes per token that one layer of the language model keeps for the backward pass."""
    hidden, width = shapes.decoder.hidden, setup.width
    whole = _inputs_of_weights(layer, hidden, width) if "language_model" in setup.full else 0
    norms = NORM_BYTES * 2 * hidden
    if layer.delta is not None:
        mixer = _delta_activations(layer.delta, width)
    else:
        norms += NORM_BYTES * (layer.queries + layer.keys)
        repeated = setup.repeated_keys and setup.precision != "fp32"
        mixer = width * (2 * layer.queries + 2 * (layer.queries if repeated else layer.keys)) + 4 * layer.heads
        mixer += setup.on_cpu * width * layer.queries + layer.gated * 2 * width * layer.queries
    return norms + mixer + 3 * width * layer.inner + _adapter_activations(layer, setup) + whole


def _delta_activations(rule: DeltaRule, width: int) -> int:
    """Bytes per token of a Gated DeltaNet as torch computes it: in fp32, chunk by chunk."""
    query, key, value, scores = 3 * rule.key, 5 * rule.key, 3 * rule.value, 5 * DELTA_CHUNK
    states = 2 * rule.key * rule.value // DELTA_CHUNK
    values = rule.heads * rule.value
    gated_norm = (2 * NORM_BYTES + 2 * width) * values
    return 4 * rule.heads * (query + key + value + scores + states) + width * rule.channels + gated_norm


def _inputs_of_weights(layer: Layer, hidden: int, width: int) -> int:
    """Bytes per token of what the gradients of a layer's own weights need: their inputs, and what norms scale."""
    experts = sum(one.used * one.inputs for one in layer.linears if one.copies > 1)
    dense = {one.name: one.inputs for one in layer.linears if one.copies == 1}
    mixer = layer.queries * (1 + layer.gated) + layer.keys
    if layer.delta is not None:
        mixer = layer.delta.channels + 2 * layer.delta.heads * layer.delta.value
    return width * (4 * hidden + mixer + dense.get("down_proj", 0) + experts)


def _adapter_activations(layer: Layer, setup: Setup) -> int:
    """Inputs of A and of B. Without dropout, matrices with the same input keep it once."""
    lora, width = setup.lora, setup.width
    if "language_model" not in lora.parts:
        return 0
    adapted = [linear for linear in _adapted(layer.linears, lora) if linear.copies == 1]
    kept = width * lora.rank * len(adapted)
    if lora.dropout:
        mask = width if setup.on_cpu else 1
        return kept + sum((width + mask) * linear.inputs for linear in adapted)
    source = dict.fromkeys(FROM_LAYER_INPUT, "norm") | {"gate_proj": "norm 2", "up_proj": "norm 2"}
    shared = {source.get(linear.name, linear.name): linear.inputs for linear in adapted}
    if not layer.gated:
        shared.pop("o_proj", None)  # the attention kernel keeps its output anyway
    return kept + width * sum(shared.values())


def _expert_copies(layer: Layer, setup: Setup) -> int:
    """Bytes of the sums of expert weights and their adapters, which are kept for the backward pass."""
    stacked = [one for one in _adapted(layer.linears, setup.lora) if one.copies > 1]
    return setup.width * sum(one.weights for one in stacked)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes beyond the loaded model for one packed sequence, at the times at which memory can peak.

    `states` are always allocated: the adapter, its gradients and AdamW's two moments in fp32, and, for a half-precision
    model, copies of the adapter in that precision; the same of parts that are trained in full, whose weights are
    copied in half precision only. Each other field is added to them at a different time: in the
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
    kinds = [
        sequence.tokens * activation_bytes(shapes, kind, setup) + _expert_copies(kind, setup) for kind in decoder.kinds
    ]
    layer_input = sequence.tokens * width * decoder.hidden
    last_norm = sequence.tokens * NORM_BYTES * decoder.hidden
    kept = sum(kinds[n] for n in decoder.order[checkpoint_layers:]) + checkpoint_layers * layer_input + last_norm
    kept += _tower_kept(shapes, setup, sequence)
    # When the backward pass reaches a checkpointed layer, the layers after it are freed and this one is recomputed.
    again = max((kinds[n] for n in decoder.order[:checkpoint_layers]), default=0)
    recomputed = checkpoint_layers * layer_input + again
    features = width * (tower.mergers - 1) * tower.out // tower.merged_patches
    images = sequence.patches * (width * tower.patch_values + features)
    largest = max(one.inputs * one.outputs for kind in decoder.kinds for one in kind.linears)
    unpacked = width * largest if setup.quantization is not None else 0
    head, passing = _weight_gradients(shapes, setup)
    gathered, reduced = _gathered(shapes, setup)
    return Memory(
        sequence=sequence,
        states=_states(shapes, setup),
        vision_tower=images + sequence.patches * _tower_transient(shapes, width),
        forward=gathered + kept + images + sequence.tokens * width * decoder.inner + unpacked,
        loss=gathered + kept + LOSS_BYTES * sequence.supervised * decoder.vocabulary + head,
        backward=max(passing, reduced)
        + gathered
        + max(kept, recomputed)
        + sequence.tokens * width * (3 * decoder.inner + 2 * decoder.hidden)
        + unpacked,
    )


def _states(shapes: Shapes, setup: Setup) -> int:
    """Bytes of what is trained beyond the loaded model, of its gradients and of AdamW's moments."""
    halved = setup.precision != "fp32"
    adapter, both = trained_weights(shapes, setup.lora), trained_weights(shapes, setup.lora, setup.full)
    own = STATE_BYTES if halved else STATE_BYTES - width_of("fp32")  # fp32 weights are trained in place
    language = shapes.parameters_of("language_model") if "language_model" in setup.full else 0
    in_full = both - adapter - language + language // setup.shards
    return adapter * (STATE_BYTES + halved * setup.width) + in_full * own


def _gathered(shapes: Shapes, setup: Setup) -> tuple[int, int]:
    """Bytes of a divided model that are whole at a time: weights, and in the backward pass their gradients.

    Those of two layers, one of which is fetched ahead, and of the embeddings or the head. Gradients of a layer are
    summed in fp32, while the next ones are computed.
    """
    if setup.shards == 1:
        return 0, 0
    decoder = shapes.decoder
    layer = max(kind.parameters for kind in decoder.kinds)
    weights = setup.width * (2 * layer + decoder.vocabulary * decoder.hidden)
    return weights, (setup.width + 2 * width_of("fp32")) * layer if "language_model" in setup.full else 0


def _weight_gradients(shapes: Shapes, setup: Setup) -> tuple[int, int]:
    """Bytes of gradients of weights on their way to where they are added up: at the head, and in the backward pass.

    That of a tied head waits for that of the embeddings, to be added to it at the end of the backward pass.
    """
    decoder = shapes.decoder
    if "language_model" not in setup.full:
        return 0, 0
    vocabulary = setup.width * decoder.vocabulary * decoder.hidden
    largest = setup.width * max(one.weights for kind in decoder.kinds for one in kind.linears)
    return vocabulary, largest + (vocabulary if decoder.tied else 0)


def _tower_kept(shapes: Shapes, setup: Setup, sequence: Work) -> int:
    """Bytes kept for the vision tower's backward pass; 0 if it is frozen."""
    tower, width = shapes.tower, setup.width
    merging = 0
    if "merger" in setup.full:
        tokens, wide = sequence.patches // tower.merged_patches, tower.merged_patches * tower.hidden
        merging = tokens * tower.mergers * width * (wide + 2 * sum(one.inputs for one in tower.merger_linears))
    if "vision_tower" in setup.full:
        inputs, mask = sum(linear.inputs for linear in tower.linears), 0
    elif "vision_tower" in setup.lora.parts:
        inputs = sum(linear.inputs for linear in _adapted(tower.linears, setup.lora))
        mask = (width if setup.on_cpu else 1) * inputs if setup.lora.dropout else 0
    else:
        return merging
    norms, attention, mlp = 2 * tower.hidden, 4 * tower.hidden, tower.inner
    return merging + sequence.patches * tower.depth * (width * (norms + attention + mlp + inputs) + mask)


def _tower_transient(shapes: Shapes, width: int) -> int:
    """Bytes per patch in one block: the residual, plus the larger of q and k, rotated in fp32, and the MLP."""
    hidden, inner = shapes.tower.hidden, shapes.tower.inner
    return 2 * width * hidden + max(3 * width * hidden + 4 * 6 * hidden, 2 * width * inner)

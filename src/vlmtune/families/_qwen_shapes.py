"""The matrices of the Qwen-VL models, from config.json."""

from collections.abc import Mapping
from typing import Any

from vlmtune.families import Decoder, DeltaRule, Layer, Linear, Shapes, VisionTower

Settings = Mapping[str, Any]


def qwen3_shapes(settings: Settings) -> Shapes:
    """Of Qwen3-VL, Qwen3.5 and their mixtures of experts."""
    return Shapes(decoder_shapes(settings, settings["text_config"], head_norms=True), _tower(settings["vision_config"]))


def decoder_shapes(settings: Settings, text: Settings, head_norms: bool, qkv_bias: bool = False) -> Decoder:
    """The language model.

    Args:
        settings: the whole config.json.
        text: its part about the language model.
        head_norms: whether queries and keys are normalised per head.
        qkv_bias: whether their projections have biases.
    """
    count = text["num_hidden_layers"]
    every = text.get("full_attention_interval", 4) if "linear_num_value_heads" in text else 1
    default = ["full_attention" if (n + 1) % every == 0 else "linear_attention" for n in range(count)]
    mixers = text.get("layer_types") or default
    dense, sparse_step = set(text.get("mlp_only_layers") or ()), text.get("decoder_sparse_step") or 1
    experts = text.get("num_experts") or text.get("num_local_experts") or 0
    kinds: dict[tuple[bool, bool], int] = {}
    order = []
    for n in range(count):
        is_sparse = experts > 0 and n not in dense and (n + 1) % sparse_step == 0
        order.append(kinds.setdefault((mixers[n] == "linear_attention", is_sparse), len(kinds)))
    return Decoder(
        kinds=tuple(_layer(text, *kind, experts, head_norms, qkv_bias) for kind in kinds),
        order=tuple(order),
        hidden=text["hidden_size"],
        vocabulary=text["vocab_size"],
        tied=settings.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
    )


def _layer(text: Settings, is_linear: bool, is_sparse: bool, experts: int, head_norms: bool, qkv_bias: bool) -> Layer:
    hidden = text["hidden_size"]
    mlp, inner = _mlp(text, experts) if is_sparse else (gated_mlp(hidden, text["intermediate_size"]), None)
    inner = inner or text["intermediate_size"]
    if is_linear:
        linears, other, delta = _delta(text)
        return Layer(linears=(*linears, *mlp), other=2 * hidden + other, inner=inner, delta=delta)
    heads = text["num_attention_heads"]
    width = text.get("head_dim") or hidden // heads
    queries, keys, gated = heads * width, text["num_key_value_heads"] * width, "linear_num_value_heads" in text
    attention = (
        Linear("q_proj", hidden, queries * (2 if gated else 1), bias=qkv_bias),
        Linear("k_proj", hidden, keys, bias=qkv_bias),
        Linear("v_proj", hidden, keys, bias=qkv_bias),
        Linear("o_proj", queries, hidden),
    )
    other = 2 * hidden + (2 * width if head_norms else 0)
    return Layer((*attention, *mlp), other, heads, queries, keys, gated, inner)


def gated_mlp(hidden: int, inner: int) -> tuple[Linear, ...]:
    """The three matrices of a SwiGLU."""
    return Linear("gate_proj", hidden, inner), Linear("up_proj", hidden, inner), Linear("down_proj", inner, hidden)


def _mlp(text: Settings, experts: int) -> tuple[tuple[Linear, ...], int]:
    """Router, stacked experts and the shared expert if there is one; and the width that a token passes through."""
    hidden, inner, used = text["hidden_size"], text["moe_intermediate_size"], text["num_experts_per_tok"]
    routed = (
        Linear("gate", hidden, experts),
        Linear("experts.gate_up_proj", hidden, 2 * inner, experts, used),
        Linear("experts.down_proj", inner, hidden, experts, used),
    )
    shared = text.get("shared_expert_intermediate_size") or 0
    if not shared:
        return routed, used * inner
    return (*routed, *gated_mlp(hidden, shared), Linear("shared_expert_gate", hidden, 1)), used * inner + shared


def _delta(text: Settings) -> tuple[tuple[Linear, ...], int, DeltaRule]:
    """Matrices, other parameters and recurrence of a Gated DeltaNet."""
    hidden, heads, value = text["hidden_size"], text["linear_num_value_heads"], text["linear_value_head_dim"]
    key = text["linear_key_head_dim"]
    keys, values = text["linear_num_key_heads"] * key, heads * value
    rule = DeltaRule(heads, key, value, channels=2 * keys + values, width=text["linear_conv_kernel_dim"])
    linears = (
        Linear("in_proj_qkv", hidden, rule.channels),
        Linear("in_proj_z", hidden, values),
        Linear("in_proj_b", hidden, heads),
        Linear("in_proj_a", hidden, heads),
        Linear("out_proj", values, hidden),
    )
    return linears, rule.channels * rule.width + 2 * heads + value, rule


def _tower(vision: Settings) -> VisionTower:
    """The vision tower of Qwen3-VL, with as many mergers more as it has deepstack layers."""
    hidden, inner, depth = vision["hidden_size"], vision["intermediate_size"], vision["depth"]
    values = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    merged, out = vision["spatial_merge_size"] ** 2, vision["out_hidden_size"]
    wide, more = merged * hidden, len(vision.get("deepstack_visual_indexes") or ())
    return VisionTower(
        depth=depth,
        hidden=hidden,
        inner=inner,
        patch_values=values,
        merged_patches=merged,
        mergers=1 + more,
        out=out,
        linears=(
            Linear("qkv", hidden, 3 * hidden, bias=True),
            Linear("proj", hidden, hidden, bias=True),
            Linear("linear_fc1", hidden, inner, bias=True),
            Linear("linear_fc2", inner, hidden, bias=True),
        ),
        merger_linears=(Linear("linear_fc1", wide, wide, bias=True), Linear("linear_fc2", wide, out, bias=True)),
        other=(values + 1) * hidden + vision["num_position_embeddings"] * hidden,
        block_norms=4 * hidden,
        # The main merger normalises patches, the deepstack mergers normalise merged tokens.
        merger_norms=2 * hidden + 2 * more * wide,
    )


def qwen2_shapes(settings: Settings) -> Shapes:
    """Of Qwen2-VL and Qwen2.5-VL, whose checkpoints may keep the language model's settings at the top."""
    text, vision = settings.get("text_config", settings), settings["vision_config"]
    decoder = decoder_shapes(settings, text, head_norms=False, qkv_bias=True)
    is_windowed = "fullatt_block_indexes" in vision
    depth = vision["depth"]
    hidden = vision["hidden_size"] if is_windowed else vision["embed_dim"]
    out = vision["out_hidden_size"] if is_windowed else vision["hidden_size"]
    inner = vision["intermediate_size"] if is_windowed else int(hidden * vision["mlp_ratio"])
    patch = vision["patch_size"]
    values = vision.get("in_channels", 3) * vision["temporal_patch_size"] * patch**2
    merged = vision["spatial_merge_size"] ** 2
    wide, norm = merged * hidden, hidden if is_windowed else 2 * hidden
    names = ("gate_proj", "up_proj", "down_proj") if is_windowed else ("fc1", "fc2")
    mlp = [Linear(name, hidden, inner, bias=True) for name in names[:-1]]
    tower = VisionTower(
        depth=depth,
        hidden=hidden,
        inner=inner,
        patch_values=values,
        merged_patches=merged,
        mergers=1,
        out=out,
        linears=(
            Linear("qkv", hidden, 3 * hidden, bias=True),
            Linear("proj", hidden, hidden, bias=True),
            *mlp,
            Linear(names[-1], inner, hidden, bias=True),
        ),
        merger_linears=(Linear("0", wide, wide, bias=True), Linear("2", wide, out, bias=True)),
        other=values * hidden,
        block_norms=2 * norm,
        merger_norms=norm,
        windowed=depth - len(vision["fullatt_block_indexes"]) if is_windowed else 0,
        window=(vision["window_size"] // patch) ** 2 if is_windowed else 0,
    )
    return Shapes(decoder, tower)

"""The matrices of a checkpoint, read from its config.json, and the data of known GPUs. No torch.

Everything that `costs` computes starts here. GPU figures are those of the datasheets; prices change daily and are not
included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmtune.errors import ConfigError
from vlmtune.families import PartName
from vlmtune.registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight matrix. `name` is the last component of its module's name."""

    name: str
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """Without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Decoder:
    """The language model. `queries` and `keys` are widths summed over all heads, `inner` is the width of the MLP."""

    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Matrices of one layer."""
        hidden, inner = self.hidden, self.inner
        return (
            Linear("q_proj", hidden, self.queries),
            Linear("k_proj", hidden, self.keys),
            Linear("v_proj", hidden, self.keys),
            Linear("o_proj", self.queries, hidden),
            Linear("gate_proj", hidden, inner),
            Linear("up_proj", hidden, inner),
            Linear("down_proj", inner, hidden),
        )

    @property
    def layer_weights(self) -> int:
        """Weights of all layers that are multiplied with every token."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, norms included; a head that is tied to the embeddings counts once."""
        norms = self.layers * (2 * self.hidden + 2 * self.queries // self.heads) + self.hidden
        return self.layer_weights + norms + (1 if self.tied else 2) * self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class VisionTower:
    """The vision tower. A patch has `patch_values` numbers; `merged_patches` of them become one token."""

    depth: int
    hidden: int
    inner: int
    patch_values: int
    positions: int
    merged_patches: int
    mergers: int
    out: int

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Matrices of one block, multiplied with every patch."""
        return (
            Linear("qkv", self.hidden, 3 * self.hidden),
            Linear("proj", self.hidden, self.hidden),
            Linear("linear_fc1", self.hidden, self.inner),
            Linear("linear_fc2", self.inner, self.hidden),
        )

    @property
    def merger_linears(self) -> tuple[Linear, ...]:
        """Matrices of one merger, multiplied with every merged token."""
        wide = self.merged_patches * self.hidden
        return Linear("linear_fc1", wide, wide), Linear("linear_fc2", wide, self.out)

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
        hidden, wide = self.hidden, self.merged_patches * self.hidden
        biases = self.depth * sum(linear.outputs for linear in self.linears)
        biases += self.mergers * sum(linear.outputs for linear in self.merger_linears)
        # The main merger normalises patches, the deepstack mergers normalise merged tokens.
        norms = 4 * self.depth * hidden + 2 * hidden + 2 * (self.mergers - 1) * wide
        embeddings = (self.patch_values + 1) * hidden + self.positions * hidden
        return self.block_weights + self.merger_weights + biases + norms + embeddings


@dataclass(frozen=True, slots=True)
class Shapes:
    """The matrices of a checkpoint: language model and vision tower."""

    decoder: Decoder
    tower: VisionTower

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.decoder.parameters + self.tower.parameters

    def adapted(self, part: PartName) -> tuple[tuple[Linear, ...], int]:
        """Linear layers of a part that can have adapters, and how often the part repeats them."""
        kinds: dict[PartName, tuple[tuple[Linear, ...], int]] = {
            "language_model": (self.decoder.linears, self.decoder.layers),
            "vision_tower": (self.tower.linears, self.tower.depth),
            "merger": (self.tower.merger_linears, self.tower.mergers),
        }
        return kinds[part]


def read_shapes(settings: Mapping[str, Any], name: str) -> Shapes:
    """The shapes that a config.json describes.

    Raises:
        ConfigError: an architecture other than Qwen3-VL.
    """
    if "deepstack_visual_indexes" not in settings.get("vision_config", {}) or "text_config" not in settings:
        raise ConfigError(
            f"model {name!r}: plan knows the layers of Qwen3-VL only, not those of {settings.get('model_type')!r}"
        )
    text, vision = settings["text_config"], settings["vision_config"]
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    decoder = Decoder(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        heads=text["num_attention_heads"],
        queries=text["num_attention_heads"] * width,
        keys=text["num_key_value_heads"] * width,
        inner=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        tied=settings.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
    )
    tower = VisionTower(
        depth=vision["depth"],
        hidden=vision["hidden_size"],
        inner=vision["intermediate_size"],
        patch_values=vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
        positions=vision["num_position_embeddings"],
        merged_patches=vision["spatial_merge_size"] ** 2,
        mergers=1 + len(vision["deepstack_visual_indexes"]),
        out=vision["out_hidden_size"],
    )
    return Shapes(decoder, tower)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    `memory_gb` is the nominal size. Read as 10^9 bytes per GB, it is what training may use: the true size is 5 to 7 %
    larger, about as much as the CUDA context and fragmentation take. `bf16_tflops` is the dense rate (no sparsity) with
    fp32 accumulation.
    """

    memory_gb: int
    bf16_tflops: float

    @property
    def room(self) -> int:
        """Bytes that training may use."""
        return self.memory_gb * 10**9


GPUS = {
    "rtx3090": Gpu(24, 71),
    "rtx4090": Gpu(24, 165.2),
    "rtx5090": Gpu(32, 209.5),
    "l4": Gpu(24, 121),
    "l40s": Gpu(48, 362),
    "a100-40gb": Gpu(40, 312),
    "a100": Gpu(80, 312),
    "h100": Gpu(80, 989),
    "h200": Gpu(141, 989),
}


def find_gpu(name: str) -> str:
    """The key in `GPUS` of a name in any case, with or without spaces and hyphens.

    Raises:
        ConfigError: no such GPU; suggests the closest name.
    """
    key = next((known for known in GPUS if _plain(known) == _plain(name)), None)
    if key is not None:
        return key
    raise ConfigError(f"--gpu {name}: not known; there are: {', '.join(GPUS)}" + did_you_mean(name.lower(), list(GPUS)))


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")

"""A local checkpoint's files of weights: which they are, whether its config fits them, and their hash for provenance.

A checkpoint of 8B parameters takes half a minute to read, so a cache remembers the hash of a file for as long as its
size and times stay the same.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from vlmtune.errors import IntegrityError, VlmtuneError
from vlmtune.files import read_json, translate_os_errors, write_json
from vlmtune.hub import cache_file

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LAYER_COUNTS = ("num_hidden_layers", "depth")
WIDTHS = (
    "hidden_size", "intermediate_size", "vocab_size", "num_position_embeddings", "out_hidden_size", "patch_size",
    "in_channels", "temporal_patch_size",
)  # fmt: skip
"""Keys of `config.json` for numbers of layers, and for sizes that some weight has, too."""


class _Index(TypedDict):
    """What is read from a `model.safetensors.index.json`: the file of every weight."""

    weight_map: dict[str, str]


class _Cached(TypedDict):
    """The hash of a file, and what it was when it was read."""

    state: list[int]
    sha256: str


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load.

    Raises:
        IntegrityError: there are none, or the index names a file that is not in the folder.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise IntegrityError(f"{folder}: no model.safetensors; GGUF is not read, nor formats that can contain code")
    names = sorted(set(read_json(index, _Index)["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise IntegrityError(f"{index}: {name!r:.300} is no file in this folder; download the checkpoint again")
    return [folder / name for name in names]


def check_sizes(files: Sequence[Path], config: "PretrainedConfig") -> None:
    """Check that weights are as large as a config says: a model of larger sizes is built before that shows.

    Raises:
        IntegrityError: a size of the config exceeds those of all weights, or it has more layers than there are weights.
        safetensors.SafetensorError: a file is damaged.
    """
    from safetensors import safe_open

    count, largest = 0, 0
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                count, largest = count + 1, max(largest, *weights.get_slice(name).get_shape(), 0)
    for part in (config.get_text_config(), getattr(config, "vision_config", None)):
        heads, width = getattr(part, "num_attention_heads", 0), getattr(part, "head_dim", None)
        sizes = {key: (getattr(part, key, 0), count) for key in LAYER_COUNTS}
        sizes |= {key: (getattr(part, key, 0), largest) for key in WIDTHS}
        sizes["num_attention_heads and head_dim"] = heads * width if width and heads else 0, largest
        for key, (value, limit) in sizes.items():
            if isinstance(value, int) and value > limit:
                raise IntegrityError(
                    f"{files[0].parent}: config.json has {key} {value}, but its weights are smaller; download the "
                    "checkpoint again"
                )


def hash_weights(folder: Path) -> str | None:
    """The hash of a checkpoint's safetensors files: 16 hexadecimal digits; None if there are none.

    Raises:
        EnvironmentProblem: a file cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    hashes = [f"{file.name}\0{_file_hash(file)}\n" for file in files]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16] if hashes else None


def _file_hash(file: Path) -> str:
    """SHA-256 of a file, from the cache if the file is still as it was."""
    with translate_os_errors(file):
        status = file.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    cached = cache_file("weights", str(file.resolve()), ".json")
    with contextlib.suppress(VlmtuneError, OSError):
        if (known := read_json(cached, _Cached))["state"] == state:
            return str(known["sha256"])
    with translate_os_errors(file), file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    # Without a cache, the file is read again the next time.
    with contextlib.suppress(VlmtuneError, OSError):
        write_json(cached, {"state": state, "sha256": found})
    return found

"""What a server must know about an adapter before it loads it: rank, whether it reaches the vision tower, its name."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vlmtune.errors import AdapterRefused
from vlmtune.files import read_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that a vLLM server can be started for."""


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter as a server takes it. `max_rank` is one of `RANKS`; `vision` says that it changes the vision tower."""

    folder: Path
    name: str
    max_rank: int
    vision: bool


def served(folder: Path) -> Served:
    """Read an adapter's files; its name is a hash of them, so that a server with an older one is noticed.

    Raises:
        AdapterRefused: vLLM cannot put this adapter on a model.
    """
    from safetensors import safe_open

    config = read_json(folder / "adapter_config.json")
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    odd = {
        "DoRA": config.get("use_dora"),
        "modules_to_save (whole trained layers)": config.get("modules_to_save"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"rank {rank}, more than {RANKS[-1]}": rank > RANKS[-1],
    }
    found = [name for name, there in odd.items() if there]
    if found:
        raise refusal(folder, f"the adapter has {' and '.join(found)}")
    file = folder / "adapter_model.safetensors"
    with safe_open(file, "np") as weights:
        vision = any(".visual." in name for name in weights.keys())  # noqa: SIM118
    both = (folder / "adapter_config.json").read_bytes() + file.read_bytes()
    digest = hashlib.sha256(both).hexdigest()[:12]
    return Served(folder.resolve(), f"adapter-{digest}", next(known for known in RANKS if known >= rank), vision)


def refusal(folder: Path, why: str) -> AdapterRefused:
    """The error for an adapter that vLLM does not take, with the way out."""
    return AdapterRefused(
        f"vLLM cannot serve {folder}: {why}. Merge it into the model and serve that (vlmtune export --merge), or "
        "answer with --set inference.engine=hf"
    )

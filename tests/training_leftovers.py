"""What an interrupted training leaves in its work folder."""

import hashlib
from pathlib import Path

from vlmtune.files import write_json


def leave_checkpoint(work: Path, step: int, whole: bool = True) -> Path:
    """A checkpoint with bytes instead of tensors; one that is not `whole` has other hashes."""
    made = work / f"step-{step:06d}"
    made.mkdir(parents=True)
    hashes = {}
    for name in ("moments.safetensors", "weights.safetensors"):
        (made / name).write_bytes(bytes(1000 + step))
        hashes[name] = hashlib.sha256(bytes(1000 + step)).hexdigest() if whole else "0" * 64
    write_json(made / "complete.json", {"step": step, "optimizer_steps": step, "files": hashes})
    return made

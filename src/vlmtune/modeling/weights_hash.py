"""The hash of a local checkpoint's weights, which identifies them in provenance.

A checkpoint of 8B parameters takes half a minute to read, so a cache remembers the hash of a file for as long as its
size and times stay the same.
"""

import contextlib
import hashlib
from pathlib import Path

from vlmtune.errors import VlmtuneError
from vlmtune.files import read_json, translate_os_errors, write_json
from vlmtune.hub import cache_file


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
        if (known := read_json(cached))["state"] == state:
            return str(known["sha256"])
    with translate_os_errors(file), file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    # Without a cache, the file is read again the next time.
    with contextlib.suppress(VlmtuneError, OSError):
        write_json(cached, {"state": state, "sha256": found})
    return found

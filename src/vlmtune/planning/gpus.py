"""The data of known GPUs, from their datasheets; prices change daily and are not included."""

from dataclasses import dataclass

from vlmtune.errors import ConfigError
from vlmtune.registry import did_you_mean


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

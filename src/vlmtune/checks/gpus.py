"""GPUs by name: what their datasheets say. Prices are not here, they change by the day."""

from dataclasses import dataclass

from vlmtune.errors import ConfigError
from vlmtune.plugs import closest


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    `memory_gb` is the name-plate number. Taken as 10^9 bytes it is what a training may use: the true size is 5 to 7 %
    above it, and the driver's context and gaps between blocks take about that. `bf16_tflops` is dense (no sparsity),
    accumulated in fp32.
    """

    memory_gb: int
    bf16_tflops: float

    @property
    def room(self) -> int:
        """Bytes that a training may use."""
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
    """The key in `GPUS` that is meant: in any case, with or without spaces and hyphens.

    Raises:
        ConfigError: none of that name; names the closest one.
    """
    found = next((known for known in GPUS if _plain(known) == _plain(name)), None)
    if found is not None:
        return found
    nearest = closest(name.lower(), list(GPUS))
    raise ConfigError(
        f"--gpu {name}: not known; there are: {', '.join(GPUS)}" + (f"; did you mean {nearest!r}?" if nearest else "")
    )


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")

"""The data of known GPUs; prices change daily and are not included.

The documents named below state these figures. They were entered without the documents at hand, partly from lists of
others: check the one of your GPU before you rely on a plan.
"""

from dataclasses import dataclass

from vlmtune.errors import ConfigError
from vlmtune.registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    `memory_gb` is the nominal size. Read as 10^9 bytes per GB, it is what training may use: the true size is 5 to 7 %
    larger, about as much as the CUDA context and fragmentation take. `bf16_tflops` is the dense rate (no sparsity) with
    fp32 accumulation, `gb_per_s` the memory's bandwidth in 10^9 bytes. `source` is the document that states them.
    """

    memory_gb: int
    bf16_tflops: float
    gb_per_s: int
    source: str

    @property
    def room(self) -> int:
        """Bytes that training may use."""
        return self.memory_gb * 10**9


GPUS = {
    "rtx3090": Gpu(24, 71, 936, "NVIDIA Ampere GA102 GPU architecture, appendix A"),
    "rtx4090": Gpu(24, 165.2, 1008, "NVIDIA Ada GPU architecture, appendix A"),
    "rtx5090": Gpu(32, 209.5, 1792, "NVIDIA RTX Blackwell GPU architecture, appendix A"),
    "l4": Gpu(24, 121, 300, "NVIDIA L4 Tensor Core GPU, datasheet"),
    "l40s": Gpu(48, 362, 864, "NVIDIA L40S, datasheet"),
    "a10": Gpu(24, 125, 600, "NVIDIA A10, datasheet"),
    "a100-40gb": Gpu(40, 312, 1555, "NVIDIA A100, datasheet, SXM4 40 GB"),
    "a100": Gpu(80, 312, 2039, "NVIDIA A100, datasheet, SXM4 80 GB"),
    "h100": Gpu(80, 989, 3350, "NVIDIA H100, datasheet, SXM5"),
    "h200": Gpu(141, 989, 4800, "NVIDIA H200, datasheet, SXM"),
    "b200": Gpu(180, 2250, 8000, "NVIDIA DGX B200, datasheet, an eighth of it"),
    "mi300x": Gpu(192, 1307, 5300, "AMD Instinct MI300X, datasheet"),
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

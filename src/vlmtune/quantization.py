"""A base model in 4 bits (NF4, as in QLoRA): what is quantised, and whether this machine can.

Only the linear layers of the language model are. The vision tower, what joins its patches into tokens, the embeddings
and the head keep their precision, and nothing is widened to fp32.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.families import Family

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

Quantization = Literal["nf4"]

INSTALL = 'pip install "vlmtune[quant]" (or: pip install "bitsandbytes>=0.46.1")'


def nf4(family: Family, dtype: "torch.dtype") -> "BitsAndBytesConfig":
    """How transformers loads a checkpoint of this family in NF4; products are computed in `dtype`.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed, or has no code for this machine.
    """
    if find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(f"model.quantization=nf4 needs the package bitsandbytes: {INSTALL}")
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    if not validate_bnb_backend_availability(raise_exception=False):
        raise EnvironmentProblem(
            "model.quantization=nf4: the installed bitsandbytes has no code for this machine's GPU or CPU. Take "
            f"another version: {INSTALL}; or leave the model as it is: --set model.quantization=null"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[family.tower, "lm_head"],
    )

"""Finding a model's checkpoint, identifying its family, and loading the model and its adapter.

Torch and transformers are imported inside functions: code that needs only a checkpoint's tokenizer, chat template or
image sizes does not pay for them.

In a model loaded in 4 bits (NF4, as in QLoRA), only the linear layers of the language model are quantized. The vision
tower, the merger, the embeddings and the head keep their precision, and nothing is cast to fp32.
"""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from typing_extensions import TypedDict

from vlmtune import registry
from vlmtune.boxes import BoxFormName
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError, VlmtuneError
from vlmtune.families import Family
from vlmtune.files import read_json
from vlmtune.modeling.adapter_names import PEFT_PREFIX, under_current_names
from vlmtune.modeling.lora_layers import compute_in_base_precision
from vlmtune.modeling.quantization import (
    MODELOPT,
    Quantization,
    check_stored_format,
    keep_layout_on_cpu,
    loading_options,
    stored_format,
    whole_fp8_blocks,
)
from vlmtune.modeling.vision_tower import optimize_vision_tower
from vlmtune.modeling.weight_files import check_sizes, hash_weights, weight_files
from vlmtune.registry import BaseConfig
from vlmtune.run_folder import largest_rank, read_adapter_config
from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

TINY = "tiny"
"""Name of the small Qwen3-VL that ships with vlmtune."""

ONE_THREAD_BELOW = 20_000_000
"""Parameters below which a second CPU thread costs more than it gains (the tiny model: 5-30 times slower with two)."""


class VideoConfig(BaseConfig):
    """How videos become frames; null is the checkpoint's own setting."""

    fps: PositiveFloat | None = None
    """Frames taken per second. Where a checkpoint names none, 2."""

    min_frames: PositiveInt | None = None
    """Fewest frames taken of a video; one that has fewer gives all of them."""

    max_frames: PositiveInt | None = None
    """Most frames taken of a video; they then lie farther apart."""

    min_pixels: PositiveInt | None = None
    """Smallest area; smaller frames are enlarged. Counted as `max_pixels` is."""

    max_pixels: PositiveInt | None = None
    """Largest area; larger frames are shrunk. Of all frames together for Qwen3-VL and later, of each frame for Qwen2-VL
    and Qwen2.5-VL."""


class ModelConfig(BaseConfig):
    """The model to fine-tune."""

    name: str
    """A name on the Hub, a local folder, or `tiny`: the small Qwen3-VL that ships with vlmtune."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; the commit it resolves to is stored with every result."""

    family: str | None = None
    """The architecture: a file in `vlmtune/families`; null detects it from the checkpoint's `model_type`."""

    min_pixels: PositiveInt | None = None
    """Smallest image area; smaller images are enlarged. Null uses the checkpoint's own."""

    max_pixels: PositiveInt | None = None
    """Largest image area; larger images are shrunk. It limits an image's tokens. Null uses the checkpoint's own."""

    video: VideoConfig = VideoConfig()
    """How videos become frames."""

    chat_template: str | None = None
    """File of a chat template (Jinja) to use instead of the checkpoint's own, for training and answers alike."""

    special_tokens: list[str] = []
    """Special tokens of the tokenizer that rows may contain and answers keep, such as `<|box_start|>`. Any other one in
    a text is an error."""

    box_form: BoxFormName | None = None
    """How the names and boxes of `dataset.objects` are written: `list` is name and [x1, y1, x2, y2], `tokens` puts them
    between `<|object_ref_start|>`, `<|box_start|>` and their counterparts, `tags` between `<ref>` and `<box>`. Null is
    the family's own form: `tokens` for Qwen2-VL, `tags` for InternVL, `list` for the others."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` uses a GPU if there is one."""

    quantization: Quantization | None = None
    """`nf4` keeps the language model's weights in 4 bits (QLoRA), for training, the baseline and the tuned answers
    alike: a quarter of their memory, slightly different answers. Needs bitsandbytes. Null does not quantize."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's small files on the local disk, and its identity. `source` and `commit` locate the weights.

    `stored` is the format of a checkpoint whose weights are quantized (`quantization.STORED_FORMATS`).
    """

    name: str
    source: str
    commit: str | None
    folder: Path
    family: Family
    config_hash: str
    quantization: Quantization | None = None
    stored: str | None = None

    def facts(self) -> dict[str, Any]:
        """Identity, for manifests: on the Hub the commit identifies the weights, in a folder their hash."""
        return {
            "name": self.name,
            "commit": self.commit,
            "config_hash": self.config_hash,
            "weights": None if self.commit else hash_weights(self.folder),
            "family": self.family.name,
            "quantization": self.quantization,
        }


_Size = Annotated[int, Field(gt=0, lt=10**8)]


class _Sizes(TypedDict, total=False):
    """Sizes in a `config.json`, within what a machine can hold; building a model of others takes forever."""

    num_hidden_layers: Annotated[int, Field(gt=0, lt=10_000)]
    depth: Annotated[int, Field(gt=0, lt=10_000)]
    hidden_size: _Size
    intermediate_size: _Size
    vocab_size: _Size
    max_position_embeddings: _Size


class _ModelConfig(_Sizes, total=False):
    """Types of what is read from a checkpoint's `config.json`."""

    model_type: str | None
    text_config: _Sizes
    vision_config: _Sizes


def find_checkpoint(config: ModelConfig) -> Checkpoint:
    """Find a checkpoint, and download its configuration and tokenizer if they are not local; no weights, no torch.

    Raises:
        EnvironmentProblem: the Hub cannot be reached, or the model is gated.
        ConfigError: no such model, or an architecture vlmtune does not know.
        IntegrityError: a folder without config.json, or a damaged cache.
    """
    folder, commit = _small_files(config)
    file = folder / "config.json"
    if not file.is_file():
        raise IntegrityError(f"{folder}: no config.json; model.name must be a Hub name or a folder with a checkpoint")
    settings = read_json(file, _ModelConfig)
    ignored = {"transformers_version", "dtype", "torch_dtype", "_name_or_path"}
    kept = json.dumps({k: v for k, v in settings.items() if k not in ignored}, sort_keys=True)
    return Checkpoint(
        name=config.name,
        source=config.name if commit else str(folder),
        commit=commit,
        folder=folder,
        family=_family(config, settings.get("model_type")),
        config_hash=hashlib.sha256(kept.encode()).hexdigest()[:16],
        quantization=config.quantization,
        stored=stored_format(settings) or (MODELOPT if (folder / "hf_quant_config.json").is_file() else None),
    )


def _small_files(config: ModelConfig) -> tuple[Path, str | None]:
    if config.name == TINY:
        return Path(__file__).parents[1] / "assets" / "tiny_qwen3_vl", None
    if Path(config.name).is_dir():
        return Path(config.name), None
    if Path(config.name).is_file():
        raise ConfigError(
            f"model.name: {config.name} is a file; name the folder of a checkpoint in safetensors, with config.json "
            "(GGUF and pickles are not read)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(config.name, revision=config.revision, allow_patterns=["*.json", "*.jinja"])
    except GatedRepoError:
        raise EnvironmentProblem(
            f"model {config.name!r} is gated: accept its terms on the Hub, then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise ConfigError(f"model {config.name!r} has no revision {config.revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ConfigError(f"model {config.name!r} is neither a folder here nor a model on the Hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentProblem(
            f"model {config.name!r} is not in the local cache and the Hub cannot be reached ({type(error).__name__}). "
            "Check the network, or try the pipeline offline first: vlmtune demo, or USE_MOCK=True"
        ) from None
    except ValueError:  # the cache names the commit of a branch in a file: this one is no path, or no text
        folder = ""
    if not re.fullmatch("[0-9a-f]{40}", Path(folder).name):
        raise IntegrityError(
            f"model {config.name!r}: the cache of the Hub names no commit of {config.revision or 'main'}; delete the "
            f"model there (`hf cache rm model/{config.name}`) and download it again"
        )
    return Path(folder), Path(folder).name


def _family(config: ModelConfig, model_type: str | None) -> Family:
    known: dict[str, Family] = {name: registry.load("families", name).FAMILY for name in registry.available("families")}
    found = next((family for family in known.values() if family.model_type == model_type), None)
    if config.family is not None:
        configured: Family = registry.load("families", config.family).FAMILY
        if found is not None and configured.model_type != model_type:
            raise ConfigError(
                f"model.family is {config.family}, but model {config.name!r} is of type {model_type!r}; set it to null "
                f"or {found.name}"
            )
        return configured
    if found is not None:
        return found
    raise ConfigError(
        f"model {config.name!r} is of type {model_type!r}; vlmtune knows {', '.join(known)}. Choose a model of one of "
        "these families. Or describe its own in a Python file, which model.family names: its special tokens, the "
        "names of its modules, how it resizes images, counts positions and writes boxes, and the sizes of its "
        "matrices (docs/extending.md, A model family)"
    )


def pick_device(config: ModelConfig) -> str:
    """`cuda` or `cpu`.

    Raises:
        EnvironmentProblem: a GPU is requested or required, and there is none.
    """
    import torch

    if torch.cuda.is_available() and config.device != "cpu":
        return "cuda"
    if config.device == "cuda" or (config.device == "auto" and config.name != TINY):
        raise EnvironmentProblem(
            f"no GPU is visible to torch {torch.__version__}; `vlmtune doctor` says more. "
            "To run on the CPU anyway: --set model.device=cpu"
        )
    return "cpu"


def load_model(checkpoint: Checkpoint, device: str, precision: str) -> "PreTrainedModel":
    """The model in evaluation mode, no gradients, on `device` in `precision` (bf16, fp16, fp32).

    Raises:
        EnvironmentProblem: the weights cannot be fetched, memory does not suffice, or a package is missing.
        ConfigError: the checkpoint is stored in a format that adapters cannot be trained on.
        IntegrityError: weights are damaged, missing, or of another architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # it only warns of missing weights, which are an error below
    # PEFT imports bitsandbytes if it is installed, which then warns of a package that only some CPUs need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if checkpoint.commit is None:
        transformers_logging.disable_progress_bar()  # needed for downloads only
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    check_stored_format(checkpoint.name, checkpoint.stored, checkpoint.quantization)
    quantized = loading_options(checkpoint.stored, checkpoint.quantization, checkpoint.family, dtype)
    with _loading_errors(checkpoint, precision), whole_fp8_blocks(checkpoint.stored):
        if checkpoint.commit is None:
            check_sizes(weight_files(checkpoint.folder), AutoConfig.from_pretrained(checkpoint.source))
        from_pretrained: Any = AutoModelForImageTextToText.from_pretrained
        model, report = from_pretrained(
            checkpoint.source,
            revision=checkpoint.commit,
            dtype=dtype,
            use_safetensors=True,  # a pickle may contain code
            attn_implementation="sdpa",
            # Loads directly onto this process's GPU; quantized weights would otherwise choose a device themselves.
            device_map={"": torch.cuda.current_device()} if device == "cuda" else {"": device} if quantized else None,
            output_loading_info=True,
            **quantized,
        )
    bad = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if bad:
        raise IntegrityError(
            f"{checkpoint.name}: {len(bad)} weights are missing or of another shape, first {bad[0]}; download "
            "the checkpoint again, or set model.family to its architecture"
        )
    if device == "cpu" and model.num_parameters() < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    keep_layout_on_cpu(model)
    # A checkpoint's generation_config may request sampling; only our config decides how answers are decoded.
    model.generation_config = type(model.generation_config)()
    optimize_vision_tower(model, checkpoint.family)
    loaded: PreTrainedModel = model.requires_grad_(False).eval()
    return loaded


@contextmanager
def _loading_errors(checkpoint: Checkpoint, precision: str) -> Iterator[None]:
    """Turn errors of transformers and safetensors into those that `load_model` documents."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        smaller = "" if checkpoint.quantization else ". Try --set model.quantization=nf4"
        raise EnvironmentProblem(
            f"{checkpoint.name} does not fit into this GPU's memory in {precision}{smaller}"
        ) from None
    except VlmtuneError:
        raise
    except OSError as error:
        raise EnvironmentProblem(f"the weights of {checkpoint.name} cannot be loaded: {error}") from None
    except (SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"the weights of {checkpoint.name} are damaged: {_first_line(error)}") from None
    except Exception as error:  # transformers raises anything on a configuration that it does not expect
        raise IntegrityError(f"{checkpoint.name} cannot be loaded from its config.json: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """The kind of an error of a library, and the beginning of its message."""
    first, _, rest = str(error).strip().partition("\n")
    more = rest.strip().partition("\n")[0] if first.endswith(":") else ""
    return f"{type(error).__name__}: {f'{first} {more}'.strip().rstrip('.'):.300}"


def attach_adapter(model: "PreTrainedModel | PeftModel", folder: Path, name: str = "default") -> "PeftModel":
    """The model with an adapter of some name, in evaluation mode; checks that every weight of the adapter is used.

    PEFT silently ignores weights whose names do not match, so names and shapes are compared here. Names of older
    versions of transformers are converted. The weights stay fp32, as they were trained, and are cast to the model's
    precision at use.

    Raises:
        IntegrityError: not an adapter folder, or of another model.
    """
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file() or not (folder / ADAPTER_CONFIG).is_file():
        raise IntegrityError(
            f"{folder}: not an adapter (needs {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}; an adapter_model.bin is a "
            "pickle, which may contain code: save it as safetensors)"
        )
    refuse_not_finite(folder)
    config = read_adapter_config(folder)
    if unsaid := [key for key in ("peft_type", "lora_alpha") if key not in config]:
        raise IntegrityError(f"{folder}: {ADAPTER_CONFIG} lacks {' and '.join(unsaid)}; copy the adapter again")
    with under_current_names(folder) as current:
        adapted = _attached(model, current, config, folder, name)
    compute_in_base_precision(adapted)
    return adapted.eval()


def _attached(
    model: "PreTrainedModel | PeftModel", current: Path, config: Mapping[str, Any], folder: Path, name: str
) -> "PeftModel":
    """The model with an adapter whose names are current; messages name the folder that it came from."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils.constants import DUMMY_TARGET_MODULES

    given = _shapes(model, current, folder)
    ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    has_lora = config.get("target_modules") != DUMMY_TARGET_MODULES
    if has_lora and not any(ranks & set(shape) for shape in given.values()):
        raise IntegrityError(
            f"{folder}: {ADAPTER_CONFIG} has the rank {largest_rank(config)}, but no weight in {ADAPTER_WEIGHTS} has"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT only warns of mismatches, which are an error below
            if isinstance(model, PeftModel):
                model.load_adapter(str(current), name)
                adapted = model
            else:
                adapted = PeftModel.from_pretrained(model, str(current), name)
    except Exception as error:  # PEFT raises anything on a configuration that it does not expect
        raise IntegrityError(
            f"{folder}: this adapter does not fit the model: {_first_line(error)}. Use the model it was trained on "
            f"({_base_of(folder)})"
        ) from None
    wanted = {
        weight: tuple(value.shape)
        for weight, value in get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False).items()
        if not _is_base_copy(weight)
    }
    _refuse_other_weights(given, wanted, folder)
    return adapted


def _refuse_other_weights(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Check that an adapter has the weights that its configuration selects in a model.

    Raises:
        IntegrityError: some are missing or too many, or they are of another model.
    """
    extra, missing = (sorted(one.items() - other.items()) for one, other in ((given, wanted), (wanted, given)))
    if missing and not extra:
        raise IntegrityError(
            f"{folder}: {ADAPTER_CONFIG} adapts layers of this model for which {ADAPTER_WEIGHTS} has no weights: "
            f"{len(missing)} are missing, first {missing[0][0]} {missing[0][1]}. Copy the adapter again, or exclude "
            "these layers (exclude_modules)"
        )
    if extra:
        raise IntegrityError(
            f"{folder}: this adapter belongs to another model: {len(extra) + len(missing)} weights do not fit, first "
            f"{extra[0][0]} {extra[0][1]}. Use the model it was trained on ({_base_of(folder)})"
        )


BASE_COPY = ".base_layer."
"""In names of weights of the base model that PEFT saves beside an adapter of the embeddings or the head."""


def _is_base_copy(name: str) -> bool:
    """Whether it is a weight of the base model; adapters of experts, and biases that were trained, have such names."""
    return BASE_COPY in name and ".lora_" not in name and not name.endswith(".bias")


def _shapes(model: "PreTrainedModel | PeftModel", current: Path, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter's weights by name, without copies of the base model's own.

    Raises:
        IntegrityError: a copy is not what the model has.
    """
    from safetensors import safe_open

    with safe_open(current / ADAPTER_WEIGHTS, "pt") as weights:
        given = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        copied = [name for name in given if _is_base_copy(name)]
        _refuse_other_copies(model, {name: weights.get_tensor(name) for name in copied}, folder)
    return {name: shape for name, shape in given.items() if name not in copied}


def _refuse_other_copies(model: "PreTrainedModel | PeftModel", copies: "dict[str, torch.Tensor]", folder: Path) -> None:
    """Check that copies of the base model's weights are those of this model.

    Raises:
        IntegrityError: one differs, so the adapter was trained on another model or a larger vocabulary.
    """
    own = model.state_dict()
    for name, weight in copies.items():
        base = name.removeprefix(PEFT_PREFIX).replace(BASE_COPY, ".")
        if base not in own or own[base].shape != weight.shape or not own[base].cpu().equal(weight.to(own[base].dtype)):
            raise IntegrityError(
                f"{folder}: this adapter holds another {base} than the model has: it was trained on another model or "
                f"with more tokens. Use the model it was trained on ({_base_of(folder)})"
            )


def refuse_not_finite(folder: Path) -> None:
    """Check that every weight of an adapter is a finite number.

    Raises:
        IntegrityError: one is not, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(file, "pt") as weights:
            bad = [name for name in weights.keys() if not weights.get_tensor(name).isfinite().all()]  # noqa: SIM118
    except SafetensorError as error:
        raise IntegrityError(f"{file}: not a file of weights, or damaged: {error}") from None
    if bad:
        raise IntegrityError(
            f"{folder}: {len(bad)} weights of this adapter are not finite numbers, first {bad[0]}; its training "
            "diverged, or the file is damaged"
        )


def _base_of(folder: Path) -> str:
    return read_adapter_config(folder).get("base_model_name_or_path") or "not recorded"

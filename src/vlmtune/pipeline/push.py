"""Push: an adapter to the Hugging Face Hub, with a model card written from its comparison.

Uploads the adapter's files, its manifest, the comparison without its rows, and the card. Nothing that quotes the
dataset is uploaded: no rows, ids, images or report.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vlmtune.errors import ConfigError, EnvironmentProblem, GateFailed, IntegrityError, VlmtuneError
from vlmtune.files import read_json, translate_os_errors, write_atomic, write_json
from vlmtune.hub import http_error
from vlmtune.modeling.loading import TINY
from vlmtune.pipeline.session import Session
from vlmtune.report import model_card
from vlmtune.run_folder import read_adapter_config, read_manifest
from vlmtune.run_layout import ADAPTER_CONFIG, ADAPTER_FILES, folder_manifest_path
from vlmtune.scoring.judge import warnings as judge_warnings
from vlmtune.scoring.results import ComparisonResult
from vlmtune.scoring.self_check import MISSED
from vlmtune.scoring.verdict import slice_warnings, worse_slices

if TYPE_CHECKING:
    from huggingface_hub import HfApi

GOOD_ENOUGH = ("improved", "no_difference")
"""Statuses with which an adapter is pushed without `force`."""

PUBLIC_MANIFEST = (
    "schema_version", "artifact", "mock", "steps", "chosen_step", "trainable_parameters", "versions", "curve",
)  # fmt: skip
PUBLIC_COMPARISON = (
    "schema_version", "status", "primary", "primary_reason", "rows", "paired_by", "metrics", "lengths", "shares",
    "controls", "confidence", "statistics", "prompt_baselines", "best_prompt_baseline",
)  # fmt: skip
PUBLIC_ADDITIONAL = ("name", "status", "primary", "metrics", "rows")
"""Keys pushed unchanged from a manifest, a comparison and an additional set's comparison: none quotes the dataset."""


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What to push, and where to.

    `name` is `org/name` on the Hub; `adapter` a folder, None for the config's own; `base` the name of the base model on
    the Hub, needed if the config names a folder; `force` pushes an adapter that is not `GOOD_ENOUGH`, too.
    """

    name: str
    adapter: Path | None = None
    base: str | None = None
    force: bool = False


def push(session: Session, request: PushRequest, public: bool = False) -> str:
    """Push the config's adapter; returns its address.

    Args:
        session: the run that made the adapter and compared it.
        request: what is pushed, and where to; a missing repository is created.
        public: whether everybody may see it.

    Raises:
        ConfigError: no comparison yet; a base that others cannot load; a public repository without `public`.
        IntegrityError: the comparison is of another adapter; the adapter does not fit the model.
        GateFailed: the adapter got worse, or the comparison is inconclusive.
        EnvironmentProblem: no credential, or the Hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        assemble(session, request, folder)
        return _upload(folder, request.name, public)


def assemble(session: Session, request: PushRequest, folder: Path) -> list[Path]:
    """Write what `push` would upload into a folder; returns the files. Raises as `push` does before it uploads."""
    config, adapter = session.config, request.adapter or session.seeds[0].files.adapter
    session.verify_adapter(adapter)
    manifest = read_manifest(adapter)
    if manifest is None:
        raise IntegrityError(f"{adapter}: no manifest; only adapters that vlmtune trained can be pushed")
    if "training" not in manifest["origin"]:
        raise ConfigError(f"{adapter} combines several adapters; push publishes one that a training made")
    if manifest["mock"] or config.model.name == TINY:
        raise ConfigError("an adapter of the tiny stand-in model is of no use to others; push one of a real model")
    base = request.base or config.model.name
    if Path(base).exists():
        raise ConfigError(
            f"model.name {base!r} is a local folder, which nobody else can load; name the model on the Hub with --base"
        )
    comparison = _comparison(session, adapter, request.force)
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in ADAPTER_FILES:
            shutil.copy(adapter / file, folder / file)
    adapter_config = {**read_adapter_config(folder), "base_model_name_or_path": base}
    write_json(folder / ADAPTER_CONFIG, adapter_config)
    manifest, comparison = _public_manifest(manifest, base), _public_comparison(comparison)
    write_json(folder_manifest_path(folder), manifest)
    write_json(folder / "comparison.json", comparison)
    dataset = config.dataset.model_dump()["path"] if config.dataset.source == "hub" else None
    card = model_card.render(request.name, comparison, manifest, dataset, config.dataset.splits.test)
    write_atomic(folder / "README.md", card)
    return sorted(folder.iterdir())


def _public_manifest(manifest: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A manifest for others: the model by its name on the Hub, the dataset by its size and fingerprint."""
    origin = manifest["origin"]
    rows = origin.get("dataset", {})
    dataset = {role: {key: rows[role][key] for key in ("rows", "fingerprint")} for role in rows if role != "target"}
    model = {**origin["model"], "name": base}
    return {key: manifest[key] for key in PUBLIC_MANIFEST if key in manifest} | {
        "origin": {**origin, "model": model, "dataset": dataset}
    }


def _public_comparison(comparison: ComparisonResult) -> ComparisonResult:
    """A comparison for others: no row is named.

    Slices are named by values of the dataset: only how many got worse is published.
    """
    about_worse_slices = worse_slices(comparison)
    worse, slices = sum(part["worse"] for part in comparison["slices"]), len(comparison["slices"])
    verdict = comparison["verdict"].replace(about_worse_slices, f" It got worse in {worse} of {slices} slices.")
    naming_rows = {*slice_warnings(comparison), *(one for one in comparison["warnings"] if MISSED in one)}
    if judged := comparison.get("judge"):
        naming_rows |= set(judge_warnings(judged))
    plain: Mapping[str, Any] = comparison
    public = {key: plain[key] for key in PUBLIC_COMPARISON if key in plain} | {
        "verdict": verdict if about_worse_slices else comparison["verdict"],
        "warnings": [warning for warning in comparison["warnings"] if warning not in naming_rows],
        "names": {"a": "the base model", "b": "with this adapter"},
        "slices": [],
        "contradictions": [],
        "others": [],
        "additional": [{key: other[key] for key in PUBLIC_ADDITIONAL} for other in plain.get("additional", [])],
    }
    return cast("ComparisonResult", public)


def _comparison(session: Session, adapter: Path, force: bool) -> ComparisonResult:
    """The run's comparison of an adapter."""
    file = session.files.comparison
    if not file.is_file():
        raise ConfigError(f"{file} does not exist: an adapter is pushed with its comparison. Run: vlmtune run CONFIG")
    comparison: ComparisonResult = read_json(file, ComparisonResult)
    if comparison["settings"]["b"].get("adapter") != session.verify_adapter(adapter):
        raise IntegrityError(f"{file} is about another adapter than {adapter}; run the eval step again")
    if comparison["status"] not in GOOD_ENOUGH and not force:
        raise GateFailed(f"not pushed: {comparison['verdict']} To push it regardless, add --force")
    return comparison


def _upload(folder: Path, name: str, public: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    with _translate_hub_errors(name):
        address = str(api.create_repo(name, private=not public, exist_ok=True))
        if not public and _is_public(api, name):
            raise ConfigError(f"{name} is already public; confirm with --public, or choose another name")
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Adapter and its comparison")
    return address


def _is_public(api: "HfApi", name: str) -> bool:
    return not api.repo_info(name).private


@contextmanager
def _translate_hub_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client into a `VlmtuneError`."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except VlmtuneError:
        raise
    except HFValidationError as error:
        raise ConfigError(f"--to hf:{name}: {error}") from None
    except LocalTokenNotFoundError:
        raise EnvironmentProblem("not logged in to the Hub; run: hf auth login, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise EnvironmentProblem("offline mode is on (--offline or HF_HUB_OFFLINE); nothing was pushed") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise EnvironmentProblem(
                f"the Hub denies write access to {name} ({status}); log in with a token that has it: hf auth login"
            ) from None
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentProblem(f"the Hub refused {name}: {message:.300}") from None
    except (http_error(), OSError) as error:
        raise EnvironmentProblem(f"the Hub cannot be reached ({type(error).__name__}); nothing was pushed") from None
    except RuntimeError as error:  # the client's own, and that of its uploader for large files
        raise EnvironmentProblem(f"the upload to {name} failed: {error!s:.300}; push again") from None

"""Push: an adapter to the Hugging Face Hub, with a card that is written from its comparison.

Goes there: the adapter's files, its manifest, the comparison without its rows, the card. What quotes the dataset stays
here: rows, their ids, pictures, the page.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.errors import ConfigError, EnvironmentProblem, GateFailed, IntegrityError, VlmtuneError
from vlmtune.files import os_errors_named, read_json, write_atomic, write_json
from vlmtune.modeling.loading import TINY
from vlmtune.pipeline.session import Session
from vlmtune.report import model_card
from vlmtune.run_folder import ADAPTER_FILES, read_manifest
from vlmtune.scoring.verdict import of_slices, worse_parts

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SPEAKS = ("improved", "no_difference")
"""Verdicts with which an adapter is pushed without being asked twice."""

MANIFEST = ("schema_version", "artifact", "mock", "steps", "chosen_step", "trainable_parameters", "versions", "curve")
COMPARISON = (
    "schema_version", "status", "primary", "rows", "paired_by", "metrics", "lengths", "shares", "controls",
    "confidence", "statistics", "untrained", "best_untrained",
)  # fmt: skip
ALSO = ("name", "status", "primary", "metrics", "rows")
"""What is pushed as it is of a manifest, of a comparison and of a further set: numbers, and words that are ours."""


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What is to be pushed where.

    `name` is `org/name` on the Hub, `adapter` a folder (None is the config's own), `base` the name of the base model on
    the Hub where the config names a folder, `anyway` pushes what the comparison does not speak for.
    """

    name: str
    adapter: Path | None = None
    base: str | None = None
    anyway: bool = False


def push(session: Session, request: PushRequest, public: bool = False) -> str:
    """Push the config's adapter; returns its address.

    Args:
        session: whose comparison speaks for the adapter.
        request: what is pushed, and where to; the repository is made where it is not there.
        public: whether everybody may see it.

    Raises:
        ConfigError: no comparison yet; a base that others cannot load; a public repository that was not asked for.
        IntegrityError: the comparison is of another adapter; the adapter does not fit the model.
        GateFailed: it got worse, or nothing could be concluded.
        EnvironmentProblem: no credential, or the Hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        assemble(session, request, folder)
        return _upload(folder, request.name, public)


def assemble(session: Session, request: PushRequest, folder: Path) -> list[Path]:
    """Write what `push` would upload into a folder; returns the files. Raises as `push`, short of the Hub."""
    config, adapter = session.config, request.adapter or session.seeds[0].adapter_path()
    session.adapter_hash(adapter)
    manifest = read_manifest(adapter)
    if manifest is None:
        raise IntegrityError(f"{adapter}: no manifest; only an adapter that vlmtune trained is pushed, with its proof")
    if manifest["mock"] or config.model.name == TINY:
        raise ConfigError("an adapter of the tiny stand-in model is of no use to others; push one of a real model")
    known = request.base or config.model.name
    if Path(known).exists():
        raise ConfigError(
            f"model.name {known!r} is a folder here, which nobody else can load; name the model on the Hub with --base"
        )
    comparison = _comparison(session, adapter, request.anyway)
    with os_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in ADAPTER_FILES:
            shutil.copy(adapter / file, folder / file)
    named = {**read_json(folder / ADAPTER_FILES[0]), "base_model_name_or_path": known}
    write_json(folder / ADAPTER_FILES[0], named)
    made, shown = _made(manifest, known), _shown(comparison)
    write_json(folder / "vlmtune.json", made)
    write_json(folder / "comparison.json", shown)
    hub = config.dataset.model_dump()["path"] if config.dataset.source == "hub" else None
    write_atomic(folder / "README.md", model_card.render(request.name, shown, made, hub, config.dataset.splits.test))
    return sorted(folder.iterdir())


def _made(manifest: Mapping[str, Any], base: str) -> dict[str, Any]:
    """What the adapter was made from; the model by its name on the Hub, rows by their number and fingerprint."""
    origin = manifest["origin"]
    rows = origin.get("dataset", {})
    counted = {role: {key: rows[role][key] for key in ("rows", "fingerprint")} for role in rows if role != "target"}
    model = {**origin["model"], "name": base}
    return {key: manifest[key] for key in MANIFEST if key in manifest} | {
        "origin": {**origin, "model": model, "dataset": counted}
    }


def _shown(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison as others may see it: slices are values of a column, and stay here, but for how many got worse."""
    hidden = worse_parts(comparison["status"], comparison)
    fell = sum(part["worse"] for part in comparison["slices"])
    said = f" Worse, however, in {fell} of {len(comparison['slices'])} slices."
    about = set(of_slices(comparison))
    return {key: comparison[key] for key in COMPARISON if key in comparison} | {
        "verdict": comparison["verdict"].replace(hidden, said) if hidden else comparison["verdict"],
        "warnings": [warning for warning in comparison["warnings"] if warning not in about],
        "names": {"a": "the untouched model", "b": "with this adapter"},
        "slices": [],
        "others": [],
        "also": [{key: other[key] for key in ALSO} for other in comparison.get("also", [])],
    }


def _comparison(session: Session, adapter: Path, anyway: bool) -> Mapping[str, Any]:
    """The comparison that speaks for an adapter, without its rows."""
    file = session.config.output.path(session.config.output.comparison)
    if not file.is_file():
        raise ConfigError(f"{file} is not there yet: an adapter is pushed with its comparison. Run: vlmtune run CONFIG")
    found = {key: value for key, value in read_json(file).items() if key != "examples"}
    if found["settings"]["b"].get("adapter") != session.adapter_hash(adapter):
        raise IntegrityError(f"{file} compares another adapter than {adapter}; run the eval step again")
    if found["status"] not in SPEAKS and not anyway:
        raise GateFailed(f"not pushed: {found['verdict']} Push it all the same with --anyway")
    return found


def _upload(folder: Path, name: str, public: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    with _named(name):
        address = str(api.create_repo(name, private=not public, exist_ok=True))
        if not public and _is_public(api, name):
            raise ConfigError(f"{name} is public already; say so with --public, or choose another name")
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Adapter with its comparison")
    return address


def _is_public(api: "HfApi", name: str) -> bool:
    return not api.repo_info(name).private


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What the Hub's client raises inside becomes one of our errors."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except VlmtuneError:
        raise
    except HFValidationError as error:
        raise ConfigError(f"--to hf:{name}: {error}") from None
    except LocalTokenNotFoundError:
        raise EnvironmentProblem("the Hub wants to know who you are; run: hf auth login, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise EnvironmentProblem("the Hub is switched off (--offline or HF_HUB_OFFLINE); nothing was pushed") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise EnvironmentProblem(
                f"the Hub does not let you write {name} ({status}); log in with a token that may: hf auth login"
            ) from None
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentProblem(f"the Hub refused {name}: {said:.300}") from None
    except (httpx.HTTPError, OSError) as error:
        raise EnvironmentProblem(f"the Hub cannot be reached ({type(error).__name__}); nothing was pushed") from None

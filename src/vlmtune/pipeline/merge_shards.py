"""The merge step: join the shards of a prediction file into the file that a single run would have written.

Before anything is written, the shards' contents prove that no row is missing or duplicated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.data import SplitRole
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import write_atomic
from vlmtune.inference import Shard, shuffle_images
from vlmtune.pipeline.predict import (
    PredictionTarget,
    image_control_rows,
    prediction_target,
    selection_ids,
    write,
    write_score,
)
from vlmtune.pipeline.prompt_baselines import PromptBaseline, prompt_baselines
from vlmtune.pipeline.session import Session
from vlmtune.predictions import Line, read
from vlmtune.run_folder import differences, read_controls, read_manifest
from vlmtune.run_layout import THUMBNAILS, controls_path, manifest_path, thumbnail_path

LISTED_IDS = 5
"""Number of ids listed in a message."""

NOT_ENGINE_FACTS = {"schema_version", "artifact", "mock", "origin", "selection_ids"}
"""Keys of a manifest that do not come from the engine."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """The file of a shard with its sidecars. `control` holds its answers to shuffled images, as JSON objects."""

    path: Path
    shard: Shard
    manifest: Mapping[str, Any]
    lines: Sequence[Line]
    control: Sequence[Mapping[str, Any]]
    adapter_delta: float | None


def merge(session: Session, files: Sequence[Path], adapter: Path | None = None, role: SplitRole | None = None) -> Path:
    """Join the shards of a prediction file, of a prompt baseline or of an additional evaluation set, in any order.

    The result has the provenance of an unsharded file, so the other steps find it finished.

    Raises:
        ConfigError: no file is given.
        IntegrityError: a file is not a shard, belongs to something else or is given twice; a shard, a row or a file is
            missing.
    """
    if not files:
        raise ConfigError("merge needs the files of all shards")
    shard_files = [_read_shard(path) for path in files]
    session = _session_of(session, shard_files[0]).for_adapter(adapter)
    target = prediction_target(session, adapter, role, _prompt_baseline(session, shard_files[0]))
    for file in shard_files:
        _check_provenance(file, target, session.mock)
    _check_complete(shard_files)
    rows = list(target.rows)
    by_id = _by_id(
        [row.id for row in rows], [(file, line.id, line) for file in shard_files for line in file.lines], "rows"
    )
    shuffled = [row.id for row in shuffle_images(rows, image_control_rows(session))]
    answers = [(file, line.get("id"), line) for file in shard_files for line in file.control]
    control = _by_id(shuffled, answers, "rows with shuffled images")
    sidecars = session.files.sidecars(target.artifact)
    if session.folder.reconcile(target.artifact, target.provenance, sidecars, target.derived) is not None:
        session.progress.note(f"{target.artifact} is finished")
        return target.artifact
    _copy_thumbnails(session, shard_files, target.artifact.parent / THUMBNAILS)
    deltas = [file.adapter_delta for file in shard_files if file.adapter_delta is not None]
    lines = [by_id[row.id] for row in rows]
    write(session, target.artifact, lines, [control[name] for name in shuffled], max(deltas, default=None))
    write_score(session, target.artifact)
    session.folder.publish(
        target.artifact,
        target.provenance,
        {**_facts(shard_files), "selection_ids": selection_ids(session, adapter, target.rows)},
    )
    return target.artifact


def _read_shard(path: Path) -> ShardFile:
    lines, manifest = read(path), read_manifest(path)
    if manifest is None:
        raise IntegrityError(
            f"{path}: a shard's manifest, {manifest_path(path).name}, is missing; copy it to the same folder "
            f"together with {controls_path(path).name}"
        )
    shard = manifest["origin"].get("shard")
    if shard is None:
        raise IntegrityError(
            f"{path} is not a shard: its manifest says that it holds all rows, so there is nothing to merge"
        )
    controls = read_controls(path)
    if controls is None:
        raise IntegrityError(
            f"{path}: its controls, {controls_path(path).name}, are missing; copy them to the same folder"
        )
    image, delta = controls["image"], controls["adapter_delta"]
    return ShardFile(
        path,
        Shard(shard["index"], shard["count"]),
        manifest,
        lines,
        image["lines"] if image else [],
        delta["max_logit_difference"] if delta else None,
    )


def _session_of(session: Session, file: ShardFile) -> Session:
    """The session of the evaluation set that a shard belongs to."""
    name = file.manifest["origin"].get("evaluation_set")
    if name is None:
        return session
    evaluation_set = next((other for other in session.additional if other.evaluation_set == name), None)
    if evaluation_set is None:
        raise IntegrityError(
            f"{file.path} answers the evaluation set {name!r}, which evaluation.additional does not name"
        )
    return evaluation_set


def _prompt_baseline(session: Session, file: ShardFile) -> PromptBaseline | None:
    """The prompt baseline that a shard belongs to."""
    facts = file.manifest["origin"].get("prompt_baseline")
    if facts is None:
        return None
    by_name = {baseline.name: baseline for baseline in prompt_baselines(session)}
    name = facts["asked"]["name"]
    if name not in by_name:
        raise IntegrityError(
            f"{file.path} holds answers of the prompt baseline {name!r}, which evaluation.baselines does not name"
        )
    return by_name[name]


def _check_provenance(file: ShardFile, target: PredictionTarget, mock: bool) -> None:
    parts = {key: value for key, value in file.manifest["origin"].items() if key != "shard"}
    mismatches = differences({**parts, "mock": file.manifest["mock"]}, {**target.provenance.parts, "mock": mock})
    if mismatches:
        raise IntegrityError(
            f"{file.path} is not a shard of {target.artifact.name} as this config makes it; nothing was written:\n"
            + "\n".join(f"  {line}" for line in mismatches[:12])
        )


def _check_complete(shard_files: Sequence[ShardFile]) -> None:
    """Check that every shard is given exactly once.

    Raises:
        IntegrityError: the shards are of different counts, one is given twice, or one is missing.
    """
    count = shard_files[0].shard.count
    by_index: dict[int, ShardFile] = {}
    for file in shard_files:
        if file.shard.count != count:
            raise IntegrityError(
                f"{file.path} is one of {file.shard.count} shards, {shard_files[0].path} one of {count}; "
                "answer all with the same --shards"
            )
        first = by_index.setdefault(file.shard.index, file)
        if first is not file:
            raise IntegrityError(f"shard {file.shard.index} is given twice: {first.path}, {file.path}; leave one out")
    missing = [str(index) for index in range(count) if index not in by_index]
    if missing:
        raise IntegrityError(
            f"{len(missing)} of {count} shards are missing: {', '.join(missing)}. Answer each with predict "
            f"--shards {count} --shard I, and give its file as well"
        )


def _by_id(expected: Sequence[str], values: Iterable[tuple[ShardFile, str | None, Any]], what: str) -> dict[str, Any]:
    """Values by row id, after a check that every expected id occurs exactly once, in the shard that owns it.

    Raises:
        IntegrityError: an id is missing, duplicated, or in a shard that does not own it.
    """
    known = frozenset(expected)
    by_id: dict[str, Any] = {}
    for file, name, value in values:
        if name not in known or not file.shard.owns(name):
            raise IntegrityError(
                f"{file.path}: row {name!r} does not belong to shard {file.shard.index} of {file.shard.count}; the "
                "file was changed, answer this shard again"
            )
        if name in by_id:
            raise IntegrityError(f"{file.path}: {name!r} occurs twice among the {what}; answer this shard again")
        by_id[name] = value
    missing = [name for name in expected if name not in by_id]
    if missing:
        named = ", ".join(missing[:LISTED_IDS]) + (", …" if len(missing) > LISTED_IDS else "")
        raise IntegrityError(
            f"{len(missing)} of {len(expected)} {what} are in no shard: {named}. A file was changed; answer its "
            "shard again"
        )
    return by_id


def _copy_thumbnails(session: Session, shard_files: Sequence[ShardFile], folder: Path) -> None:
    """Copy the shards' thumbnails, which only the report needs."""
    absent = 0
    for file in shard_files:
        for image in sorted({line.image for line in file.lines if line.image}):
            target, source = (thumbnail_path(parent, image) for parent in (folder, file.path.parent / THUMBNAILS))
            if target.is_file():
                continue
            if source.is_file():
                write_atomic(target, source.read_bytes())
            else:
                absent += 1
    if absent:
        session.progress.note(
            f"{absent} thumbnails are not in the folder `{THUMBNAILS}` next to the shards; the report will lack them"
        )


def _facts(shard_files: Sequence[ShardFile]) -> dict[str, Any]:
    """Facts of the engines: those that all shards share, and the others by shard."""
    facts = [
        {key: value for key, value in file.manifest.items() if key not in NOT_ENGINE_FACTS}
        for file in sorted(shard_files, key=lambda file: file.shard.index)
    ]
    same = {key: value for key, value in facts[0].items() if all(one.get(key) == value for one in facts)}
    other = [{key: value for key, value in one.items() if key not in same} for one in facts]
    return {**same, "shards": other}

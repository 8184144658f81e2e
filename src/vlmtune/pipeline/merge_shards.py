"""The merge step: shards of one prediction file, answered anywhere, become the file that one run would have made.

That nothing is lost or doubled is proven from the files themselves before anything is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmtune.data import SplitRole
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import read_json, write_atomic
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
from vlmtune.run_folder import THUMBNAILS, controls_path, differences, manifest_path, read_manifest, thumbnail_path

NAMED = 5
"""Ids that a message names."""

OF_EVERY_ARTIFACT = {"schema_version", "artifact", "mock", "origin", "selection_ids"}
"""Keys of a manifest that are not the engine's facts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's file with what lies beside it: its answers, and those with other images as they stand there."""

    file: Path
    shard: Shard
    manifest: Mapping[str, Any]
    lines: Sequence[Line]
    control: Sequence[Mapping[str, Any]]
    effect: float | None


def merge(session: Session, files: Sequence[Path], adapter: Path | None = None, role: SplitRole | None = None) -> Path:
    """Join the shards of a prediction file, of a prompt baseline or of an additional evaluation set, in any order.

    The result has the origin of an unsharded one, so the other steps find it finished.

    Raises:
        ConfigError: no file is given.
        IntegrityError: a file is no shard, one of something else or given twice; a shard, a row or a file is missing.
    """
    if not files:
        raise ConfigError("merge needs the files of all shards")
    parts = [_read(file) for file in files]
    session = _about(session, parts[0]).of(adapter)
    made = prediction_target(session, adapter, role, _prompt_baseline(session, parts[0]))
    for part in parts:
        _same_origin(part, made, session.mock)
    _every_shard(parts)
    rows = list(made.rows)
    by_id = _once([row.id for row in rows], [(part, line.id, line) for part in parts for line in part.lines], "rows")
    swapped = [row.id for row in shuffle_images(rows, image_control_rows(session))]
    found = [(part, line.get("id"), line) for part in parts for line in part.control]
    other = _once(swapped, found, "rows with other images")
    sidecars = session.files.sidecars(made.artifact)
    if session.folder.reconcile(made.artifact, made.provenance, sidecars, made.derived) is not None:
        session.progress.note(f"{made.artifact} is finished")
        return made.artifact
    _copy_pictures(session, parts, made.artifact.parent / THUMBNAILS)
    effects = [part.effect for part in parts if part.effect is not None]
    lines = [by_id[row.id] for row in rows]
    write(session, made.artifact, lines, [other[name] for name in swapped], max(effects, default=None))
    write_score(session, made.artifact)
    session.folder.publish(
        made.artifact, made.provenance, {**_facts(parts), "selection_ids": selection_ids(session, adapter, made.rows)}
    )
    return made.artifact


def _read(file: Path) -> Part:
    lines, manifest = read(file), read_manifest(file)
    if manifest is None:
        raise IntegrityError(
            f"{file}: a shard's manifest, {manifest_path(file).name}, is not beside it; copy it there together with "
            f"{controls_path(file).name}"
        )
    shard = manifest["origin"].get("shard")
    if shard is None:
        raise IntegrityError(f"{file} is no shard: its manifest says that it holds all rows; nothing is to be merged")
    beside = controls_path(file)
    if not beside.is_file():
        raise IntegrityError(f"{file}: its controls, {beside.name}, are not beside it; copy them there")
    controls = read_json(beside)
    control = (controls.get("image") or {}).get("lines", [])
    effect = (controls.get("effect") or {}).get("max_logit_difference")
    return Part(file, Shard(shard["index"], shard["count"]), manifest, lines, control, effect)


def _about(session: Session, part: Part) -> Session:
    """The session whose rows a shard answers."""
    name = part.manifest["origin"].get("set")
    if name is None:
        return session
    found = next((other for other in session.additional if other.evaluation_set == name), None)
    if found is None:
        raise IntegrityError(f"{part.file} answers rows of the set {name!r}, which evaluation.additional does not name")
    return found


def _prompt_baseline(session: Session, part: Part) -> PromptBaseline | None:
    """The prompt baseline that a shard belongs to."""
    facts = part.manifest["origin"].get("column")
    if facts is None:
        return None
    by_name = {baseline.name: baseline for baseline in prompt_baselines(session)}
    name = facts["asked"]["name"]
    if name not in by_name:
        raise IntegrityError(
            f"{part.file} holds answers of the prompt baseline {name!r}, which evaluation.baselines does not name"
        )
    return by_name[name]


def _same_origin(part: Part, made: PredictionTarget, mock: bool) -> None:
    origin = {key: value for key, value in part.manifest["origin"].items() if key != "shard"}
    unlike = differences({**origin, "mock": part.manifest["mock"]}, {**made.provenance.parts, "mock": mock})
    if unlike:
        raise IntegrityError(
            f"{part.file} is no shard of {made.artifact.name} as this config makes it; nothing was written:\n"
            + "\n".join(f"  {line}" for line in unlike[:12])
        )


def _every_shard(parts: Sequence[Part]) -> None:
    """Each of them once.

    Raises:
        IntegrityError: they are parts of unlike divisions, one is there twice, or one is missing.
    """
    count = parts[0].shard.count
    by_index: dict[int, Part] = {}
    for part in parts:
        if part.shard.count != count:
            raise IntegrityError(
                f"{part.file} is one of {part.shard.count} shards, {parts[0].file} one of {count}; answer all with the "
                "same --shards"
            )
        first = by_index.setdefault(part.shard.index, part)
        if first is not part:
            raise IntegrityError(f"shard {part.shard.index} is given twice: {first.file}, {part.file}; leave one out")
    missing = [str(index) for index in range(count) if index not in by_index]
    if missing:
        raise IntegrityError(
            f"of {count} shards {len(missing)} are missing: {', '.join(missing)}. Answer each with predict "
            f"--shards {count} --shard I, and give its file, too"
        )


def _once(expected: Sequence[str], found: Iterable[tuple[Part, str | None, Any]], what: str) -> dict[str, Any]:
    """What was found, by id: every id exactly once, in the shard that its hash says.

    Raises:
        IntegrityError: an id is missing, or stands where it does not belong.
    """
    known = frozenset(expected)
    by_id: dict[str, Any] = {}
    for part, name, value in found:
        if name not in known or not part.shard.owns(name):
            raise IntegrityError(
                f"{part.file}: row {name!r} does not belong into shard {part.shard.index} of {part.shard.count}; the "
                "file was changed, answer this shard again"
            )
        if name in by_id:
            raise IntegrityError(f"{part.file}: {name!r} stands twice among the {what}; answer this shard again")
        by_id[name] = value
    missing = [name for name in expected if name not in by_id]
    if missing:
        named = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        raise IntegrityError(
            f"{len(missing)} of {len(expected)} {what} stand in no shard: {named}. A file was changed; answer its "
            "shard again"
        )
    return by_id


def _copy_pictures(session: Session, parts: Sequence[Part], folder: Path) -> None:
    """The shards' thumbnails, for the page; nothing but the page needs them."""
    absent = 0
    for part in parts:
        for image in sorted({line.image for line in part.lines if line.image}):
            target, source = (thumbnail_path(place, image) for place in (folder, part.file.parent / THUMBNAILS))
            if target.is_file():
                continue
            if source.is_file():
                write_atomic(target, source.read_bytes())
            else:
                absent += 1
    if absent:
        session.progress.note(
            f"{absent} thumbnails are not in a folder `{THUMBNAILS}` beside the shards; the page lacks them"
        )


def _facts(parts: Sequence[Part]) -> dict[str, Any]:
    """What the engines said: once where all said the same, else by shard."""
    said = [
        {key: value for key, value in part.manifest.items() if key not in OF_EVERY_ARTIFACT}
        for part in sorted(parts, key=lambda part: part.shard.index)
    ]
    same = {key: value for key, value in said[0].items() if all(one.get(key) == value for one in said)}
    apart = [{key: value for key, value in one.items() if key not in same} for one in said]
    return {**same, "shards": apart}

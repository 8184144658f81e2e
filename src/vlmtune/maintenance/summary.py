"""Text and JSON for `runs ls` and `runs show`: a table of all runs, the details of one, and its next command."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from vlmtune.files import read_json
from vlmtune.maintenance.inspect import Artifact, Run, Work
from vlmtune.report import text
from vlmtune.report.text import fixed, precision, signed
from vlmtune.run_layout import MEASURED, checkpoint_step
from vlmtune.training import checkpoints


def to_json(run: Run, now: float) -> dict[str, Any]:
    """One entry of `runs ls --json`; `now` is a Unix time."""
    return {
        "folder": str(run.root),
        "state": run.state,
        "description": describe_state(run),
        "mock": run.mock,
        "steps": run.steps,
        "owner": {"pid": run.owner.pid, "host": run.owner.host} if run.owner and run.live else None,
        "progress": dict(run.status) if run.status else None,
        "headline": headline(run.comparison),
        "stale": run.stale,
        "bytes": run.size,
        "seconds_since_change": round(max(now - run.changed, 0.0), 1),
        "next": next_command(run),
    }


def table(runs: Sequence[Run], now: float) -> str:
    """One line per run; `now` is a Unix time."""
    rows = [["run", "state", "steps done", "result", "size", "changed"]]
    for run in runs:
        state = describe_state(run) + (" (mock)" if run.mock else "")
        result = headline(run.comparison) or "-"
        result = f"stale ({run.stale}): {result}" if run.stale else result
        steps = ", ".join(run.steps) or "-"
        changed = f"{format_duration(now - run.changed)} ago"
        rows.append([str(run.root), state, steps, result, format_bytes(run.size), changed])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def describe_state(run: Run) -> str:
    """The state, with the details that explain it."""
    match run.state:
        case "running":
            at = f" {_at(run.status)}" if run.status else ""
            return f"in progress:{at} ({run.owner})"
        case "stopped":
            return "stopped, resumable: " + ", ".join(describe_progress(one, run.status) for one in run.resumable)
        case "damaged":
            return "damaged: see runs recover"
        case "partial":
            return "partly done" if run.artifacts else "empty"
    return "finished"


def describe_progress(work: Work, status: Mapping[str, Any] | None) -> str:
    """How far work in progress is, and so where the same command continues."""
    if work.trains:
        total = f" of {status['total']}" if status and status["step"] == "train" else ""
        return (
            f"{work.name} at step {work.checkpoints[-1]}{total}"
            if work.checkpoints
            else f"{work.name} before its first checkpoint"
        )
    name = work.name.removesuffix(".jsonl")  # the name of the step in the status
    total = f" of {status['total']}" if status and status["step"] == name else ""
    return f"{name} at answer {work.answers}{total}"


def _at(status: Mapping[str, Any]) -> str:
    return f"{status['step']} {status['done']}/{status['total']}"


def headline(comparison: Mapping[str, Any] | None) -> str | None:
    """Verdict and primary metric of a comparison in one line."""
    if comparison is None:
        return None
    words = str(comparison["status"]).replace("_", " ")
    for entry in comparison["metrics"][:1]:
        digits = precision(entry)
        values = (fixed(entry["a"], digits), fixed(entry["b"], digits), signed(entry["delta"], digits))
        words += ": {} {} → {} ({})".format(entry["name"], *values)
    return words


def next_command(run: Run) -> str:
    """The command to continue with."""
    folder = shlex.quote(str(run.root))
    match run.state:
        case "running":
            return f"vlmtune runs show {folder} --follow"
        case "damaged":
            return f"vlmtune runs recover {folder} --dry-run"
        case "stopped" if run.status:
            return _command(run.status["command"], run.mock)
        case "finished":
            pages = sorted(run.root.glob("*.html"))
            return f"open {shlex.quote(str(pages[0]))}" if pages else "vlmtune compare A B -o report.html"
    return f"vlmtune run CONFIG --set output.dir={folder}"


def _command(words: Sequence[str], mock: bool) -> str:
    """A process's arguments as the user would type them."""
    program, *rest = words
    named = {"vlmtune": ["vlmtune"], "__main__.py": ["python", "-m", "vlmtune"]}
    begin = named.get(Path(program).name, ["python", program])
    switch = "USE_MOCK=True " if mock and Path(program).name == "main.py" else ""
    return switch + shlex.join([*begin, *rest])


def details(run: Run, now: float) -> dict[str, Any]:
    """Everything known about a run, for `runs show --json`; `now` is a Unix time."""
    return {
        "schema_version": 1,
        **to_json(run, now),
        "artifacts": [_artifact(one) for one in run.artifacts],
        "work": [_work(one, one in run.resumable) for one in run.work],
        "problems": list(run.problems),
        "notes": list(run.notes),
        "training": _training(run),
        "comparison": dict(run.comparison) if run.comparison else None,
    }


def _artifact(artifact: Artifact) -> dict[str, Any]:
    facts = {key: value for key, value in artifact.manifest.items() if key not in ("curve", "selection_ids")}
    return {"path": str(artifact.path), "kind": artifact.kind, "archived": artifact.archived, "manifest": facts}


def _work(work: Work, resumable: bool) -> dict[str, Any]:
    newest = checkpoints.newest(work.folder)
    return {
        "folder": str(work.folder),
        "name": work.name,
        "answers": work.answers,
        "checkpoints": list(work.checkpoints),
        "resumes_at": checkpoint_step(newest) if newest is not None else None,
        "resumable": resumable,
    }


def _training(run: Run) -> dict[str, Any] | None:
    """The first adapter's training: curve, selected step, resumptions."""
    adapter = next((one for one in run.artifacts if one.kind == "adapter" and not one.archived), None)
    if adapter is None:
        return None
    keys = ("steps", "chosen_step", "curve")
    return {key: adapter.manifest[key] for key in keys if key in adapter.manifest} | {
        "resumed_at": _resumed_at(adapter)
    }


class _Measured(TypedDict, total=False):
    resumed_at: list[int]


def _resumed_at(adapter: Artifact) -> list[int]:
    """Steps at which its training was resumed; earlier versions noted them in the manifest."""
    file = adapter.path / MEASURED
    measured = read_json(file, _Measured) if file.is_file() else adapter.manifest
    return list(measured.get("resumed_at") or [])


def describe(run: Mapping[str, Any]) -> str:
    """The result of `details` as text."""
    lines = [run["folder"], f"  state       {run['description']}{' (mock)' if run['mock'] else ''}"]
    if run["headline"]:
        lines.append(f"  verdict     {run['comparison']['verdict']}")
        lines += [f"  stale       {run['stale']}; compare again"] if run["stale"] else []
    for one in run["artifacts"]:
        archived = ", archived" if one["archived"] else ""
        lines.append(f"  {one['kind']:<11} {Path(one['path']).name}{archived}")
        lines += [f"    {line}" for line in _facts(one["manifest"])]
    trained = text.training_summary(run["training"])
    if trained and run["training"]["resumed_at"]:
        trained += f", resumed after step {', '.join(map(str, run['training']['resumed_at']))}"
    lines += [f"  curve       {trained}"] if trained else []
    for one in run["work"]:
        lines += _in_progress(one) if one["resumable"] else [_of_another(one)]
    lines += [f"  ! {problem}" for problem in (*run["problems"], *run["notes"])]
    changed = format_duration(run["seconds_since_change"])
    lines.append(f"  size        {format_bytes(run['bytes'])}, last change {changed} ago")
    return "\n".join([*lines, f"  next        {run['next']}"])


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """Model, datasets and software versions that an artifact was made with."""
    provenance = manifest["origin"]
    model = provenance.get("model") or {}
    commit = f" at {model['commit'][:12]}" if model.get("commit") else ""
    lines = [
        f"model {model.get('name', '?')}{commit} ({model.get('family', '?')}, config {model.get('config_hash', '?')})"
    ]
    dataset = provenance.get("dataset") or {}
    parts = {"rows": dataset} if "fingerprint" in dataset else {k: v for k, v in dataset.items() if isinstance(v, dict)}
    lines += [f"{name} {part['rows']}, fingerprint {part['fingerprint'][:12]}" for name, part in parts.items()]
    where = [str(manifest[key]) for key in ("device", "precision") if manifest.get(key)]
    where += [f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()]
    return [*lines, *([", ".join(where)] if where else [])]


def _in_progress(work: Mapping[str, Any]) -> list[str]:
    if work["answers"] is not None:
        return [f"  answers     {work['name']}: {work['answers']} are saved; the rest remains"]
    if not work["checkpoints"]:
        return [f"  training    {work['name']}: no checkpoint yet; it starts over"]
    steps = ", ".join(map(str, work["checkpoints"]))
    newest = work["resumes_at"]
    there = f"it would resume from step {newest}" if newest is not None else "none of them is complete"
    return [f"  training    {work['name']}: checkpoints at step {steps}; {there}"]


def _of_another(work: Mapping[str, Any]) -> str:
    """Work that no command continues while a finished artifact has its name; only the user knows whether to keep it."""
    return (
        f"  ! {work['folder']}: work on another {work['name']} than the finished one; remove it if you do not need it"
    )


def format_bytes(count: float) -> str:
    """1,500 as `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """7,200 as `2 h`: a duration in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def age(status: Mapping[str, Any]) -> float:
    """Seconds since a run last wrote its status."""
    return max(0.0, time.time() - float(status["at"]))

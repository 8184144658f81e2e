"""Run folders in words: the table of all, everything about one, and the command that goes on from there."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.maintenance.inspect import Artifact, Making, Run
from vlmtune.report import text
from vlmtune.report.text import fixed, precision, signed
from vlmtune.run_folder import checkpoint_step
from vlmtune.training import checkpoints


def plain(run: Run, now: float) -> dict[str, Any]:
    """A run as one line of `runs ls --json`."""
    return {
        "folder": str(run.root),
        "state": run.state,
        "said": said(run),
        "mock": run.mock,
        "steps": run.steps,
        "owner": {"pid": run.owner.pid, "host": run.owner.host} if run.owner and run.live else None,
        "progress": dict(run.status) if run.status else None,
        "headline": headline(run.comparison),
        "stale": run.stale,
        "bytes": run.size,
        "seconds_since_change": round(max(now - run.changed, 0.0), 1),
        "next": following(run),
    }


def table(runs: Sequence[Run], now: float) -> str:
    """One line per run."""
    rows = [["run", "state", "steps done", "result", "size", "changed"]]
    for run in runs:
        state = said(run) + (" (mock)" if run.mock else "")
        result = headline(run.comparison) or "-"
        result = f"stale ({run.stale}): {result}" if run.stale else result
        steps = ", ".join(run.steps) or "-"
        rows.append([str(run.root), state, steps, result, size(run.size), f"{span(now - run.changed)} ago"])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def said(run: Run) -> str:
    """The state with what makes it so."""
    match run.state:
        case "running":
            at = f" {_at(run.status)}" if run.status else ""
            return f"in progress:{at} ({run.owner})"
        case "stopped":
            return "stopped, resumable: " + ", ".join(left(one, run.status) for one in run.waiting)
        case "damaged":
            return "damaged: see runs recover"
        case "begun":
            return "partly done" if run.artifacts else "empty"
    return "finished"


def left(one: Making, status: Mapping[str, Any] | None) -> str:
    """How far work in progress has come: what the same command goes on from."""
    if one.trains:
        total = f" of {status['total']}" if status and status["step"] == "train" else ""
        return (
            f"{one.name} at step {one.checkpoints[-1]}{total}"
            if one.checkpoints
            else f"{one.name} before its first checkpoint"
        )
    name = one.name.removesuffix(".jsonl")  # as the step is called
    total = f" of {status['total']}" if status and status["step"] == name else ""
    return f"{name} at answer {one.answers}{total}"


def _at(status: Mapping[str, Any]) -> str:
    return f"{status['step']} {status['done']}/{status['total']}"


def headline(comparison: Mapping[str, Any] | None) -> str | None:
    """Status and primary metric of a comparison."""
    if comparison is None:
        return None
    words = str(comparison["status"]).replace("_", " ")
    for entry in comparison["metrics"][:1]:
        digits = precision(entry)
        values = (fixed(entry["a"], digits), fixed(entry["b"], digits), signed(entry["delta"], digits))
        words += ": {} {} → {} ({})".format(entry["name"], *values)
    return words


def following(run: Run) -> str:
    """The command to go on with."""
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
    """A process's arguments as one types them."""
    program, *rest = words
    named = {"vlmtune": ["vlmtune"], "__main__.py": ["python", "-m", "vlmtune"]}
    begin = named.get(Path(program).name, ["python", program])
    switch = "USE_MOCK=True " if mock and Path(program).name == "main.py" else ""
    return switch + shlex.join([*begin, *rest])


def everything(run: Run, now: float) -> dict[str, Any]:
    """All that is known of a run, for `runs show --json`."""
    return {
        "schema_version": 1,
        **plain(run, now),
        "artifacts": [_artifact(one) for one in run.artifacts],
        "making": [_making(one, one in run.waiting) for one in run.making],
        "problems": list(run.problems),
        "notes": list(run.notes),
        "training": _training(run),
        "comparison": dict(run.comparison) if run.comparison else None,
    }


def _artifact(one: Artifact) -> dict[str, Any]:
    facts = {key: value for key, value in one.manifest.items() if key not in ("curve", "selection_ids")}
    return {"path": str(one.path), "kind": one.kind, "aside": one.aside, "manifest": facts}


def _making(one: Making, waits: bool) -> dict[str, Any]:
    newest = checkpoints.newest(one.folder)
    return {
        "folder": str(one.folder),
        "name": one.name,
        "answers": one.answers,
        "checkpoints": list(one.checkpoints),
        "resumes_at": checkpoint_step(newest) if newest is not None else None,
        "waits": waits,
    }


def _training(run: Run) -> dict[str, Any] | None:
    """The first adapter's way: its curve, the step taken, resumptions."""
    made = next((one.manifest for one in run.artifacts if one.kind == "adapter" and not one.aside), None)
    keys = ("steps", "chosen_step", "resumed_at", "curve")
    return {key: made[key] for key in keys if key in made} if made else None


def show(found: Mapping[str, Any]) -> str:
    """What `everything` found, as text."""
    lines = [found["folder"], f"  state       {found['said']}{' (mock)' if found['mock'] else ''}"]
    if found["headline"]:
        lines.append(f"  verdict     {found['comparison']['verdict']}")
        lines += [f"  stale       {found['stale']}; compare again"] if found["stale"] else []
    for one in found["artifacts"]:
        aside = ", moved aside" if one["aside"] else ""
        lines.append(f"  {one['kind']:<11} {Path(one['path']).name}{aside}")
        lines += [f"    {line}" for line in _facts(one["manifest"])]
    trained = text.training_summary(found["training"])
    lines += [f"  curve       {trained}"] if trained else []
    for one in found["making"]:
        lines += _in_progress(one) if one["waits"] else [_of_another(one)]
    lines += [f"  ! {problem}" for problem in (*found["problems"], *found["notes"])]
    lines.append(f"  size        {size(found['bytes'])}, last change {span(found['seconds_since_change'])} ago")
    return "\n".join([*lines, f"  next        {found['next']}"])


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """What an artifact was made from, and where."""
    origin = manifest["origin"]
    model = origin.get("model") or {}
    commit = f" at {model['commit'][:12]}" if model.get("commit") else ""
    lines = [
        f"model {model.get('name', '?')}{commit} ({model.get('family', '?')}, config {model.get('config_hash', '?')})"
    ]
    dataset = origin.get("dataset") or {}
    parts = {"rows": dataset} if "fingerprint" in dataset else {k: v for k, v in dataset.items() if isinstance(v, dict)}
    lines += [f"{name} {part['rows']}, fingerprint {part['fingerprint'][:12]}" for name, part in parts.items()]
    where = [str(manifest[key]) for key in ("device", "precision") if manifest.get(key)]
    where += [f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()]
    return [*lines, *([", ".join(where)] if where else [])]


def _in_progress(one: Mapping[str, Any]) -> list[str]:
    if one["answers"] is not None:
        return [f"  answers     {one['name']}: {one['answers']} are saved; the rest is asked"]
    if not one["checkpoints"]:
        return [f"  training    {one['name']}: no checkpoint yet; it begins anew"]
    steps = ", ".join(map(str, one["checkpoints"]))
    there = f"resumed would be step {one['resumes_at']}" if one["resumes_at"] is not None else "none of them is whole"
    return [f"  training    {one['name']}: checkpoints at step {steps}; {there}"]


def _of_another(one: Mapping[str, Any]) -> str:
    """Work that no command goes on from while an artifact of its name is there; whoever began it knows its worth."""
    return f"  ! {one['folder']}: work on another {one['name']} than the finished one; remove it if you do not want it"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """A time for people, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def age(status: Mapping[str, Any]) -> float:
    """Seconds since a run last said where it stands."""
    return max(0.0, time.time() - float(status["at"]))

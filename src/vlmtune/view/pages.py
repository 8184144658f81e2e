"""The pages: all runs, one run as it is now, and two runs compared. They are drawn anew at every request."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from vlmtune.compare_files import compare_files, render_page
from vlmtune.errors import ConfigError
from vlmtune.maintenance import summary, watch
from vlmtune.maintenance.inspect import Run, find_runs, inspect_run, is_run
from vlmtune.report import ReportConfig, charts, templates
from vlmtune.report.html import STATUS_COLOURS
from vlmtune.report.text import fixed, precision, signed
from vlmtune.run_layout import DATA_CHECK_PAGE
from vlmtune.scoring.results import ComparisonFile, TrainingSummary

FOLDER = Path(__file__).parent
TONES = {"running": "even", "finished": "good", "stopped": "unknown", "partial": "even", "damaged": "bad"}
SHOWN = (".html", ".png")
"""Endings of the files of a run that a browser may open."""


def name_of(root: Path, run: Path) -> str:
    """The name of a run: its path below the folder, `.` for the folder itself."""
    return run.relative_to(root).as_posix()


def find(root: Path, name: str) -> Path:
    """The run folder of a name.

    Raises:
        ConfigError: there is none, or it is not below the folder.
    """
    folder = root / name
    inside = folder.resolve().is_relative_to(root.resolve())
    if not inside or ".." in Path(name).parts or not folder.is_dir() or not is_run(folder):
        raise ConfigError(f"{root}: no run is called {name!r}")
    return folder


def files(run: Path) -> list[Path]:
    """Pages and pictures of a run folder."""
    return sorted(one for one in run.iterdir() if one.suffix in SHOWN and one.is_file() and not one.is_symlink())


def index(root: Path) -> str:
    """The page of all runs.

    Raises:
        ConfigError: no such folder.
    """
    now, runs = time.time(), [inspect_run(path) for path in find_runs(root)]
    rows = [
        {
            "name": name_of(root, run.root),
            "link": f"run/{_address(name_of(root, run.root))}",
            "tone": TONES[run.state],
            "state": run.state,
            "detail": _detail(run),
            "steps": ", ".join(run.steps),
            "result": summary.headline(run.comparison),
            "result_tone": STATUS_COLOURS.get(run.comparison["status"], "even") if run.comparison else "even",
            "stale": run.stale,
            "size": summary.format_bytes(run.size),
            "changed": f"{summary.format_duration(now - run.changed)} ago",
            "comparable": bool(_answers(run)),
        }
        for run in sorted(runs, key=lambda run: -run.changed)
    ]
    return _render("runs.html.jinja", folder=str(root), rows=rows, live=any(run.live for run in runs))


def one_run(root: Path, name: str) -> str:
    """The page of a run.

    Raises:
        ConfigError: there is no such run.
    """
    run = inspect_run(find(root, name))
    details, snapshot = summary.details(run, time.time()), watch.snapshot(run.root)
    curve = list(snapshot.curve) if snapshot and snapshot.curve else None
    home = "../" * (name.count("/") + 1)
    training = cast("TrainingSummary | None", {"curve": curve} if curve else details["training"])
    return _render(
        "run.html.jinja",
        name=name if name != "." else str(root),
        home=home,
        details=details,
        detail=_detail(run),
        size=summary.format_bytes(run.size),
        tone=STATUS_COLOURS.get(run.comparison["status"], "even") if run.comparison else TONES[run.state],
        live=run.live,
        status=snapshot.status if snapshot else None,
        eta=watch.eta(snapshot.status) if snapshot else None,
        answers=snapshot.answers if snapshot else [],
        curve=charts.learning_curve(training),
        metrics=_metrics(run.comparison),
        artifacts=[["artifact", "what it is", "model"], *map(_artifact, details["artifacts"])],
        files=[(file.name, f"{home}file/{_address(name)}/{quote(os.fsencode(file.name))}") for file in files(run.root)],
        checked=DATA_CHECK_PAGE,
    )


def comparison(root: Path, names: Sequence[str]) -> str:
    """The report of two runs: the tuned answers of the first as A, those of the second as B.

    Raises:
        ConfigError: not two runs, or one has no tuned answers yet.
        DataError: their files cannot be compared.
    """
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError("choose two runs to compare")
    sides = []
    for name in names:
        answers = _answers(inspect_run(find(root, name)))
        if not answers:
            raise ConfigError(f"{name} has no answers of a tuned model yet")
        sides.append(answers)
    compared, sources = compare_files(sides[0], sides[1]), [file for side in sides for file in side]
    plain: ComparisonFile = {**compared.result, "examples": compared.examples}
    return render_page(plain, sources, ReportConfig(), "the table that `vlmtune compare A B -o page.html` writes").text


def _address(name: str) -> str:
    """A name in an address; a browser would drop the dot that stands for the folder itself."""
    return "" if name == "." else quote(os.fsencode(name))


def _answers(run: Run) -> list[Path]:
    """The files of tuned answers to the run's own rows, one per training seed."""
    tuned = [one for one in run.artifacts if one.kind == "tuned" and not one.archived]
    return [one.path for one in tuned if one.manifest["origin"].get("evaluation_set") is None]


def _detail(run: Run) -> str:
    """What explains the state, without its words."""
    _, _, said = summary.describe_state(run).partition(": ")
    return " ".join([said, *(["(mock)"] if run.mock else [])]).strip()


def _metrics(compared: Mapping[str, Any] | None) -> list[list[str]]:
    rows = [["metric", "A", "B", "change"]]
    for entry in compared["metrics"] if compared else ():
        digits = precision(entry)
        values = (fixed(entry["a"], digits), fixed(entry["b"], digits), signed(entry["delta"], digits))
        rows.append([str(entry["name"]), *values])
    return rows


def _artifact(artifact: Mapping[str, Any]) -> list[str]:
    model = artifact["manifest"]["origin"].get("model") or {}
    archived = " (archived)" if artifact["archived"] else ""
    return [Path(artifact["path"]).name, artifact["kind"].replace("_", " ") + archived, str(model.get("name", "?"))]


def _render(template: str, **values: Any) -> str:
    return templates.render(template, [FOLDER], [FOLDER / "view.css"], [FOLDER / "view.js"], **values)

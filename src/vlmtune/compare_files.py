"""Prediction files to scores, comparisons and pages: what needs no model, no dataset and no config."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vlmtune import registry
from vlmtune.errors import ConfigError
from vlmtune.files import read_json, write_atomic, write_json
from vlmtune.predictions import read
from vlmtune.registry import BaseConfig
from vlmtune.report import ReportConfig, html, markdown
from vlmtune.run_folder import ADAPTER_FILES, hash_files, read_manifest
from vlmtune.scoring import EvaluationConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import Side
from vlmtune.scoring.score import Score, score
from vlmtune.tasks import Task

Block = TypeVar("Block", bound=BaseConfig)

Files = str | Path | Sequence[str | Path]
"""One side: a prediction file, or one file per training seed of the same recipe (in one text, joined by commas)."""


Chosen = str | Mapping[str, Any] | None
"""A task: its name, or its block of a config. What it leaves open the manifests say, else the defaults."""


def score_file(file: Path, task: Chosen = None, metrics: Sequence[str] | None = None) -> Score:
    """Score any prediction file with a task's metrics. Task and errors as in `compare_files`."""
    side = read_side(file)
    return score(side.lines, *_task(task, [side]), list(metrics) if metrics else None)


def compare_files(
    before: Files,
    after: Files,
    *others: Files,
    task: Chosen = None,
    slices: Sequence[str] = (),
    evaluation: EvaluationConfig | Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare any prediction files: `after`, and each of the others, with `before`.

    Args:
        before: the reference side.
        after: the side that is judged.
        others: further sides; the result has them in `facts["others"]`.
        task: whose metrics apply; by default the shipped one that the manifests name, else captioning.
        slices: metadata columns whose values are shown one by one, beside those of `evaluation`.
        evaluation: metrics, the primary one, statistics; by default all metrics of the task, the first one primary.

    Raises:
        ConfigError: one file given as two seeds; a task of the user's own in the manifests and no `task`; a task that
            needs a key nobody gives; whatever `scoring.comparison.compare` refuses.
    """
    given = [files_of(side) for side in (before, after, *others)]
    names = _names([file for files in given for file in files])
    sides = [tuple(read_side(file, names[file]) for file in files) for files in given]
    chosen = _task(task, [side for seeds in sides for side in seeds])
    if not isinstance(evaluation, EvaluationConfig):
        evaluation = _block(EvaluationConfig, "evaluation", evaluation or {})
    evaluation = evaluation.model_copy(update={"slices": [*evaluation.slices, *slices]})
    return compare(sides[0], sides[1], *chosen, evaluation, sides[2:])


def _task(given: Chosen, sides: Sequence[Side]) -> tuple[Task, BaseConfig]:
    """A task and its configuration; of several manifests the last one counts."""
    made = [dict(side.origin["task"]) for side in sides if "task" in side.origin]
    wanted = {"name": given} if isinstance(given, str) else dict(given or {})
    name = str(wanted.get("name") or (made[-1].get("name") if made else "captioning"))
    if "name" not in wanted and name not in registry.available("tasks"):
        # A dotted name is imported: which code runs is the user's to say, never a file's.
        raise ConfigError(f"the manifests name the task {name!r}; name it yourself with --task to use it")
    known = next((block for block in reversed(made) if block.get("name") == name), {})
    plugin = registry.load("tasks", name)
    return plugin.TASK, _block(plugin.Config, "task", {**known, **wanted, "name": name})


def _block(part: type[Block], name: str, values: Mapping[str, Any]) -> Block:
    """A block of a config on its own."""
    try:
        return part.model_validate(values)
    except ValidationError as error:
        wrong = [(".".join(map(str, (name, *found["loc"]))), found["msg"]) for found in error.errors()]
        said = "; ".join(f"{key}: {message}" for key, message in wrong)
        raise ConfigError(f"{said}. A key is given as in: --set '{wrong[0][0]}=VALUE', the value being YAML") from None


def files_of(side: Files) -> list[Path]:
    """The files of one side; a text that names no file is several, separated by commas.

    Raises:
        ConfigError: no file, or one of them twice: the same answers are not two training seeds.
    """
    given = [side] if isinstance(side, str | Path) and Path(side).exists() else side
    texts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, Path) else given
    files = [Path(text) for text in texts if str(text)]
    twice = [file for file, count in Counter(file.resolve() for file in files).items() if count > 1]
    if twice or not files:
        raise ConfigError(f"{twice[0]} is given twice as a seed of one side" if twice else "a side without a file")
    return files


TRAINING = ("steps", "chosen_step", "stopped_early", "resumed_at", "trainable_parameters", "curve")
"""What a comparison says of a training: nothing that the clock of one process decides."""


def read_side(file: Path, name: str | None = None) -> Side:
    """A prediction file with what lies beside it: manifest, controls, its adapter's training; None where not there."""
    controls = file.with_name(f"{file.stem}.controls.json")
    found, manifest = read_json(controls) if controls.is_file() else None, read_manifest(file)
    return Side(name or file.stem, read(file), manifest, found, _training(file.parent, manifest))


def _training(folder: Path, manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How the adapter that answered was trained, where its folder lies here: it is known by the hash of its files."""
    wanted = (manifest or {}).get("origin", {}).get("adapter")
    if wanted is None:
        return None
    for adapter in sorted(path for path in folder.iterdir() if path.is_dir()):
        made = all((adapter / name).is_file() for name in ADAPTER_FILES) and read_manifest(adapter)
        if made and hash_files(adapter, ADAPTER_FILES) == wanted:
            return {key: made[key] for key in TRAINING if made.get(key) not in (None, [])}
    return None


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """What each file is called: its stem, behind its folder's name or as its whole path where several are alike."""
    whole = {file: file.resolve() for file in files}
    names: dict[Path, str] = {}
    for file, path in whole.items():
        rest = [other for other in whole.values() if other != path]
        if path.stem not in {other.stem for other in rest}:
            names[file] = path.stem
        elif (path.parent.name, path.stem) not in {(other.parent.name, other.stem) for other in rest}:
            names[file] = f"{path.parent.name}/{path.stem}"
        else:
            names[file] = str(file)
    return names


def write_comparison(
    comparison: Comparison, file: Path, sources: Sequence[Path], config: ReportConfig | None = None
) -> None:
    """Write a comparison as JSON, as a page or as Markdown, by the file's ending.

    Args:
        comparison: what to write.
        file: ends in .json, .html or .md.
        sources: the prediction files; their thumbnails lie in `pictures` beside them.
        config: what the page shows.

    Raises:
        ConfigError: another ending.
    """
    plain, shown = comparison.to_json(), config or ReportConfig()
    if file.suffix == ".json":
        write_json(file, plain)
    elif file.suffix in (".html", ".htm"):
        write_atomic(file, html.render(plain, pictures(html.images_shown(plain, shown), sources), shown))
    elif file.suffix == ".md":
        write_atomic(file, markdown.render(plain))
    else:
        raise ConfigError(f"{file}: a report ends in .html, .json or .md")


def write_regressions(comparison: Comparison, file: Path) -> int:
    """Write the rows that got worse by the primary metric, worst first, as JSON lines; returns how many."""
    rows = comparison.regressions()
    write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def pictures(images: Sequence[str], sources: Sequence[Path]) -> dict[str, bytes]:
    """Thumbnails by the hash of their image, as far as they lie beside the prediction files."""
    found: dict[str, bytes] = {}
    for image in images:
        for source in sources:
            picture = source.parent / "pictures" / f"{image[:16]}.webp"
            if picture.is_file():
                found[image] = picture.read_bytes()
    return found

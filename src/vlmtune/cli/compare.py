"""Commands that need only prediction files: compare, score."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtune.cli.options import (
    AnswerKey,
    AsJson,
    FileSets,
    Filter,
    IdKey,
    ReferenceKey,
    ReferencesFrom,
    print_comparison,
    print_score,
)
from vlmtune.errors import ConfigError, GateFailed
from vlmtune.terminal import echo

if TYPE_CHECKING:
    from vlmtune.compare_files import Reading
    from vlmtune.predictions import Keys

JudgeModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL[@URL]",
        help="Also have a language model compare the answers: its name on a server with OpenAI's API.",
    ),
]
IgnoredKeys = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="A key that does not tell rows apart when they are paired; repeatable."),
]


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Prediction file of the reference system.")],
    after: Annotated[
        list[str],
        typer.Argument(metavar="B [C...]", help="Files to compare with A. Commas join seeds: B1,B2,B3."),
    ],
    task: Annotated[
        str | None, typer.Option(help="Task that defines the metrics; by default that of the manifests.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a report: .html, .json, .md, .png.")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="The files after A are training seeds of one recipe: B1 B2 B3.")
    ] = False,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Also compare by a metadata column; repeatable."),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help='Exit 6 if true or unknown: "bleu<0; cider_d.ci_low<0.1" (B minus A).'),
    ] = None,
    regressions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that got worse, worst first (.jsonl).")
    ] = None,
    judge: JudgeModel = None,
    prediction: AnswerKey = None,
    reference: ReferenceKey = None,
    row_id: IdKey = None,
    chosen_filter: Filter = None,
    references: ReferencesFrom = None,
    ignore: IgnoredKeys = None,
    sets: FileSets = None,
    as_json: AsJson = False,
) -> None:
    """Compare prediction files, paired by row, with confidence intervals."""
    from vlmtune.compare_files import compare_files, files_of, write_comparison, write_regressions
    from vlmtune.predictions import Keys
    from vlmtune.progress import open_progress
    from vlmtune.scoring import gates

    if fail_on is not None:
        gates.parse(fail_on)
    sides = [files_of(text) for text in [before, *([",".join(after)] if seeds else after)]]
    reading, configured = _reading(Keys(prediction, reference, row_id, chosen_filter), references, ignore or ())
    blocks = _blocks([*_judge_sets(judge), *(sets or ())], task)
    blocks["task"] = blocks["task"] or configured
    progress = open_progress("auto") if judge or (blocks.get("evaluation") or {}).get("judge") else None
    comparison = compare_files(*sides, **blocks, slices=slices or (), progress=progress, reading=reading)
    failed = comparison.failures(fail_on) if fail_on is not None else []
    if report is not None:
        write_comparison(comparison, report, [file for side in sides for file in side])
    if regressions is not None:
        count = write_regressions(comparison, regressions)
        echo(f"{regressions}: {count} rows got worse in {comparison.result['primary']}", err=True)
    print_comparison(comparison, as_json)
    if failed:
        raise GateFailed("--fail-on: " + "; ".join(failed))


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A prediction file.")],
    task: Annotated[
        str | None, typer.Option(help="Task that defines the metrics; by default that of the manifest.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics to report, separated by commas.")] = None,
    prediction: AnswerKey = None,
    reference: ReferenceKey = None,
    row_id: IdKey = None,
    chosen_filter: Filter = None,
    references: ReferencesFrom = None,
    sets: FileSets = None,
    as_json: AsJson = False,
) -> None:
    """Score one prediction file; needs no model."""
    from vlmtune.compare_files import score_file
    from vlmtune.predictions import Keys

    reading, configured = _reading(Keys(prediction, reference, row_id, chosen_filter), references)
    chosen = _blocks(sets, task)["task"] or configured
    print_score(score_file(file, chosen, metrics.split(",") if metrics else None, reading), as_json)


def _reading(
    keys: "Keys", references: str | None, ignored: Sequence[str] = ()
) -> "tuple[Reading, dict[str, Any] | None]":
    """How files are read; and the task of the config that the references come from, if they do."""
    from vlmtune.compare_files import Reading

    path = Path(references) if references is not None else None
    if path is None or (path.is_file() and path.suffix not in (".yaml", ".yml")):
        return Reading(keys, ignored, path), None
    from vlmtune.config import load_config
    from vlmtune.pipeline.references import references_of

    config = load_config(str(path))
    return Reading(keys, ignored, references_of(config)), config.task.model_dump()


def _judge_sets(judge: str | None) -> list[str]:
    """`--judge MODEL@URL` as overrides; a model's name may contain an @ itself."""
    if judge is None:
        return []
    model, at, url = judge.rpartition("@")
    if not (at and url.startswith(("http://", "https://"))):
        model, url = judge, ""
    return [
        f"evaluation.judge.{key}={json.dumps(value)}" for key, value in (("model", model), ("base_url", url)) if value
    ]


def _blocks(sets: list[str] | None, task: str | None) -> dict[str, Any]:
    """The blocks task and evaluation, which replace a config for prediction files."""
    if not sets:
        return {"task": task}
    from vlmtune.config import parse_overrides

    given = parse_overrides(sets)
    wrong = [key for key, block in given.items() if key not in ("task", "evaluation") or not isinstance(block, dict)]
    if wrong:
        raise ConfigError(
            f"--set {wrong[0]}: only task and evaluation apply to prediction files, as in task.labels=[a, b]"
        )
    return {"task": given.get("task", {}) | ({"name": task} if task else {}), "evaluation": given.get("evaluation")}

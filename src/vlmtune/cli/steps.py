"""The verbs that work in a run folder: demo, run, predict, train."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.arguments import AsJson, ConfigArg, Offline, Sets, Shown, load_config, set_offline
from vlmtune.cli.printing import print_comparison, print_score, say_next, say_where
from vlmtune.errors import ConfigError
from vlmtune.progress import Style


def demo(sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto") -> None:
    """The whole story on a tiny model: baseline, training, evaluation, comparison, report."""
    _run("demo", sets, as_json, progress)


def run(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Baseline, training, evaluation and comparison of a config; finished steps are skipped."""
    set_offline(offline)
    _run(config, sets, as_json, progress)


def predict(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; without one the untouched model answers.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Role of the rows: train, select or test.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: Shown = "auto",
    offline: Offline = False,
) -> None:
    """Answers and their score; an interrupted run goes on."""
    from vlmtune.pipeline import predicting
    from vlmtune.pipeline.session import working

    set_offline(offline)
    if split not in (None, "train", "select", "test"):
        raise ConfigError(f"--split must be train, select or test (got {split!r})")
    with working(load_config(config, sets).config, progress) as session:
        file = predicting.predict(session, adapter, split)  # type: ignore[arg-type]
        print_score(predicting.score(session, file), as_json)
    say_next("train" if adapter is None else "run", config, sets)


def train(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """LoRA training; the same command resumes an interrupted run."""
    from vlmtune.pipeline import adapting
    from vlmtune.pipeline.session import working

    set_offline(offline)
    with working(load_config(config, sets).config, progress) as session:
        adapter = adapting.train(session)
    print(json.dumps({"schema_version": 1, "adapter": str(adapter)}) if as_json else f"adapter: {adapter}")
    say_next("predict", config, sets, f"--adapter {adapter}")


def _run(config: str, sets: list[str] | None, as_json: bool, progress: Style) -> None:
    loaded = load_config(config, sets).config
    from vlmtune.pipeline import story
    from vlmtune.pipeline.session import working

    with working(loaded, progress) as session:
        comparison = story.run(session)
    print_comparison(comparison, as_json)
    say_where(loaded)

"""What `predict` does beside answering a split (one picture, whether two engines agree), and the export of weights."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmtune.cli.arguments import AsJson, ConfigArg, Offline, Sets, Shown, load_config, set_offline
from vlmtune.errors import DataError, IntegrityError
from vlmtune.progress import open_progress
from vlmtune.types import Outcome, Prediction


def answer_image(
    config: str, sets: list[str] | None, image: Path, adapter: Path | None, question: str | None, as_json: bool
) -> None:
    """Print what the untouched model says about a picture, and the tuned one beside it."""
    from vlmtune.pipeline.asking import ask
    from vlmtune.pipeline.session import Session

    asked = ask(Session(load_config(config, sets).config), image, adapter, question)
    sides = {"base": asked.base} | ({"tuned": asked.tuned} if asked.tuned is not None else {})
    if as_json:
        plain = {name: _plain(outcome) for name, outcome in sides.items()}
        print(json.dumps({"schema_version": 1, "image": str(image), **plain}, ensure_ascii=False))
        _refuse_failures(sides.values())
        return
    for name, outcome in sides.items():
        said = outcome.text if isinstance(outcome, Prediction) else f"(no answer: {outcome.reason})"
        print(f"{name:<6} {said}")
    _refuse_failures(sides.values())


def _refuse_failures(outcomes: Iterable[Outcome]) -> None:
    """That every side answered: a script must see by the exit code that one did not."""
    for outcome in outcomes:
        if not isinstance(outcome, Prediction):
            raise DataError(outcome.reason)


def _plain(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Prediction):
        return {"prediction": outcome.text, "finish_reason": outcome.finish_reason, "tokens": outcome.tokens}
    return {"prediction": None, "failure": {"stage": outcome.stage, "reason": outcome.reason}}


def check_parity(config: str, sets: list[str] | None, count: int, adapter: Path | None, as_json: bool) -> None:
    """Print where the config's engine and transformers part.

    Raises:
        IntegrityError: they part where no tie excuses it.
    """
    from vlmtune.checks.parity import render
    from vlmtune.pipeline.asking import agree
    from vlmtune.pipeline.session import Session

    session = Session(load_config(config, sets).config)
    found = agree(session, count, adapter)
    print(json.dumps(found.to_json()) if as_json else render(found, session.inputs.renderer.text))
    if not found.agrees:
        raise IntegrityError("the two engines do not give the same answers")


def export(
    config: ConfigArg,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the merged checkpoint; must not be there.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; by default the one that the config trains.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Merge the adapter into the weights.")] = True,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: Shown = "auto",
    offline: Offline = False,
) -> None:
    """The adapter merged into its model: a checkpoint that any program loads, compared before it is called done."""
    from vlmtune.errors import ConfigError
    from vlmtune.pipeline.exporting import export as write
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    if not merge:
        raise ConfigError("an adapter needs no export: its folder is in PEFT's format already")
    folder = write(Session(load_config(config, sets).config, open_progress(progress)), output, adapter)
    print(json.dumps({"schema_version": 1, "checkpoint": str(folder)}) if as_json else f"checkpoint: {folder}")

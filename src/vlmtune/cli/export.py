"""What `predict` does beside answering a split (one picture, whether two engines agree), and the export of weights.

The verb that publishes an adapter.

The verb that serves a model to other programs.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmtune.cli.options import AsJson, ConfigArg, Offline, Sets, Shown, load_config, set_offline
from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.progress import open_progress
from vlmtune.types import Outcome, Prediction


def answer_image(
    config: str, sets: list[str] | None, image: Path, adapter: Path | None, question: str | None, as_json: bool
) -> None:
    """Print what the untouched model says about a picture, and the tuned one beside it."""
    from vlmtune.pipeline.predict import ask
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
    from vlmtune.pipeline.parity import render
    from vlmtune.pipeline.predict import agree
    from vlmtune.pipeline.session import Session

    session = Session(load_config(config, sets).config)
    found = agree(session, count, adapter)
    print(json.dumps(found.to_json()) if as_json else render(found, session.encoder.renderer.text))
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
    from vlmtune.pipeline.export import export as write
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    if not merge:
        raise ConfigError("an adapter needs no export: its folder is in PEFT's format already")
    folder = write(Session(load_config(config, sets).config, open_progress(progress)), output, adapter)
    print(json.dumps({"schema_version": 1, "checkpoint": str(folder)}) if as_json else f"checkpoint: {folder}")


HUB = "hf:"


def push(
    config: ConfigArg,
    to: Annotated[str, typer.Option("--to", metavar="hf:ORG/NAME", help="Where to: a model repository on the Hub.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; by default the one that the config trains.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="The base model on the Hub, where model.name is a folder.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it; private by default.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also when it got worse, or nothing is known.")] = False,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Push nothing: write into this folder what would go.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """The adapter to the Hugging Face Hub, with a card written from its comparison; no row of the data goes there."""
    from vlmtune.pipeline.push import PushRequest, assemble
    from vlmtune.pipeline.push import push as upload
    from vlmtune.pipeline.session import Session

    set_offline(offline)
    if not to.startswith(HUB) or to.count("/") != 1:
        raise ConfigError(f"--to must be hf:ORG/NAME (got {to!r})")
    session = Session(load_config(config, sets).config)
    request = PushRequest(to.removeprefix(HUB), adapter, base, anyway)
    if into is not None:
        if into.exists():
            raise ConfigError(f"{into} is there already; choose another folder with --into")
        files = assemble(session, request, into)
        print(json.dumps({"schema_version": 1, "files": [str(file) for file in files]}) if as_json else _listed(files))
        return
    address = upload(session, request, public)
    print(json.dumps({"schema_version": 1, "address": address}) if as_json else address)


def _listed(files: list[Path]) -> str:
    return "\n".join(f"{file}  {file.stat().st_size:,} bytes" for file in files)


def serve(
    config: ConfigArg,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder; it is served beside the untouched model.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where to listen, on this machine alone.")] = 8000,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """A vLLM server with the config's model, until Ctrl-C; any program that speaks OpenAI's API can ask it."""
    from vlmtune.pipeline.serve import serving

    set_offline(offline)
    with serving(load_config(config, sets).config, open_progress("auto"), adapter, port) as running:
        print(f"{running.base_url}  model {running.model}\n{running.curl}", flush=True)
        running.wait()

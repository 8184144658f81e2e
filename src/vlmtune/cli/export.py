"""Commands that use an adapter: export, push, serve, and `predict` for a single image or to compare two engines."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmtune.cli.options import AsJson, ConfigArg, Offline, ProgressStyle, Sets, load_config
from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.progress import open_progress
from vlmtune.terminal import echo
from vlmtune.types import CombinationType, Outcome, Prediction, QuantizationScheme

if TYPE_CHECKING:
    from vlmtune.config import Config


def answer_image(config: "Config", image: Path, adapter: Path | None, question: str | None, as_json: bool) -> None:
    """Print the answers of the base model and of the tuned model to one image.

    Raises:
        DataError: one of them did not answer.
    """
    from vlmtune.pipeline.predict import predict_image
    from vlmtune.pipeline.session import Session

    answers = predict_image(Session(config), image, adapter, question)
    sides = {"base": answers.base} | ({"tuned": answers.tuned} if answers.tuned is not None else {})
    if as_json:
        plain = {name: _plain(outcome) for name, outcome in sides.items()}
        echo(json.dumps({"schema_version": 1, "image": str(image), **plain}, ensure_ascii=False))
    else:
        for name, outcome in sides.items():
            text = outcome.text if isinstance(outcome, Prediction) else f"(no answer: {outcome.reason})"
            echo(f"{name:<6} {text}")
    for outcome in sides.values():
        if not isinstance(outcome, Prediction):  # an error, so that scripts notice
            raise DataError(outcome.reason)


def _plain(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Prediction):
        return {"prediction": outcome.text, "finish_reason": outcome.finish_reason, "tokens": outcome.tokens}
    return {"prediction": None, "failure": {"stage": outcome.stage, "reason": outcome.reason}}


def check_parity(config: "Config", count: int, adapter: Path | None, as_json: bool) -> None:
    """Print where the answers of the config's engine and of transformers diverge.

    Raises:
        IntegrityError: they diverge, and not because of a tie.
    """
    from vlmtune.pipeline import parity
    from vlmtune.pipeline.session import Session

    session = Session(config)
    result = parity.check_parity(session, count, adapter)
    echo(json.dumps(result.to_json()) if as_json else parity.render(result, session.encoder.renderer.text))
    if not result.agrees:
        raise IntegrityError("the two engines give different answers")


def export(
    config: ConfigArg,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the merged checkpoint; must not exist.")],
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder; by default that of the config.")] = None,
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Merge the adapter into the weights.")] = True,
    quantize: Annotated[
        QuantizationScheme | None,
        typer.Option(help="Quantize for vLLM: 8 bits, or 4 bits calibrated on train rows; --no-merge the base model."),
    ] = None,
    compressor: Annotated[
        Path | None, typer.Option(help="Python of llm-compressor's environment; .venv-llmcompressor by default.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Merge the adapter into its model: a checkpoint that any program loads, verified before it is published."""
    from vlmtune.pipeline.export import export as write
    from vlmtune.pipeline.session import Session

    if not merge and quantize is None:
        raise ConfigError("an adapter needs no export: its folder is already in PEFT's format")
    if not merge and adapter is not None:
        raise ConfigError("--no-merge quantizes the base model, without an adapter; leave out one of the two")
    if compressor is not None and quantize is None:
        raise ConfigError("--compressor does nothing without --quantize")
    if quantize is None:
        folder = write(Session(load_config(config, sets, offline), open_progress(progress)), output, adapter)
    else:
        from vlmtune.pipeline.quantize import export_quantized, find_python

        python = find_python(compressor)  # before the config is read, and a model is loaded
        session = Session(load_config(config, sets, offline), open_progress(progress))
        chosen = adapter or session.files.adapter if merge else None
        folder = export_quantized(session, output, chosen, quantize, python)
    echo(json.dumps({"schema_version": 1, "checkpoint": str(folder)}) if as_json else f"checkpoint: {folder}")


def merge_adapters(
    config: ConfigArg,
    adapters: Annotated[list[Path], typer.Argument(metavar="ADAPTER...", help="Folders of two or more adapters.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the new adapter; must not exist.")],
    kind: Annotated[
        CombinationType,
        typer.Option("--combination", help="As in PEFT: cat is the exact weighted sum, with the sum of the ranks."),
    ] = "cat",
    weight: Annotated[list[float] | None, typer.Option(help="One per adapter, in order; 1 each by default.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of the weights that ties and dare_* keep.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights that dare_* keeps.")] = 0,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Combine adapters of one model into a single adapter, to be compared like any other."""
    from vlmtune.pipeline.merge_adapters import Combination
    from vlmtune.pipeline.merge_adapters import merge_adapters as write
    from vlmtune.pipeline.session import Session

    combination = Combination(kind, weight or [1.0] * len(adapters), density, seed)
    session = Session(load_config(config, sets, offline), open_progress("auto"))
    folder = write(session, adapters, combination, output)
    echo(json.dumps({"schema_version": 1, "adapter": str(folder)}) if as_json else f"adapter: {folder}")


HUB_PREFIX = "hf:"


def push(
    config: ConfigArg,
    to: Annotated[str, typer.Option("--to", metavar="hf:ORG/NAME", help="A model repository on the Hub.")],
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder; by default that of the config.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="The base model on the Hub, if model.name is a folder.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it public; private by default.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Push even if it got worse, or the comparison is inconclusive.")
    ] = False,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Upload nothing; write the files to this folder.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Upload the adapter to the Hugging Face Hub, with a model card written from the comparison, and no data."""
    from vlmtune.files import replace_folder
    from vlmtune.pipeline.push import PushRequest, assemble
    from vlmtune.pipeline.push import push as upload
    from vlmtune.pipeline.session import Session

    if not to.startswith(HUB_PREFIX) or to.count("/") != 1:
        raise ConfigError(f"--to must be hf:ORG/NAME (got {to!r})")
    session = Session(load_config(config, sets, offline))
    request = PushRequest(to.removeprefix(HUB_PREFIX), adapter, base, force)
    if into is not None:
        if into.exists():
            raise ConfigError(f"{into} exists; choose another folder with --into")
        with replace_folder(into) as building:
            assemble(session, request, building)
        files = sorted(into.iterdir())
        listing = "\n".join(f"{file}  {file.stat().st_size:,} bytes" for file in files)
        echo(json.dumps({"schema_version": 1, "files": [str(file) for file in files]}) if as_json else listing)
        return
    address = upload(session, request, public)
    echo(json.dumps({"schema_version": 1, "address": address}) if as_json else address)


def serve(
    config: ConfigArg,
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Adapter folder, served next to the base model; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on localhost.")] = 8000,
    sets: Sets = None,
    offline: Offline = False,
) -> None:
    """Serve the model of a config and adapters with vLLM and an OpenAI-compatible API, until Ctrl-C."""
    from vlmtune.pipeline.serve import run_server

    with run_server(load_config(config, sets, offline), open_progress("auto"), adapter or (), port) as running:
        for name, folder in running.models.items():
            echo(f"{running.base_url}  model {name}" + (f"  {folder}" if folder is not None else ""))
        echo(running.curl)
        running.wait()

"""The verbs that look before anything runs: doctor, plan, and config check, show, schema."""

import json
from typing import Annotated

import typer

from vlmtune.cli.options import AsJson, ConfigArg, Offline, Sets, Shown, load_config, set_offline


def doctor(as_json: AsJson = False) -> None:
    """Python, torch, GPU, disk, credentials and optional parts of this machine."""
    from vlmtune.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=2) if as_json else render(found))


def plan(
    config: ConfigArg,
    gpu: Annotated[
        str | None, typer.Option(help="GPU to plan for, as rtx4090 or h200; all known ones if left out.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="What that GPU costs, in USD per hour.")] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(help="Share of the GPU's bf16 rate on its datasheet that is reached; 0.35 if left out."),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: Shown = "auto",
    offline: Offline = False,
) -> None:
    """Tokens, FLOPs, memory, time and money of a training, from texts and image headers alone."""
    from vlmtune.planning.plan import EFFICIENCY, draw_up
    from vlmtune.planning.text import render
    from vlmtune.progress import open_progress

    set_offline(offline)
    loaded = load_config(config, sets).config
    found = draw_up(loaded, open_progress(progress), gpu, price, EFFICIENCY if efficiency is None else efficiency)
    print(json.dumps(found, indent=2) if as_json else render(found))


def config_check(config: ConfigArg, sets: Sets = None) -> None:
    """Validate a config; lists all errors with their positions."""
    load_config(config, sets)
    print(f"{config}: no errors (data and model were not checked)")


def config_show(config: ConfigArg, sets: Sets = None, as_json: AsJson = False) -> None:
    """The resolved config, every value with where it comes from."""
    from vlmtune.config import config_json, show

    loaded = load_config(config, sets)
    print(json.dumps(config_json(loaded.config), indent=2) if as_json else show(loaded))


def config_schema() -> None:
    """JSON Schema of a config, for editors."""
    from vlmtune.config import json_schema

    print(json.dumps(json_schema(), indent=2))

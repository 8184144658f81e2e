"""Commands that inspect before anything runs: doctor, plan, and config check, show, schema."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmtune.cli.options import AsJson, ConfigArg, Offline, ProgressStyle, Sets, load_config
from vlmtune.errors import ConfigError
from vlmtune.terminal import echo


def doctor(as_json: AsJson = False) -> None:
    """Report Python, torch, GPU, disk, credentials and optional packages of this machine."""
    from vlmtune.doctor import examine, render

    environment = examine()
    echo(json.dumps(environment, indent=2) if as_json else render(environment))


def plan(
    config: ConfigArg,
    gpu: Annotated[
        str | None, typer.Option(help="GPU to plan for, such as rtx4090 or h200; all known ones by default.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of that GPU in USD per hour.")] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(help="Fraction of the GPU's datasheet bf16 rate that is reached; 0.35 by default."),
    ] = None,
    cards: Annotated[int, typer.Option(help="GPUs of that kind that train together.")] = 1,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Predict tokens, FLOPs, memory, time and cost of a run, without loading the model."""
    from vlmtune.planning.plan import EFFICIENCY, Rented, make_plan
    from vlmtune.planning.text import render
    from vlmtune.progress import open_progress

    loaded = load_config(config, sets, offline)
    rented = Rented(price, EFFICIENCY if efficiency is None else efficiency, cards)
    plan = make_plan(loaded, open_progress(progress), gpu, rented)
    echo(json.dumps(plan, indent=2) if as_json else render(plan))


def check(config: ConfigArg, sets: Sets = None) -> None:
    """Validate a config; lists all errors with their positions."""
    from vlmtune.config import refuse_evaluated_training_rows
    from vlmtune.files import read_json
    from vlmtune.modeling.quantization import (
        check_stored_format,
        full_training_problem,
        merging_note,
        merging_problem,
        stored_format,
    )

    loaded = load_config(config, sets)
    refuse_evaluated_training_rows(loaded.dataset, loaded.evaluation.split)
    model, file = loaded.model, Path(loaded.model.name) / "config.json"
    stored = stored_format(read_json(file)) if file.is_file() else None
    check_stored_format(model.name, stored, model.quantization)
    if (problem := full_training_problem(loaded.training.full, stored, model.quantization)) is not None:
        raise ConfigError(f"training.method: {problem}")
    if (said := merging_problem(stored, model.quantization) or merging_note(stored)) is not None:
        echo(f"! {said}")
    echo(f"{config}: no errors (data and model were not checked)")


def show(config: ConfigArg, sets: Sets = None, as_json: AsJson = False) -> None:
    """Print the resolved config and where each value comes from."""
    from vlmtune.config import config_json, load
    from vlmtune.config import show as render

    loaded = load(config, sets or ())
    echo(json.dumps(config_json(loaded.config), indent=2) if as_json else render(loaded))


def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from vlmtune.config import json_schema

    echo(json.dumps(json_schema(), indent=2))

"""The verbs that work in a run folder: demo, run, predict, merge, train."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtune.cli.export import answer_image, check_parity
from vlmtune.cli.options import (
    AsJson,
    ConfigArg,
    Offline,
    Sets,
    Shown,
    load_config,
    print_comparison,
    print_score,
    say_next,
    say_where,
    set_offline,
)
from vlmtune.errors import ConfigError
from vlmtune.progress import Style

if TYPE_CHECKING:
    from vlmtune.inference import Shard


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
    split: Annotated[str | None, typer.Option(help="Role of the rows: train, validation or test.")] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer for one picture instead, base and tuned.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked about that picture, in tasks that ask.")] = None,
    parity: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compare the engine with hf on N rows instead.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Answer one of N parts of the rows; see merge.")
    ] = None,
    shard: Annotated[int | None, typer.Option(metavar="I", min=0, help="Which part, from 0 to N - 1.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: Shown = "auto",
    offline: Offline = False,
) -> None:
    """Answers and their score; an interrupted run goes on."""
    from vlmtune.pipeline import predict
    from vlmtune.pipeline.session import working

    set_offline(offline)
    _check_split(split)
    part = _shard(shards, shard)
    if part is not None and (image is not None or parity is not None):
        raise ConfigError("--shards parts the rows of a split; it does not go with --image or --parity")
    if image is not None:
        answer_image(config, sets, image, adapter, question, as_json)
        return
    if parity is not None:
        check_parity(config, sets, parity, adapter, as_json)
        return
    with working(load_config(config, sets).config, progress) as session:
        file = predict.predict(session, adapter, split, part)  # type: ignore[arg-type]
        if part is not None:
            print(json.dumps({"schema_version": 1, "shard": str(file)}) if as_json else f"shard: {file}")
            return
        print_score(predict.score(session, file), as_json)
    if session.config.dataset.labelled:
        say_next("train" if adapter is None else "run", config, sets)
    else:
        print(f"next: vlmtune data uncertain {shlex.quote(str(file))}", file=sys.stderr)


def merge(
    config: ConfigArg,
    files: Annotated[list[Path], typer.Argument(metavar="SHARD_FILE...", help="The files of all shards.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder that answered; without one the untouched model did.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Role of the rows: train, validation or test.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: Shown = "auto",
    offline: Offline = False,
) -> None:
    """The answers of `predict --shards` as one prediction file, after proof that every row is there once."""
    from vlmtune.pipeline import merge_shards, predict
    from vlmtune.pipeline.session import working

    set_offline(offline)
    _check_split(split)
    with working(load_config(config, sets).config, progress) as session:
        file = merge_shards.merge(session, files, adapter, split)  # type: ignore[arg-type]
        print_score(predict.score(session, file), as_json)
    say_next("train" if adapter is None else "run", config, sets)


def _check_split(split: str | None) -> None:
    if split not in (None, "train", "validation", "test"):
        raise ConfigError(f"--split must be train, validation or test (got {split!r})")


def _shard(shards: int | None, shard: int | None) -> "Shard | None":
    """The part that the two options name."""
    if shards is None and shard is None:
        return None
    if shards is None or shard is None:
        raise ConfigError("--shards N and --shard I go together: into how many parts, and which of them")
    if shard >= shards:
        raise ConfigError(f"--shard counts from 0: with --shards {shards} it is at most {shards - 1} (got {shard})")
    from vlmtune.inference import Shard

    return Shard(shard, shards)


def train(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """LoRA training; the same command resumes an interrupted run. torchrun starts it on several GPUs."""
    from vlmtune.pipeline import train
    from vlmtune.pipeline.session import working

    set_offline(offline)
    with working(load_config(config, sets).config, progress, distributed=True) as session:
        adapters = [str(adapter) for adapter in train.train(session)]
        if not session.processes.is_main:
            return
    plain = {"schema_version": 1, "adapter": adapters[0], "adapters": adapters}
    print(json.dumps(plain) if as_json else "\n".join(f"adapter: {adapter}" for adapter in adapters))
    say_next("predict", config, sets, f"--adapter {adapters[0]}")


def _run(config: str, sets: list[str] | None, as_json: bool, progress: Style) -> None:
    loaded = load_config(config, sets).config
    from vlmtune.pipeline import run
    from vlmtune.pipeline.session import working

    with working(loaded, progress) as session:
        comparison = run.run(session)
    print_comparison(comparison, as_json)
    say_where(loaded)

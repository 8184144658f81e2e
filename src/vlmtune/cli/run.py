"""Commands that work in a run folder: demo, run, search, learning-curve, label, predict, merge, train."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmtune.cli.export import answer_image, check_parity
from vlmtune.cli.options import (
    AsJson,
    ConfigArg,
    Offline,
    ProgressStyle,
    Role,
    Sets,
    load_config,
    print_comparison,
    print_next_command,
    print_score,
)
from vlmtune.errors import ConfigError
from vlmtune.progress import Style
from vlmtune.terminal import echo

if TYPE_CHECKING:
    from vlmtune.config import Config
    from vlmtune.inference import Shard


AcceptFailures = Annotated[
    bool, typer.Option("--accept-failures", help="Publish answers although the engine failed on some rows.")
]


def demo(sets: Sets = None, as_json: AsJson = False, progress: ProgressStyle = "auto") -> None:
    """Run baseline, training, evaluation and comparison with the tiny model."""
    _run(load_config("demo", sets), as_json, progress)


def run(
    config: ConfigArg,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
    accept_failures: AcceptFailures = False,
) -> None:
    """Run baseline, training, evaluation and comparison of a config; skips finished steps."""
    _run(load_config(config, sets, offline), as_json, progress, accept_failures)


def search(
    config: ConfigArg,
    gpu: Annotated[str | None, typer.Option(help="GPU by whose price trials are shown, such as h200.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of that GPU in USD per hour.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Search for settings on the validation rows, then compare the best with the base model."""
    from vlmtune.pipeline import search
    from vlmtune.pipeline.session import open_session
    from vlmtune.planning.plan import usd_per_tflop
    from vlmtune.report.search_page import TFLOP, optimism
    from vlmtune.run_layout import search_page_path

    if (gpu is None) != (price is None):
        raise ConfigError("--gpu and --price go together: one is what trials run on, the other what it costs")
    unit = ("USD", usd_per_tflop(gpu, price)) if gpu is not None and price is not None else TFLOP
    loaded = load_config(config, sets, offline)
    if price is not None and loaded.training.precision == "fp32":
        raise ConfigError("--price needs training.precision: bf16 or fp16; the known rates of GPUs say nothing of fp32")
    with open_session(loaded, progress) as session:
        found, comparison = search.search(session, unit)
    if as_json:
        plain = {"schema_version": 1, "search": found, "comparison": comparison.result}
        echo(json.dumps(plain, ensure_ascii=False))
    else:
        best = found["trials"][found["best"]]
        echo("\n".join(f"{key}: {value}" for key, value in best["values"].items()))
        echo(optimism(found))
        print_comparison(comparison)
    echo(f"next: open {search_page_path(Path(loaded.output.dir))}", err=True)


def learning_curve(
    config: ConfigArg,
    fractions: Annotated[
        str, typer.Option(metavar="A,B,…", help="Parts of the train rows to train on.")
    ] = "0.125,0.25,0.5,1",
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Train on parts of the train rows, and estimate what more rows would bring."""
    from vlmtune.pipeline import learning_curve
    from vlmtune.pipeline.session import open_session
    from vlmtune.report.learning_curve_page import sentence
    from vlmtune.run_layout import learning_curve_page_path

    try:
        parts = [float(part) for part in fractions.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions must be numbers with commas between them (got {fractions!r})") from None
    loaded = load_config(config, sets, offline)
    with open_session(loaded, progress) as session:
        result = learning_curve.learning_curve(session, parts)
    if as_json:
        echo(json.dumps(result, ensure_ascii=False))
    else:
        for point in result["points"]:
            echo(f"{point['rows']:>9,} rows  {point['score']:.4f}  ({point['low']:.4f} to {point['high']:.4f})")
        echo(sentence(result))
    echo(f"next: open {learning_curve_page_path(Path(loaded.output.dir))}", err=True)


def label(
    config: ConfigArg,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Let a teacher label rows for training, and measure what its labels are worth."""
    from vlmtune.pipeline import label
    from vlmtune.pipeline.session import open_session
    from vlmtune.run_layout import labels_path

    loaded = load_config(config, sets, offline)
    with open_session(loaded, progress) as session:
        found = label.label(session)
    folder = labels_path(Path(loaded.output.dir))
    if as_json:
        echo(json.dumps({**found, "dataset": str(folder)}, ensure_ascii=False))
        return
    echo(", ".join(f"{count:,} {kind}" for kind, count in found["rows"].items()))
    echo(f"{found['metric']} of the teacher's labels on the {found['validation_rows']:,} validation rows:")
    for one in found["filters"]:
        bound = "as configured" if one["threshold"] is None else f"{one['filter']} >= {one['threshold']:.3f}"
        ends = "-" if one["score"] is None else f"{one['score']:.4f} ({one['low']:.4f} to {one['high']:.4f})"
        echo(f"  {bound:<20} {one['rows']:>6,} rows  {ends}")
    question = "" if loaded.label is None or loaded.label.dataset.question is None else " question: question,"
    columns = f"image: images,{question} references: [label], id: id, splits: {{train: rows.jsonl}}"
    echo("next: train on them as well, with these lines in the config:", err=True)
    echo("  datasets:\n    - name: teacher\n      weight: 0.5\n      evaluate: false", err=True)
    echo(f"      dataset: {{source: jsonl, path: {folder}, {columns}}}", err=True)
    echo("      task: # the block of the config", err=True)


def predict(
    config: ConfigArg,
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder; by default the base model answers.")] = None,
    split: Annotated[Role | None, typer.Option(help="Which rows.")] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer for one image or video instead, base and tuned.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Question about that image, in tasks that take one.")] = None,
    parity: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compare the engine with hf on N rows instead.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Answer one of N shards of the rows; see merge.")
    ] = None,
    shard: Annotated[int | None, typer.Option(metavar="I", min=0, help="Which shard, from 0 to N - 1.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
    accept_failures: AcceptFailures = False,
) -> None:
    """Answer the test rows and score the answers; resumes an interrupted run."""
    from vlmtune.pipeline import predict
    from vlmtune.pipeline.session import open_session

    chosen_shard = _shard(shards, shard)
    if chosen_shard is not None and (image is not None or parity is not None):
        raise ConfigError("--shards applies to the rows of a split; it cannot be combined with --image or --parity")
    loaded = load_config(config, sets, offline)
    if image is not None:
        answer_image(loaded, image, adapter, question, as_json)
        return
    if parity is not None:
        check_parity(loaded, parity, adapter, as_json)
        return
    with open_session(loaded, progress, accept_failures=accept_failures) as session:
        file = predict.predict(session, adapter, split, chosen_shard)
        if chosen_shard is not None:
            echo(json.dumps({"schema_version": 1, "shard": str(file)}) if as_json else f"shard: {file}")
            return
        print_score(predict.score(session, file), as_json)
    if session.config.dataset.labelled:
        print_next_command("train" if adapter is None else "run", config, sets)
    else:
        echo(f"next: vlmtune data uncertain {shlex.quote(str(file))}", err=True)


def merge(
    config: ConfigArg,
    files: Annotated[list[Path], typer.Argument(metavar="SHARD_FILE...", help="The files of all shards.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter folder that answered; by default the base model did.")
    ] = None,
    split: Annotated[Role | None, typer.Option(help="Which rows.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Merge the files of `predict --shards` into one, after checking that every row occurs once."""
    from vlmtune.pipeline import merge_shards, predict
    from vlmtune.pipeline.session import open_session

    with open_session(load_config(config, sets, offline), progress) as session:
        file = merge_shards.merge(session, files, adapter, split)
        print_score(predict.score(session, file), as_json)
    print_next_command("train" if adapter is None else "run", config, sets)


def _shard(shards: int | None, shard: int | None) -> "Shard | None":
    """The shard that the two options name."""
    if shards is None and shard is None:
        return None
    if shards is None or shard is None:
        raise ConfigError("--shards N and --shard I must be given together")
    if shard >= shards:
        raise ConfigError(f"--shard counts from 0: with --shards {shards} it is at most {shards - 1} (got {shard})")
    from vlmtune.inference import Shard

    return Shard(shard, shards)


def train(
    config: ConfigArg,
    sets: Sets = None,
    as_json: AsJson = False,
    progress: ProgressStyle = "auto",
    offline: Offline = False,
) -> None:
    """Train the adapter, or resume training; torchrun starts it on several GPUs."""
    from vlmtune.pipeline import train
    from vlmtune.pipeline.session import open_session

    with open_session(load_config(config, sets, offline), progress, distributed=True) as session:
        adapters = [str(adapter) for adapter in train.train(session)]
        if not session.processes.is_main:
            return
    plain = {"schema_version": 1, "adapter": adapters[0], "adapters": adapters}
    echo(json.dumps(plain) if as_json else "\n".join(f"adapter: {adapter}" for adapter in adapters))
    print_next_command("predict", config, sets, f"--adapter {adapters[0]}")


def _run(config: "Config", as_json: bool, progress: Style, accept_failures: bool = False) -> None:
    from vlmtune.pipeline import run
    from vlmtune.pipeline.session import open_session
    from vlmtune.run_layout import RunFiles

    with open_session(config, progress, accept_failures=accept_failures) as session:
        comparison = run.run(session)
    print_comparison(comparison, as_json)
    echo(f"next: open {RunFiles.of(config.output).report}", err=True)

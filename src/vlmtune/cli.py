"""The command table: parse, call, print. Nothing else.

stdout carries the result alone; progress, notices and errors go to stderr. Everything heavy is imported inside the
commands, so that `--help` and the checks stay instant.
"""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from vlmtune.errors import ConfigError, Exit, GateFailed, Interrupted, VlmtuneError
from vlmtune.progress import Style

if TYPE_CHECKING:
    from vlmtune.config import Config, LoadedConfig
    from vlmtune.scoring.comparison import Comparison
    from vlmtune.scoring.score import Score

_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Root of what the parser raises; typer does not name it publicly."""

app = typer.Typer(
    name="vlmtune",
    help="Fine-tune a vision-language model on your own data, and prove whether it helped.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(
    help="Look at a configuration without running it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vlmtune {version('vlmtune')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Fine-tune a vision-language model on your own data, and prove whether it helped."""
    if context.invoked_subcommand is None:
        print(context.get_help())


ConfigArg = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key; repeatable, the value is YAML.")
]
ForFiles = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="A key of the blocks task or evaluation, as in a config; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Shown = Annotated[Style, typer.Option("--progress", help="How progress is shown on stderr.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use local files only; never ask the Hub.")]


@app.command()
def demo(sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto") -> None:
    """The whole story on a tiny model: baseline, training, evaluation, comparison, report."""
    _run("demo", sets, as_json, progress)


@app.command()
def run(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """Baseline, training, evaluation and comparison of a config; finished steps are skipped."""
    _set_offline(offline)
    _run(config, sets, as_json, progress)


@app.command()
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
    from vlmtune.pipeline import working

    _set_offline(offline)
    if split not in (None, "train", "select", "test"):
        raise ConfigError(f"--split must be train, select or test (got {split!r})")
    with working(_load(config, sets).config, progress) as session:
        file = session.predict(adapter, split)  # type: ignore[arg-type]
        print_score(session.score(file), as_json)
    _next("train" if adapter is None else "run", config, sets)


@app.command()
def train(
    config: ConfigArg, sets: Sets = None, as_json: AsJson = False, progress: Shown = "auto", offline: Offline = False
) -> None:
    """LoRA training; the same command resumes an interrupted run."""
    from vlmtune.pipeline import working

    _set_offline(offline)
    with working(_load(config, sets).config, progress) as session:
        adapter = session.train()
    print(json.dumps({"schema_version": 1, "adapter": str(adapter)}) if as_json else f"adapter: {adapter}")
    _next("predict", config, sets, f"--adapter {adapter}")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Prediction file of the reference side.")],
    after: Annotated[
        list[str],
        typer.Argument(metavar="B [C...]", help="Side that is judged, and others. Commas join seeds: B1,B2,B3."),
    ],
    task: Annotated[
        str | None, typer.Option(help="Task whose metrics apply; found in the manifests by default.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a page (.html), the JSON (.json) or Markdown (.md).")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="The files after A are training seeds of one recipe: B1 B2 B3.")
    ] = False,
    slices: Annotated[
        list[str] | None, typer.Option("--slice", metavar="COLUMN", help="Also by a metadata column; repeatable.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help='Exit 6 where true, or inconclusive: "bleu<0; cider_d.ci_low<0.1" (B to A).'),
    ] = None,
    regressions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that got worse, worst first (.jsonl).")
    ] = None,
    sets: ForFiles = None,
    as_json: AsJson = False,
) -> None:
    """Compare prediction files: paired, with confidence intervals. Others are compared with A, too."""
    from vlmtune.comparing import compare_files, files_of, write_comparison, write_regressions
    from vlmtune.scoring import gates

    if fail_on is not None:
        gates.parse(fail_on)
    sides = [files_of(text) for text in [before, *([",".join(after)] if seeds else after)]]
    comparison = compare_files(*sides, **_blocks(sets, task), slices=slices or ())
    failed = comparison.failures(fail_on) if fail_on is not None else []
    if report is not None:
        write_comparison(comparison, report, [file for side in sides for file in side])
    if regressions is not None:
        count = write_regressions(comparison, regressions)
        print(f"{regressions}: {count} rows got worse in {comparison.facts['primary']}", file=sys.stderr)
    print_comparison(comparison, as_json)
    if failed:
        raise GateFailed("--fail-on: " + "; ".join(failed))


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A prediction file.")],
    task: Annotated[
        str | None, typer.Option(help="Task whose metrics apply; found in the manifest by default.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics to report, separated by commas.")] = None,
    sets: ForFiles = None,
    as_json: AsJson = False,
) -> None:
    """Metrics of one prediction file; needs no model."""
    from vlmtune.comparing import score_file

    chosen = _blocks(sets, task)["task"]
    print_score(score_file(file, chosen, metrics.split(",") if metrics else None), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Python, torch, GPU, disk, credentials and optional parts of this machine."""
    from vlmtune.checks.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=2) if as_json else render(found))


@config_app.command("check")
def config_check(config: ConfigArg, sets: Sets = None) -> None:
    """Validate a config; all mistakes at once, with their positions."""
    _load(config, sets)
    print(f"{config}: no mistakes (the data and the model were not looked at)")


@config_app.command("show")
def config_show(config: ConfigArg, sets: Sets = None, as_json: AsJson = False) -> None:
    """The resolved config, every value with where it comes from."""
    from vlmtune.config import config_json, show

    loaded = _load(config, sets)
    print(json.dumps(config_json(loaded.config), indent=2) if as_json else show(loaded))


@config_app.command("schema")
def config_schema() -> None:
    """JSON Schema of a config, for editors."""
    from vlmtune.config import json_schema

    print(json.dumps(json_schema(), indent=2))


@config_app.command("diff")
def config_diff(a: ConfigArg, b: ConfigArg) -> None:
    """What differs between two resolved configs."""
    from vlmtune.config import diff

    for path, before, after in diff(_load(a, None).config, _load(b, None).config):
        print(f"{path}: {json.dumps(before)} -> {json.dumps(after)}")


def _load(config: str, sets: list[str] | None) -> "LoadedConfig":
    from vlmtune.config import load

    return load(config, sets or ())


def _blocks(sets: list[str] | None, task: str | None) -> dict[str, Any]:
    """What stands in for a config where there are only prediction files: the blocks task and evaluation."""
    if not sets:
        return {"task": task}
    from vlmtune.config import arguments

    given = arguments(sets)
    wrong = [key for key, block in given.items() if key not in ("task", "evaluation") or not isinstance(block, dict)]
    if wrong:
        raise ConfigError(
            f"--set {wrong[0]}: prediction files know the blocks task and evaluation, as task.labels=[a, b]"
        )
    return {"task": given.get("task", {}) | ({"name": task} if task else {}), "evaluation": given.get("evaluation")}


def _run(config: str, sets: list[str] | None, as_json: bool, progress: Style) -> None:
    loaded = _load(config, sets).config
    from vlmtune.pipeline import working

    with working(loaded, progress) as session:
        comparison = session.run()
    print_comparison(comparison, as_json)
    say_where(loaded)


def print_comparison(comparison: "Comparison", as_json: bool = False) -> None:
    """The comparison on stdout."""
    from vlmtune.report import text

    plain = comparison.to_json(examples=False)
    print(json.dumps(plain, ensure_ascii=False) if as_json else text.render(plain))


def print_score(score: "Score", as_json: bool = False) -> None:
    """The score on stdout."""
    plain = score.to_json()
    if as_json:
        print(json.dumps(plain, ensure_ascii=False))
        return
    for name, value in plain["metrics"].items():
        ends = plain["intervals"].get(name)
        interval = f"  (95% CI {ends[0]:.4f} to {ends[1]:.4f}, Wilson)" if ends else ""
        print(f"{name:<18} {'-' if value is None else format(value, '.4f')}{interval}")
    print("rows: " + ", ".join(f"{count} {what}" for what, count in plain["rows"].items()))


def _next(verb: str, config: str, sets: list[str] | None, more: str = "") -> None:
    """The command that goes on from here, with the same --set."""
    words = ["vlmtune", verb, config, *(word for pair in sets or () for word in ("--set", pair))]
    print(f"next: {shlex.join(words)} {more}".rstrip(), file=sys.stderr)


def say_where(config: "Config") -> None:
    """Where the page is."""
    print(f"next: open {config.output.path(config.output.report)}", file=sys.stderr)


def _set_offline(offline: bool) -> None:
    if offline:
        from vlmtune.hub import go_offline

        go_offline()


def main() -> NoReturn:
    """The `vlmtune` command."""
    # As with `python -m vlmtune`: your own plugs may lie in the folder you stand in.
    sys.path.insert(0, str(Path.cwd()))
    ending(lambda: app(standalone_mode=False))


def ending(command: Callable[[], object]) -> NoReturn:
    """Run one command and leave with the exit code of how it ended.

    What nobody expected is a bug of ours: Python ends with 1 by itself, after the hook has saved the traceback.
    """
    sys.excepthook = _save_traceback
    try:
        command()
    except VlmtuneError as error:
        _end(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _end("stopped at once", Interrupted.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except _UsageError as error:
        message = error.format_message()
        _end(f"{message}{'' if message.endswith(('.', '?')) else '.'} See: vlmtune --help", Exit.USAGE)
    sys.exit(0)


def _end(message: str, code: Exit) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _save_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="vlmtune-bug-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(kind, error, trace)))
    print(f"error: a bug in vlmtune, please report it: {kind.__name__}: {error}", file=sys.stderr)
    print(f"the traceback is in {file.name}", file=sys.stderr)

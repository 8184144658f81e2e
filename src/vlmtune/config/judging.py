"""Values that are right by themselves and wrong together. Judges and never edits; `composed` calls it.

Each judge takes a block, and for `evaluation` the blocks before it, and returns it unchanged.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationInfo
from pydantic_core import InitErrorDetails

from vlmtune import plugs
from vlmtune.config.mistakes import judgement, one_of, refuse
from vlmtune.config.tree import Steps
from vlmtune.data import DatasetConfig
from vlmtune.engines import InferenceConfig
from vlmtune.metrics import Metric
from vlmtune.models import ModelConfig
from vlmtune.runs import OutputConfig
from vlmtune.scoring import BaselineConfig, EvaluationConfig
from vlmtune.tasks import TaskConfig
from vlmtune.training.settings import TrainingConfig

COLUMN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
TAKEN = {"train", "select", "test", "mock", "real"}
"""Names of a baseline's answers on other rows, and of those moved aside."""

REPORT_ENDINGS = (".html", ".htm", ".json")


def model(block: ModelConfig) -> ModelConfig:
    """Image sizes leave room between them."""
    smallest, largest = block.min_pixels, block.max_pixels
    if smallest is not None and largest is not None and smallest > largest:
        refuse("model", [judgement("{0} is larger than {1}", "min_pixels", "max_pixels")])
    return block


def dataset(block: DatasetConfig) -> DatasetConfig:
    """A target that is one of the references needs references."""
    if block.target in ("each", "sample") and not block.references:
        said = f"{{0}} {block.target!r} teaches references, but {{1}} names no column"
        refuse("dataset", [judgement(said, "target", "references")])
    return block


def training(block: TrainingConfig) -> TrainingConfig:
    """A choice among steps needs several of them; seeds are different ones."""
    wrong = []
    if block.early_stopping is not None and block.select_by is None:
        wrong.append(judgement("{0} needs {1}: what is better or worse", "early_stopping", "select_by"))
    if block.select_by is not None and block.evaluate_every_steps is None:
        wrong.append(judgement("{0} chooses among steps, but {1} is null", "select_by", "evaluate_every_steps"))
    if len(set(block.seeds)) < len(block.seeds):
        wrong.append(judgement("names one seed twice", loc=("seeds",), value=block.seeds))
    frozen = [part for part, rate in block.learning_rates if rate is not None and part not in block.lora.parts]
    for part in frozen:
        said = "{0} is set, but {1} leaves that part frozen"
        wrong.append(judgement(said, f"learning_rates.{part}", "lora.parts"))
    refuse("training", wrong)
    return block


def inference(block: InferenceConfig) -> InferenceConfig:
    """Greedy decoding ignores what shapes sampling."""
    if block.temperature == 0 and block.top_p < 1:
        said = "{0} has no effect while {1} is 0; set a temperature, or leave top_p out"
        refuse("inference", [judgement(said, "top_p", "temperature")])
    return block


def evaluation(block: EvaluationConfig, info: ValidationInfo) -> EvaluationConfig:
    """The task has the metrics, and the dataset what they compare with. Not judged where task or dataset are wrong."""
    if {"task", "dataset"} <= info.data.keys():
        task = plugs.load("tasks", info.data["task"].name).TASK
        known = {metric.name: metric for metric in task.metrics}
        wrong = list(_metrics(block, known, info.data["dataset"]))
        asked = [
            judgement(said, loc=("baselines", n, *loc), value=one.name)
            for n, one in enumerate(block.baselines)
            for loc, said in _column(one, info.data["task"], info.data["dataset"])
        ]
        refuse("evaluation", [*wrong, *_column_names(block), *asked])
    return block


def _column_names(block: EvaluationConfig) -> Iterator[InitErrorDetails]:
    """Every column has a file of its own, whether or not the disk knows upper and lower case."""
    seen: set[str] = set()
    for n, name in enumerate(one.name for one in block.baselines):
        said = None
        if not COLUMN_NAME.fullmatch(name):
            said = f"names a file: letters, digits, - and _ alone, at most 40 (got {name!r})"
        elif name.lower() in TAKEN:
            said = f"{name!r} is taken by another file; choose another name"
        elif name.lower() in seen:
            said = f"{name!r} is the name of another column, too; choose another name"
        if said is not None:
            yield judgement(said, loc=("baselines", n, "name"), value=name)
        seen.add(name.lower())


def _column(one: BaselineConfig, task: TaskConfig, rows: DatasetConfig) -> Iterator[tuple[Steps, str]]:
    """Where and why an untrained column asks nothing new, or lacks what it needs."""
    if one.prompt is None and not one.length_instruction and not one.examples:
        yield (), "asks as the baseline does; set prompt, length_instruction or examples"
    if one.prompt is not None:
        if not one.prompt.strip():
            yield ("prompt",), "must not be empty; leave it out to keep the task's"
        elif rows.messages is not None:
            yield ("prompt",), "has no effect: the rows bring their own conversations (dataset.messages)"
        elif "prompt" not in type(task).model_fields:
            yield ("prompt",), f"has no effect: the task {task.name} has no prompt"
    if one.length_instruction and not _has_truth(rows, "references"):
        yield ("length_instruction",), "takes the length from references; name their column in dataset.references"
    if rows.limit.train is not None and one.examples > rows.limit.train:
        yield ("examples",), f"is {one.examples}, and dataset.limit.train leaves {rows.limit.train} rows"


def _metrics(block: EvaluationConfig, known: dict[str, Metric], rows: DatasetConfig) -> Iterator[InitErrorDetails]:
    asked: list[tuple[Steps, str]] = [(("metrics", n), name) for n, name in enumerate(block.metrics or [])]
    asked += [(("primary",), block.primary)] if block.primary is not None else []
    for loc, name in asked:
        if name not in known:
            yield judgement(one_of(repr(name), list(known)), loc=loc, value=name)
        elif not _has_truth(rows, known[name].truth):
            column = f"dataset.{known[name].truth}"
            yield judgement(f"is {name!r}, which compares with {column}; name its column there", loc=loc, value=name)
    for n, column in enumerate(block.slices):
        if column not in rows.meta:
            yield judgement(
                f"is {column!r}, which dataset.meta does not carry along; name it there, too",
                loc=("slices", n),
                value=column,
            )
    if block.metrics and block.primary in known and block.primary not in block.metrics:
        yield judgement(f"{{0}} {block.primary!r} is not among {{1}}", "primary", "metrics")


def _has_truth(rows: DatasetConfig, truth: str) -> bool:
    """Whether the dataset block names where a metric's truth stands; a truth it has no key for is not judged."""
    if truth == "references" and rows.messages is not None:
        return True
    return truth not in type(rows).model_fields or bool(getattr(rows, truth))


def output(block: OutputConfig, info: ValidationInfo) -> OutputConfig:
    """Every result has a plain name and a place of its own in output.dir; a page's ending says what it is."""
    asked = info.data["evaluation"].baselines if "evaluation" in info.data else []
    refuse("output", [*_names(block), *_beside_columns(block, [one.name for one in asked])])
    return block


def _beside_columns(block: OutputConfig, columns: Sequence[str]) -> Iterator[InitErrorDetails]:
    """No result has the name of a file of an untrained column."""
    for key in type(block).model_fields:
        name = getattr(block, key)
        for column in columns:
            if name.startswith(f"{Path(block.baseline).stem}.{column}."):
                said = f"belongs to the answers of evaluation.baselines' {column!r}; choose another name (got {name!r})"
                yield judgement(said, loc=(key,), value=name)


def _names(block: OutputConfig) -> Iterator[InitErrorDetails]:
    seen: dict[str, str] = {}
    for key in type(block).model_fields:
        if key == "dir":
            continue
        name = getattr(block, key)
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            yield judgement(f"must be a plain name of something in output.dir (got {name!r})", loc=(key,), value=name)
            continue
        for place in _places(key, block):
            if place in seen and seen[place] != key:
                yield judgement(f"{{0}} and {{1}} would both write {place}", key, seen[place])
                break
            seen.setdefault(place, key)
    for key in ("comparison", "report"):
        if Path(getattr(block, key)).suffix not in REPORT_ENDINGS:
            yield judgement("must end in .html or .json", loc=(key,), value=getattr(block, key))


def _places(key: str, block: OutputConfig) -> list[str]:
    """What one name makes: the file itself and, for answers, the files beside it."""
    path = block.path(getattr(block, key))
    beside = ("manifest", "controls") if key in ("baseline", "tuned") else ()
    return [os.path.normpath(p) for p in (path, *(path.with_name(f"{path.stem}.{kind}.json") for kind in beside))]

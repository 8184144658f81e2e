"""Values that are right by themselves and wrong together. Judges and never edits; `composed` calls it.

Each judge takes a block, and for `evaluation` the blocks before it, and returns it unchanged.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationInfo
from pydantic_core import InitErrorDetails

from vlmtune import registry
from vlmtune.config.errors import judgement, one_of, refuse
from vlmtune.config.nodes import Steps
from vlmtune.data import DatasetConfig, shared_roles
from vlmtune.engines import InferenceConfig
from vlmtune.errors import ConfigError
from vlmtune.metrics import Metric, custom_metric
from vlmtune.modeling.loading import ModelConfig
from vlmtune.run_folder import OutputConfig
from vlmtune.scoring import BaselineConfig, EvaluationConfig
from vlmtune.tasks import TaskConfig
from vlmtune.training.config import TrainingConfig

if TYPE_CHECKING:
    from vlmtune.config.schema import EvaluationBlock, EvaluationSetConfig

COLUMN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
TAKEN = re.compile(r"train|validation|test|(mock|real|damaged)(-\d+)?")
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
    if block.shares is not None and len({block.splits.train, block.splits.validation, block.splits.test}) == 3:
        said = "{0} parts a split that several roles name, but {1} names three different ones; leave it out"
        refuse("dataset", [judgement(said, "shares", "splits")])
    return block


def training(block: TrainingConfig) -> TrainingConfig:
    """A choice among steps needs several of them; seeds are different ones."""
    wrong = []
    if block.early_stopping is not None and block.best_metric is None:
        wrong.append(judgement("{0} needs {1}: what is better or worse", "early_stopping", "best_metric"))
    if block.best_metric is not None and block.evaluate_every_steps is None:
        wrong.append(judgement("{0} chooses among steps, but {1} is null", "best_metric", "evaluate_every_steps"))
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


def evaluation(block: "EvaluationBlock", info: ValidationInfo) -> "EvaluationBlock":
    """The task has the metrics, and the dataset what they compare with. Not judged where task or dataset are wrong."""
    if {"task", "dataset"} <= info.data.keys():
        task, rows = info.data["task"], info.data["dataset"]
        wrong = [*_metrics(block, task, rows), *_slices(block, rows)]
        for n, one in enumerate(block.additional):
            wrong += [*_metrics(one, one.task, one.dataset, ("additional", n)), *_set(one, rows, ("additional", n))]
        asked = [
            judgement(said, loc=("baselines", n, *loc), value=one.name)
            for n, one in enumerate(block.baselines)
            for loc, said in _column(one, task, rows)
        ]
        refuse("evaluation", [*wrong, *_own_names(block), *asked])
    return block


def _set(one: "EvaluationSetConfig", rows: DatasetConfig, at: Steps) -> Iterator[InitErrorDetails]:
    """A further set has labels, and none of the rows that are learnt."""
    if not one.dataset.labelled:
        yield judgement(
            "names no column of labels: nothing can be compared there", loc=(*at, "dataset"), value=one.name
        )
    if "train" in shared_roles(rows, one.dataset, one.split):
        said = f"asks rows of the split {rows.splits.train!r}, which the adapter learns from; choose another"
        yield judgement(said, loc=(*at, "split"), value=one.split)


def _own_names(block: "EvaluationBlock") -> Iterator[InitErrorDetails]:
    """Every column and every further set has files of its own, whether or not the disk knows upper and lower case."""
    seen: set[str] = set()
    places: list[tuple[Steps, str]] = [(("baselines", n), one.name) for n, one in enumerate(block.baselines)]
    places += [(("additional", n), one.name) for n, one in enumerate(block.additional)]
    for place, name in places:
        said = None
        if not COLUMN_NAME.fullmatch(name):
            said = f"names a file: letters, digits, - and _ alone, at most 40 (got {name!r})"
        elif TAKEN.fullmatch(name.lower()):
            said = f"{name!r} is taken by another file; choose another name"
        elif name.lower() in seen:
            said = f"{name!r} is the name of another column or set, too; choose another name"
        if said is not None:
            yield judgement(said, loc=(*place, "name"), value=name)
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


def _metrics(
    block: "EvaluationBlock | EvaluationSetConfig", task: TaskConfig, rows: DatasetConfig, at: Steps = ()
) -> Iterator[InitErrorDetails]:
    """What is wrong with the names of metrics; a dotted one is imported, and afterwards known without its module."""
    known: dict[str, Metric] = {metric.name: metric for metric in registry.load("tasks", task.name).TASK.metrics}
    asked: list[tuple[Steps, str]] = [((*at, "metrics", n), name) for n, name in enumerate(block.metrics or [])]
    asked += [((*at, "primary"), block.primary)] if block.primary is not None else []
    for loc, name in asked:
        if "." in name and loc[-1] != "primary":
            try:
                metric = custom_metric(name)
            except ConfigError as error:
                yield judgement(str(error), loc=loc, value=name)
                continue
            if metric.name in known:
                yield judgement(f"{name!r} has the name of another metric; give yours another", loc=loc, value=name)
            known[metric.name] = metric
        elif name not in known:
            yield judgement(one_of(repr(name), list(known)), loc=loc, value=name)
        elif not _has_truth(rows, known[name].truth):
            column = f"dataset.{known[name].truth}"
            yield judgement(f"is {name!r}, which compares with {column}; name its column there", loc=loc, value=name)
    named = {name.rpartition(".")[2] for name in block.metrics or ()}
    if block.metrics and block.primary in known and block.primary not in named:
        where = ".".join(map(str, at))
        places = (f"{where}.{key}" if where else key for key in ("primary", "metrics"))
        yield judgement(f"{{0}} {block.primary!r} is not among {{1}}", *places)


def _slices(block: EvaluationConfig, rows: DatasetConfig) -> Iterator[InitErrorDetails]:
    for n, column in enumerate(block.slices):
        if column not in rows.meta:
            yield judgement(
                f"is {column!r}, which dataset.meta does not carry along; name it there, too",
                loc=("slices", n),
                value=column,
            )


def _has_truth(rows: DatasetConfig, truth: str) -> bool:
    """Whether the dataset block names where a metric's truth stands; a truth it has no key for is not judged."""
    if truth == "references" and rows.messages is not None:
        return True
    return truth not in type(rows).model_fields or bool(getattr(rows, truth))


def output(block: OutputConfig, info: ValidationInfo) -> OutputConfig:
    """Every result has a plain name and a place of its own in output.dir; a page's ending says what it is."""
    known = info.data.get("evaluation")
    taken = [one.name for one in (*known.baselines, *known.additional)] if known is not None else []
    refuse("output", [*_names(block), *_beside_columns(block, taken)])
    return block


def _beside_columns(block: OutputConfig, columns: Sequence[str]) -> Iterator[InitErrorDetails]:
    """No result has the name of a file of an untrained column or of a further set."""
    stems = [Path(getattr(block, key)).stem for key in type(block).model_fields if key not in ("dir", "adapter")]
    for key in type(block).model_fields:
        name = getattr(block, key)
        for column in columns:
            if name.startswith(tuple(f"{stem}.{column}." for stem in stems)):
                said = f"belongs to the files of {column!r} in evaluation; choose another name (got {name!r})"
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

"""Checks values that are valid by themselves but contradict each other.

Each validator takes a block and returns it unchanged; `evaluation` and `output` also see the blocks before it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

from pydantic import ValidationInfo
from pydantic_core import InitErrorDetails

from vlmtune import registry
from vlmtune.config.errors import invalid, one_of, raise_invalid
from vlmtune.config.nodes import KeyPath
from vlmtune.data import DatasetConfig, SplitRole, overlapping_roles
from vlmtune.engines import InferenceConfig
from vlmtune.errors import ConfigError
from vlmtune.families import EXPERTS
from vlmtune.metrics import Metric, custom_metric
from vlmtune.modeling.loading import ModelConfig
from vlmtune.modeling.quantization import full_training_problem
from vlmtune.run_layout import (
    DATA_CHECK,
    DATA_CHECK_PAGE,
    LABELS,
    LEARNING_CURVE,
    QUARANTINE,
    SEARCH,
    SEARCH_PAGE,
    STATE,
    TEACHER,
    THUMBNAILS,
    OutputConfig,
    RunFiles,
)
from vlmtune.scoring import EvaluationConfig, PromptBaselineConfig
from vlmtune.scoring.score import has_row_scores
from vlmtune.search import Range, SearchConfig
from vlmtune.tasks import TaskConfig
from vlmtune.training.config import AugmentationConfig, GrpoConfig, LoraConfig, TrainingConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
RESERVED = re.compile(r"train|validation|test|(mock|real|damaged)(-\d+)?")
"""Names that would collide with answers to another split, or with archived files."""

TAKEN = {THUMBNAILS, STATE, QUARANTINE, DATA_CHECK, DATA_CHECK_PAGE, SEARCH, SEARCH_PAGE, LEARNING_CURVE}
TAKEN |= {LABELS, TEACHER}
"""Names in a run folder that no adapter may have."""


class _EvaluationSet(Protocol):
    """What is checked of one of the additional evaluation sets."""

    @property
    def name(self) -> str: ...
    @property
    def dataset(self) -> DatasetConfig: ...
    @property
    def task(self) -> TaskConfig: ...
    @property
    def split(self) -> SplitRole: ...
    @property
    def metrics(self) -> list[str] | None: ...
    @property
    def primary(self) -> str | None: ...


class _MixedDataset(_EvaluationSet, Protocol):
    """What is checked of one of the datasets of a mixture."""

    @property
    def weight(self) -> float: ...
    @property
    def evaluate(self) -> bool: ...


def model(block: ModelConfig) -> ModelConfig:
    """The smallest image area must not exceed the largest."""
    smallest, largest = block.min_pixels, block.max_pixels
    if smallest is not None and largest is not None and smallest > largest:
        raise_invalid("model", [invalid("{0} is larger than {1}", "min_pixels", "max_pixels")])
    return block


def dataset(block: DatasetConfig) -> DatasetConfig:
    """A target taken from the references needs references, choices a question; shares a split with several roles."""
    if block.target in ("each", "sample") and not block.references:
        message = f"{{0}} {block.target!r} trains on references, but {{1}} names no column"
        raise_invalid("dataset", [invalid(message, "target", "references")])
    if block.choices is not None and (block.question is None or not block.references):
        message = "{0} stand behind a question, and the reference is one of them, but {1} names no column"
        missing = "question" if block.question is None else "references"
        raise_invalid("dataset", [invalid(message, "choices", missing)])
    if block.video is not None and block.messages is not None:
        message = "{0} is the column of rows without {1}; name it in dataset.videos"
        raise_invalid("dataset", [invalid(message, "video", "messages")])
    if block.videos is not None and block.messages is None:
        message = "{0} stand for placeholders in {1}, which names no column; use dataset.video"
        raise_invalid("dataset", [invalid(message, "videos", "messages")])
    if (block.split_column is None) != (block.all_rows is None):
        message = "{0} and {1} belong together: the column, and where the rows of all splits are"
        raise_invalid("dataset", [invalid(message, "split_column", "all_rows")])
    if block.shares is not None and len({block.splits.train, block.splits.validation, block.splits.test}) == 3:
        message = "{0} divides a split among the roles that use it, but {1} names three different ones; leave it out"
        raise_invalid("dataset", [invalid(message, "shares", "splits")])
    return block


def refuse_evaluated_training_rows(rows: DatasetConfig, evaluated: SplitRole) -> None:
    """Refuse a dataset whose evaluated role has the rows of the train role, which needs no row to be read.

    Raises:
        ConfigError: says which split it is and how to divide it.
    """
    if evaluated == "train" or "train" not in overlapping_roles(rows, rows, evaluated):
        return
    train, split = rows.splits.train, getattr(rows.splits, evaluated)
    both = f"both {train!r}" if train == split else f"{train!r} and {split!r}, which have common rows"
    rename = "" if train == split else f"--set dataset.splits.{evaluated}={train} "
    divide = f"{rename}--set 'dataset.shares={{train: 0.8, validation: 0.1, test: 0.1}}'"
    raise ConfigError(
        f"dataset.splits: train and {evaluated} are {both}, and no shares divide them: the model would be tested on "
        f"rows it was trained on. Divide them with {divide}, or name other rows with --set dataset.splits.{evaluated}=…"
    )


def training(block: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
    """Selecting a checkpoint needs a metric and evaluations; seeds must be distinct; augmentation must fit the task."""
    named = [info.data.get("task"), *(one.task for one in info.data.get("datasets") or ())]
    wrong = [error for task in named if task is not None for error in _augmentation(block.augmentation, task)]
    if block.early_stopping is not None and block.best_metric is None:
        wrong.append(invalid("{0} needs {1}, which says what is better", "early_stopping", "best_metric"))
    if block.best_metric is not None and block.evaluate_every_steps is None:
        wrong.append(invalid("{0} compares evaluations, but {1} is null", "best_metric", "evaluate_every_steps"))
    if len(set(block.seeds)) < len(block.seeds):
        wrong.append(invalid("contains a seed twice", loc=("seeds",), value=block.seeds))
    wrong += [*_length(block), *_layers(block.lora), *_initial_weights(block, info.data.get("model"))]
    wrong += [*_method(block, info.data.get("model")), *_sharding(block, info.data.get("model"))]
    wrong += [*_grpo(block, info.data), *_rewards(block, info.data)]
    trained = {*block.lora.parts, *block.full}
    frozen = [part for part, rate in block.learning_rates if rate is not None and part not in trained]
    for part in frozen:
        message = "{0} is set, but {1} leaves that part frozen"
        chosen = "lora.parts" if block.method == "lora" else "method"
        wrong.append(invalid(message, f"learning_rates.{part}", chosen))
    raise_invalid("training", wrong)
    return block


def _length(block: TrainingConfig) -> Iterator[InitErrorDetails]:
    """One key says how long to train."""
    if block.max_steps is not None and block.epochs is not None and "epochs" in block.model_fields_set:
        yield invalid("{0} and {1} both say how long to train; set one of them to null", "epochs", "max_steps")
    if block.max_steps is None and block.epochs is None:
        yield invalid("{0} and {1} are null; one must say how long to train", "epochs", "max_steps")


def _layers(lora: LoraConfig) -> Iterator[InitErrorDetails]:
    """Text that selects layers is a regular expression; adapters on stacked experts are plain ones."""
    wanted = lora.target_modules or ()
    if isinstance(wanted, str):
        try:
            re.compile(wanted)
        except re.error as error:
            message = f"is neither names nor all-linear nor a regular expression ({error})"
            yield invalid(message, loc=("lora", "target_modules"), value=wanted)
    elif any(name.startswith(EXPERTS) for name in wanted):
        for key in ("dropout", "use_dora", "init_lora_weights"):
            if getattr(lora, key):
                message = "{0} must be 0, false or null for adapters on stacked experts, which {1} names"
                yield invalid(message, f"lora.{key}", "lora.target_modules")


def _initial_weights(block: TrainingConfig, base: ModelConfig | None) -> Iterator[InitErrorDetails]:
    """Initial weights of an adapter must not contradict its base, or what it continues from."""
    init, quantization = block.lora.init_lora_weights, base.quantization if base is not None else None
    if init is None:
        return
    if block.continue_from is not None:
        yield invalid("{0} has no effect on an adapter that {1} names", "lora.init_lora_weights", "continue_from")
    if init == "orthogonal" and block.lora.rank % 2:
        yield invalid("{0} orthogonal needs an even {1}", "lora.init_lora_weights", "lora.rank")
    if init in ("gaussian", "orthogonal"):
        return
    loc = ("lora", "init_lora_weights")
    if block.lora.use_dora:
        yield invalid(f"{{0}} {init} changes norms that {{1}} learns; choose one", ".".join(loc), "lora.use_dora")
    if init == "loftq" and base is not None and quantization is None:
        yield invalid("loftq makes up for what quantization rounds away; set model.quantization", loc=loc, value=init)
    if init != "loftq" and quantization is not None:
        message = f"{init} takes a part out of the base model, which {quantization} would round anew; use loftq"
        yield invalid(message, loc=loc, value=init)


def _method(block: TrainingConfig, model: ModelConfig | None) -> Iterator[InitErrorDetails]:
    """`method` and `lora` agree on the parts with adapters, and quantized weights are not trained themselves."""
    if set(block.adapted) != set(block.lora.parts):
        yield invalid("{0} and {1} give adapters to different parts; leave lora.parts out", "lora.parts", "method")
    elif not block.adapted and not block.full:
        yield invalid(
            "{0} names no part, so nothing would be trained", "lora.parts" if block.method == "lora" else "method"
        )
    elif not block.adapted:
        unused = LoraConfig(parts=[], dropout=0 if block.objective == "grpo" else LoraConfig().dropout)
        for key in (key for key in LoraConfig.model_fields if getattr(block.lora, key) != getattr(unused, key)):
            yield invalid("{0} has no effect: {1} trains no adapter; leave it out", f"lora.{key}", "method")
        if block.lora_plus_ratio is not None:
            yield invalid("{0} has no effect: {1} trains no adapter; leave it out", "lora_plus_ratio", "method")
    problem = full_training_problem(block.full, None, model.quantization if model is not None else None)
    if problem is not None:
        yield invalid(f"{{0}}: {problem}", "method")


def _sharding(block: TrainingConfig, model: ModelConfig | None) -> Iterator[InitErrorDetails]:
    """What a model that is divided among processes cannot do."""
    if block.sharding == "none":
        return
    if model is not None and model.quantization is not None:
        chosen = f"model.quantization is {model.quantization}"
        yield invalid(f"{{0}} fsdp divides weights of 16 or 32 bits, but {chosen}; choose one of them", "sharding")
    if block.best_metric not in (None, "loss"):
        message = "{0} needs answers, which a model that {1} divides does not give in training; use loss"
        yield invalid(message, "best_metric", "sharding")
    if block.precision == "fp16" and "language_model" in block.full:
        message = "{0} fp16 cannot train weights in full that {1} divides; use bf16 or fp32"
        yield invalid(message, "precision", "sharding")


def _grpo(block: TrainingConfig, before: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Training on rewards goes on from an adapter, and changes nothing between drawing answers and learning them."""
    if block.objective != "grpo":
        if block.grpo != GrpoConfig():
            yield invalid("{0} has no effect while {1} is sft", "grpo", "objective")
        return
    if block.continue_from is None:
        message = "{0} grpo is a second stage: name a finished adapter in {1}"
        yield invalid(message, "objective", "continue_from")
    for key, needed in {"lora.dropout": 0, "neftune_alpha": None, "augmentation": AugmentationConfig()}.items():
        value: Any = block
        for name in key.split("."):
            value = getattr(value, name)
        if value != needed:
            message = "{0} would change the model or the image between drawing answers and learning them; leave it out"
            yield invalid(f"{message} with {{1}} grpo", key, "objective")
    if block.full:
        yield invalid("{0} trains weights in full, and {1} grpo only adapters", "method", "objective")
    if block.sharding != "none":
        yield invalid("{0} divides the model, and {1} grpo draws answers from a whole one", "sharding", "objective")
    if before.get("datasets"):
        yield invalid("{0} grpo scores the rows of `dataset`; leave `datasets` out", "objective")


def _rewards(block: TrainingConfig, before: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Rewards are at least two metrics of the task in which single rows have scores."""
    if block.objective != "grpo" or not {"task", "dataset"} <= before.keys():
        return
    if len(block.grpo.rewards) < 2 - block.grpo.allow_one_reward:
        message = (
            "{0} names too few metrics: a single one can be won without getting better (recall by long answers); name "
            "at least two, or set grpo.allow_one_reward"
        )
        yield invalid(message if block.grpo.rewards else "{0} names no metric to train on", "grpo.rewards")
    loc = ("grpo", "rewards")
    names: list[tuple[KeyPath, str]] = [((*loc, name), name) for name in block.grpo.rewards]
    known = _task_metrics(before["task"])
    yield from _metric_names(names, known, before["dataset"])
    for at, name in names:
        metric = known.get(name.rpartition(".")[2])
        if metric is not None and not has_row_scores(metric):
            yield invalid(f"{name!r} is a score of the whole set; single answers have none", loc=at, value=name)


def _augmentation(block: AugmentationConfig, task: TaskConfig) -> Iterator[InitErrorDetails]:
    """Text must be neither mirrored nor cut off, and boxes must move along."""
    about = registry.load("tasks", task.name).TASK
    for key in ("crop", "flip", "rotation"):
        loc, value = ("augmentation", key), getattr(block, key)
        if value and about.reads_text and key != "rotation":
            verb = "cut off" if key == "crop" else "mirror"
            yield invalid(f"would {verb} text, which the task {task.name} reads; leave it out", loc=loc, value=value)
        if value and about.boxes and about.with_boxes is None:
            yield invalid(f"needs boxes that move along; the task {task.name} has no with_boxes", loc=loc, value=value)


def inference(block: InferenceConfig, info: ValidationInfo) -> InferenceConfig:
    """Sampling needs a temperature; not every engine reads videos or merges an adapter; a schema needs objects."""
    rows = [info.data.get("dataset"), *(one.dataset for one in info.data.get("datasets") or ())]
    key = next((key for one in rows for key in ("video", "videos") if getattr(one, key, None) is not None), None)
    if key is not None and not block.reads_videos:
        message = (
            f"cannot be given the frames and times of videos (dataset.{key}) that the model is trained with; use hf"
        )
        raise_invalid("inference", [invalid(message, loc=("engine",), value=block.engine)])
    task, schema = info.data.get("task"), getattr(block, "json_schema", None)
    if schema is not None and getattr(block, "json_object", False):
        raise_invalid("inference", [invalid("{0} says more than {1}; set one of them", "json_schema", "json_object")])
    if schema == "auto" and task is not None and "fields" not in type(task).model_fields:
        message = f"is auto, which needs rows that are objects (the task extraction), not {task.name}; name a file"
        raise_invalid("inference", [invalid(message, loc=("json_schema",), value=schema)])
    if block.temperature == 0 and block.top_p < 1:
        message = "{0} has no effect while {1} is 0; set a temperature, or leave top_p out"
        raise_invalid("inference", [invalid(message, "top_p", "temperature")])
    model, training = info.data.get("model"), info.data.get("training")
    if block.engine == "vllm" and model is not None and training is not None and training.full and model.quantization:
        message = (
            "is 'vllm', which serves parts trained in full (training.method) only merged into the model, and a "
            "quantized model cannot be merged; use hf, or set model.quantization to null"
        )
        raise_invalid("inference", [invalid(message, loc=("engine",), value=block.engine)])
    return block


def datasets(block: Sequence[_MixedDataset], info: ValidationInfo) -> None:
    """The datasets of a mixture have names, labels and metrics; none trains on rows that another is evaluated on."""
    wrong = []
    if (total := sum(one.weight for one in block)) >= 1:
        message = f"is {block[-1].weight:g}, so all weights add up to {total:g}; they must leave some to `dataset`"
        wrong.append(invalid(message, loc=(len(block) - 1, "weight"), value=block[-1].weight))
    trained = {"dataset": info.data["dataset"]} if "dataset" in info.data else {}
    trained |= {f"datasets[{n}].dataset": one.dataset for n, one in enumerate(block)}
    for n, one in enumerate(block):
        wrong += _set(one, trained if one.evaluate else {}, (n,))
        wrong += _metrics(one, one.task, one.dataset, (n,)) if one.evaluate else ()
    raise_invalid("datasets", [*wrong, *_names([((n,), one.name) for n, one in enumerate(block)])])


def search(block: SearchConfig | None) -> SearchConfig | None:
    """Only what a training depends on may vary, and not the seeds, which are no setting."""
    for key, space in block.space.items() if block is not None else ():
        part, _, rest = key.partition(".")
        if part not in ("training", "task", "model") or not rest or rest in ("seed", "seeds"):
            message = f"{{0}} names {key!r}; only keys of training, task and model can vary, and no seeds"
            raise_invalid("search", [invalid(message, "space")])
        if isinstance(space, Range) and (space.low >= space.high or (space.log and space.low <= 0)):
            message = f"{{0}}: {key} needs low < high" + (", both above 0 as it is logarithmic" if space.log else "")
            raise_invalid("search", [invalid(message, "space")])
        if isinstance(space, list) and len(space) < 2:
            raise_invalid("search", [invalid(f"{{0}}: {key} needs at least two values", "space")])
    return block


def evaluation(block: EvaluationConfig, additional: Sequence[_EvaluationSet], info: ValidationInfo) -> None:
    """The task has the metrics, and the dataset what they compare with. Skipped if task or dataset are invalid."""
    if {"task", "dataset"} <= info.data.keys():
        task, rows, mixed = info.data["task"], info.data["dataset"], info.data.get("datasets") or []
        wrong = [*_metrics(block, task, rows), *_slices(block, rows)]
        trained = {f"datasets[{n}].dataset": one.dataset for n, one in enumerate(mixed)}
        wrong += _untrained(rows, block.split, trained, ("split",))
        for n, one in enumerate(additional):
            at = ("additional", n)
            wrong += [*_metrics(one, one.task, one.dataset, at), *_set(one, {"dataset": rows, **trained}, at)]
        baselines = [
            invalid(message, loc=("baselines", n, *loc), value=one.name)
            for n, one in enumerate(block.baselines)
            for loc, message in _baseline(one, task, rows)
        ]
        names: list[tuple[KeyPath, str]] = [(("baselines", n), one.name) for n, one in enumerate(block.baselines)]
        names += [(("additional", n), one.name) for n, one in enumerate(additional)]
        raise_invalid("evaluation", [*wrong, *_names(names, {one.name.lower() for one in mixed}), *baselines])


def _set(one: _EvaluationSet, trained: Mapping[str, DatasetConfig], at: KeyPath) -> Iterator[InitErrorDetails]:
    """An additional set has labels, and shares no rows with the datasets `trained` on, here by their key."""
    if not one.dataset.labelled:
        yield invalid("names no column with labels, so nothing can be compared", loc=(*at, "dataset"), value=one.name)
    yield from _untrained(one.dataset, one.split, trained, (*at, "split"))


def _untrained(
    rows: DatasetConfig, split: SplitRole, trained: Mapping[str, DatasetConfig], loc: KeyPath
) -> Iterator[InitErrorDetails]:
    for block, other in trained.items():
        if "train" in overlapping_roles(other, rows, split):
            where = "" if block == "dataset" else f", by {block}"
            message = f"is the split {other.splits.train!r}, which the adapter is trained on{where}; choose another"
            yield invalid(message, loc=loc, value=split)


def _names(names: Sequence[tuple[KeyPath, str]], taken: Set[str] = frozenset()) -> Iterator[InitErrorDetails]:
    """Baselines, additional sets and datasets have distinct file names, also on case-insensitive file systems."""
    seen = set(taken)
    for loc, name in names:
        message = None
        if not NAME.fullmatch(name):
            message = f"names files: only letters, digits, - and _, at most 40 (got {name!r})"
        elif RESERVED.fullmatch(name.lower()):
            message = f"{name!r} is reserved for other files; choose another name"
        elif name.lower() in seen:
            message = f"{name!r} is also the name of another baseline or set; choose another name"
        if message is not None:
            yield invalid(message, loc=(*loc, "name"), value=name)
        seen.add(name.lower())


def _baseline(one: PromptBaselineConfig, task: TaskConfig, rows: DatasetConfig) -> Iterator[tuple[KeyPath, str]]:
    """Where and why a prompt baseline changes nothing, or lacks what it needs."""
    if one.prompt is None and not one.length_instruction and not one.examples:
        yield (), "equals the main baseline; set prompt, length_instruction or examples"
    if one.prompt is not None:
        if not one.prompt.strip():
            yield ("prompt",), "must not be empty; omit it to keep the task's prompt"
        elif rows.messages is not None:
            yield ("prompt",), "has no effect: the rows bring their own conversations (dataset.messages)"
        elif "prompt" not in type(task).model_fields:
            yield ("prompt",), f"has no effect: the task {task.name} has no prompt"
    if one.length_instruction and not _has_truth(rows, "references"):
        yield (
            ("length_instruction",),
            "needs references; name their column in dataset.references",
        )
    if rows.limit.train is not None and one.examples > rows.limit.train:
        yield ("examples",), f"is {one.examples}, and dataset.limit.train leaves {rows.limit.train} rows"


def _metrics(
    block: EvaluationConfig | _EvaluationSet, task: TaskConfig, rows: DatasetConfig, at: KeyPath = ()
) -> Iterator[InitErrorDetails]:
    """Errors in metric names. A dotted one is imported, and referred to without its module from then on."""
    known = _task_metrics(task)
    names: list[tuple[KeyPath, str]] = [((*at, "metrics", n), name) for n, name in enumerate(block.metrics or [])]
    names += [((*at, "primary"), block.primary)] if block.primary is not None else []
    yield from _metric_names(names, known, rows)
    named = {name.rpartition(".")[2] for name in block.metrics or ()}
    if block.metrics and block.primary in known and block.primary not in named:
        keys = (".".join(map(str, (*at, key))) for key in ("primary", "metrics"))
        yield invalid(f"{{0}} {block.primary!r} is not among {{1}}", *keys)


def _task_metrics(task: TaskConfig) -> dict[str, Metric]:
    return {metric.name: metric for metric in registry.load("tasks", task.name).TASK.metrics}


def _metric_names(
    names: Sequence[tuple[KeyPath, str]], known: dict[str, Metric], rows: DatasetConfig
) -> Iterator[InitErrorDetails]:
    """Errors in names, each with its place; `known` gets the custom metrics."""
    for loc, name in names:
        if "." in name and loc[-1] != "primary":
            try:
                metric = custom_metric(name)
            except ConfigError as error:
                yield invalid(str(error), loc=loc, value=name)
                continue
            if metric.name in known:
                yield invalid(f"{name!r} is also the name of another metric; rename yours", loc=loc, value=name)
            known[metric.name] = metric
        elif name not in known:
            yield invalid(one_of(repr(name), list(known)), loc=loc, value=name)
        elif not _has_truth(rows, known[name].truth):
            column = f"dataset.{known[name].truth}"
            yield invalid(f"is {name!r}, which compares with {column}, but that is not set", loc=loc, value=name)


def _slices(block: EvaluationConfig, rows: DatasetConfig) -> Iterator[InitErrorDetails]:
    for n, column in enumerate(block.slices):
        if column not in rows.meta:
            yield invalid(
                f"is {column!r}, which is not in dataset.meta; add it there",
                loc=("slices", n),
                value=column,
            )


def _has_truth(rows: DatasetConfig, truth: str) -> bool:
    """Whether the dataset names the column of a metric's ground truth; True for one that it has no key for."""
    if truth == "references" and rows.messages is not None:
        return True
    return truth not in type(rows).model_fields or bool(getattr(rows, truth))


def output(block: OutputConfig) -> OutputConfig:
    """The adapter has a plain name that no other result of the run has."""
    name, files = block.adapter, RunFiles.of(block)
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        message = f"must be a plain name of something in output.dir (got {name!r})"
        raise_invalid("output", [invalid(message, loc=("adapter",), value=name)])
    results = (files.baseline, files.tuned, *files.derived, files.metrics(files.baseline), files.metrics(files.tuned))
    # Whatever follows the first dot may be the name of an evaluation set, a prompt baseline, a seed or a shard.
    taken = {file.name.split(".")[0] for file in results}
    if name.split(".")[0] in taken or name in TAKEN:
        message = f"is the name of another result of the run; choose another one (got {name!r})"
        raise_invalid("output", [invalid(message, loc=("adapter",), value=name)])
    return block

"""What a whole run takes, beyond its training steps: start-up, both models' answers, validation, and a judge's replies.

Answers are computed in two parts. The prompts' forward pass is limited by matrix products, like training. Then every
generated token reads all weights and the key-value cache of its batch, which is limited by the memory's bandwidth.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.data import Rows, open_role
from vlmtune.errors import DataError
from vlmtune.families import Shapes
from vlmtune.modeling.loading import Checkpoint
from vlmtune.planning.costs import base_bytes, flops, width_of
from vlmtune.planning.gpus import Gpu
from vlmtune.planning.lengths import Work, total, work_of_prompt
from vlmtune.processing.answer_lengths import SURVEYED_ROWS, count_answers
from vlmtune.processing.encoder import Encoder
from vlmtune.tasks import for_model

BANDWIDTH_SHARE = 0.5
"""Assumed fraction of the datasheet's memory bandwidth while answers are generated."""
LOADED_BYTES_PER_S = 1e9
"""Assumed rate at which weights come from the disk to the GPU."""
DOWNLOADED_BYTES_PER_S = 1e8
"""Assumed rate at which they come from the Hub."""
STARTED_S = 20.0
"""Assumed time of a start without the weights: imports, first kernels."""
SLOWEST = 98
"""Percentile of the answers' lengths that a batch waits for: it ends with its longest answer."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What one model answers in one evaluation.

    `prompts` is the work of all prompts, `generated` the mean tokens of an answer, and `longest` those that a batch
    waits for. `batch` requests are answered at a time.
    """

    requests: int
    prompts: Work
    generated: float
    longest: float
    batch: int


@dataclass(frozen=True, slots=True)
class WholeRun:
    """The parts of a run that are not training steps.

    `base` is what the untouched model answers, `tuned` what an adapter does, for every one of `adapters`. `validation`
    is the work of all evaluations during one training. `asked` counts the requests to a judge. `loads` is how often
    the model is loaded; `remote` says whether a server elsewhere answers.
    """

    base: Answering
    tuned: Answering
    adapters: int
    validation: Work
    asked: int
    loads: int
    downloaded: bool
    remote: bool


def whole_run(config: Config, checkpoint: Checkpoint, encoder: Encoder, steps: int, limit: int) -> WholeRun:
    """Count the parts of a run.

    Args:
        config: of the run.
        checkpoint: its model.
        encoder: reads image headers alone.
        steps: optimizer steps of one training.
        limit: most tokens of an answer.

    Raises:
        EnvironmentProblem: a dataset cannot be reached.
    """
    evaluation, training = config.evaluation, config.training
    sets = [config, *(config.for_set(one) for one in config.evaluation_sets)]
    surveyed = [_survey(each, open_role(each.dataset, each.evaluation.split), encoder) for each in sets]
    controls = [min(evaluation.image_control_rows, len(one.rows)) if config.dataset.labelled else 0 for one in surveyed]
    inference: Any = config.inference
    waits = hasattr(inference, "batch_size")
    # The hf engine draws answers one by one, since each has a seed of its own.
    together = "batch_size" if waits else "concurrency"
    batch = 1 if waits and inference.temperature > 0 else getattr(inference, together, 1)

    def answering(counts: list[int]) -> Answering:
        lengths = np.minimum([length for one in surveyed for length in one.answers] or [limit], limit)
        works = (one.prompts(count) for one, count in zip(surveyed, counts, strict=True))
        mean = float(lengths.mean())
        longest = float(np.percentile(lengths, SLOWEST)) if waits else mean
        return Answering(sum(counts), total(works), mean, longest, batch)

    counts = [len(one.rows) + controls for one, controls in zip(surveyed, controls, strict=True)]
    main, *others = counts
    adapters = max(1, len(training.seeds))
    evaluations = math.ceil(steps / (training.evaluate_every_steps or steps))
    validated = _survey(config, open_role(config.dataset, "validation"), encoder)
    return WholeRun(
        base=answering([main + len(evaluation.baselines) * len(surveyed[0].rows), *others]),
        tuned=answering(counts),
        adapters=adapters,
        validation=_times(validated.prompts(len(validated.rows)), evaluations),
        asked=2 * len(surveyed[0].rows) * adapters if evaluation.judge is not None else 0,
        loads=1 + 2 * adapters,
        downloaded=checkpoint.commit is not None,
        remote=hasattr(config.inference, "base_url"),
    )


@dataclass(frozen=True, slots=True)
class _Survey:
    """Prompts and answers of rows; `works` are those of evenly spaced ones."""

    rows: Rows
    works: list[Work]
    answers: list[int]

    def prompts(self, count: int) -> Work:
        """The work of so many prompts like these."""
        return _times(total(self.works), count / len(self.works)) if self.works else Work()


def _survey(config: Config, rows: Rows, encoder: Encoder) -> _Survey:
    task = for_model(registry.load("tasks", config.task.name).TASK, encoder.with_box_scale, encoder.with_objects)
    works = []
    for index in range(0, len(rows), max(1, math.ceil(len(rows) / SURVEYED_ROWS))):
        try:
            works.append(work_of_prompt(encoder.prompt(task.prompt(config.task, rows[index]))))
        except DataError:  # `data check` lists bad rows
            continue
    return _Survey(rows, works, count_answers(rows, task, config.task, encoder))


def _times(work: Work, factor: float) -> Work:
    return Work(**{name: round(value * factor) for name, value in asdict(work).items()})


def phases(
    run: WholeRun, config: Config, shapes: Shapes, gpu: Gpu, efficiency: float, training_s: float
) -> Iterator[tuple[str, float]]:
    """Seconds of each phase of a run on one GPU, in order.

    Args:
        run: what it consists of.
        config: of the run.
        shapes: of its model.
        gpu: that it runs on.
        efficiency: assumed fraction of its rate of products.
        training_s: seconds of all steps of one training.
    """
    rate = gpu.bf16_tflops * 1e12 * efficiency
    precision = config.inference.precision or config.training.precision
    weights = base_bytes(shapes, precision, config.model.quantization)
    if run.downloaded:
        yield "download", 2 * shapes.parameters / DOWNLOADED_BYTES_PER_S
    yield "start-up", run.loads * (STARTED_S + weights / LOADED_BYTES_PER_S)

    def forward(work: Work) -> float:
        terms = flops(shapes, config.training.lora, work, 0, config.training.full)
        return sum(term.forward for term in terms) / rate

    def answers(one: Answering) -> float:
        cached = _cache_bytes(shapes, precision) * one.batch * (one.prompts.tokens / max(1, one.requests))
        reads = (weights + cached) / (gpu.gb_per_s * 1e9 * BANDWIDTH_SHARE)
        return forward(one.prompts) + math.ceil(one.requests / one.batch) * one.longest * reads

    if not run.remote:
        yield "baseline", answers(run.base)
    yield "training", run.adapters * training_s
    yield "validation", run.adapters * forward(run.validation)
    if not run.remote:
        yield "evaluation", run.adapters * answers(run.tuned)


def _cache_bytes(shapes: Shapes, precision: str) -> int:
    """Bytes of the key-value cache of one token."""
    keys = sum(shapes.decoder.kinds[n].keys for n in shapes.decoder.order)
    return 2 * width_of(precision) * keys

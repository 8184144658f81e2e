"""A teacher that labels: a model answers rows without labels, and its answers become train rows.

The teacher also answers the validation rows, whose labels are known. They show what its labels are worth, and what each
filter on its certainty would make of them. Images of the validation and evaluation rows are never labelled.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from vlmtune.config import Config, LabelConfig
from vlmtune.data import Rows, SplitRole
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import write_atomic, write_bytes
from vlmtune.images import decode_rgb, pixel_hash
from vlmtune.inference import pixel_hash_of
from vlmtune.metrics import Metric, Stats, chrf
from vlmtune.pipeline import predict
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.predictions import Line, read
from vlmtune.run_folder import read_manifest
from vlmtune.run_layout import LABELLED_IMAGES, LABELLED_ROWS, labels_path, teacher_folder
from vlmtune.scoring.score import choose_metrics, measure, reread, summary
from vlmtune.scoring.self_check import primary_first
from vlmtune.scoring.statistics import Resamples, by_group
from vlmtune.types import Example, ImageRef

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Shares of the validation rows, the most certain first, whose score is shown beside that of the configured filter."""

FEWEST = 5
"""Validation rows that a filter must keep for its score to be shown."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row that the teacher answered.

    Attributes:
        line: its answer.
        agreement: mean chrF from 0 to 1 of its sampled answers with the answer; None without samples.
        confidence: geometric mean of the probabilities of the answer's tokens; None where they are unknown.
    """

    line: Line
    agreement: float | None
    confidence: float | None

    def passes(self, agreement: float, confidence: float) -> bool:
        """Whether it is certain enough; what is unknown passes no filter above 0."""
        return (self.agreement or 0.0) >= agreement and (self.confidence or 0.0) >= confidence


def label(session: Session) -> dict[str, Any]:
    """Label rows; writes the folder `labels`, a dataset of vlmtune, and returns what its manifest says.

    Raises:
        ConfigError: no `label` block, or labels of the task are not texts.
        RemoteError: the teacher kept failing; what it answered is kept, and the same command goes on.
        DataError: no row passes the filters.
    """
    settings = _checked(session.config)
    artifact = labels_path(session.folder.root)
    teacher = _teacher(session, settings)
    adapter = None if settings.adapter is None else Path(settings.adapter)
    asked = _in(teacher, "asked", dataset=settings.dataset)
    provenance = asked.provenance(
        adapter=None if adapter is None else asked.verify_adapter(adapter),
        dataset=rows_facts(asked.rows("train")),
        label=settings.model_dump(mode="json", exclude={"dataset", "model"}),
        validation=rows_facts(session.rows("validation")),
        evaluation=rows_facts(session.rows(session.config.evaluation.split)),
    )
    if session.folder.reconcile(artifact, provenance) is None:
        known = _answers(_in(teacher, "validation"), adapter, "validation", settings)
        rows = _answers(asked, adapter, "train", settings)
        built = session.folder.work(artifact, provenance) / artifact.name
        kept = _write(built, asked.rows("train"), rows, settings, _evaluated_images(session))
        facts = {"teacher": _name(asked, adapter), **kept, **_worth(session, known, settings)}
        session.folder.publish(artifact, provenance, facts, built)
    manifest = read_manifest(artifact) or {}
    return {key: value for key, value in manifest.items() if key not in ("origin", "artifact", "mock")}


def _checked(config: Config) -> LabelConfig:
    if config.label is None:
        raise ConfigError("the config has no label block; it names the rows to label: label.dataset")
    if not config.dataset.references:
        raise ConfigError(
            f"labels of the task {config.task.name} are not texts in a column (dataset.references is empty); a teacher "
            "writes texts"
        )
    return config.label


def _teacher(session: Session, settings: LabelConfig) -> Session:
    """The session in which the teacher answers: its model, its engine, and nothing but answers."""
    config = session.config
    nothing: dict[str, Any] = {"additional": [], "baselines": [], "judge": None, "image_control_rows": 0}
    update = {
        "evaluation": config.evaluation.model_copy(update=nothing),
        "datasets": [],
        "model": settings.model or config.model,
        "inference": settings.inference or config.inference,
    }
    same = settings.model in (None, config.model)
    return replace(session, config=config.model_copy(update=update), parent=session if same else None)


def _in(session: Session, name: str, **blocks: Any) -> Session:
    """The teacher's session in a run folder of its own, with other blocks."""
    folder = teacher_folder(Path(session.config.output.dir)) / name
    output = session.config.output.model_copy(update={"dir": str(folder)})
    return replace(session, config=session.config.model_copy(update={**blocks, "output": output}))


def _answers(session: Session, adapter: Path | None, role: SplitRole, settings: LabelConfig) -> list[Labelled]:
    """The teacher's answers to the rows of a role, each with how certain it is."""
    lines = read(predict.predict(session, adapter, role))
    samples: list[dict[str | None, Line]] = []
    for number in range(settings.samples):
        drawn = {"temperature": settings.temperature, "seed": number + 1}
        inference = session.config.inference.model_copy(update=drawn)
        sampled = _in(session, f"sample-{number + 1}", inference=inference)
        samples.append({line.id: line for line in read(predict.predict(sampled, adapter, role))})
    agreement = _agreement(lines, [[one[line.id] for line in lines] for one in samples])
    return [Labelled(line, agree, _confidence(line)) for line, agree in zip(lines, agreement, strict=True)]


def _agreement(lines: Sequence[Line], samples: Sequence[Sequence[Line]]) -> list[float | None]:
    """Mean chrF of the samples of each row with its answer; a sample that failed agrees with nothing."""
    if not samples:
        return [None] * len(lines)
    answers = [[line.prediction or ""] for line in lines]
    scores = [np.asarray(chrf.summarise(chrf.measure([line.prediction for line in one], answers))) for one in samples]
    return [float(score) for score in np.mean(scores, axis=0) / chrf.scale]


def _confidence(line: Line) -> float | None:
    return math.exp(fmean(line.token_logprobs)) if line.token_logprobs else None


def _name(session: Session, adapter: Path | None) -> str:
    return session.config.model.name + (f" with {adapter}" if adapter is not None else "")


def _evaluated_images(session: Session) -> set[str]:
    """Hashes of the images of the validation and evaluation rows."""
    roles = dict.fromkeys(("validation", session.config.evaluation.split))
    found = (pixel_hash_of(ref) for role in roles for row in session.rows(role) for ref in row.images)
    return {one for one in found if one is not None}


def _write(
    folder: Path, rows: Rows, labelled: Sequence[Labelled], settings: LabelConfig, evaluated: set[str]
) -> dict[str, Any]:
    """Write the rows that pass the filters, with copies of their images; returns how many there are of each kind."""
    (folder / LABELLED_IMAGES).mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("asked", "labelled", "failed", "filtered", "evaluated"), 0)
    lines: list[str] = []
    for example, one in zip(rows, labelled, strict=True):
        counts["asked"] += 1
        kind = _fate(example, one, settings, evaluated)
        counts[kind] += 1
        if kind == "labelled":
            images = [_copy(folder, ref) for ref in example.images]
            record = {"id": example.id, "images": images, "label": _text(one.line)}
            record |= {"question": example.question} if example.question is not None else {}
            lines.append(json.dumps({**record, "agreement": one.agreement, "confidence": one.confidence}) + "\n")
    if not lines:
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise DataError(f"label.dataset: no row can be used ({said}); lower label.min_agreement or min_confidence")
    write_atomic(folder / LABELLED_ROWS, "".join(lines))
    return {"rows": counts}


def _fate(example: Example, one: Labelled, settings: LabelConfig, evaluated: set[str]) -> str:
    """What becomes of a row."""
    if one.line.prediction is None or one.line.unparsed is not None or not one.line.prediction.strip():
        return "failed"
    if any(pixel_hash_of(ref) in evaluated for ref in example.images):
        return "evaluated"
    return "labelled" if one.passes(settings.min_agreement, settings.min_confidence) else "filtered"


def _text(line: Line) -> str:
    """The answer as the task reads it, where that is a text."""
    return line.answer if isinstance(line.answer, str) and line.answer.strip() else (line.prediction or "").strip()


def _copy(folder: Path, ref: ImageRef) -> str:
    """Copy an image, named after its pixels; returns its path in the folder."""
    image = decode_rgb(ref)
    name = f"{LABELLED_IMAGES}/{pixel_hash(image)[:24]}.png"
    if not (folder / name).is_file():
        stream = io.BytesIO()
        image.save(stream, "PNG")
        write_bytes(folder / name, stream.getvalue())
    return name


def _worth(session: Session, known: Sequence[Labelled], settings: LabelConfig) -> dict[str, Any]:
    """The teacher's score on rows with labels, all of them and those that pass each filter."""
    evaluation = session.config.evaluation
    lines = reread([one.line for one in known], session.task, session.config.task)
    metrics = choose_metrics(session.task, evaluation.metrics, lines)
    metric = primary_first(metrics, session.task, session.config.task, lines, evaluation.primary).metrics[0]
    answered = [n for n, line in enumerate(lines) if line.prediction is not None]
    stats = measure(metric, [lines[n] for n in answered]) if answered else np.zeros((0, 1))
    filters: list[tuple[str, float | None, dict[str, float]]] = []
    for name in ("agreement", "confidence"):
        values = [value for one in known if (value := getattr(one, name)) is not None]
        quantiles = [float(np.quantile(values, 1 - share)) for share in SHARES] if values else []
        filters += [(name, bound, {name: bound}) for bound in quantiles]
    chosen = {"agreement": settings.min_agreement, "confidence": settings.min_confidence}
    filters.append(("configured", None, chosen))
    worth = []
    for name, threshold, bounds in filters:
        limits = {"agreement": 0.0, "confidence": 0.0, **bounds}
        kept = [k for k, n in enumerate(answered) if known[n].passes(**limits)]
        groups = [str(lines[answered[k]].cluster or lines[answered[k]].id) for k in kept]
        worth.append({"filter": name, "threshold": threshold, "rows": len(kept), **_score(metric, stats[kept], groups)})
    return {"metric": metric.name, "validation_rows": len(known), "filters": worth}


def _score(metric: Metric, stats: Stats, groups: Sequence[str]) -> dict[str, float | None]:
    """Score of some rows with its 95 % interval; null for too few."""
    if len(groups) < FEWEST:
        return {"score": None, "low": None, "high": None}
    sums = Resamples(len(set(groups)), 2000, 0).bootstrap([by_group(stats, groups)])[0]
    low, high = np.percentile(np.asarray(metric.summarise(sums)), [2.5, 97.5])
    return {"score": summary(metric, stats), "low": float(low), "high": float(high)}

"""A teacher that labels: a model answers rows without labels, and its answers become train rows.

The teacher also answers the validation rows, whose labels are known. They show what its labels are worth, and what each
filter on its certainty would make of them. Images of the validation and evaluation rows are never labelled.
"""

import io
import json
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL.Image import Image

from vlmtune.config import Config, EvaluationSetConfig, LabelConfig
from vlmtune.data import Rows
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import write_atomic, write_bytes
from vlmtune.images import identified
from vlmtune.inference import identity_of
from vlmtune.metrics import Metric, Stats, chrf
from vlmtune.pipeline import predict
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.predictions import Line, read
from vlmtune.run_folder import read_manifest
from vlmtune.run_layout import LABELLED_IMAGES, LABELLED_ROWS, labels_path, teacher_folder
from vlmtune.scoring.score import choose_primary, measure, percentile_interval, reread, resampled_scores, summary

ASKED = "asked"
"""Name of the set of rows without labels in the teacher's run folder."""

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
    artifact, root = labels_path(session.folder.root), teacher_folder(session.folder.root)
    teacher = _teacher(session, settings, root)
    adapter = None if settings.adapter is None else Path(settings.adapter)
    [asked] = teacher.additional
    provenance = asked.provenance(
        adapter=None if adapter is None else asked.verify_adapter(adapter),
        dataset=rows_facts(asked.rows("train")),
        label=settings.model_dump(mode="json", exclude={"dataset", "model"}),
        validation=rows_facts(session.rows("validation")),
        evaluation=rows_facts(session.rows(session.config.evaluation.split)),
    )
    if session.folder.reconcile(artifact, provenance) is None:
        known, rows = _labelled(teacher, adapter, settings, root)
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
    video = next((key for key in ("video", "videos") if getattr(config.label.dataset, key, None) is not None), None)
    if video is not None:
        raise ConfigError(f"label.dataset.{video}: only rows with images or texts are labelled, not those with videos")
    return config.label


def _teacher(session: Session, settings: LabelConfig, root: Path) -> Session:
    """The session in which the teacher answers the validation rows and, as a set beside them, those without labels.

    One loaded model answers both.
    """
    config = session.config
    asked = EvaluationSetConfig(name=ASKED, dataset=settings.dataset, task=config.task, split="train")
    only: dict[str, Any] = {"additional": [asked], "baselines": [], "image_control_rows": 0, "split": "validation"}
    update = {
        "evaluation": config.evaluation.model_copy(update=only),
        "datasets": [],
        "model": settings.model or config.model,
        "inference": settings.inference or config.inference,
        "output": config.output.model_copy(update={"dir": str(root)}),
    }
    same = settings.model in (None, config.model)
    return replace(session, config=config.model_copy(update=update), parent=session if same else None)


def _labelled(
    teacher: Session, adapter: Path | None, settings: LabelConfig, root: Path
) -> tuple[list[Labelled], list[Labelled]]:
    """The teacher's answers to the validation rows and to those without labels, each with how certain it is."""
    answers, samples = _answers(teacher, adapter), []
    for number in range(1, settings.samples + 1):
        drawn = {"temperature": settings.temperature, "seed": number}
        update = {
            "inference": teacher.config.inference.model_copy(update=drawn),
            "output": teacher.config.output.model_copy(update={"dir": str(root / f"sample-{number}")}),
        }
        samples.append(_answers(replace(teacher, config=teacher.config.model_copy(update=update)), adapter))
    known, rows = (
        [Labelled(line, agree, _confidence(line)) for line, agree in zip(lines, _agreement(lines, drawn), strict=True)]
        for lines, drawn in zip(answers, zip(*samples, strict=True) if samples else ((), ()), strict=True)
    )
    return known, rows


def _answers(teacher: Session, adapter: Path | None) -> tuple[list[Line], list[Line]]:
    """Answers to the validation rows and to those without labels."""
    file = predict.predict(teacher, adapter)
    [asked] = teacher.additional
    return read(file), read(asked.files.baseline if adapter is None else asked.files.tuned)


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
    """Identities of the images of the validation and evaluation rows."""
    roles = dict.fromkeys(("validation", session.config.evaluation.split))
    found = (identity_of(ref) for role in roles for row in session.rows(role) for ref in row.images)
    return {one for one in found if one is not None}


def _write(
    folder: Path, rows: Rows, labelled: Sequence[Labelled], settings: LabelConfig, evaluated: Set[str]
) -> dict[str, Any]:
    """Write the rows that pass the filters, with copies of their images; returns how many there are of each kind."""
    (folder / LABELLED_IMAGES).mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("asked", "labelled", "failed", "filtered", "evaluated"), 0)
    lines: list[str] = []
    for example, one in zip(rows, labelled, strict=True):
        counts["asked"] += 1
        images = {} if _failed(one.line) else {name: image for image, name in map(identified, example.images)}
        kind = _fate(one, images.keys(), settings, evaluated)
        counts[kind] += 1
        if kind == "labelled":
            files = [_copy(folder, name, image) for name, image in images.items()]
            record = {"id": example.id, "images": files, "label": _text(one.line)}
            record |= {"question": example.question} if example.question is not None else {}
            lines.append(json.dumps({**record, "agreement": one.agreement, "confidence": one.confidence}) + "\n")
    if not lines:
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise DataError(f"label.dataset: no row can be used ({said}); lower label.min_agreement or min_confidence")
    write_atomic(folder / LABELLED_ROWS, "".join(lines))
    return {"rows": counts}


def _failed(line: Line) -> bool:
    return line.prediction is None or line.unparsed is not None or not line.prediction.strip()


def _fate(one: Labelled, images: Set[str], settings: LabelConfig, evaluated: Set[str]) -> str:
    """What becomes of a row, whose images have these identities."""
    if _failed(one.line):
        return "failed"
    if images & evaluated:
        return "evaluated"
    return "labelled" if one.passes(settings.min_agreement, settings.min_confidence) else "filtered"


def _text(line: Line) -> str:
    """The answer as the task reads it, where that is a text."""
    return line.answer if isinstance(line.answer, str) and line.answer.strip() else (line.prediction or "").strip()


def _copy(folder: Path, identity: str, image: Image) -> str:
    """Save an image under its identity; returns its path in the folder."""
    name = f"{LABELLED_IMAGES}/{identity[:24]}.png"
    if not (folder / name).is_file():
        stream = io.BytesIO()
        image.save(stream, "PNG")
        write_bytes(folder / name, stream.getvalue())
    return name


def _worth(session: Session, known: Sequence[Labelled], settings: LabelConfig) -> dict[str, Any]:
    """The teacher's score on rows with labels, all of them and those that pass each filter."""
    evaluation = session.config.evaluation
    lines = reread([one.line for one in known], session.task, session.config.task)
    metric = choose_primary(session.task, session.config.task, lines, evaluation.metrics, evaluation.primary).metrics[0]
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
        worth.append(
            {
                "filter": name,
                "threshold": threshold,
                "rows": len(kept),
                **_score(metric, stats[kept], [lines[answered[k]] for k in kept]),
            }
        )
    return {"metric": metric.name, "validation_rows": len(known), "filters": worth}


def _score(metric: Metric, stats: Stats, lines: Sequence[Line]) -> dict[str, float | None]:
    """Score of some rows with its 95 % interval; null for too few."""
    if len(lines) < FEWEST:
        return {"score": None, "low": None, "high": None}
    low, high = percentile_interval(resampled_scores(metric, [stats], lines)[:, 0])
    return {"score": summary(metric, stats), "low": low, "high": high}

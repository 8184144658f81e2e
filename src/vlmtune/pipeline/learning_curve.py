"""The learning curve: trainings on nested parts of the train rows, and what more rows would bring."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmtune.config import refuse_evaluated_training_rows, with_values
from vlmtune.errors import ConfigError
from vlmtune.files import write_atomic, write_json
from vlmtune.pipeline import predict, train
from vlmtune.pipeline.session import Session
from vlmtune.predictions import Line, read
from vlmtune.report import learning_curve_page
from vlmtune.run_layout import learning_curve_folder, learning_curve_page_path, learning_curve_path
from vlmtune.scoring.learning_curve import FEWEST_SIZES, Scores, extrapolate
from vlmtune.scoring.score import choose_primary, measure, percentile_interval, reread, resampled_scores, summary

FACTORS = (1.0, 2.0, 4.0)
"""Multiples of all train rows that the curve is extrapolated to, beyond what was trained."""


def learning_curve(session: Session, fractions: Sequence[float]) -> dict[str, Any]:
    """Train on each fraction of the train rows, score on the evaluation rows, extrapolate; writes a JSON and a page.

    Each part contains the smaller ones. Every training has a run folder of its own, `learning_curve/<rows>`, in which
    finished steps are skipped.

    Raises:
        ConfigError: a fraction is not in (0, 1], two give the same number of rows, or rows are trained and evaluated.
    """
    config = session.config
    refuse_evaluated_training_rows(config.dataset, config.evaluation.split)
    total = len(session.rows("train"))
    sizes = _sizes(fractions, total)
    files = [(size, file) for size in sizes for file in _answer(session, size)]
    lines = [reread(read(file), session.task, config.task) for _, file in files]
    evaluation = config.evaluation
    metric = choose_primary(session.task, config.task, lines[0], evaluation.metrics, evaluation.primary).metrics[0]
    kept = _answered(lines)
    stats = [measure(metric, each) for each in kept]
    resampled = resampled_scores(metric, stats, kept[0], evaluation.statistics.seed)
    trained = [size for size, _ in files]
    observed = [summary(metric, each) for each in stats]
    result = {
        "schema_version": 1,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "scale": metric.scale,
        "train_rows": total,
        "evaluated_rows": len(kept[0]),
        "points": [_point(size, trained, observed, resampled) for size in sizes],
        "extrapolations": [
            asdict(found)
            for factor in FACTORS
            if (rows := round(total * factor)) > max(sizes)
            and (found := extrapolate(trained, resampled, rows)) is not None
        ],
        "fewest_sizes": FEWEST_SIZES,
    }
    root = session.folder.root
    write_json(learning_curve_path(root), result)
    write_atomic(learning_curve_page_path(root), learning_curve_page.render(result))
    return result


def _sizes(fractions: Sequence[float], total: int) -> list[int]:
    """Numbers of rows, ascending."""
    sizes = sorted(round(fraction * total) for fraction in fractions)
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong or not sizes or sizes[0] < 1 or len(set(sizes)) < len(sizes):
        raise ConfigError(
            f"fractions of the {total} train rows must be different numbers above 0 and at most 1, of at least one row "
            f"each (got {', '.join(f'{each:g}' for each in fractions)})"
        )
    return sizes


def _answer(session: Session, size: int) -> list[Path]:
    """The prediction files of the adapters that are trained on some rows, one per training seed."""
    folder = learning_curve_folder(session.folder.root) / f"{size:06d}"
    values = {"output.dir": str(folder), "evaluation.additional": [], "evaluation.image_control_rows": 0}
    part = replace(session, config=with_values(session.config, values), parent=session, train_rows=size)
    session.progress.note(f"learning curve: {size} train rows")
    return [predict.predict(part, adapter) for adapter in train.train(part)]


def _answered(files: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The rows that every file answers, in the order of the first."""
    answered = [{line.id: line for line in lines if line.prediction is not None} for lines in files]
    common = [name for name in answered[0] if all(name in each for each in answered)]
    return [[each[name] for name in common] for each in answered]


def _point(size: int, trained: Sequence[int], observed: Sequence[float], resampled: Scores) -> dict[str, Any]:
    """The score at one size, the mean of its seeds, with the 95 % interval over the evaluated rows."""
    own = [n for n, each in enumerate(trained) if each == size]
    low, high = percentile_interval(resampled[:, own].mean(axis=1))
    seeds = [observed[n] for n in own]
    return {"rows": size, "score": float(np.mean(seeds)), "low": low, "high": high, "seeds": seeds}

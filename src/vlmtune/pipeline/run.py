"""The compare step, and the whole story: baseline, training, evaluation, comparison."""

from dataclasses import replace
from pathlib import Path

from vlmtune.compare_files import read_prediction_file, write_comparison, write_regressions
from vlmtune.errors import ConfigError
from vlmtune.pipeline import predict, train
from vlmtune.pipeline.session import Session
from vlmtune.pipeline.tracking import track_comparison
from vlmtune.run_folder import read_manifest
from vlmtune.scoring.comparison import Comparison, with_additional_sets
from vlmtune.scoring.comparison import compare as compare_sides


def compare(session: Session) -> Comparison:
    """The prediction files of this run, compared; writes `compare.json`, the page, and the rows that got worse.

    Every further evaluation set has a comparison and a page of its own, and stands in the first one.

    Raises:
        ConfigError: a prediction file is missing, or was made by the other kind of run (mock or real).
    """
    # The rows of the config come first: what a further set cannot be compared on must not cost their comparison.
    comparison = _written(session, _compared(session))
    if session.additional:
        additional = {str(other.evaluation_set): _written(other, _compared(other)) for other in session.additional}
        comparison = _written(session, with_additional_sets(comparison, additional))
    track_comparison(session, comparison, _answers(session))
    return comparison


def _compared(session: Session) -> Comparison:
    before, *after = _answers(session)
    config, files = session.config, session.files
    sides = read_prediction_file(before), tuple(map(read_prediction_file, after))
    baselines = [read_prediction_file(files.prompt_baseline(one.name), one.name) for one in config.evaluation.baselines]
    found = compare_sides(*sides, session.task, config.task, config.evaluation, prompt_baselines=baselines)
    return replace(found, result={**found.result, "set": session.evaluation_set, "mock": session.mock})


def _answers(session: Session) -> list[Path]:
    """The prediction files of the baseline and of every seed, after all that is compared was found to be there."""
    before, after = session.files.baseline, [seeded.files.tuned for seeded in session.seeds]
    base = (before, *(session.files.prompt_baseline(one.name) for one in session.config.evaluation.baselines))
    for file, step in (*((file, "baseline") for file in base), *((file, "eval") for file in after)):
        if not file.is_file():
            raise ConfigError(f"{file} is not there yet; run the {step} step first")
        made = read_manifest(file)
        if made is not None and made["mock"] != session.mock:
            kind = "mock" if made["mock"] else "real"
            raise ConfigError(f"{file} came from a {kind} run; run the {step} step of this one first")
    return [before, *after]


def _written(session: Session, comparison: Comparison) -> Comparison:
    *pages, regressions = session.files.derived
    for file in pages:
        write_comparison(comparison, file, _answers(session), session.config.report)
    write_regressions(comparison, regressions)
    return comparison


def run(session: Session) -> Comparison:
    """Baseline, training, evaluation, comparison. Rows that cannot be taught stop it before any model is loaded."""
    finished = all(seeded.files.adapter.exists() for seeded in session.seeds)
    lengths = None if finished else train.check_rows(session)
    predict.predict(session)
    for adapter in train.train(session, lengths):
        predict.predict(session, adapter)
    return compare(session)

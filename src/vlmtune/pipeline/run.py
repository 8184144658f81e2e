"""The compare step, and a complete run: baseline, training, evaluation, comparison."""

from dataclasses import replace
from pathlib import Path

from vlmtune.compare_files import judge_of, read_prediction_file, write_comparison, write_regressions
from vlmtune.config import refuse_evaluated_training_rows
from vlmtune.errors import ConfigError
from vlmtune.pipeline import predict, train
from vlmtune.pipeline.session import Session
from vlmtune.pipeline.tracking import track_comparison
from vlmtune.processing.answer_lengths import count_answers, cut_off
from vlmtune.run_folder import read_manifest
from vlmtune.scoring.comparison import Comparison, with_additional_sets
from vlmtune.scoring.comparison import compare as compare_sides


def compare(session: Session) -> Comparison:
    """Compare the prediction files of a run; writes `compare.json`, the report, and the rows that got worse.

    Each additional evaluation set gets its own comparison and report, and is summarized in the main one.

    Raises:
        ConfigError: a prediction file is missing, or is from the other kind of run (mock or real).
    """
    # Written before a judge is asked and the additional sets are compared, so that an error there does not lose it.
    comparison = _write(session, _compare(session))
    if session.config.evaluation.judge is not None:
        comparison = _write(session, _compare(session, judged=True))
    if session.additional:
        additional = {str(other.evaluation_set): _write(other, _compare(other)) for other in session.additional}
        comparison = _write(session, with_additional_sets(comparison, additional))
    track_comparison(session, comparison, _prediction_files(session))
    return comparison


def _compare(session: Session, judged: bool = False) -> Comparison:
    before, *after = _prediction_files(session)
    config, files = session.config, session.files
    sides = read_prediction_file(before), tuple(map(read_prediction_file, after))
    baselines = [read_prediction_file(files.prompt_baseline(one.name), one.name) for one in config.evaluation.baselines]
    judge = judge_of(config.evaluation, files.root, session.progress, session.stop) if judged else None
    comparison = compare_sides(
        *sides, session.task, config.task, config.evaluation, prompt_baselines=baselines, judge=judge
    )
    return replace(
        comparison, result={**comparison.result, "evaluation_set": session.evaluation_set, "mock": session.mock}
    )


def _prediction_files(session: Session) -> list[Path]:
    """The prediction files of the baseline and of every seed, after checking that all compared files exist."""
    before, after = session.files.baseline, [seeded.files.tuned for seeded in session.seeds]
    base = (before, *(session.files.prompt_baseline(one.name) for one in session.config.evaluation.baselines))
    for file, step in (*((file, "baseline") for file in base), *((file, "eval") for file in after)):
        if not file.is_file():
            raise ConfigError(f"{file} does not exist yet; run the {step} step first")
        manifest = read_manifest(file)
        if manifest is not None and manifest["mock"] != session.mock:
            kind = "mock" if manifest["mock"] else "real"
            raise ConfigError(f"{file} is from a {kind} run; run the {step} step again")
    return [before, *after]


def _write(session: Session, comparison: Comparison) -> Comparison:
    *pages, regressions = session.files.derived
    comparison = replace(comparison, examples=list(comparison.examples))  # made once for all files
    for file in pages if session.config.task.name == "captioning" else pages[:-1]:
        write_comparison(comparison, file, _prediction_files(session), session.config.report)
    write_regressions(comparison, regressions)
    return comparison


def _note_answers_cut_off(session: Session) -> None:
    """Say before anything is answered if references are longer than answers may be."""
    for each in (session, *session.additional):
        role, limit = each.config.evaluation.split, each.inference.answer_limit
        tokens = count_answers(each.rows(role), each.task, each.config.task, each.encoder)
        if (message := cut_off(tokens, limit)) is not None:
            session.progress.note(f"{each.evaluation_set or role}: {message}")


def run(session: Session) -> Comparison:
    """Run baseline, training, evaluation and comparison. Rows unfit for training raise before any model is loaded."""
    refuse_evaluated_training_rows(session.config.dataset, session.config.evaluation.split)
    lengths = None
    if not all(seeded.files.adapter.exists() for seeded in session.seeds):
        train.refuse_a_single_shard(session)
        lengths = train.check_rows(session)
        _note_answers_cut_off(session)
    predict.predict(session)
    for adapter in train.train(session, lengths):
        predict.predict(session, adapter)
    return compare(session)

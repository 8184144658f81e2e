"""The compare step, and the whole story: baseline, training, evaluation, comparison."""

from vlmtune.comparing import read_side, write_comparison
from vlmtune.data import SplitRole
from vlmtune.errors import ConfigError
from vlmtune.pipeline import adapting, predicting
from vlmtune.pipeline.session import Session
from vlmtune.runs import read_manifest
from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.comparison import compare as compare_sides


def compare(session: Session) -> Comparison:
    """The prediction files of this run, compared; writes `compare.json` and the page.

    Raises:
        ConfigError: one of them is missing, or was made by the other kind of run (mock or real).
    """
    output = session.config.output
    before = output.path(output.baseline)
    after = [seeded.config.output.path(seeded.config.output.tuned) for seeded in session.seeds]
    asked = {one.name: session.column_path(one.name) for one in session.config.evaluation.baselines}
    base = (before, *asked.values())
    for file, step in (*((file, "baseline") for file in base), *((file, "eval") for file in after)):
        if not file.is_file():
            raise ConfigError(f"{file} is not there yet; run the {step} step first")
        made = read_manifest(file)
        if made is not None and made["mock"] != session.mock:
            kind = "mock" if made["mock"] else "real"
            raise ConfigError(f"{file} came from a {kind} run; run the {step} step of this one first")
    sides = read_side(before), tuple(map(read_side, after))
    untrained = [read_side(file, name) for name, file in asked.items()]
    config = session.config
    comparison = compare_sides(*sides, session.task, config.task, config.evaluation, untrained=untrained)
    for file in session.conclusions():
        write_comparison(comparison, file, [before, *after], session.config.report)
    return comparison


def run(session: Session) -> Comparison:
    """Baseline, training, evaluation, comparison. Rows that cannot be taught stop it before any model is loaded."""
    if not all(seeded.adapter_path().exists() for seeded in session.seeds):
        roles: tuple[SplitRole, ...] = ("train", "select")
        for role in roles:
            adapting.lessons_of(session, session.rows(role)).check(role, session.progress, session.stop)
    predicting.predict(session)
    for adapter in adapting.train(session):
        predicting.predict(session, adapter)
    return compare(session)

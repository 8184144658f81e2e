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
    """Both prediction files of this run, compared; writes `compare.json` and the page.

    Raises:
        ConfigError: one of them is missing, or was made by the other kind of run (mock or real).
    """
    output = session.config.output
    before, after = output.path(output.baseline), output.path(output.tuned)
    for file, step in ((before, "baseline"), (after, "eval")):
        if not file.is_file():
            raise ConfigError(f"{file} is not there yet; run the {step} step first")
        made = read_manifest(file)
        if made is not None and made["mock"] != session.mock:
            kind = "mock" if made["mock"] else "real"
            raise ConfigError(f"{file} came from a {kind} run; run the {step} step of this one first")
    sides = read_side(before), read_side(after)
    comparison = compare_sides(*sides, session.task, session.config.task, session.config.evaluation)
    for file in session.conclusions():
        write_comparison(comparison, file, [before, after], session.config.report)
    return comparison


def run(session: Session) -> Comparison:
    """Baseline, training, evaluation, comparison. Rows that cannot be taught stop it before any model is loaded."""
    if not session.adapter_path().exists():
        roles: tuple[SplitRole, ...] = ("train", "select")
        for role in roles:
            adapting.lessons_of(session, session.rows(role)).check(role, session.progress, session.stop)
    predicting.predict(session)
    adapter = adapting.train(session)
    predicting.predict(session, adapter)
    return compare(session)

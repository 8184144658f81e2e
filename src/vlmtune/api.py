"""The Python interface, with the same results as the command line: configs and files in, files and values out."""

from pathlib import Path

from vlmtune import compare_files
from vlmtune.config import Config, loader
from vlmtune.pipeline import predict as predict_step
from vlmtune.pipeline import run as run_step
from vlmtune.pipeline import train as train_step
from vlmtune.pipeline.session import open_session
from vlmtune.scoring.comparison import Comparison

load_config = loader.load_config
compare = compare_files.compare_files
score = compare_files.score_file


def train(config: Config) -> list[Path]:
    """Train the adapter of a config, one per seed; returns their folders. Resumes interrupted training."""
    with open_session(config, "none", distributed=True) as session:
        return train_step.train(session)


def predict(config: Config, adapter: Path | None = None, *, accept_failures: bool = False) -> Path:
    """Answer the evaluation rows of a config, with or without an adapter; returns the prediction file.

    With `accept_failures` the file is published even if a server failed on some rows; without, that is a RemoteError,
    and the same call asks for these rows again.
    """
    with open_session(config, "none", accept_failures=accept_failures) as session:
        return predict_step.predict(session, adapter)


def run(config: Config, *, accept_failures: bool = False) -> Comparison:
    """Run baseline, training, evaluation and comparison of a config; skips finished steps.

    `accept_failures` is that of `predict`.
    """
    with open_session(config, "none", accept_failures=accept_failures) as session:
        return run_step.run(session)

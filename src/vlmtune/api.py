"""The Python interface: a config in, files and values out; the command line makes the same."""

from pathlib import Path

from vlmtune.config import Config
from vlmtune.pipeline import predict as predict_step
from vlmtune.pipeline import run as run_step
from vlmtune.pipeline import train as train_step
from vlmtune.pipeline.session import working
from vlmtune.scoring.comparison import Comparison


def train(config: Config) -> list[Path]:
    """Train the config's adapter; returns its folder, one per seed. Finished or interrupted work is continued."""
    with working(config, "none", distributed=True) as session:
        return train_step.train(session)


def predict(config: Config, adapter: Path | None = None) -> Path:
    """Answer the config's evaluation rows; returns the prediction file."""
    with working(config, "none") as session:
        return predict_step.predict(session, adapter)


def run(config: Config) -> Comparison:
    """Baseline, training, evaluation and comparison of a config."""
    with working(config, "none") as session:
        return run_step.run(session)

"""Weights & Biases: curves and the summary. Mirrors the local files; never required, never in the way."""

from collections.abc import Mapping
from typing import Any, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import TrackerConfig


class Config(TrackerConfig):
    """Weights & Biases."""

    to: str = "wandb"
    """The tracker."""

    project: str = "vlmtune"
    """Project in which runs appear."""

    entity: str | None = None
    """Team or user; null takes the login's default."""

    mode: Literal["online", "offline"] = "online"
    """`online`, or `offline` to keep the run in a local folder for a later `wandb sync`."""


def open_tracker(config: Config, facts: Mapping[str, Any]) -> "WandbTracker":
    """Start a run.

    Args:
        config: where it appears.
        facts: the resolved configuration, shown beside the curves; also "dir", where offline files lie.

    Raises:
        EnvironmentProblem: wandb is not installed, or nobody is logged in.
    """
    try:
        import wandb
    except ModuleNotFoundError:
        raise EnvironmentProblem("tracking to wandb needs it installed: uv pip install wandb") from None
    if config.mode == "online" and not wandb.api.api_key:
        raise EnvironmentProblem("wandb is not logged in: run `wandb login`, or set mode: offline in tracking")
    settings = wandb.Settings(silent=True, init_timeout=30)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        mode="offline" if config.mode == "offline" else "online",
        config=dict(facts["config"]),
        dir=facts["dir"],
        settings=settings,
    )
    return WandbTracker(run)


class WandbTracker:
    """One W&B run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Results, then the end of the run."""
        self._run.summary.update(dict(summary))
        self._run.finish()

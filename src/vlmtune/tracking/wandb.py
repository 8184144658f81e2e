"""Weights & Biases: curves, the largest changes and the summary. Mirrors the local files; never in the way."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import Changed, TrackerConfig


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
    """Start a run, or go on with the one of this id.

    What this process is (its output, code, repository and arguments) is none of the tracker's business.

    Args:
        config: where it appears.
        facts: as `tracking` says; offline files lie in "dir".

    Raises:
        EnvironmentProblem: wandb is not installed, or nobody is logged in.
    """
    try:
        import wandb
    except ModuleNotFoundError:
        raise EnvironmentProblem("tracking to wandb needs it installed: uv pip install wandb") from None
    if config.mode == "online" and not wandb.api.api_key:
        raise EnvironmentProblem("wandb is not logged in: run `wandb login`, or set mode: offline in tracking")
    settings = wandb.Settings(
        silent=True, init_timeout=30, console="off", disable_code=True, disable_git=True, x_disable_meta=True
    )
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        id=facts["id"],
        name=facts["name"],
        resume="allow" if config.mode == "online" else None,
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

    def compared(self, metric: str, rows: Sequence[Changed]) -> None:
        """A table with thumbnails."""
        from io import BytesIO

        import wandb
        from PIL import Image

        table = wandb.Table(columns=["id", "image", "references", "before", "after", f"change in {metric}"])
        for row in rows:
            image = wandb.Image(Image.open(BytesIO(row.image)).convert("RGB")) if row.image is not None else None
            table.add_data(row.id, image, "\n".join(row.references), row.before, row.after, row.change)
        self._run.log({"before and after": table})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Results, then the end of the run."""
        self._run.summary.update(dict(summary))
        self._run.finish()

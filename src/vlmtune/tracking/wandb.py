"""Weights & Biases: learning curves, the largest changes and the summary."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import ChangedRow, TrackedRun, TrackerConfig


class Config(TrackerConfig):
    """Weights & Biases."""

    to: str = "wandb"
    """The tracker."""

    project: str = "vlmtune"
    """Project that runs belong to."""

    entity: str | None = None
    """Team or user; null means the default of the login."""

    mode: Literal["online", "offline"] = "online"
    """`online`, or `offline` to keep runs in a local folder for a later `wandb sync`."""


def open_tracker(config: Config, run: TrackedRun) -> "WandbTracker":
    """Start a run, or continue the one with this id.

    Nothing about the process itself (its output, code, repository, arguments) is sent.

    Args:
        config: where the run appears.
        run: which run it is; offline files go to its folder.

    Raises:
        EnvironmentProblem: wandb is not installed, or not logged in.
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
    opened = wandb.init(
        project=config.project,
        entity=config.entity,
        id=run["id"],
        name=run["name"],
        resume="allow" if config.mode == "online" else None,
        mode="offline" if config.mode == "offline" else "online",
        config=dict(run["config"]),
        dir=run["dir"],
        settings=settings,
    )
    return WandbTracker(opened)


class WandbTracker:
    """One W&B run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        self._run.log(dict(values), step=step)

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
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
        """Write the results and end the run."""
        self._run.summary.update(dict(summary))
        self._run.finish()

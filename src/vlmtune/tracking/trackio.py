"""Trackio: learning curves, the largest changes and the summary, in a local database or a Space of the Hub."""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import ChangedRow, TrackedRun, TrackerConfig


class Config(TrackerConfig):
    """Trackio."""

    to: str = "trackio"
    """The tracker."""

    project: str = "vlmtune"
    """Project that runs belong to; `trackio show --project vlmtune` opens it."""

    space_id: str | None = None
    """Space of the Hub that runs are sent to, ORG/NAME, created as a private one; null keeps them on this machine."""


def open_tracker(config: Config, run: TrackedRun) -> "TrackioTracker":
    """Start a run, or continue the one with this name and id.

    Args:
        config: where the run appears.
        run: which run it is.

    Raises:
        EnvironmentProblem: Trackio is not installed.
    """
    try:
        import trackio
    except ModuleNotFoundError:
        raise EnvironmentProblem("tracking to trackio needs it installed: uv pip install trackio") from None
    # It reports to stdout, which is for results: a name in a module hides the built-in function from its code.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio":
            module.__dict__["print"] = functools.partial(print, file=sys.stderr)
    opened = trackio.init(
        project=config.project,
        name=f"{run['name']}-{run['id']}",
        space_id=config.space_id,
        private=True if config.space_id is not None else None,
        config=dict(run["config"]),
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return TrackioTracker(opened)


class TrackioTracker:
    """One run of Trackio."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        self._run.log(dict(values), step=step)

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        """A table with thumbnails."""
        from io import BytesIO

        import trackio
        from PIL import Image

        data = []
        for row in rows:
            image = trackio.Image(Image.open(BytesIO(row.image)).convert("RGB")) if row.image is not None else None
            data.append([row.id, image, "\n".join(row.references), row.before, row.after, row.change])
        columns = ["id", "image", "references", "before", "after", f"change in {metric}"]
        self._run.log({"before and after": trackio.Table(columns=columns, data=data, allow_mixed_types=True)})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the results and end the run."""
        self._run.log({key: value for key, value in summary.items() if value is not None})
        self._run.finish()

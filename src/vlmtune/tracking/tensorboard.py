"""TensorBoard: learning curves, the largest changes and the summary as event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import ChangedRow, TrackedRun, TrackerConfig

FLUSH_S = 10
"""Longest time in seconds until events are on disk."""


class Config(TrackerConfig):
    """TensorBoard."""

    to: str = "tensorboard"
    """The tracker."""

    dir: str | None = None
    """Folder for event files, with a subfolder per run; null means `tensorboard` in the run folder."""


def open_tracker(config: Config, run: TrackedRun) -> "TensorboardTracker":
    """Start an event file.

    Args:
        config: where it is written.
        run: which run it belongs to.

    Raises:
        EnvironmentProblem: the writer is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        raise EnvironmentProblem("tracking to tensorboard needs its writer: uv pip install tensorboardX") from None
    folder = Path(config.dir) if config.dir is not None else Path(run["dir"]) / "tensorboard"
    return TensorboardTracker(SummaryWriter(str(folder / run["name"]), flush_secs=FLUSH_S))


class TensorboardTracker:
    """One folder of event files."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        """A table, and thumbnails named by row id."""
        from io import BytesIO

        import numpy as np
        from PIL import Image

        head = ["id", "references", "before", "after", f"change in {metric}"]
        body = [[row.id, " / ".join(row.references), row.before, row.after, f"{row.change:+.4f}"] for row in rows]
        self._writer.add_text("before and after", _table([head, *body]), 0)
        for row in rows:
            if row.image is not None:
                pixels = np.asarray(Image.open(BytesIO(row.image)).convert("RGB"))
                self._writer.add_image(f"before and after/{row.id}", pixels, 0, dataformats="HWC")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the results as a table and close the file."""
        self._writer.add_text("summary", _table([["", "value"], *([key, value] for key, value in summary.items())]), 0)
        self._writer.close()


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; pipes and line breaks in texts are escaped, so that they do not start a cell or a row."""
    cells = [[" ".join(str("-" if cell is None else cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"|{'---|' * len(cells[0])}", *body])

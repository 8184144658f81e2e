"""MLflow: learning curves, the config, the largest changes and the summary, on a tracking server."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmtune.errors import EnvironmentProblem
from vlmtune.tracking import ChangedRow, TrackedRun, TrackerConfig

RUN_TAG = "vlmtune.id"
"""Tag by which a run is found again: MLflow chooses ids of runs itself."""

BATCH = 100
"""Most parameters that MLflow takes at once."""

LONGEST_PARAMETER = 500
"""Characters of a parameter; the artifact `config.json` has all of them."""


class Config(TrackerConfig):
    """MLflow."""

    to: str = "mlflow"
    """The tracker."""

    experiment: str = "vlmtune"
    """Experiment that runs belong to."""

    uri: str | None = None
    """Address of the tracking server, without credentials; null is that of MLFLOW_TRACKING_URI."""


def open_tracker(config: Config, run: TrackedRun) -> "MlflowTracker":
    """Start a run, or continue the one with this id.

    Nothing about the process itself (its user, code, repository, arguments) is sent.

    Args:
        config: where the run appears.
        run: which run it is.

    Raises:
        EnvironmentProblem: MLflow is not installed, or no server is named.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.tracking import is_tracking_uri_set
    except ModuleNotFoundError:
        raise EnvironmentProblem("tracking to mlflow needs it installed: uv pip install mlflow-skinny") from None
    if config.uri is None and not is_tracking_uri_set():
        raise EnvironmentProblem("tracking to mlflow needs a server: set uri in tracking, or MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=config.uri)
    experiment = client.get_experiment_by_name(config.experiment)
    number = experiment.experiment_id if experiment is not None else client.create_experiment(config.experiment)
    known = client.search_runs([number], f"tags.`{RUN_TAG}` = '{run['id']}'", max_results=1)
    if known:
        client.update_run(known[0].info.run_id, "RUNNING")
        return MlflowTracker(client, known[0].info.run_id)
    opened = client.create_run(number, run_name=run["name"], tags={RUN_TAG: run["id"]}).info.run_id
    parameters = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in _leaves(run["config"])]
    for start in range(0, len(parameters), BATCH):
        client.log_batch(opened, params=parameters[start : start + BATCH])
    client.log_dict(opened, dict(run["config"]), "config.json")
    return MlflowTracker(client, opened)


class MlflowTracker:
    """One run of MLflow."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def log_rows(self, metric: str, rows: Sequence[ChangedRow]) -> None:
        """The rows as JSON, and thumbnails by their number."""
        from io import BytesIO

        from PIL import Image

        table = []
        for number, row in enumerate(rows):
            thumbnail = f"before_and_after/{number}.png" if row.image is not None else None
            if row.image is not None:
                self._client.log_image(self._run, Image.open(BytesIO(row.image)).convert("RGB"), thumbnail)
            texts = {"references": list(row.references), "before": row.before, "after": row.after}
            table.append({"id": row.id, "image": thumbnail, **texts, f"change in {metric}": row.change})
        self._client.log_dict(self._run, {"rows": table}, "before_and_after/rows.json")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write numbers as metrics and the rest as tags, and end the run."""
        for name, value in summary.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._client.log_metric(self._run, name, value)
            elif value is not None:
                self._client.set_tag(self._run, f"vlmtune.{name}", str(value))
        self._client.set_terminated(self._run)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by their dotted names, {"a": {"b": 1}} as ("a.b", 1); lists stay whole."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value

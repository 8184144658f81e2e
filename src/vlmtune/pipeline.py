"""The steps: predict, train, compare, run. Joins what lower layers may not, and alone writes the run folder.

A step whose artifact is already made from the same origin is skipped. The public functions at the end are the Python
API; the command line calls the same `Session`.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmtune import plugs
from vlmtune.answering import Answering, exchanged
from vlmtune.comparing import read_side, write_comparison
from vlmtune.config import Config, config_json
from vlmtune.data import Rows, SplitRole
from vlmtune.engines import Engine
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import write_atomic, write_json
from vlmtune.hub import go_offline_if_unreachable
from vlmtune.inputs import Inputs
from vlmtune.models import TINY, find_checkpoint
from vlmtune.predictions import read
from vlmtune.progress import Progress, Silent, Style, open_progress
from vlmtune.runs import Origin, RunFolder, differences, hash_files, read_manifest
from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.comparison import compare as compare_sides
from vlmtune.scoring.score import Score
from vlmtune.scoring.score import score as score_lines
from vlmtune.signals import StopRequest, stop_on_signal
from vlmtune.tasks import Task
from vlmtune.tracking._guarded import Guarded
from vlmtune.types import Example

ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
PROBED = 4
"""Requests on which an adapter must change something."""


@dataclass(frozen=True)
class Session:
    """One config at work in its run folder. `mock` marks everything it makes as made by the stand-in."""

    config: Config
    progress: Progress = field(default_factory=lambda: Progress(Silent()))
    stop: StopRequest = field(default_factory=StopRequest)
    mock: bool = False

    @functools.cached_property
    def folder(self) -> RunFolder:
        """Where results go."""
        return RunFolder(Path(self.config.output.dir), self.progress)

    @functools.cached_property
    def task(self) -> Task:
        """The task's behaviour."""
        task: Task = plugs.load("tasks", self.config.task.name).TASK
        return task

    @functools.cached_property
    def inputs(self) -> Inputs:
        """Tokenizer, template and image rules of the checkpoint."""
        return Inputs(find_checkpoint(self.config.model), self.config.model)

    def rows(self, role: SplitRole) -> Rows:
        """The rows that play a role."""
        source = plugs.load("data", self.config.dataset.source)
        split, limit = getattr(self.config.dataset.splits, role), getattr(self.config.dataset.limit, role)
        rows: Rows = source.open(self.config.dataset, split, limit)
        return rows

    def adapter_path(self) -> Path:
        """Where this config's adapter lies."""
        return self.config.output.path(self.config.output.adapter)

    def train(self) -> Path:
        """Train the adapter, or find it trained; returns its folder."""
        from vlmtune.training.lessons import Lessons
        from vlmtune.training.loop import Job, train

        config, artifact = self.config, self.adapter_path()
        train_rows, select_rows = self.rows("train"), self.rows("select")
        settings = config.training.model_dump(mode="json", exclude={"log_every_steps", "save_every_steps"})
        origin = self._origin(
            dataset={
                "train": _rows_facts(train_rows),
                "select": _rows_facts(select_rows),
                "target": config.dataset.target,
            },
            training=settings,
        )
        if self.folder.finished(artifact, origin) is not None:
            self.progress.note(f"adapter: {artifact} is finished")
            return artifact
        work = self.folder.start(artifact, origin)
        trackers = self._trackers(work)

        def mirror(step: int, values: Mapping[str, float]) -> None:
            for tracker in trackers:
                tracker.log(step, values)

        parts = (self.task, config.task, self.inputs, config.training)
        job = Job(
            settings=config.training,
            model=config.model,
            inputs=self.inputs,
            train=Lessons(train_rows, *parts),
            select=Lessons(select_rows, *parts),
            target=config.dataset.target,
            work=work,
            adapter=artifact,
            log=mirror,
        )
        facts = train(job, self.progress, self.stop)
        curve = [json.loads(line) for line in (work / "curve.jsonl").read_text().splitlines()]
        self.folder.publish(artifact, origin, {**facts, "curve": curve, "selection_ids": []})
        for tracker in trackers:
            tracker.finish(facts)
        return artifact

    def predict(self, adapter: Path | None = None, role: SplitRole | None = None) -> Path:
        """Answers of the untouched model, or of the model with an adapter: a prediction file and its score."""
        config = self.config
        artifact = config.output.path(config.output.baseline if adapter is None else config.output.tuned)
        if role not in (None, config.evaluation.split):
            artifact = artifact.with_name(f"{artifact.stem}.{role}{artifact.suffix}")
        rows = self.rows(role or config.evaluation.split)
        precision = config.inference.precision or config.training.precision
        origin = self._origin(
            adapter=self._adapter_hash(adapter),
            dataset=_rows_facts(rows),
            inference=config.inference.model_dump(mode="json", exclude={"batch_size"}) | {"precision": precision},
            image_control_rows=config.evaluation.image_control_rows,
        )
        if self.folder.finished(artifact, origin) is not None:
            self.progress.note(f"{artifact} is finished")
            return artifact
        engine = plugs.load("engines", config.inference.engine).open_engine(
            config.inference, config.model, self.inputs, precision, adapter
        )
        try:
            facts = self._answer(engine, list(rows), artifact, self.folder.start(artifact, origin))
        finally:
            engine.close()
        chosen = (read_manifest(adapter) or {}).get("selection_ids", []) if adapter is not None else []
        self.folder.publish(artifact, origin, {**facts, "selection_ids": chosen})
        return artifact

    def score(self, file: Path) -> Score:
        """The score of one of this config's prediction files."""
        return score_lines(read(file), self.task, self.config.task, self.config.evaluation.metrics)

    def _answer(self, engine: Engine, examples: list[Example], artifact: Path, work: Path) -> dict[str, Any]:
        """Ask everything, write answers, controls and score; returns the engine's facts."""
        name, output = artifact.stem, self.config.output
        answering = Answering(self.task, self.config.task, artifact.parent / "pictures", self.progress, self.stop)
        effect = engine.effect([answering.request(example) for example in examples[:PROBED]])
        lines = answering.answer(name, engine, examples, work / "answers.jsonl")
        swapped = exchanged(examples, self.config.evaluation.image_control_rows)
        control = answering.answer(f"{name}, other images", engine, swapped, work / "exchanged.jsonl")
        write_atomic(artifact, "".join(line.to_json() + "\n" for line in lines))
        controls = {
            "schema_version": 1,
            "image": {"lines": [json.loads(line.to_json()) for line in control]} if control else None,
            "effect": {"max_logit_difference": effect} if effect is not None else None,
        }
        write_json(artifact.with_name(f"{name}.controls.json"), controls)
        known = {output.baseline: output.baseline_metrics, output.tuned: output.tuned_metrics}
        metrics = known.get(artifact.name, f"{name}.metrics.json")
        plain = self.score(artifact).to_json()
        # The scores stand at the top, too: scripts look for `bleu` there.
        write_json(output.path(metrics), {**plain["metrics"], **plain, "mock": self.mock})
        return dict(engine.facts())

    def compare(self) -> Comparison:
        """Both prediction files of this run, compared; writes `compare.json` and the page."""
        output = self.config.output
        before, after = output.path(output.baseline), output.path(output.tuned)
        for file, step in ((before, "baseline"), (after, "eval")):
            if not file.is_file():
                raise ConfigError(f"{file} is not there yet; run the {step} step first")
        sides = read_side(before), read_side(after)
        comparison = compare_sides(*sides, self.task, self.config.task, self.config.evaluation)
        for name in (output.comparison, output.report):
            write_comparison(comparison, output.path(name), [before, after], self.config.report)
        return comparison

    def run(self) -> Comparison:
        """Baseline, training, evaluation, comparison."""
        self.predict()
        adapter = self.train()
        self.predict(adapter)
        return self.compare()

    def _origin(self, **parts: Any) -> Origin:
        checkpoint = self.inputs.checkpoint
        common = {
            "model": checkpoint.facts(),
            "preprocessing": self.inputs.facts(),
            "task": self.config.task.model_dump(mode="json"),
        }
        return Origin(json.loads(json.dumps({**common, **parts})), self.mock)

    def _adapter_hash(self, adapter: Path | None) -> str | None:
        """Hash of the adapter's files, after its manifest was found to fit this model and its preprocessing."""
        if adapter is None:
            return None
        missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
        if missing:
            raise IntegrityError(f"{adapter}: not an adapter folder (no {missing[0]}); run the train step first")
        manifest = read_manifest(adapter)
        if manifest is not None:
            made = {key: manifest["origin"][key] for key in ("model", "preprocessing")}
            here = self._origin().parts
            unlike = differences(made, {key: here[key] for key in made})
            if unlike:
                raise IntegrityError(
                    f"{adapter} was trained on another model or with other preprocessing:\n  " + "\n  ".join(unlike)
                )
        return hash_files(adapter, ADAPTER_FILES)

    def _trackers(self, work: Path) -> list[Guarded]:
        facts = {"config": config_json(self.config), "dir": str(work)}
        opened = []
        for config in self.config.tracking:
            plug = plugs.load("tracking", config.to)
            opened.append(Guarded(config.to, functools.partial(plug.open_tracker, config, facts), self.progress))
        return opened


def _rows_facts(rows: Rows) -> dict[str, Any]:
    return {"rows": len(rows), "fingerprint": rows.fingerprint}


def _needs_hub(config: Config) -> bool:
    """Whether the model or the dataset is named as on the Hub."""
    named = [config.model.name]
    if config.dataset.source == "hub":
        named.append(config.dataset.model_dump()["path"])
    return any(name != TINY and not Path(name).exists() for name in named)


@contextmanager
def working(config: Config, progress: Style = "auto", mock: bool = False) -> Iterator[Session]:
    """A session that owns its run folder until the block ends, and stops at a safe point when a signal comes.

    Raises:
        FolderLocked: a live process works in the folder.
    """
    shown = open_progress(progress)
    if _needs_hub(config):
        go_offline_if_unreachable(shown)
    with stop_on_signal() as stop:
        session = Session(config, shown, stop, mock)
        with session.folder.locked():
            yield session


def train(config: Config) -> Path:
    """Train the config's adapter; returns its folder. Finished or interrupted work is found and continued."""
    with working(config, "none") as session:
        return session.train()


def predict(config: Config, adapter: Path | None = None) -> Path:
    """Answer the config's evaluation rows; returns the prediction file."""
    with working(config, "none") as session:
        return session.predict(adapter)


def run(config: Config) -> Comparison:
    """Baseline, training, evaluation and comparison of a config."""
    with working(config, "none") as session:
        return session.run()

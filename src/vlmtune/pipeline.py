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
from typing import TYPE_CHECKING, Any

from vlmtune import plugs
from vlmtune.answering import Answering, exchanged
from vlmtune.comparing import read_side, write_comparison
from vlmtune.config import Config, config_json
from vlmtune.data import Rows, SplitRole
from vlmtune.engines import Engine
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import read_json, read_whole_lines, write_bytes, write_json
from vlmtune.hub import go_offline_if_unreachable
from vlmtune.inputs import Inputs
from vlmtune.models import TINY, find_checkpoint
from vlmtune.predictions import Line, read
from vlmtune.progress import Progress, Silent, Style, open_progress
from vlmtune.runs import Origin, RunFolder, controls_path, differences, hash_files, read_manifest
from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.comparison import compare as compare_sides
from vlmtune.scoring.score import Score, choose
from vlmtune.scoring.score import score as score_lines
from vlmtune.signals import StopRequest, stop_on_signal
from vlmtune.tasks import Task
from vlmtune.tracking._guarded import Guarded
from vlmtune.types import Example

if TYPE_CHECKING:
    from vlmtune.training.lessons import Lessons

ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
CHANGE_NO_ADAPTER = {"evaluate_every_steps", "log_every_steps", "save_every_steps", "row_tokens"}
"""Keys of `training` that change what is seen on the way, memory and speed, and not the adapter."""

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
        from vlmtune.training.loop import Job, train

        config, artifact = self.config, self.adapter_path()
        train_rows, select_rows = self.rows("train"), self.rows("select")
        settings = config.training.model_dump(mode="json", exclude=CHANGE_NO_ADAPTER)
        origin = self._origin(
            dataset={
                "train": _rows_facts(train_rows),
                "select": _rows_facts(select_rows),
                "target": config.dataset.target,
            },
            training=settings,
        )
        if self.folder.finished(artifact, origin, above=self._conclusions()) is not None:
            self.progress.note(f"adapter: {artifact} is finished")
            return artifact
        work = self.folder.work(artifact, origin)
        built = work / "adapter"
        trackers = self._trackers()

        def mirror(step: int, values: Mapping[str, float]) -> None:
            for tracker in trackers:
                tracker.log(step, values)

        job = Job(
            settings=config.training,
            model=config.model,
            inputs=self.inputs,
            train=self._lessons(train_rows),
            select=self._lessons(select_rows),
            target=config.dataset.target,
            work=work,
            adapter=built,
            log=mirror,
        )
        facts = train(job, self.progress, self.stop)
        curve = [json.loads(line) for line in read_whole_lines(work / "curve.jsonl")]
        # A copy: a run that goes on after a crash here finds its lines where they were.
        write_bytes(built / "visits.jsonl", (work / "visits.jsonl").read_bytes())
        self.folder.publish(artifact, origin, {**facts, "curve": curve, "selection_ids": []}, built)
        for tracker in trackers:
            tracker.finish(facts)
        return artifact

    def _lessons(self, rows: Rows) -> "Lessons":
        from vlmtune.training.lessons import Lessons

        return Lessons(rows, self.task, self.config.task, self.inputs, self.config.training)

    def predict(self, adapter: Path | None = None, role: SplitRole | None = None) -> Path:
        """Answers of the untouched model, or of the model with an adapter: a prediction file and its score.

        Raises:
            DataError: a row lacks what a metric compares with; before a model is loaded.
        """
        config = self.config
        artifact = config.output.path(config.output.baseline if adapter is None else config.output.tuned)
        above = self._conclusions()
        for file in map(config.output.path, (config.output.baseline, config.output.tuned)):
            self.folder.keep_apart(file, self.mock, [*self._beside(file), *above])
        if role not in (None, config.evaluation.split):
            artifact, above = artifact.with_name(f"{artifact.stem}.{role}{artifact.suffix}"), []
        rows = self.rows(role or config.evaluation.split)
        precision = config.inference.precision or config.training.precision
        origin = self._origin(
            adapter=self._adapter_hash(adapter),
            dataset=_rows_facts(rows),
            inference=config.inference.model_dump(mode="json", exclude={"batch_size"}) | {"precision": precision},
            image_control_rows=config.evaluation.image_control_rows,
        )
        if self.folder.finished(artifact, origin, self._beside(artifact), above) is not None:
            self.progress.note(f"{artifact} is finished")
            if not self._metrics_path(artifact).is_file():
                self._write_score(artifact)
            return artifact
        examples = list(rows)
        asked = [Line(row.id, None, self.task.truth(config.task, row)) for row in examples]
        choose(self.task, config.evaluation.metrics, asked)
        engine = plugs.load("engines", config.inference.engine).open_engine(
            config.inference, config.model, self.inputs, precision, adapter
        )
        try:
            facts = self._answer(engine, examples, artifact, self.folder.work(artifact, origin))
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
        name = artifact.stem
        answering = Answering(self.task, self.config.task, artifact.parent / "pictures", self.progress, self.stop)
        effect = engine.effect([answering.request(example) for example in examples[:PROBED]])
        lines = answering.answer(name, engine, examples, work / "answers.jsonl")
        failed = [f"row {line.id} was not answered: {line.failure['reason']}" for line in lines if line.failure]
        for said in [*failed[:3], *([f"and {len(failed) - 3} more; all stand in {artifact}"] * (len(failed) > 3))]:
            self.progress.note(said)
        swapped = exchanged(examples, self.config.evaluation.image_control_rows)
        control = answering.answer(f"{name}, other images", engine, swapped, work / "exchanged.jsonl")
        self.folder.write(artifact, "".join(line.to_json() + "\n" for line in lines))
        controls = {
            "schema_version": 1,
            "image": {"lines": [json.loads(line.to_json()) for line in control]} if control else None,
            "effect": {"max_logit_difference": effect} if effect is not None else None,
        }
        write_json(controls_path(artifact), controls)
        self._write_score(artifact)
        return dict(engine.facts())

    def _write_score(self, artifact: Path) -> None:
        plain = self.score(artifact).to_json()
        # The scores stand at the top, too: scripts look for `bleu` there.
        write_json(self._metrics_path(artifact), {**plain["metrics"], **plain, "mock": self.mock})

    def _metrics_path(self, artifact: Path) -> Path:
        output = self.config.output
        known = {output.baseline: output.baseline_metrics, output.tuned: output.tuned_metrics}
        return output.path(known.get(artifact.name, f"{artifact.stem}.metrics.json"))

    def _beside(self, artifact: Path) -> list[Path]:
        """What is made from one prediction file alone."""
        return [controls_path(artifact), self._metrics_path(artifact)]

    def _conclusions(self) -> list[Path]:
        """What is made from both prediction files."""
        return [self.config.output.path(name) for name in (self.config.output.comparison, self.config.output.report)]

    def compare(self) -> Comparison:
        """Both prediction files of this run, compared; writes `compare.json` and the page.

        Raises:
            ConfigError: one of them is missing, or was made by the other kind of run (mock or real).
        """
        output = self.config.output
        before, after = output.path(output.baseline), output.path(output.tuned)
        for file, step in ((before, "baseline"), (after, "eval")):
            if not file.is_file():
                raise ConfigError(f"{file} is not there yet; run the {step} step first")
            made = read_manifest(file)
            if made is not None and made["mock"] != self.mock:
                kind = "mock" if made["mock"] else "real"
                raise ConfigError(f"{file} came from a {kind} run; run the {step} step of this one first")
        sides = read_side(before), read_side(after)
        comparison = compare_sides(*sides, self.task, self.config.task, self.config.evaluation)
        for file in self._conclusions():
            write_comparison(comparison, file, [before, after], self.config.report)
        return comparison

    def run(self) -> Comparison:
        """Baseline, training, evaluation, comparison. Rows that cannot be taught stop it before any model is loaded."""
        if not self.adapter_path().exists():
            roles: tuple[SplitRole, ...] = ("train", "select")
            for role in roles:
                self._lessons(self.rows(role)).check(role, self.progress, self.stop)
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
        """Hash of the adapter's files, after its manifest was found to fit this model and its preprocessing.

        The same checkpoint may have another name, a commit may change nothing but a README: both are only noted.

        Raises:
            IntegrityError: not an adapter, or one of another architecture or preprocessing.
        """
        if adapter is None:
            return None
        missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
        if missing:
            hint = "; run the train step first" if adapter == self.adapter_path() else ""
            kind = f"not an adapter folder (no {missing[0]})" if adapter.is_dir() else "no such folder"
            raise IntegrityError(f"{adapter}: {kind}{hint}")
        manifest = read_manifest(adapter)
        if manifest is not None:
            made, here = manifest["origin"], self._origin().parts
            unlike = differences(_must_fit(made), _must_fit(here))
            if unlike:
                raise IntegrityError(
                    f"{adapter} was trained on another model or with other preprocessing:\n  " + "\n  ".join(unlike)
                )
            for line in differences(made.get("model"), here["model"], "model"):
                self.progress.note(f"{adapter} fits, though {line}")
        elif (base := read_json(adapter / ADAPTER_FILES[0]).get("base_model_name_or_path")) != self.config.model.name:
            self.progress.note(f"{adapter} says it was trained on {base!r}; this is {self.config.model.name!r}")
        return hash_files(adapter, ADAPTER_FILES)

    def _trackers(self) -> list[Guarded]:
        facts = {"config": config_json(self.config), "dir": str(self.folder.root)}
        opened = []
        for config in self.config.tracking:
            plug = plugs.load("tracking", config.to)
            opened.append(Guarded(config.to, functools.partial(plug.open_tracker, config, facts), self.progress))
        return opened


def _must_fit(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter and the model it is put on must share."""
    model = origin.get("model") or {}
    return {key: model.get(key) for key in ("family", "config_hash")} | {"preprocessing": origin.get("preprocessing")}


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

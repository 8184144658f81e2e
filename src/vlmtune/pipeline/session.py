"""Session: a config with everything the steps of a run need, created on first use."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vlmtune import registry
from vlmtune.config import Config, EvaluationSetConfig
from vlmtune.data import Rows, SplitRole, Subset, open_role, overlapping_roles
from vlmtune.dataset_check.quarantine import Quarantine, Remaining
from vlmtune.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group, launched_world_size
from vlmtune.engines import Engine, InferenceConfig
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.hub import go_offline_if_unreachable
from vlmtune.inference import resolved, thinking_warning
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.pipeline.json_schema import with_json_schema
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress, Silent, Style, open_progress
from vlmtune.run_folder import (
    Provenance,
    RunFolder,
    differences,
    hash_adapter,
    read_adapter_config,
    read_manifest,
)
from vlmtune.run_layout import ADAPTER_FILES, RunFiles, status_path
from vlmtune.signals import StopRequest, stop_on_signal
from vlmtune.tasks import Task, for_model
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.mixture import TrainingSet, mix
from vlmtune.training.thinking import open_encoder, thinking_note


@dataclass(frozen=True)
class Session:
    """A config with its rows, task, encoder, engine and run folder, its progress display and its stop request.

    Args:
        config: of the run.
        progress: shows every step.
        stop: checked at safe points.
        mock: whether results are marked as made by the tiny stand-in.
        processes: the processes that train together; only the main one writes.
        parent: the session of the whole run, if this one is for one of its seeds or additional evaluation sets. They
            share its encoder, so that images are decoded once.
        evaluation_set: name of the additional evaluation set that it is for; None for the config's own rows.
        seed: the training seed that it is for, if there are several.
        accept_failures: whether answers are published although the engine failed on some rows.
        selection_overlap: which of its rows may have been used to select a checkpoint: those with the `id` of a
            validation row, `all` (the same rows under other ids), or `none`.
        train_rows: how many of the train rows are used, for a learning curve; None for all.
    """

    config: Config
    progress: Progress = field(default_factory=lambda: Progress(Silent()))
    stop: StopRequest = field(default_factory=StopRequest)
    mock: bool = False
    processes: ProcessGroup = SINGLE_PROCESS
    parent: "Session | None" = None
    evaluation_set: str | None = None
    seed: int | None = None
    accept_failures: bool = False
    selection_overlap: Literal["id", "all", "none"] = "id"
    train_rows: int | None = None

    @functools.cached_property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(Path(self.config.output.dir), self.progress)

    @property
    def files(self) -> RunFiles:
        """Paths of the results of this seed and evaluation set."""
        return RunFiles.of(self.config.output, self.evaluation_set, self.seed)

    @functools.cached_property
    def task(self) -> Task:
        """The task, with boxes in the model's convention."""
        task: Task = registry.load("tasks", self.config.task.name).TASK
        # The encoder, and so the checkpoint, is only needed for rows with boxes; comparing files needs none.
        return for_model(
            task,
            lambda row: self.encoder.with_box_scale(row),  # noqa: PLW0108
            lambda row: row if row.objects is None else self.encoder.with_objects(row),
        )

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Tokenizer, chat template and image processor of the checkpoint."""
        if self.parent is not None:
            return self.parent.encoder
        config = self.config
        encoder = open_encoder(find_checkpoint(config.model), config.model, config.training, config.dataset)
        for note in (thinking_note(encoder, config.training), thinking_warning(config.inference, encoder)):
            if note is not None:
                self.progress.note(note)
        return encoder

    @functools.cached_property
    def inference(self) -> InferenceConfig:
        """How answers are generated, with what the checkpoint decides."""
        if self.evaluation_set is not None and self.parent is not None:
            return self.parent.inference  # the engine that answers the run's own rows answers those of its sets
        task, settings = self.config.task, resolved(self.config.inference, self.encoder)
        return with_json_schema(
            settings, task, lambda: (self.task.truth(task, row)["record"] for row in self.rows("train"))
        )

    def rows(self, role: SplitRole) -> Rows:
        """The rows of a split role, without those that cannot be used and may be left out.

        Raises:
            DataError: more rows are bad than `dataset.max_bad_fraction` allows.
        """
        rows = open_role(self.config.dataset, role)
        usable = rows if self.config.dataset.max_bad_fraction == 0 else self._usable(role, rows)
        return usable if role != "train" or self.train_rows is None else nested_part(usable, self.train_rows)

    def _usable(self, role: SplitRole, rows: Rows) -> Rows:
        name = role if self.evaluation_set is None else f"{self.evaluation_set}/{role}"
        run = self.config if self.evaluation_set is None or self.parent is None else self.parent.config
        mixed = [one.name for one in run.datasets]
        trained = role != "test" if self.evaluation_set is None else role == "train" and self.evaluation_set in mixed
        examples = training_examples(self, rows) if trained else None
        quarantine = Quarantine(self.folder.root, self.config, self.encoder.facts(), run)
        left_out = self.processes.broadcast(lambda: quarantine.left_out(name, rows, examples, self.progress, self.stop))
        if not left_out:
            return rows
        if name not in self._noted:
            self._noted.append(name)
            count = f"{len(left_out)} {'row' if len(left_out) == 1 else 'rows'}"
            self.progress.note(f"{count} of {name} left out, see {quarantine.file}")
        return Remaining(rows, left_out)

    @functools.cached_property
    def _noted(self) -> list[str]:
        """Roles whose rows left out were already noted."""
        return []

    @property
    def precision(self) -> str:
        """Precision of the model during inference."""
        return self.config.inference.precision or self.config.training.precision

    def open_engine(self, adapter: Path | None) -> Engine:
        """The config's engine, with an adapter if one is given; the caller closes it.

        Raises:
            AdapterRefused: the engine cannot load this adapter; `export.open_engine` merges it instead.
        """
        config = self.config
        engine: Engine = registry.load("engines", config.inference.engine).open_engine(
            self.inference, config.model, self.encoder, self.precision, adapter
        )
        return engine

    @functools.cached_property
    def seeds(self) -> list["Session"]:
        """One session per training seed, each with its own adapter and answers; this session if there is only one."""
        return [self._for_seed(seed) for seed in self.config.training.seeds] or [self]

    def for_adapter(self, adapter: Path | None) -> "Session":
        """The session of the seed that trained an adapter; this session for any other adapter."""
        return next((one for one in self.seeds if one.files.adapter == adapter), self)

    @functools.cached_property
    def additional(self) -> list["Session"]:
        """One session per additional evaluation set, with its own rows, task and files."""
        return [self._for_set(one) for one in self.config.evaluation_sets]

    @functools.cached_property
    def mixed(self) -> list["Session"]:
        """One session per further dataset that is trained on."""
        return [self._for_set(one) for one in self.config.datasets]

    def _for_set(self, one: EvaluationSetConfig) -> "Session":
        overlap: Literal["id", "all", "none"] = "none"
        if "validation" in overlapping_roles(self.config.dataset, one.dataset, one.split):
            same_ids = one.dataset.id is not None and one.dataset.id == self.config.dataset.id
            overlap = "id" if same_ids else "all"
        config = self.config.for_set(one)
        return replace(self, config=config, parent=self, evaluation_set=one.name, selection_overlap=overlap)

    def _for_seed(self, seed: int) -> "Session":
        training = self.config.training.model_copy(update={"seed": seed, "seeds": []})
        return replace(self, config=self.config.model_copy(update={"training": training}), parent=self, seed=seed)

    def provenance(self, **parts: Any) -> Provenance:
        """Provenance of an artifact: model, preprocessing and task, and `parts`."""
        checkpoint = self.encoder.checkpoint
        common = {
            "model": checkpoint.facts(),
            "preprocessing": self.encoder.facts(),
            "task": self.config.task.model_dump(mode="json"),
        }
        return Provenance(json.loads(json.dumps({**common, **parts})), self.mock)

    def verify_adapter(self, adapter: Path) -> str:
        """Check that an adapter fits this model and its preprocessing; returns the hash of its files.

        A different name or commit of the model is only noted, because its architecture may still be the same.

        Raises:
            IntegrityError: not an adapter, or trained with another architecture or preprocessing.
        """
        missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
        if missing:
            hint = "; run the train step first" if adapter == self.files.adapter else ""
            kind = f"not an adapter folder (no {missing[0]})" if adapter.is_dir() else "no such folder"
            raise IntegrityError(f"{adapter}: {kind}{hint}")
        manifest = read_manifest(adapter)
        if manifest is not None:
            trained, here = manifest["origin"], self.provenance().parts
            mismatches = differences(_must_match(trained), _must_match(here))
            if mismatches:
                raise IntegrityError(
                    f"{adapter} was trained on another model or with other preprocessing:\n  " + "\n  ".join(mismatches)
                )
            for line in differences(trained.get("model"), here["model"], "model"):
                self.progress.note(f"{adapter} fits, though {line}")
        elif (base := read_adapter_config(adapter).get("base_model_name_or_path")) != self.config.model.name:
            self.progress.note(f"{adapter} names its base model as {base!r}; this is {self.config.model.name!r}")
        return hash_adapter(adapter)


def _must_match(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an adapter's provenance that the model must share."""
    model = parts.get("model") or {}
    return {key: model.get(key) for key in ("family", "config_hash")} | {"preprocessing": parts.get("preprocessing")}


def nested_part(rows: Rows, size: int) -> Rows:
    """So many of the rows, chosen by the hashes of their ids: each part contains the smaller ones."""
    order = sorted(range(len(rows)), key=lambda row: hashlib.sha256(rows.id(row).encode()).digest())
    return rows if size >= len(rows) else Subset(rows, sorted(order[:size]), {"part": size})


def rows_facts(rows: Rows) -> dict[str, Any]:
    """Identity of rows, for provenance; with the ids of rows left out, if there are any."""
    facts = {"rows": len(rows), "fingerprint": rows.fingerprint}
    return facts | ({"left_out": rows.left_out} if isinstance(rows, Remaining) else {})


def training_examples(session: Session, rows: Rows) -> TrainingExamples:
    """The rows as training examples."""
    return TrainingExamples(rows, session.task, session.config.task, session.encoder, session.config.training)


def training_set(session: Session, rows: Rows, mixed: Sequence[Rows]) -> TrainingSet:
    """The examples to train on, from the train rows of the main dataset and of every further one."""
    others = [training_examples(one, each) for one, each in zip(session.mixed, mixed, strict=True)]
    named = list(zip(session.config.datasets, others, strict=True))
    return mix(training_examples(session, rows), session.config.dataset.target, named)


@contextmanager
def open_session(
    config: Config,
    progress: Style = "auto",
    mock: bool = False,
    distributed: bool = False,
    accept_failures: bool = False,
) -> Iterator[Session]:
    """A session that owns its run folder until the block ends, and stops at a safe point after a signal.

    Args:
        config: of the run.
        progress: how it is displayed.
        mock: whether results are marked as made by the tiny stand-in.
        distributed: whether torchrun may start the step in several processes.
        accept_failures: whether answers are published although the engine failed on some rows.

    Raises:
        FolderLocked: a live process works in the folder.
        ConfigError: torchrun started a step that runs in a single process.
    """
    if launched_world_size() > 1 and not distributed:
        raise ConfigError("torchrun is for the train step alone; start this one with plain vlmtune")
    processes = init_process_group()
    status = status_path(Path(config.output.dir))
    shown = open_progress(progress, status) if processes.is_main else open_progress("none")
    if config.needs_hub:
        go_offline_if_unreachable(shown)
    with stop_on_signal() as stop:
        session = Session(config, shown, stop, mock, processes, accept_failures=accept_failures)
        with session.folder.lock() if processes.is_main else nullcontext():
            yield session
            if processes.is_main:
                status.unlink(missing_ok=True)
    processes.destroy()

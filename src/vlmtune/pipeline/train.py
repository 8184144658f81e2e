"""The train step: an adapter folder with its manifest and training logs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtune.config import refuse_evaluated_training_rows
from vlmtune.data import Rows
from vlmtune.errors import ConfigError, IntegrityError
from vlmtune.files import write_bytes, write_json
from vlmtune.inference import Predictor
from vlmtune.modeling.quantization import full_training_problem, merging_note, merging_problem
from vlmtune.pipeline.predict import truth_lines
from vlmtune.pipeline.rollouts import attached_engine, decoding, make_rollouts
from vlmtune.pipeline.session import Session, rows_facts, training_examples, training_set
from vlmtune.pipeline.tracking import open_trackers
from vlmtune.planning.plan import compare_with_measured
from vlmtune.progress import Progress, Silent
from vlmtune.run_folder import Provenance, read_manifest
from vlmtune.run_layout import BUILT_ADAPTER, CURVE, MEASURED, SAMPLES, THUMBNAILS, validation_answers_path
from vlmtune.scoring.score import choose_metrics
from vlmtune.scoring.score import score as score_lines
from vlmtune.tracking import Tracker
from vlmtune.training.config import TrainingConfig
from vlmtune.training.dataset import ExampleLengths, check_examples

if TYPE_CHECKING:
    from vlmtune.training.checkpoints import Evaluator

NO_EFFECT_ON_ADAPTER = {
    "attention",
    "checkpoint_layers",
    "evaluate_every_steps",
    "log_every_steps",
    "pack_tokens",
    "save_every_steps",
    "seeds",
    "sharding",
    "workers",
}
"""Keys of `training` that change logging, memory and speed, but not the adapter."""

ADDED_SETTINGS = ("thinking", "lora_plus_ratio", "max_steps", "method", "neftune_alpha")
"""Keys of `training` that manifests hold only where they are not at their defaults, as those of earlier versions lack
them."""

OF_THE_PROCESS = (
    "seconds_since_start_or_resume",
    "seconds_in_steps",
    "samples_in_steps",
    "seconds_waited_for_data",
    "peak_bytes_of_longest_sequence",
    "peak_bytes_over_model",
)
"""Facts about the process that finished a training; an equal training on another day has others."""


Watch = Callable[[int, Mapping[str, Any]], None]
"""Told every point of a training curve, from the first on, also where a run resumes; what it raises ends the run."""


def train(session: Session, lengths: ExampleLengths | None = None, watch: Watch | None = None) -> list[Path]:
    """Train the adapter unless that is done already.

    Args:
        session: the run.
        lengths: what `check_rows` returned, so that the rows are not checked again.
        watch: told every point of the curve of an adapter that is not finished.

    Returns:
        Its folder, or one folder per seed.

    Raises:
        ConfigError: the evaluated rows are those that the adapter would be trained on.
    """
    refuse_evaluated_training_rows(session.config.dataset, session.config.evaluation.split)
    return [_train(seeded, lengths, watch) for seeded in session.seeds]


def check_rows(session: Session) -> ExampleLengths:
    """Encode every row that is to be trained on, before any model is loaded; the lengths of the train rows.

    Raises:
        DataError: lists the rows that cannot be trained on.
    """
    train = training_set(session, session.rows("train"), [one.rows("train") for one in session.mixed])
    validation = training_examples(session, session.rows("validation"))
    return check_examples(train.examples, validation, session.progress, session.stop)


def _train(session: Session, lengths: ExampleLengths | None, watch: Watch | None) -> Path:
    from vlmtune.training.log import read_steps, resumed_at
    from vlmtune.training.trainer import TrainingJob, train

    config, artifact = session.config, session.files.adapter
    train_rows, validation_rows = session.rows("train"), session.rows("validation")
    mixed = [one.rows("train") for one in session.mixed]
    provenance = _provenance(session, train_rows, validation_rows, mixed)
    work = session.processes.broadcast(lambda: _work(session, provenance))
    if work is None:
        session.progress.note(f"adapter: {artifact} is finished")
        return artifact
    refuse_a_single_shard(session)
    built = work / BUILT_ADAPTER
    is_new = not (work / CURVE).is_file()
    trackers = open_trackers(session, config.output.adapter, is_new) if session.processes.is_main else []

    mirror = _mirror(trackers, watch)
    if watch is not None:
        for point in read_steps(work / CURVE):
            watch(point["step"], point)
    stored, quantization = session.encoder.checkpoint.stored, config.model.quantization
    if (problem := full_training_problem(config.training.full, stored, quantization)) is not None:
        raise ConfigError(f"training.method: {problem}")
    if (said := merging_problem(stored, quantization) or merging_note(stored)) is not None:
        session.progress.note(said)
    chosen = training_set(session, train_rows, mixed)
    rollouts = make_rollouts(session, train_rows)
    job = TrainingJob(
        settings=config.training,
        model=config.model,
        encoder=session.encoder,
        train=chosen.examples,
        validation=training_examples(session, validation_rows),
        target=chosen.target if rollouts is None else None,  # a group of answers for each row, not for each target
        work=work,
        adapter=built,
        log=mirror,
        lengths=lengths,
        evaluator=make_evaluator(session, validation_rows, work),
        rollouts=rollouts,
        processes=session.processes,
        shares=chosen.shares,
    )
    facts = train(job, session.progress, session.stop)
    if session.processes.is_main:
        if facts.get("device") == "cuda" and rollouts is None:  # drawing answers is not planned
            _compare_with_plan(session, [train_rows, *mixed], facts)
        curve = read_steps(work / CURVE)
        # Copied, not moved: a run that resumes after a crash here finds its lines where they were.
        write_bytes(built / SAMPLES, (work / SAMPLES).read_bytes())
        ids = [validation_rows.id(row) for row in range(len(validation_rows))] if config.training.best_metric else []
        measured = {key: facts[key] for key in OF_THE_PROCESS} | {"resumed_at": resumed_at(work)}
        write_json(built / MEASURED, measured)
        made = {key: value for key, value in facts.items() if key not in OF_THE_PROCESS}
        made |= _learnt_from(session)
        session.folder.publish(artifact, provenance, {**made, "curve": curve, "selection_ids": ids}, built)
        for tracker in trackers:
            tracker.finish(facts)
    return artifact


def refuse_a_single_shard(session: Session) -> None:
    """Refuse to train a divided model in one process.

    Raises:
        ConfigError: says how several are started.
    """
    if session.config.training.sharding != "none" and session.processes.world_size == 1:
        raise ConfigError(
            "training.sharding: fsdp divides the model among several processes, but this is the only one; train "
            "with torchrun --nproc-per-node N -m vlmtune train CONFIG, N being the number of GPUs (other commands then "
            "use the finished adapter), or set training.sharding=none"
        )


def _learnt_from(session: Session) -> dict[str, Any]:
    """Teachers and rewards, where there are any."""
    rewards = {name.rpartition(".")[2]: weight for name, weight in session.config.training.grpo.rewards.items()}
    return {key: value for key, value in (("teachers", _teachers(session)), ("rewards", rewards)) if value}


def _teachers(session: Session) -> dict[str, float]:
    """Share of the training samples whose labels each teacher wrote, where the rows are of `vlmtune label`."""
    mixed = session.config.datasets
    parts = [(session.config.dataset, 1 - sum(one.weight for one in mixed))]
    parts += [(one.dataset, one.weight) for one in mixed]
    shares: dict[str, float] = {}
    for dataset, weight in parts:
        folder = Path(str(dataset.model_dump().get("path")))
        manifest = read_manifest(folder) if folder.is_dir() else None
        if manifest is not None and (teacher := manifest.get("teacher")) is not None:
            shares[teacher] = round(shares.get(teacher, 0.0) + weight, 4)
    return shares


def _mirror(trackers: Sequence[Tracker], watch: Watch | None) -> Watch:
    """Passes points of the curve on to the trackers, then to `watch`."""

    def mirror(step: int, values: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(step, values)
        if watch is not None:
            watch(step, values)

    return mirror


def _compare_with_plan(session: Session, rows: Sequence[Rows], facts: Mapping[str, Any]) -> None:
    """Report how accurate the plan was, where memory can be measured."""
    session.progress.note(
        compare_with_measured(session.config, session.encoder.checkpoint, rows, facts, Progress(Silent()))
    )


def _provenance(session: Session, train_rows: Rows, validation_rows: Rows, mixed: Sequence[Rows]) -> Provenance:
    training, target = session.config.training, session.config.dataset.target
    selects = {"evaluate_every_steps"} if training.best_metric is not None else set()
    settings = training.model_dump(mode="json", exclude=NO_EFFECT_ON_ADAPTER - selects)
    settings["lora"] = training.lora.for_family(session.encoder.checkpoint.family).model_dump(mode="json")
    if training.lora.init_lora_weights is None:
        del settings["lora"]["init_lora_weights"]
    if not training.augmentation.active:
        del settings["augmentation"]  # as in the manifests of earlier versions
    settings["epochs"] = training.passes
    for key in ADDED_SETTINGS:
        if settings[key] == TrainingConfig.model_fields[key].default:
            del settings[key]
    if training.objective == "sft":
        del settings["objective"], settings["grpo"]  # as in the manifests of earlier versions
    else:
        shown = {"batch_size", "batch_tokens", "max_new_tokens", "seed"}
        settings["grpo"]["drawn"] = decoding(session).model_dump(mode="json", include=shown)
    if training.continue_from is not None:
        settings["continue_from"] = session.verify_adapter(Path(training.continue_from))  # wherever it is
    dataset: dict[str, Any] = {"train": rows_facts(train_rows), "validation": rows_facts(validation_rows)}
    dataset["target"] = target
    if mixed:
        dataset["mixed"] = [
            {
                **one.model_dump(include={"name", "weight"}),
                "train": rows_facts(rows),
                "target": one.dataset.target,
                "task": one.task.model_dump(mode="json"),
            }
            for one, rows in zip(session.config.datasets, mixed, strict=True)
        ]
    return session.provenance(dataset=dataset, training=settings)


def _work(session: Session, provenance: Provenance) -> Path | None:
    """The folder of the work in progress; None if the adapter is finished."""
    artifact = session.files.adapter
    try:
        if session.folder.reconcile(artifact, provenance, derived=session.files.derived) is not None:
            return None
    except IntegrityError as error:
        if any(f"training.{key}:" in str(error) for key in ("epochs", "max_steps")):
            raise IntegrityError(
                f"{error}. To train the finished adapter for longer, go on from it in another folder: "
                f"--set training.continue_from={artifact} --set output.dir=…"
            ) from None
        raise
    return session.folder.work(artifact, provenance)


def make_evaluator(session: Session, rows: Rows, work: Path) -> "Evaluator | None":
    """Answers the validation rows during training and scores `training.best_metric` on them; None if it is no metric.

    Raises:
        ConfigError: the task has no such metric, or the rows lack what it compares with.
    """
    from vlmtune.training.checkpoints import Evaluator

    name, config = session.config.training.best_metric, session.config
    if name is None or name == "loss":
        return None
    examples = list(rows)
    metric = choose_metrics(session.task, [name], truth_lines(session, examples))[0]
    predictor = Predictor(session.task, config.task, work / THUMBNAILS, session.progress, session.stop)
    engine = attached_engine(session)

    def score(model: Any, step: int) -> float | None:
        partial = validation_answers_path(work, step)
        lines = predictor.answer("evaluate validation rows", engine(model), examples, partial)
        partial.unlink()
        value = score_lines(lines, session.task, config.task, [name]).to_json()["metrics"][name]
        return None if value is None else float(value)

    return Evaluator(f"validation_{name}", metric.higher_is_better, score)

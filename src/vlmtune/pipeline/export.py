"""Merging an adapter into its model: a checkpoint that any program loads, verified before it gets its final name.

The merged weights are reloaded in a fresh process, where teacher-forcing the adapter's own answers must give them back
token for token; only then is the folder published. If an engine cannot load an adapter, `open_engine` answers with the
merged model instead.
"""

import json
import multiprocessing
import shutil
import time
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.engines import Engine
from vlmtune.errors import AdapterRefused, ConfigError, EnvironmentProblem, FolderLocked, IntegrityError
from vlmtune.files import building_path, lock_file, lock_folder, read_json, translate_os_errors, write_bytes, write_json
from vlmtune.generation import TeacherForced, decode, greedy, teacher_force
from vlmtune.json_values import mismatch
from vlmtune.modeling.loading import TINY, attach_adapter, load_model, pick_device
from vlmtune.modeling.quantization import merging_problem
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.run_folder import with_adapter_delta
from vlmtune.run_layout import folder_manifest_path
from vlmtune.types import Conversation, Outcomes, Request

PROBE_ROWS = 8
"""Number of rows whose answers must be the same before and after merging."""

TIE = {"fp32": 1e-4, "bf16": 0.5, "fp16": 0.1}
"""Gap in log-probability below which two tokens count as a tie, because rounding the weights may swap them."""

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", ".*")


def export(session: Session, target: Path, adapter: Path | None = None) -> Path:
    """Write the merged checkpoint: weights in training precision, all processor files, the image sizes of training.

    Raises:
        ConfigError: the folder exists, or the base model is quantised.
        FolderLocked: another process exports to the same folder.
        IntegrityError: the adapter does not fit the config or has no effect, or the reloaded weights answer
            differently. Nothing is left behind.
    """
    adapter = adapter or session.files.adapter
    if (problem := merging_problem(session.encoder.checkpoint.stored, session.config.model.quantization)) is not None:
        raise ConfigError(problem)
    if target.exists():
        raise ConfigError(f"{target} already exists; choose another folder with -o")
    with building_of(target) as building:
        merge_into(session, building, adapter)
        building.rename(target)
    return target


@contextmanager
def building_of(target: Path) -> Iterator[Path]:
    """An empty temporary folder next to the target, locked by this process and deleted if the block fails."""
    building = building_path(target)
    with lock_folder(building) as free, ExitStack() as unless_done:
        if not free:
            raise FolderLocked(f"another process exports to {target}. Wait for it, or choose another folder with -o")
        unless_done.callback(shutil.rmtree, building)
        if target.exists():  # another export ended in the meantime
            raise ConfigError(f"{target} already exists; choose another folder with -o")
        with translate_os_errors(building):
            for leftover in building.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield building
        unless_done.pop_all()


def merge_into(session: Session, building: Path, adapter: Path) -> None:
    """Write the verified checkpoint and its manifest."""
    config = session.config
    provenance = session.provenance(adapter=session.verify_adapter(adapter))
    precision, encoder = config.training.precision, session.encoder
    requests = probe_requests(session)
    device = pick_device(config.model)
    model = attach_adapter(load_model(encoder.checkpoint, device, precision), adapter)
    hf: Any = registry.load("engines", "hf")
    engine = hf.attached(model, hf.Config(), encoder, device, precision)
    adapter_delta = engine.adapter_delta(requests)
    prompts = [request.conversation for request in requests]
    answers = _answers(model.get_base_model(), encoder, prompts, device, session.inference.answer_limit)
    with translate_os_errors(building):
        copy_processor(encoder, building)
        _merged(model).save_pretrained(building)
    del model
    engine.close()
    session.progress.note("loading the merged checkpoint in a fresh process")
    predicted = _teacher_force_in_fresh_process(config, building, answers)
    verify(answers, predicted, TIE[precision])
    write_json(folder_manifest_path(building), provenance.manifest(adapter_delta=adapter_delta))


def copy_processor(encoder: Encoder, building: Path) -> None:
    """Copy everything but the base model's weights, with the chat template and the image sizes in effect."""
    shutil.copytree(encoder.checkpoint.folder, building, ignore=shutil.ignore_patterns(*WEIGHTS), dirs_exist_ok=True)
    _write_limits(building, encoder)
    write_bytes(building / "chat_template.jinja", encoder.renderer.template_text.encode())


def probe_requests(session: Session) -> list[Request]:
    """The first rows of the evaluated split, on which the effect of an adapter is measured."""
    rows = list(session.rows(session.config.evaluation.split))[:PROBE_ROWS]
    return [Request(row.id, session.task.prompt(session.config.task, row)) for row in rows]


def _merged(model: Any) -> Any:
    """The model with its adapter merged; a head that was tied to the embeddings and still equals them stays tied."""
    import torch

    tied = model.config.tie_word_embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns that it unties them
        merged: Any = model.merge_and_unload()
    head, embeddings = merged.get_output_embeddings(), merged.get_input_embeddings()
    if tied and torch.equal(head.weight, embeddings.weight):
        head.weight = embeddings.weight
        merged.config.tie_word_embeddings = True
    return merged


def verify(answers: Sequence[Sequence[int]], predicted: Sequence[TeacherForced], tie: float) -> None:
    """Check that teacher-forcing answers gives back the same tokens, up to ties.

    Args:
        answers: token ids of each answer.
        predicted: what the reloaded model predicts at each of their positions.
        tie: gap in log-probability up to which another token counts as a tie.

    Raises:
        IntegrityError: a predicted token differs.
    """
    for number, (ids, forced) in enumerate(zip(answers, predicted, strict=True)):
        for position, (given, likeliest, lead) in enumerate(zip(ids, forced.ids, forced.leads, strict=True)):
            if given != likeliest and lead >= tie:
                raise IntegrityError(
                    f"the merged checkpoint answers differently from the adapter: probe {number + 1}, token "
                    f"{position + 1}, by {lead:.3g} in log-probability. Nothing was exported; please report this"
                )


def _answers(
    model: Any, encoder: Encoder, prompts: Sequence[Conversation], device: str, max_new_tokens: int
) -> list[tuple[int, ...]]:
    import torch

    with torch.inference_mode():
        answers = decode(model, [encoder.prompt(one) for one in prompts], encoder, device, max_new_tokens, greedy)
    return [tuple(answer.ids) for answer in answers]


def _write_limits(folder: Path, encoder: Encoder) -> None:
    """Write the image sizes of training, so that any program that loads the folder resizes images in the same way."""
    limits = encoder.image_processor.limits
    if limits.tile is None:
        sizes: dict[str, Any] = {"size": {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}}
    else:
        sizes = {f"{end}_patches": getattr(limits, f"{end}_pixels") // limits.tile**2 for end in ("min", "max")}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            plain = read_json(folder / name)
            processor = plain.get("image_processor", plain)
            processor |= sizes
            for old in ("min_pixels", "max_pixels"):
                processor.pop(old, None)
            write_json(folder / name, plain)


def _teacher_force_in_fresh_process(
    config: Config, folder: Path, answers: Sequence[Sequence[int]]
) -> list[TeacherForced]:
    """Teacher-force answers with the checkpoint in a folder, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_teacher_forced, args=(config.model_dump_json(), folder, answers, sender))
    child.start()
    sender.close()
    try:
        predicted: list[TeacherForced] = receiver.recv()
    except EOFError:
        raise EnvironmentProblem(
            "the process that loads the merged checkpoint ended early; its message is above"
        ) from None
    finally:
        child.join()
    return predicted


def _send_teacher_forced(config: str, folder: Path, answers: Sequence[Sequence[int]], out: Any) -> None:
    out.send(teacher_force_folder(Config.model_validate(json.loads(config)), folder, answers))


def teacher_force_folder(config: Config, folder: Path, answers: Sequence[Sequence[int]]) -> list[TeacherForced]:
    """Teacher-force answers to the config's first rows with the checkpoint in a folder, using only files from there."""
    own = config.model_copy(update={"model": config.model.model_copy(update={"name": str(folder), "revision": None})})
    session = Session(own)
    encoder = session.encoder
    model = load_model(encoder.checkpoint, pick_device(config.model), config.training.precision)
    rows = list(session.rows(config.evaluation.split))[: len(answers)]
    return [
        teacher_force(model, encoder, session.task.prompt(config.task, row), ids)
        for row, ids in zip(rows, answers, strict=True)
    ]


POLL_S = 0.2
"""Seconds between two attempts to get the lock of a merged model."""


def open_engine(session: Session, adapter: Path | None) -> Engine:
    """The config's engine, with an adapter if one is given; the caller closes it.

    Raises:
        IntegrityError: the engine cannot load the adapter, and merging it changes the answers or has no effect.
    """
    try:
        return session.open_engine(adapter)
    except AdapterRefused as refused:
        if adapter is None:
            raise
        resources = ExitStack()
        tuned, adapter_delta = resources.enter_context(merged_session(session, adapter, refused))
        return MergedEngine(session, tuned, adapter_delta, resources)


@contextmanager
def merged_session(session: Session, adapter: Path, refused: AdapterRefused) -> Iterator[tuple[Session, float]]:
    """A session of the merged model, and the largest change of a first-token logit by the adapter.

    The checkpoint is exported and verified once, and stays in the run folder until `runs gc` deletes it, which it does
    not do before this block ends. It has its own lock, because a server does not lock the run folder.
    """
    precision = session.config.training.precision
    provenance = session.provenance(adapter=session.verify_adapter(adapter), precision=precision)
    folder, lock = session.folder.merged(provenance)
    notified = False
    while True:
        with lock_file(lock, shared=True) as free:
            if free and folder.is_dir():
                yield _with_merged_model(session, folder)
                return
        with lock_file(lock) as free:
            if free and not folder.is_dir():
                session.progress.note(f"{refused.args[0].partition('. ')[0]}. Merging it into the model: {folder}")
                export(session, folder, adapter)
        if not free:
            if not notified:
                session.progress.note(f"another process is merging into {folder}; waiting for it")
            notified = True
            session.stop.raise_if_requested("nothing was sent yet")
            time.sleep(POLL_S)


class _Merged(TypedDict):
    """Types of what is read from the manifest of a merged model."""

    adapter_delta: FiniteFloat


def _with_merged_model(session: Session, folder: Path) -> tuple[Session, float]:
    manifest = with_adapter_delta(read_json(folder_manifest_path(folder)))
    if (wrong := mismatch(manifest, _Merged)) is not None:
        raise IntegrityError(f"{folder_manifest_path(folder)}: {wrong}; delete {folder}, and it is made again")
    adapter_delta = float(manifest["adapter_delta"])
    model = session.config.model
    # The tiny stand-in runs on the CPU, also after merging.
    device = "cpu" if model.name == TINY else model.device
    named = model.model_copy(update={"name": str(folder.resolve()), "revision": None, "device": device})
    return replace(session, config=session.config.model_copy(update={"model": named}), parent=None), adapter_delta


class MergedEngine:
    """An engine of a merged model, and one of the base model. Only one is open at a time, because both may not fit.

    Args:
        base: session of the base model.
        tuned: session of the merged model.
        adapter_delta: largest change of a first-token logit by the adapter.
        resources: closed with this engine; hold the lock of the checkpoint.
    """

    def __init__(self, base: Session, tuned: Session, adapter_delta: float, resources: ExitStack) -> None:
        self._base, self._tuned, self._adapter_delta, self._resources = base, tuned, adapter_delta, resources
        self._session = tuned
        self._open: Any = None

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request that is not `done`."""
        outcomes: Outcomes = self._engine().answer(requests, done)
        return outcomes

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[Any]:
        """Token outputs of the open engine."""
        outputs: Iterator[Any] = self._engine().token_outputs(requests)
        return outputs

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """Answer with the base model inside this block."""
        self._switch_to(self._base)
        try:
            yield
        finally:
            self._switch_to(self._tuned)

    def adapter_delta(self, requests: Sequence[Request]) -> float:
        """As measured on rows of the config when the adapter was merged."""
        return self._adapter_delta

    def facts(self) -> Mapping[str, Any]:
        """Facts of the open engine."""
        return {**self._engine().facts(), "merged": True}

    def close(self) -> None:
        """Close the open engine and release the checkpoint."""
        with self._resources:
            self._close_open()

    def _close_open(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _engine(self) -> Any:
        if self._open is None:
            self._open = self._session.open_engine(None)
        return self._open

    def _switch_to(self, session: Session) -> None:
        self._close_open()
        self._session = session

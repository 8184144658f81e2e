"""An adapter merged into its model: a checkpoint folder that any program loads, proved before it has its name.

The merged weights are loaded again in a fresh process, which must find the adapter's own answers likeliest, token for
token; only then is the folder published.

The engine of a session. Where it refuses the adapter, the model with the adapter merged into it answers instead.
"""

import json
import multiprocessing
import shutil
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmtune import registry
from vlmtune.config import Config
from vlmtune.engines import Engine
from vlmtune.errors import AdapterRefused, ConfigError, EnvironmentProblem, FolderLocked, IntegrityError
from vlmtune.files import building_path, folder_locked, locked, os_errors_named, read_json, write_json
from vlmtune.generation import TeacherForced, decode, greedy, teacher_force
from vlmtune.modeling.loading import TINY, attach_adapter, load_model, pick_device
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.run_folder import folder_manifest_path
from vlmtune.types import Conversation, Outcomes, Request

PROBED = 8
"""Rows whose answers prove that nothing was lost."""

NEAR = {"fp32": 1e-4, "bf16": 0.5, "fp16": 0.1}
"""Lead in log-probability under which two tokens count as equally likely: what rounding the weights may move."""

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", ".*")


def export(session: Session, target: Path, adapter: Path | None = None) -> Path:
    """Write the merged checkpoint: weights in training precision, every processor file, the size limits of training.

    Raises:
        ConfigError: the folder is there already, or the base is quantised.
        FolderLocked: another process exports to the same folder.
        IntegrityError: not the config's adapter, or one that does nothing; or the reloaded weights answer otherwise.
            Nothing is left behind.
    """
    adapter = adapter or session.files.adapter
    if session.config.model.quantization is not None:
        raise ConfigError("a quantised model cannot be merged without loss; export with --set model.quantization=null")
    if target.exists():
        raise ConfigError(f"{target} is there already; choose another folder with -o")
    with _building(target) as building:
        _merge(session, building, adapter)
        building.rename(target)
    return target


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """An empty folder beside the target that becomes it, for one process at a time; gone where that fails."""
    building = building_path(target)
    with folder_locked(building) as ours, ExitStack() as unless_done:
        if not ours:
            raise FolderLocked(f"another process exports to {target}. Wait for it, or choose another folder with -o")
        unless_done.callback(shutil.rmtree, building)
        if target.exists():  # an export that ended while this one began
            raise ConfigError(f"{target} is there already; choose another folder with -o")
        with os_errors_named(building):
            for left in building.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield building
        unless_done.pop_all()


def _merge(session: Session, building: Path, adapter: Path) -> None:
    """The checkpoint, proved, and its manifest."""
    config = session.config
    provenance = session.provenance(adapter=session.verify_adapter(adapter))
    precision, encoder = config.training.precision, session.encoder
    rows = list(session.rows(config.evaluation.split))[:PROBED]
    asked = [session.task.ask(config.task, row) for row in rows]
    device = pick_device(config.model)
    model = attach_adapter(load_model(encoder.checkpoint, device, precision), adapter)
    hf: Any = registry.load("engines", "hf")
    probing = hf.attached(model, hf.Config(), encoder, device, precision)
    effect = probing.adapter_delta([Request(row.id, one) for row, one in zip(rows, asked, strict=True)])
    told = _told(model.get_base_model(), encoder, asked, device, config.inference.max_new_tokens)
    with os_errors_named(building):
        # Weights of the base, whatever their format, stay where they are: the merged ones take their place.
        leave = shutil.ignore_patterns(*WEIGHTS)
        shutil.copytree(encoder.checkpoint.folder, building, ignore=leave, dirs_exist_ok=True)
        merged: Any = model.merge_and_unload()
        merged.save_pretrained(building)
        _write_limits(building, encoder)
    del model, merged
    probing.close()
    session.progress.note("loading the merged checkpoint in a fresh process")
    prove(told, _forced_elsewhere(config, building, told), NEAR[precision])
    write_json(
        folder_manifest_path(building),
        {"schema_version": 1, "mock": session.mock, "effect": effect, "origin": provenance.parts},
    )


def prove(told: Sequence[Sequence[int]], forced: Sequence[TeacherForced], near: float) -> None:
    """That a model finds given answers likeliest, up to ties.

    Raises:
        IntegrityError: it would have said something else.
    """
    for number, (ids, found) in enumerate(zip(told, forced, strict=True)):
        for place, (given, own, lead) in enumerate(zip(ids, found.ids, found.leads, strict=True)):
            if given != own and lead >= near:
                raise IntegrityError(
                    f"the merged checkpoint answers otherwise than the adapter: probe {number + 1}, token {place + 1}, "
                    f"by {lead:.3g} in log-probability. Nothing was exported; please report this"
                )


def _told(model: Any, encoder: Encoder, asked: Sequence[Conversation], device: str, most: int) -> list[tuple[int, ...]]:
    import torch

    with torch.inference_mode():
        answers = decode(model, [encoder.prompt(one) for one in asked], encoder, device, most, greedy)
    return [tuple(answer.ids) for answer in answers]


def _write_limits(folder: Path, encoder: Encoder) -> None:
    """Whoever loads the folder resizes pictures as training did."""
    limits = encoder.image_processor.limits
    size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            plain = read_json(folder / name)
            own = plain.get("image_processor", plain)
            own["size"] = size
            for old in ("min_pixels", "max_pixels"):
                own.pop(old, None)
            write_json(folder / name, plain)


def _forced_elsewhere(config: Config, folder: Path, told: Sequence[Sequence[int]]) -> list[TeacherForced]:
    """What the checkpoint in a folder makes of the answers, found by a process that starts from nothing."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_force_all, args=(config.model_dump_json(), folder, told, theirs))
    child.start()
    theirs.close()
    try:
        found: list[TeacherForced] = ours.recv()
    except EOFError:
        raise EnvironmentProblem(
            "the process that was to load the merged checkpoint ended; see its message above"
        ) from None
    finally:
        child.join()
    return found


def _force_all(plain: str, folder: Path, told: Sequence[Sequence[int]], out: Any) -> None:
    out.send(forced_by(Config.model_validate(json.loads(plain)), folder, told))


def forced_by(config: Config, folder: Path, told: Sequence[Sequence[int]]) -> list[TeacherForced]:
    """What the checkpoint in a folder makes of answers to the config's first rows, its own files used throughout."""
    own = config.model_copy(update={"model": config.model.model_copy(update={"name": str(folder), "revision": None})})
    session = Session(own)
    encoder = session.encoder
    model = load_model(encoder.checkpoint, pick_device(config.model), config.training.precision)
    rows = list(session.rows(config.evaluation.split))[: len(told)]
    return [
        teacher_force(model, encoder, session.task.ask(config.task, row), ids)
        for row, ids in zip(rows, told, strict=True)
    ]


TICK_S = 0.2


def open_engine(session: Session, adapter: Path | None) -> Engine:
    """The config's engine, ready to answer, with the adapter where one is given; the caller closes it.

    Raises:
        IntegrityError: the adapter is refused, and merging it changes the answers or shows that it does nothing.
    """
    try:
        return session.open_engine(adapter)
    except AdapterRefused as refused:
        if adapter is None:
            raise
        kept = ExitStack()
        return Merged(session, *kept.enter_context(merged(session, adapter, refused)), kept)


@contextmanager
def merged(session: Session, adapter: Path, refused: AdapterRefused) -> Iterator[tuple[Session, float]]:
    """The session over the model with the adapter in its weights, and what the adapter does to a first logit.

    The checkpoint is exported with its proof, once, and lies in the run folder until `runs gc` takes it, which it does
    not before this block ends. Its lock is its own: whoever serves it does not own the run.
    """
    precision = session.config.training.precision
    made_from = session.provenance(adapter=session.verify_adapter(adapter), precision=precision)
    folder, lock = session.folder.merged(made_from)
    waits = False
    while True:
        with locked(lock, shared=True) as free:
            if free and folder.is_dir():
                yield _over(session, folder)
                return
        with locked(lock) as free:
            if free and not folder.is_dir():
                session.progress.note(f"{refused.args[0].partition('. ')[0]}. Merging it into the model: {folder}")
                export(session, folder, adapter)
        if not free:
            if not waits:
                session.progress.note(f"another process is at work on {folder}; waiting for it")
            waits = True
            session.stop.obey("nothing was asked yet")
            time.sleep(TICK_S)


def _over(session: Session, folder: Path) -> tuple[Session, float]:
    effect: float = read_json(folder_manifest_path(folder))["effect"]
    model = session.config.model
    # The stand-in runs on CPUs alone, under whatever name.
    device = "cpu" if model.name == TINY else model.device
    named = model.model_copy(update={"name": str(folder.resolve()), "revision": None, "device": device})
    return replace(session, config=session.config.model_copy(update={"model": named}), parent=None), effect


class Merged:
    """An engine over a merged checkpoint, with another for the untouched model. One is open at a time: a GPU that one
    fills has no room for both.

    Args:
        base: whose model is untouched.
        tuned: the same with the adapter in the weights.
        effect: largest change of a first-token logit by the adapter.
        kept: closed with this engine: what keeps the checkpoint where it is.
    """

    def __init__(self, base: Session, tuned: Session, effect: float, kept: ExitStack) -> None:
        self._base, self._tuned, self._effect, self._kept = base, tuned, effect, kept
        self._asked = tuned
        self._open: Any = None

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        """One outcome per request that is not `done`, as the engine below says."""
        outcomes: Outcomes = self._engine().answer(requests, done)
        return outcomes

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[Any]:
        """What the engine below says about its tokens."""
        told: Iterator[Any] = self._engine().token_outputs(requests)
        return told

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The untouched model answers inside this block."""
        self._turn_to(self._base)
        try:
            yield
        finally:
            self._turn_to(self._tuned)

    def adapter_delta(self, requests: Sequence[Request]) -> float:
        """As it was found when the adapter was merged, on rows of the config."""
        return self._effect

    def facts(self) -> Mapping[str, Any]:
        """Those of the engine below."""
        return {**self._engine().facts(), "merged": True}

    def close(self) -> None:
        """Free what was opened."""
        with self._kept:
            self._shut()

    def _shut(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _engine(self) -> Any:
        if self._open is None:
            self._open = self._asked.open_engine(None)
        return self._open

    def _turn_to(self, session: Session) -> None:
        self._shut()
        self._asked = session

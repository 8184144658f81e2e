"""An interrupted evaluation goes on as if nothing had happened: the same bytes, and no thread stays behind."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import TINY, encoded, make_image, ref, user

from vlmtune import inference as answering_module
from vlmtune.engines import hf
from vlmtune.errors import Interrupted
from vlmtune.inference import Predictor
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning, grounding
from vlmtune.types import Example, Failure, ImageRef, Outcome, Prediction, Request

SIZES = [(128, 128), (100, 75), (96, 160), (64, 64), (150, 110), (40, 200), (90, 90), (128, 64)]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """One picture, two, and none; lengths differ."""
    pictures = [ref(encoded(make_image(*size, seed=n)), f"resumed picture {n}") for n, size in enumerate(SIZES)]
    shown = [(one,) for one in pictures] + [(pictures[0], pictures[3]), (), (pictures[1], pictures[5]), ()]
    return [Example(f"r{n}", images, None, {"references": ["a"]}) for n, images in enumerate(shown)]


@pytest.fixture(scope="module")
def engine(encoder: Encoder) -> hf.HfEngine:
    return hf.open_engine(hf.Config(batch_size=4, max_new_tokens=12), TINY, encoder, "fp32")


class AfterWrites(StopRequest):
    """As if Ctrl-C came when that many answers are in the file."""

    def __init__(self, partial: Path, count: int) -> None:
        self._partial, self._count = partial, count

    @property
    def received(self) -> int | None:  # type: ignore[override]
        there = self._partial.read_bytes().count(b"\n") if self._partial.is_file() else 0
        return 2 if there >= self._count else None


def file_of(engine: hf.HfEngine, examples: Sequence[Example], partial: Path, stop: StopRequest) -> str:
    answering = Predictor(captioning.TASK, captioning.Config(), partial.parent / "pictures", Progress(Silent()), stop)
    lines = answering.answer("test", engine, examples, partial)
    return "".join(line.to_json() + "\n" for line in lines)


def test_a_run_interrupted_anywhere_leaves_the_same_bytes(
    engine: hf.HfEngine, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the border of two batches and inside of one; the batches are the same ones, too: in half precision the last
    digits would tell."""
    made: list[tuple[str, ...]] = []
    real = hf.HfEngine._generate_batch

    def noting(engine: hf.HfEngine, batch: Sequence[tuple[Request, Encoded]]) -> list[Outcome]:
        made.append(tuple(request.id for request, _ in batch))
        return real(engine, batch)

    monkeypatch.setattr(hf.HfEngine, "_generate_batch", noting)
    whole = file_of(engine, examples, tmp_path / "whole.jsonl", StopRequest())
    planned = set(made)
    assert '"token_logprobs": [-' in whole
    for number, group in enumerate((1, 4)):
        monkeypatch.setattr(answering_module, "FLUSH_EVERY", group)
        partial = tmp_path / f"{number}.jsonl"
        for count in range(3, len(examples), 4):
            with pytest.raises(Interrupted):
                file_of(engine, examples, partial, AfterWrites(partial, count))
        assert file_of(engine, examples, partial, StopRequest()) == whole
        assert partial.read_bytes().count(b"\n") == len(examples), "each id once"
    assert set(made) == planned


def test_an_interruption_leaves_no_thread(
    engine: hf.HfEngine, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_module, "FLUSH_EVERY", 1)
    partial = tmp_path / "partial.jsonl"
    with pytest.raises(Interrupted) as raised:
        file_of(engine, examples, partial, AfterWrites(partial, 1))
    assert raised.traceback, "held on purpose: a generator nobody closed would live as long as it"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("vlmtune-prefetch")]


def test_a_picture_that_breaks_while_it_is_decoded_fails_alone(encoder: Encoder, examples: list[Example]) -> None:
    """Its header is whole, so it stands in a batch; the others answer as if it had not been there."""
    fresh = Encoder(encoder.checkpoint, TINY)
    engine = hf.open_engine(hf.Config(batch_size=4, max_new_tokens=12), TINY, fresh, "fp32")
    good = [Request(e.id, (user(*e.images, "Describe."),)) for e in examples]
    torn = encoded(make_image(128, 128, seed=9), "JPEG")[:-1500]
    bad = Request("torn", (user(ImageRef("torn.jpg", lambda: torn), "Describe."),))
    assert isinstance(fresh.prompt_length(bad.conversation), int)
    made = {outcome.id: outcome for outcome in engine.answer([*good, bad])}
    failed = made.pop("torn")
    assert isinstance(failed, Failure)
    assert failed.stage == "image"
    assert "torn.jpg" in failed.reason
    texts = {name: one.text for name, one in made.items() if isinstance(one, Prediction)}
    alone = {one.id: one.text for one in engine.answer(good) if isinstance(one, Prediction)}
    assert texts == alone
    assert len(texts) == len(good)
    again = list(engine.answer([*good, bad], done={request.id for request in good}))
    assert again == [failed], "who is done is not answered again"


def test_a_box_in_pixels_of_an_unreadable_picture_is_a_failure(engine: hf.HfEngine, tmp_path: Path) -> None:
    """Its truth cannot be known; the row is counted as failed instead of ending the run."""
    readable, torn = ref(encoded(make_image(64, 64)), "good"), ref(b"no image", "bad")
    rows = [
        Example(name, (image,), None, {"references": [], "boxes": [[1, 2, 30, 40]]}, question="the dog")
        for name, image in (("a", readable), ("b", torn))
    ]
    config = grounding.Config(unit="pixels")
    answering = Predictor(grounding.TASK, config, tmp_path / "pictures", Progress(Silent()), StopRequest())
    good, bad = answering.answer("test", engine, rows, tmp_path / "partial.jsonl")
    assert good.failure is None
    assert good.truth["boxes"] != [[1, 2, 30, 40]]
    assert bad.failure is not None
    assert bad.failure["stage"] == "image"

"""A file of answers that was cut at any byte is gone on with: every row once, the same bytes in the end."""

from collections.abc import Container, Iterable
from pathlib import Path

import pytest
from fakes import engine as fake

from vlmtune.inference import Predictor
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import vqa
from vlmtune.types import Example, Outcomes, Request

EXAMPLES = [Example(f"row é{n}", (), None, {"references": [f"“{n}”"]}, question=f"What is {n}?") for n in range(4)]


class Noting(fake.FakeEngine):
    """The mock, and whom it was asked about."""

    def __init__(self) -> None:
        super().__init__(fake.Config(), "")
        self.asked: list[str] = []

    def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
        for outcome in super().answer(requests, done):
            self.asked.append(outcome.id)
            yield outcome


@pytest.fixture
def answering(tmp_path: Path) -> Predictor:
    return Predictor(vqa.TASK, vqa.Config(), tmp_path / "pictures", Progress(Silent()), StopRequest())


def answered(answering: Predictor, partial: Path) -> tuple[list[str], list[str]]:
    """The lines, and the ids that had to be asked for."""
    engine = Noting()
    return [line.to_json() for line in answering.answer("test", engine, EXAMPLES, partial)], engine.asked


def test_cut_at_every_byte(answering: Predictor, tmp_path: Path) -> None:
    partial = tmp_path / "answers.jsonl"
    whole, asked = answered(answering, partial)
    ids = [example.id for example in EXAMPLES]
    assert asked == ids
    data = partial.read_bytes()
    assert "é".encode() in data
    for cut in range(len(data) + 1):
        partial.write_bytes(data[:cut])
        again, asked = answered(answering, partial)
        assert again == whole, cut
        assert asked == ids[data[:cut].count(b"\n") :], cut
        assert partial.read_bytes() == data, cut

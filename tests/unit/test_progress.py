"""Progress for logs: a line where it is due, nothing on stdout, one JSON object per event for programs."""

import json

import pytest

from vlmtune.progress import Progress, Rich, Silent, Style, open_progress


def advance(style: Style, total: int) -> None:
    progress = open_progress(style)
    progress.note("hello")
    with progress.step("train", total) as step:
        for n in range(total):
            step.advance(1, loss=1 / (n + 1))


def test_plain_is_a_line_per_twentieth(capsys: pytest.CaptureFixture[str]) -> None:
    advance("plain", 1000)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert (lines[0], lines[1], lines[-1]) == ("hello", "train: 0/1000", "train: 1000/1000  loss 0.001")
    assert len(lines) == 22


def test_jsonl_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    advance("jsonl", 3)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert events[0] == {"note": "hello"}
    assert events[-1] == {"step": "train", "done": 3, "total": 3, "loss": 1 / 3}


@pytest.mark.parametrize("style", ["rich", "none", "auto"])
def test_other_styles_keep_stdout_clean(style: Style, capsys: pytest.CaptureFixture[str]) -> None:
    advance(style, 5)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (shown.err == "") == (style == "none")


class Stops(Silent):
    """Keeps which steps ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def end(self, step: str) -> None:
        self.ended.append(step)


def test_a_step_ends_even_when_an_exception_leaves_it() -> None:
    listener = Stops()
    with pytest.raises(ZeroDivisionError), Progress(listener).step("train", 3) as step:
        step.advance(1 // 0)
    assert listener.ended == ["train"]


def test_the_live_display_is_gone_when_an_error_is_printed() -> None:
    rich = Rich()

    def fail() -> None:
        with Progress(rich).step("train", 3) as step:
            step.advance(0)
            assert len(rich._bars.tasks) == 1
            assert rich._bars.live.is_started
            step.advance(1 // 0)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not rich._bars.live.is_started
    assert rich._bars.tasks == []

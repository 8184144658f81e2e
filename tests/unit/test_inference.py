"""Lines of an answer, and the image control: which rows belong together, and that nobody keeps a picture."""

import threading
import time
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import pytest
from builders import Notes, assistant, encoded, make_image, ref, user
from clips import drawn_frames, video

from vlmtune.errors import EnvironmentProblem
from vlmtune.images import decode_rgb, pixel_hash
from vlmtune.inference import Predictor, shuffle_images
from vlmtune.predictions import read
from vlmtune.progress import Progress
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.types import Example, ImageRef, Outcomes, Prediction, Request


def example(name: str, *images: ImageRef, cluster: str | None = None) -> Example:
    return Example(id=name, images=images, target=None, truth={"references": ["a"]}, cluster=cluster)


def seen(seed: int, name: str = "") -> ImageRef:
    """A picture in a file of its own: its name says nothing about its pixels."""
    return ref(encoded(make_image(16, 12, seed=seed), "PNG" if name else "BMP"), f"file {seed}{name}")


def broken(name: str) -> ImageRef:
    return ref(b"no image", name)


def digest(ref: ImageRef) -> str:
    return pixel_hash(decode_rgb(ref))


class Echo:
    """An engine that says every request's id."""

    def answer(self, requests: Sequence[Request], done: Container[str]) -> Outcomes:
        return (Prediction(request.id, request.id, "stop", 1) for request in requests)


def test_videos_are_the_same_only_if_their_content_is(tmp_path: Path) -> None:
    frames = drawn_frames(12, (64, 48))
    swapped = [frames[0], frames[2], frames[1], *frames[3:]]  # the picture shows 0, 3, 7 and 11
    clips = [video(frames, 5), video(frames, 5, "copy"), video(swapped, 5), video(frames, 4)]
    rows = [example(f"{n}", clip) for n, clip in enumerate(clips)]
    answering = Predictor(captioning.TASK, captioning.Config(), tmp_path / "p", Progress(Notes()), StopRequest())
    lines = answering.answer("test", Echo(), rows, tmp_path / "partial.jsonl")  # type: ignore[arg-type]
    first, copy, other, slow = (line.image for line in lines)
    assert first == copy
    assert len({first, other, slow}) == 3
    assert [line.cluster for line in lines] == [first, copy, other, slow]
    assert len(list((tmp_path / "p").iterdir())) == 3
    assert len(shuffle_images(rows, 9)) == 3


def test_rows_belong_together_by_group_then_by_picture(tmp_path: Path) -> None:
    answering = Predictor(captioning.TASK, captioning.Config(), tmp_path / "p", Progress(Notes()), StopRequest())
    rows = [
        example("one", seen(1)),
        example("same picture", seen(1, "copy")),
        example("other picture", seen(2)),
        example("grouped", seen(1), cluster="patient"),
        example("text"),
        example("unreadable", broken("x")),
    ]
    lines = answering.answer("test", Echo(), rows, tmp_path / "partial.jsonl")  # type: ignore[arg-type]
    hashes = [digest(seen(1)), digest(seen(1)), digest(seen(2))]
    assert [line.cluster for line in lines] == [*hashes, "patient", "text", "unreadable"]
    assert [line.image for line in lines] == [*hashes, hashes[0], None, None]


class Looking(Echo):
    """An engine that answers, and then gives up, once all pictures lie in a folder."""

    def __init__(self, pictures: Path, count: int) -> None:
        self._pictures, self._count = pictures, count

    def answer(self, requests: Iterable[Request], done: Container[str]) -> Outcomes:
        first = next(iter(requests))
        until = time.monotonic() + 20
        while len(list(self._pictures.glob("*.webp"))) < self._count:
            assert time.monotonic() < until, "no picture is made while the engine works"
            time.sleep(0.01)
        yield Prediction(first.id, "seen", "stop", 1)
        raise EnvironmentProblem("gone")


def test_pictures_are_made_while_the_engine_works_and_no_thread_stays(tmp_path: Path) -> None:
    rows = [example(f"row {n}", seen(n)) for n in range(5)] + [example("again", seen(0, "copy"))]
    answering = Predictor(captioning.TASK, captioning.Config(), tmp_path / "p", Progress(Notes()), StopRequest())
    with pytest.raises(EnvironmentProblem, match="gone"):
        answering.answer("test", Looking(tmp_path / "p", 5), rows, tmp_path / "partial.jsonl")  # type: ignore[arg-type]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("vlmtune-pictures")]
    (line,) = read(tmp_path / "partial.jsonl")
    assert line.image == digest(seen(0))


def test_no_row_gets_a_copy_of_its_own_picture() -> None:
    rows = [example(f"{seed}{copy}", seen(seed, copy)) for seed in range(6) for copy in ("", "a", "b")]
    own = {row.id: digest(row.images[0]) for row in rows}
    swapped = shuffle_images(rows, 50)
    assert len(swapped) == 6, "one row per picture"
    assert all(digest(row.images[0]) != own[row.id] for row in swapped)
    assert len({digest(row.images[0]) for row in swapped}) == 6
    assert [row.id for row in shuffle_images(rows[::-1], 50)] == [row.id for row in swapped]
    assert [row.id for row in shuffle_images(rows, 4)] == [row.id for row in swapped][:4]


def test_unreadable_pictures_and_text_rows_take_no_part() -> None:
    rows = [*(example(f"bad {n}", broken(f"bad {n}")) for n in range(9)), example("text")]
    rows += [example(f"good {n}", seen(n)) for n in range(3)]
    assert sorted(row.id for row in shuffle_images(rows, 3)) == ["good 0", "good 1", "good 2"]


@pytest.mark.parametrize("rows", [[], [example("a", seen(1))], [example("a", seen(1)), example("b", seen(1, "copy"))]])
def test_a_single_image_cannot_be_shuffled(rows: list[Example]) -> None:
    assert shuffle_images(rows, 10) == []


def test_a_group_sends_one_row() -> None:
    rows = [example(f"{n}", seen(n), cluster=f"g{n // 3}") for n in range(9)]
    assert len({row.cluster for row in shuffle_images(rows, 9)}) == len(shuffle_images(rows, 9)) == 3


def test_shuffled_images_take_the_places_of_the_originals() -> None:
    rows = [example("two", seen(1), seen(2)), example("one", seen(3))]
    messages = (user(rows[0].images[0], "and", rows[0].images[1]), assistant("Yes."), user("Sure?"))
    rows[0] = Example("two", rows[0].images, None, {"references": []}, None, messages=messages)
    two = next(row for row in shuffle_images(rows, 2) if row.id == "two")
    assert [ref.where for ref in two.images] == ["file 3", "file 3"]
    assert two.messages is not None
    assert two.messages[0].content == (two.images[0], "and", two.images[1])

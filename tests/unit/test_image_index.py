"""The image index: small in memory, and equal after it was read from its file."""

import tracemalloc
from pathlib import Path

import numpy as np
from builders import encoded, make_image, ref
from clips import drawn_frames, video

from vlmtune.dataset_check import image_index
from vlmtune.dataset_check.image_index import ImageIndex, describe


def some(start: int, count: int) -> list[bytes]:
    return [encoded(make_image(96, 64, seed)) for seed in range(start, start + count)]


def test_an_indexed_image_takes_little_memory(tmp_path: Path) -> None:
    kept = ImageIndex(tmp_path / "cache.jsonl")
    facts = describe(ref(encoded(make_image(64, 64))), b"")
    count, batch = 8000, 100
    tracemalloc.start()
    for start in range(0, count, batch):
        new = [n.to_bytes(16) for n in range(start, start + batch)]
        kept.store(
            [image_index.ImageFacts(one, None, 64, 64, facts.properties, one, 7, facts.thumbnail) for one in new]
        )
        del new
        if start == 0:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown / (count - batch) < 200, "bytes"


def test_the_index_is_equal_after_reading_its_file(tmp_path: Path) -> None:
    first = ImageIndex(tmp_path / "cache.jsonl")
    examined = [first.examine(ref(data, f"{n}")) for n, data in enumerate([*some(0, 5), b"no image"])]
    numbers = np.array(first.store(examined))
    again = ImageIndex(tmp_path / "cache.jsonl")
    assert [again.examine(ref(data, "x")) for data in some(0, 5)] == numbers[:5].tolist()
    assert again.error(int(numbers[5])) == first.error(int(numbers[5])) is not None
    for kept in (first, again):
        assert [one.thumbnail for one in examined[:5]] == [image.tobytes() for image in kept.thumbnails(numbers[:5])]
        assert [one.pixels for one in examined[:5]] == [bytes(one) for one in kept.pixel_hashes(numbers[:5])]
        assert [one.dhash for one in examined[:5]] == kept.dhashes(numbers[:5]).tolist()


def test_videos_are_the_same_only_in_all_their_frames(tmp_path: Path) -> None:
    frames = drawn_frames(12, (64, 48))
    swapped = [frames[0], frames[2], frames[1], *frames[3:]]  # shown are 0, 3, 7 and 11
    clips = [video(frames, 5), video(frames, 5, "copy"), video(swapped, 5), video(frames, 4)]
    kept = ImageIndex(tmp_path / "cache.jsonl")
    first, copy, other, slow = kept.store([kept.examine(clip) for clip in clips])
    pixels = [bytes(one) for one in kept.pixel_hashes(np.array([first, copy, other, slow]))]
    assert pixels[0] == pixels[1]
    assert len(set(pixels)) == 3
    assert len({one.tobytes() for one in kept.thumbnails(np.array([first, other, slow]))}) == 1


def test_lines_by_which_videos_were_the_same_too_often_are_read_no_more(tmp_path: Path) -> None:
    kept = ImageIndex(tmp_path / "cache.jsonl")
    kept.store([kept.examine(video(drawn_frames(4, (64, 48)), 5)), kept.examine(ref(b"no image"))])
    assert len(ImageIndex(tmp_path / "cache.jsonl")) == 2
    file = tmp_path / "cache.jsonl"
    file.write_bytes(file.read_bytes().replace(b'{"v": 4', b'{"v": 3'))
    assert len(ImageIndex(file)) == 0

"""Scenes: the same row every time, the columns of Flickr8k, splits that share nothing."""

import pytest

from vlmtune.data import scenes
from vlmtune.errors import DataError
from vlmtune.images import decode_rgb, pixel_hash

CAPTIONS = [f"caption_{n}" for n in range(5)]


def test_a_row_is_a_function_of_split_and_number() -> None:
    rows = scenes.open(scenes.Config(references=CAPTIONS, id="id"), "test", 5)
    again = scenes.open(scenes.Config(references=CAPTIONS, id="id"), "test", 3)
    assert [e.truth for e in again] == [e.truth for e in rows][:3]
    assert pixel_hash(decode_rgb(rows[2].images[0])) == pixel_hash(decode_rgb(again[2].images[0]))
    assert len(rows[0].truth["references"]) == 5


def test_splits_share_no_image() -> None:
    seen = {
        split: {pixel_hash(decode_rgb(e.images[0])) for e in scenes.open(scenes.Config(), split, 60)}
        for split in scenes.SIZES
    }
    assert [len(hashes) for hashes in seen.values()] == [60, 60, 60]
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]


def test_boxes_and_phrases_fit_the_image() -> None:
    for index in range(40):
        row = scenes.record("train", index)
        if row["box"] is None:
            continue
        left, top, right, bottom = row["box"]
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 128


def test_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="no split 'val'; there are: train, validation, test"):
        scenes.open(scenes.Config(), "val")


def test_identifiable_scenes_all_have_a_phrase_and_a_box() -> None:
    rows = scenes.open(scenes.Config(identifiable=True, question="phrase", boxes="box", id="id"), "test", 50)
    assert len(rows) == 50
    assert all(row.question and len(row.truth["boxes"]) == 4 for row in rows)
    assert [row.id for row in rows] != [f"test-{n:05d}" for n in range(50)]

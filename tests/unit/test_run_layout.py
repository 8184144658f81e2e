"""Names of files: in the order of their steps, and never chosen by what a file of others holds."""

from pathlib import Path

import pytest

from vlmtune.run_layout import (
    best_adapter_path,
    best_adapter_paths,
    checkpoint_path,
    checkpoint_paths,
    thumbnail_path,
    validation_answers,
    validation_answers_path,
)


def test_steps_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    steps = [999, 999_999, 1_000_000, 20_000_000]
    for step in reversed(steps):
        checkpoint_path(tmp_path, step).mkdir()
        best_adapter_path(tmp_path, step).mkdir()
        validation_answers_path(tmp_path, step).touch()
    for name in ("step-old", "step-", "step-٣", "best-x"):
        (tmp_path / name).mkdir()
    assert checkpoint_paths(tmp_path) == [checkpoint_path(tmp_path, step) for step in steps]
    assert best_adapter_paths(tmp_path) == [best_adapter_path(tmp_path, step) for step in steps]
    assert validation_answers(tmp_path) == [validation_answers_path(tmp_path, step) for step in steps[::-1]]


@pytest.mark.parametrize("image", ["../../private", "/etc/passwd", "a/b", "..", "", "\x00", "\ud800", "a" * 15])
def test_a_file_of_others_chooses_no_path(image: str, tmp_path: Path) -> None:
    file = thumbnail_path(tmp_path, image)
    assert file.parent == tmp_path
    assert file.stem == file.stem.strip(".")
    assert thumbnail_path(tmp_path, "ab" * 32) == tmp_path / f"{'ab' * 8}.webp"

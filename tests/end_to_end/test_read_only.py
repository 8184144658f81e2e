"""Folders that cannot be written: those of the data need not be, a cache is done without, and results name the folder.

A hook of Python in the child refuses every writing call below a folder as a read-only file system does.
"""

import errno
import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import make_image
from commands import ROOT, warm_vlmtune

CONFIG = """\
model: {name: base, device: cpu}
dataset: {source: imagefolder, path: photos, references: [label], splits: {validation: test}}
task: {name: classification, labels: [left, right]}
evaluation: {image_control_rows: 0}
inference: {max_new_tokens: 4}
output: {dir: results/out}
"""
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def read_only(folders: list[Path]) -> None:
    """Called first in a child: nothing below the folders can be written."""

    def refuse(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in CHANGES):
            return
        for path in given[:2]:
            if isinstance(path, str | os.PathLike) and any(map(Path(path).absolute().is_relative_to, folders)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    sys.addaudithook(refuse)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A model, photos in folders by label, and a config of both."""
    for n in range(8):
        folder = tmp_path / "photos" / ("train", "test")[n % 2] / ("left", "right")[n // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        make_image(60, 40, seed=n).save(folder / f"{n}.png")
    (tmp_path / "base").mkdir()
    for file in (ROOT / "src/vlmtune/assets/tiny_qwen3_vl").iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "results").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "folders", "code"),
    [
        (("predict", "c.yaml"), ("photos", "base", "cache"), 0),
        (("predict", "c.yaml"), ("results",), 4),
        (("data", "check", "c.yaml"), ("photos", "base"), 0),
        (("data", "check", "c.yaml"), ("results",), 4),
        (("init", "photos", "-o", "results/made.yaml"), ("photos", "cache"), 0),
        (("init", "photos", "-o", "results/made.yaml"), ("results",), 4),
    ],
)
def test_what_has_to_be_written_is_named_and_nothing_else_is(
    words: tuple[str, ...], folders: tuple[str, ...], code: int, here: Path
) -> None:
    before = functools.partial(read_only, [here / folder for folder in folders])
    ended = warm_vlmtune(*words, cwd=here, before=before, XDG_CACHE_HOME=str(here / "cache"))
    assert ended.returncode == code, ended.stdout + ended.stderr
    if code:
        assert "Read-only file system" in ended.stderr
        assert "results" in ended.stderr
        assert not list((here / "results").iterdir())

"""Commands outside of a run, killed at writes and at random moments: given again, they end as if nothing had been."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import make_image
from commands import warm_vlmtune
from kills import kill_at_random_moments

SMALL = [
    "demo.yaml",
    *("--set", "dataset.limit={train: 8, validation: 4, test: 4}", "--set", "inference.max_new_tokens=4"),
    *("--set", "training.epochs=1", "--set", "training.batch_size=4", "--set", "output.dir=out", "--progress", "none"),
]
EXPORT = ["export", *SMALL, "-o", "merged"]
CHECK = ["data", "check", "photos.yaml", "--progress", "none", "--set", "model.name=tiny"]
INIT = ["init", "photos", "-o", "photos.yaml"]


def in_this_process() -> None:
    """Called first in a child: the merged checkpoint is verified without starting Python and torch anew."""
    from vlmtune.pipeline import export

    export._teacher_force_in_fresh_process = export.teacher_force_folder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands find: an adapter, photos, and for `data check` a config of them."""
    here = tmp_path_factory.mktemp("found")
    trained = warm_vlmtune("train", *SMALL, cwd=here)
    assert trained.returncode == 0, trained.stderr
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        for n in range(count):
            folder = here / "photos" / split / ("left", "right")[n % 2]
            folder.mkdir(parents=True, exist_ok=True)
            make_image(80, 60, seed=100 * len(split) + n).save(folder / f"{n}.png")
    return here


def files(folder: Path) -> dict[str, bytes]:
    """Every file but thumbnails of images and what tells how a process went."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".vlmtune" not in path.parts
    }


def check_kills(words: list[str], tmp_path: Path, found: Path, soak: bool, done: Sequence[int] = (0,)) -> Path:
    """Kill a command as it writes, and at random; what it makes is the same, and nothing is left beside it."""
    kills = 20 if soak else 1
    whole, folders = kill_at_random_moments(words, kills, tmp_path, found, in_this_process, done=done)
    here = tmp_path / "as it writes"
    shutil.copytree(found, here)
    made = files(whole)
    for hit in range(1, 9 if soak else 3):
        killed = warm_vlmtune(*words, cwd=here, before=in_this_process, VLMTUNE_FAULT=f"file.written:kill:{hit}")
        assert killed.returncode in (-9, 0), killed.stderr
        assert hit > 1 or killed.returncode == -9
        half = {name: content for name, content in files(here).items() if ".building" not in name}
        assert half.items() <= made.items()
        if killed.returncode == 0:
            break
    else:
        again = warm_vlmtune(*words, cwd=here, before=in_this_process)
        assert again.returncode == 0, again.stderr
    for folder in (here, *folders):
        assert files(folder) == made
    return whole


def test_an_export_killed_at_random_moments_leaves_no_half(tmp_path: Path, found: Path, soak: bool) -> None:
    whole = check_kills(EXPORT, tmp_path, found, soak, (0, 2))
    assert {"model.safetensors", "vlmtune.json"} <= {path.name for path in (whole / "merged").iterdir()}


def test_a_first_config_killed_at_random_moments_is_whole(tmp_path: Path, found: Path, soak: bool) -> None:
    assert (check_kills(INIT, tmp_path, found, soak, (0, 2)) / "photos.yaml").is_file()


def test_a_check_killed_at_random_moments_reports_the_same(tmp_path: Path, found: Path, soak: bool) -> None:
    ended = warm_vlmtune(*INIT, cwd=found)
    assert ended.returncode == 0, ended.stderr
    whole = check_kills(CHECK, tmp_path, found, soak)
    (found / "photos.yaml").unlink()
    assert list(whole.rglob("data_check.json"))

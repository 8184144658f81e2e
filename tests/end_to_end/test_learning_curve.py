"""`vlmtune learning-curve` on the tiny model: nested parts, none trained twice, an interval that is right."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from commands import vlmtune_in_process, warm_vlmtune

SETS = [
    "dataset.limit={train: 160, validation: 8, test: 30}",
    "training.epochs=1",
    "training.batch_size=8",
    "training.workers=0",
    "training.learning_rate=5e-3",
    "evaluation.metrics=[chrf]",
    "inference.max_new_tokens=24",
]
RUN = Path("outputs/demo")


def test_the_curve_of_parts_covers_what_all_rows_bring(tmp_path: Path) -> None:
    def curve(fractions: str) -> dict[str, object]:
        sets = [f"--set={one}" for one in SETS]
        ended = warm_vlmtune("learning-curve", "demo", *sets, "--json", "--fractions", fractions, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        said: dict[str, object] = json.loads(ended.stdout)
        return said

    part = curve("0.125,0.25,0.5")
    kept = (tmp_path / RUN / "learning_curve" / "000080" / "lora" / "vlmtune.json").stat().st_mtime_ns
    whole = curve("0.125,0.25,0.5,1")
    assert [point["rows"] for point in whole["points"]] == [20, 40, 80, 160]
    assert whole["points"][:3] == part["points"]
    assert (tmp_path / RUN / "learning_curve" / "000080" / "lora" / "vlmtune.json").stat().st_mtime_ns == kept
    ahead = next(each for each in part["extrapolations"] if each["rows"] == 160)
    scores = [point["score"] for point in whole["points"]]
    assert ahead["low"] <= scores[3] - scores[2] <= ahead["high"]
    samples = [
        {json.loads(line)["id"] for line in (tmp_path / RUN / f"learning_curve/{n:06d}/lora/samples.jsonl").open()}
        for n in (20, 40, 80, 160)
    ]
    assert [len(ids) for ids in samples] == [20, 40, 80, 160]
    assert all(small < large for small, large in pairwise(samples))
    assert "over train rows" in (tmp_path / RUN / "learning_curve.html").read_text()


@pytest.mark.parametrize("fractions", ["0,1", "0.5,0.5", "2", "0.001,1", "a"])
def test_fractions_that_are_none_are_named(fractions: str, tmp_path: Path) -> None:
    sets = [f"--set={one}" for one in SETS]
    ended = vlmtune_in_process("learning-curve", "demo", *sets, "--fractions", fractions, cwd=tmp_path)
    assert ended.returncode == 2
    assert "fractions" in ended.stderr

"""`compare` and `score` on files of any origin, and the shapes that scripts rely on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from commands import warm_vlmtune

WORDS = "a dog runs on the grass two children play in water man rides his bike along street".split()


def classic_rows(count: int, noise: float) -> list[dict[str, Any]]:
    """Lines as an older script left them: no ids, one reference under `reference`, some references alike."""
    rows = []
    for n in range(count):
        own, other = random.Random(n % 900), random.Random(f"{noise}/{n}")
        reference = " ".join(own.choice(WORDS) for _ in range(9))
        words = [word if other.random() > noise else other.choice(WORDS) for word in reference.split()]
        rows.append({"image_id": n, "prediction": " ".join(words), "reference": reference})
    return rows


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, rows in (("before", classic_rows(1000, 0.6)), ("after", classic_rows(500, 0.3))):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return "before.jsonl", "after.jsonl"


def test_a_thousand_classic_rows_against_five_hundred(files: tuple[str, str], tmp_path: Path) -> None:
    ended = warm_vlmtune("compare", *files, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    plain = json.loads(ended.stdout)
    assert plain["rows"] | {"a": 1000, "b": 500, "paired": 500, "only_a": 500, "only_b": 0} == plain["rows"]
    assert (plain["schema_version"], plain["status"], plain["primary"]) == (1, "improved", "bleu")
    keys = {"name", "a", "b", "delta", "ci", "p", "higher_is_better", "signature"}
    assert all(keys <= set(metric) for metric in plain["metrics"])
    assert set(plain["lengths"]) == {"a", "b", "references"}
    assert set(plain["controls"]) == {"length", "image", "effect"}
    said = warm_vlmtune("compare", *files, cwd=tmp_path).stdout
    assert "500 rows are in both files; left out: 500 only in before" in said


def test_a_file_with_itself(files: tuple[str, str], tmp_path: Path) -> None:
    ended = warm_vlmtune("compare", files[1], files[1], "--json", cwd=tmp_path)
    plain = json.loads(ended.stdout)
    assert plain["status"] == "no_difference"
    assert all(metric["delta"] == 0 and metric["ci"] == [0, 0] for metric in plain["metrics"])


def test_page_and_json_are_written_and_other_endings_refused(files: tuple[str, str], tmp_path: Path) -> None:
    for name in ("out.html", "out.json"):
        assert warm_vlmtune("compare", *files, "-o", name, cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert len(json.loads((tmp_path / "out.json").read_text())["examples"]) == 500
    refused = warm_vlmtune("compare", *files, "-o", "out.pdf", cwd=tmp_path)
    assert refused.returncode == 2
    assert "ends in .html or .json" in refused.stderr


def test_score_needs_no_model(files: tuple[str, str], tmp_path: Path) -> None:
    plain = json.loads(warm_vlmtune("score", files[1], "--metrics", "bleu", "--json", cwd=tmp_path).stdout)
    assert list(plain["metrics"]) == ["bleu"]
    assert 0 < plain["metrics"]["bleu"] < 1
    assert plain["signatures"]["bleu"].startswith("nrefs:1|")
    assert plain["rows"]["asked"] == 500

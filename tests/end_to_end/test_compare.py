"""`compare` and `score` on files of any origin, and the shapes that scripts rely on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from commands import warm_vlmtune

import vlmtune

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
    assert set(plain["lengths"]) == {"a", "b", "references", "unit"}
    assert plain["lengths"]["unit"] == "words"
    assert set(plain["controls"]) == {"length", "image", "adapter_delta"}
    said = warm_vlmtune("compare", *files, cwd=tmp_path).stdout
    assert "500 rows are in both files; left out: 500 only in before" in said


def test_a_file_with_itself(files: tuple[str, str], tmp_path: Path) -> None:
    ended = warm_vlmtune("compare", files[1], files[1], "--json", cwd=tmp_path)
    plain = json.loads(ended.stdout)
    assert plain["status"] == "no_difference"
    assert all(metric["delta"] == 0 and metric["ci"] is None for metric in plain["metrics"])


def test_page_and_json_are_written_and_other_endings_refused(files: tuple[str, str], tmp_path: Path) -> None:
    for name in ("out.html", "out.json"):
        assert warm_vlmtune("compare", *files, "-o", name, cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert len(json.loads((tmp_path / "out.json").read_text())["examples"]) == 500
    refused = warm_vlmtune("compare", *files, "-o", "out.pdf", cwd=tmp_path)
    assert refused.returncode == 2
    assert "ends in .html, .json, .md or .png" in refused.stderr


def test_score_needs_no_model(files: tuple[str, str], tmp_path: Path) -> None:
    plain = json.loads(warm_vlmtune("score", files[1], "--metrics", "bleu", "--json", cwd=tmp_path).stdout)
    assert list(plain["metrics"]) == ["bleu"]
    assert 0 < plain["metrics"]["bleu"] < 1
    assert plain["signatures"]["bleu"].startswith("nrefs:1|")
    assert plain["rows"]["asked"] == 500


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def test_a_true_condition_ends_with_6_after_the_comparison_was_printed(files: tuple[str, str], tmp_path: Path) -> None:
    passed = warm_vlmtune("compare", *files, "--fail-on", "bleu<0; bleu.ci_low<0", cwd=tmp_path)
    assert (passed.returncode, passed.stderr) == (0, "")
    failed = warm_vlmtune("compare", *files, "--json", "--fail-on", "bleu < 0; bleu.b<0.9", cwd=tmp_path)
    assert failed.returncode == 6
    bleu = json.loads(failed.stdout)["metrics"][0]["b"]
    assert f"error: --fail-on: bleu.b<0.9 is true: bleu.b = {bleu:.6g}" in failed.stderr
    few = [written(tmp_path, f"few {n}.jsonl", classic_rows(10, noise)) for n, noise in enumerate((0.6, 0.1))]
    unsure = warm_vlmtune("compare", *few, "--fail-on", "bleu<-1", cwd=tmp_path)
    assert (unsure.returncode, unsure.stdout[:12]) == (6, "Inconclusive")
    assert "the comparison is inconclusive" in unsure.stderr


@pytest.mark.parametrize(("expression", "said"), [("blue<0", "did you mean 'bleu'"), ("bleu==0", "not of the form")])
def test_a_wrong_condition_is_a_usage_error(files: tuple[str, str], tmp_path: Path, expression: str, said: str) -> None:
    ended = warm_vlmtune("compare", *files, "--fail-on", expression, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_slices_regressions_and_further_sides(files: tuple[str, str], tmp_path: Path) -> None:
    for name, noise in (("more.jsonl", 0.5), ("tagged.jsonl", 0.6)):
        rows = [
            {**row, "meta": {"light": "day" if n % 3 else "night"}} for n, row in enumerate(classic_rows(500, noise))
        ]
        written(tmp_path, name, rows)
    words = ("compare", "tagged.jsonl", files[1], "more.jsonl", "--slice", "light", "--regressions", "worse.jsonl")
    ended = warm_vlmtune(*words, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    plain = json.loads(ended.stdout)
    assert [(part["value"], part["rows"]) for part in plain["slices"]] == [("day", 333), ("night", 167)]
    assert [other["names"] for other in plain["others"]] == [{"a": "tagged", "b": "more"}]
    gains = [json.loads(line)["gain"] for line in (tmp_path / "worse.jsonl").read_text().splitlines()]
    assert gains == sorted(gains)
    assert gains[-1] < 0
    assert f"worse.jsonl: {len(gains)} rows got worse in bleu" in ended.stderr
    said = warm_vlmtune(*words, cwd=tmp_path).stdout
    for text in ("chance of detecting a difference of", "bleu against tagged", "light = night", "p (Holm)"):
        assert text in said, text


def test_seeds_are_one_side_however_they_are_spelled(files: tuple[str, str], tmp_path: Path) -> None:
    for folder, noise in (("one", 0.31), ("two", 0.32), ("three", 0.33)):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, "tuned.jsonl", classic_rows(300, noise))
    names = ["one/tuned", "two/tuned", "three/tuned"]
    apart, joined = [f"{name}.jsonl" for name in names], ",".join(f"{name}.jsonl" for name in names)
    flag = json.loads(warm_vlmtune("compare", files[0], *apart, "--seeds", "--json", cwd=tmp_path).stdout)
    assert flag == json.loads(warm_vlmtune("compare", files[0], joined, "--json", cwd=tmp_path).stdout)
    assert flag["seeds"] == {"a": ["before"], "b": names}
    assert (flag["status"], flag["metrics"][0]["p"], flag["others"]) == ("improved", None, [])
    said = warm_vlmtune("compare", files[0], joined, cwd=tmp_path).stdout
    assert all(f"{score:.4f}" in said for score in flag["metrics"][0]["seeds"]["b"])
    twice = warm_vlmtune("compare", files[0], apart[0], apart[0], "--seeds", cwd=tmp_path)
    assert twice.returncode == 2
    assert "given twice as a seed" in twice.stderr


def test_the_library_reaches_what_the_command_does(files: tuple[str, str], tmp_path: Path) -> None:
    before, after = (tmp_path / name for name in files)
    found = vlmtune.compare(before, [after], after, task="captioning", slices=["image_id"])
    assert found.status == "improved"
    assert len(found.result["others"]) == 1
    assert len(found.result["slices"]) == 50
    assert found.failures("bleu<0") == []
    assert found.failures("bleu>0") != []
    assert found.regressions()[0]["gain"] < 0


def test_keys_of_task_and_evaluation_stand_in_for_a_config(tmp_path: Path) -> None:
    for name, wrong in (("a", 4), ("b", 40)):
        rows = [
            {"id": str(n), "prediction": "dog" if n % wrong else "cat", "references": ["dog"], "label": "dog"}
            for n in range(60)
        ]
        written(tmp_path, f"{name}.jsonl", rows)
    lacking = warm_vlmtune("score", "b.jsonl", "--task", "classification", cwd=tmp_path)
    assert lacking.returncode == 2
    assert "task.labels: Field required" in lacking.stderr
    labels = ("--task", "classification", "--set", "task.labels=[cat, dog]")
    scored = warm_vlmtune("score", "b.jsonl", *labels, "--json", cwd=tmp_path)
    assert json.loads(scored.stdout)["intervals"]["accuracy"] == pytest.approx([0.8864, 0.9908], abs=1e-4)
    compared = warm_vlmtune("compare", "a.jsonl", "b.jsonl", *labels, "--json", cwd=tmp_path)
    assert json.loads(compared.stdout)["metrics"][0]["mcnemar"]["only_b"] == 15 - 2
    seeded = (*labels, "--set", "evaluation.statistics.seed=7")
    assert json.loads(warm_vlmtune("compare", "a.jsonl", "b.jsonl", *seeded, "--json", cwd=tmp_path).stdout)[
        "statistics"
    ] == {"resamples": 10_000, "confidence": 0.95, "seed": 7}
    for wrong_set, said in (("evaluation.primry=x", "evaluation.primry"), ("training.x=1", "task and evaluation")):
        refused = warm_vlmtune("compare", "a.jsonl", "b.jsonl", "--set", wrong_set, cwd=tmp_path)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr

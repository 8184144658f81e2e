"""Samples of lm-eval and lmms-eval with filters and choices; rows of any program that share an image or name none.

The forms were taken from lm-eval's `evaluate` (`"filter": filter_key`, one block of rows per filter) and lmms-eval's,
which does the same without naming the filter. Multiple-choice tasks log (log-likelihood, is greedy) per choice.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import vlmtune_in_process

from vlmtune.compare_files import Reading, compare_files, score_file
from vlmtune.errors import DataError
from vlmtune.predictions import Keys, Line, image_of, question_of, read_any

FLEXIBLE = Reading(Keys(filter="flexible-extract"))


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def lm_eval(strict: int, flexible: int, count: int = 30) -> list[dict[str, Any]]:
    """One block per filter, in which the first rows are right."""
    return [
        {
            "doc_id": n,
            "doc": {"question": f"{n} + 1?"},
            "target": str(n + 1),
            "arguments": {"gen_args_0": {"arg_0": f"{n} + 1?", "arg_1": {"until": ["\n"]}}},
            "resps": [[f"so {n + 1}"]],
            "filtered_resps": [str(n + 1) if n < right else "[invalid]"],
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"{n:064x}",
            "exact_match": float(n < right),
        }
        for name, right in (("strict-match", strict), ("flexible-extract", flexible))
        for n in range(count)
    ]


def test_of_several_filters_one_is_read_and_said(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "a.jsonl", lm_eval(12, 21)), write(tmp_path / "b.jsonl", lm_eval(18, 27))
    first = score_file(base)
    assert (first.metrics["exact_match"], first.rows["asked"]) == (12 / 30, 30)
    assert any("once per filter (strict-match, flexible-extract); those of 'strict-match'" in n for n in first.notes)
    assert not any("own 'exact_match'" in note for note in first.notes), "it is the same as ours"
    assert score_file(base, reading=FLEXIBLE).metrics["exact_match"] == 21 / 30
    found = compare_files(base, tuned, reading=FLEXIBLE).metrics[0]
    assert (found["a"], found["b"]) == (21 / 30, 27 / 30)
    with pytest.raises(DataError, match="no row is of the filter 'last' of --filter; there are: strict-match, flexi"):
        score_file(base, reading=Reading(Keys(filter="last")))
    ended = vlmtune_in_process("score", "a.jsonl", "--filter", "flexible-extract", "--json", cwd=tmp_path)
    assert json.loads(ended.stdout)["metrics"]["exact_match"] == 21 / 30


def test_lmms_eval_logs_filters_without_their_names(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("doc_id", "target", "filtered_resps", "doc_hash")} for row in lm_eval(12, 21)]
    found = score_file(write(tmp_path / "a.jsonl", rows))
    assert found.metrics["exact_match"] == 12 / 30
    assert any("every row occurs 2 times, once per filter; those of the first are read" in note for note in found.notes)
    with pytest.raises(DataError, match="id '3' is already used"):
        score_file(write(tmp_path / "b.jsonl", [*rows[:30], rows[3]]))


@pytest.mark.parametrize("as_text", [True, False])
def test_choices_are_read_from_their_likelihoods(tmp_path: Path, as_text: bool) -> None:
    """lm-eval: the likeliest continuation; the target is its number, or its text. lmms-eval logs losses."""
    gold, likely, animals = [0, 1, 2, 0], [0, 1, 0, 2], ["cat", "dog", "fox"]
    rows = [
        {
            "doc_id": n,
            "target": animals[right] if as_text else str(right),
            "arguments": {f"gen_args_{k}": {"arg_0": "It is a", "arg_1": f" {name}"} for k, name in enumerate(animals)},
            "filtered_resps": [[str(-1.5 if k == best else -2.5 - k), "False"] for k in range(3)],
            "acc": float(right == best),
        }
        for n, (right, best) in enumerate(zip(gold, likely, strict=True))
    ]
    file = write(tmp_path / "a.jsonl", rows)
    assert [line.prediction for line in read_any(file).lines] == [animals[best] for best in likely]
    assert score_file(file).metrics["exact_match"] == 0.5
    if not as_text:
        for row in rows:
            del row["arguments"]
            row["filtered_resps"] = [[-float(pair[0]), False] for pair in row["filtered_resps"]]
        file = write(tmp_path / "b.jsonl", rows)
        assert [line.prediction for line in read_any(file).lines] == [str(best) for best in likely]
        assert score_file(file).metrics["exact_match"] == 0.5


def test_a_score_that_no_metric_gives_is_said(tmp_path: Path) -> None:
    rows = [{"id": n, "pred": "Red.", "gt": "red", "correct": True, "latency": 0.3} for n in range(20)]
    notes = score_file(write(tmp_path / "a.jsonl", rows)).notes
    assert [note for note in notes if "own" in note] == []
    for row in rows[:7]:
        row["correct"] = False
    notes = score_file(write(tmp_path / "a.jsonl", rows)).notes
    assert "the rows' own 'correct' has the mean 0.6500, which no metric here gives" in notes


@pytest.mark.parametrize(
    "image",
    [
        {"image": "3.jpg"},
        {"images": ["a/3.png"]},
        {"images": [{"bytes": None, "path": "3.png"}]},
        {"image_id": 3},
        {"file_name": "3.JPG"},
        {"Image Path": "3.webp"},
        {"image": "iVBORw0KGgo" * 200},
    ],
    ids=str,
)
def test_rows_that_share_an_image_are_one_group(tmp_path: Path, image: dict[str, Any]) -> None:
    """4 questions to each of 25 images."""
    (key, shown), *_ = image.items()

    def named(n: int) -> Any:
        return json.loads(json.dumps(shown).replace("3", str(n)) if "3" in json.dumps(shown) else f'"{n}{shown}"')

    rows = [
        {"question": f"{k}?", "pred": "yes" if (n + k) % 3 else "no", "gt": "yes", key: named(n)}
        for n in range(25)
        for k in range(4)
    ]
    base = write(tmp_path / "a.jsonl", rows)
    tuned = write(tmp_path / "b.jsonl", [{**row, "pred": "yes"} for row in rows])
    found = compare_files(base, tuned)
    assert (found.result["rows"]["compared"], found.result["rows"]["groups"]) == (100, 25)
    assert any(
        f"rows with the same {key!r} are one group: 25 images of 100 rows" in w for w in found.result["warnings"]
    )
    assert score_file(base).intervals == {}, "Wilson's interval is for independent rows"


@pytest.mark.parametrize("images", [["x.jpg"] * 30, [f"{n}.jpg" for n in range(30)], [None] * 30])
def test_one_image_for_all_or_each_is_no_group(tmp_path: Path, images: list[str | None]) -> None:
    rows = [{"image": image, "question": f"{n}?", "pred": "a", "gt": "a"} for n, image in enumerate(images)]
    assert all(line.cluster is None for line in read_any(write(tmp_path / "a.jsonl", rows)).lines)


def test_an_empty_list_of_boxes_is_an_answer_and_a_reference(tmp_path: Path) -> None:
    """In a file of boxes; elsewhere a row with an empty list has neither."""
    boxes = [[[10, 10, 50, 50]], [], [[20, 20, 40, 40], [60, 60, 80, 80]]]
    rows = [{"id": n, "pred": one, "gt": one} for n, one in enumerate(boxes)]
    found = score_file(write(tmp_path / "a.jsonl", rows), "grounding")
    assert (found.metrics["f1_at_05"], found.rows["answered"], found.rows.get("without_reference")) == (1, 3, None)
    rows = [{"id": n, "prediction": json.dumps(one), "boxes": one} for n, one in enumerate(boxes)]
    own = score_file(write(tmp_path / "b.jsonl", [{**row, "references": []} for row in rows]), "grounding")
    assert (own.metrics["f1_at_05"], own.rows["asked"], own.rows["answered"]) == (1, 3, 3)
    texts = [{"id": n, "pred": "x", "gt": [["a", "b"], []][n % 2]} for n in range(4)]
    assert score_file(write(tmp_path / "c.jsonl", texts), "vqa").rows["without_reference"] == 2


def test_contradictions_of_other_programs_rows(tmp_path: Path) -> None:
    rows = [
        {"image": f"{n // 2}.jpg", "question": "how many?", "pred": "2", "gt": str(n % 2 if n < 4 else 7)}
        for n in range(44)
    ]
    result = compare_files(write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows)).result
    assert [group["image"] for group in result["contradictions"]] == ["0.jpg", "1.jpg"]
    assert result["contradictions"][0]["question"] == "how many?"
    for n, row in enumerate(rows):
        row["prompt"] = row.pop("question") + str(n % 2)
    result = compare_files(write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows)).result
    assert result["contradictions"] == [], "they ask two things"


def test_what_a_row_is_about() -> None:
    talk = [{"role": "user", "content": "how many?"}]
    rows: list[tuple[dict[str, Any], str | None, str | None]] = [
        ({"image": "a.jpg", "query": "how many?"}, "a.jpg", "how many?"),
        ({"img_path": "a.jpg", "messages": talk}, "a.jpg", json.dumps(talk)),
        ({"doc_id": 3}, None, None),
    ]
    for truth, image, question in rows:
        line = Line(None, "x", {"references": [], **truth})
        assert (image_of(line), question_of(line)) == (image, question)

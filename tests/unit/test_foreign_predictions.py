"""Files of other programs, in the form in which their sources write them, give the scores that these programs report.

The forms were taken from lmms-eval (`EvaluationTracker.save_results_samples`), lm-evaluation-harness, LLaMA-Factory
(`CustomSeq2SeqTrainer.save_predictions`), ms-swift (`SwiftInfer._batch_infer`), VLMEvalKit (`infer_data_job`), OpenAI's
batch API and Hugging Face `evaluate`. The expected score is computed here, by the tool's definition.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import vlmtune_in_process
from foreign_files import ANSWERS, BETTER, LABELS, TOOLS, Rows, excel, jsonl, tsv, vlmevalkit

from vlmtune.compare_files import Reading, compare_files, score_file
from vlmtune.errors import DataError
from vlmtune.predictions import Keys, read_any, read_references


def share_right(answers: Sequence[str]) -> float:
    """ms-swift's `acc`, lmms-eval's `exact_match`, VLMEvalKit's `accuracy` of these answers, which are in one case."""
    return sum(answer == label for answer, label in zip(answers, LABELS, strict=True)) / len(LABELS)


@pytest.mark.parametrize(("name", "write"), TOOLS, ids=[name for name, _ in TOOLS])
def test_scores_and_comparisons_are_those_of_the_tool(
    tmp_path: Path, name: str, write: Callable[[Sequence[str]], bytes]
) -> None:
    for folder, answers in (("base", ANSWERS), ("tuned", BETTER)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(write(answers))
    base, tuned = tmp_path / "base" / name, tmp_path / "tuned" / name
    assert score_file(base).metrics["exact_match"] == pytest.approx(share_right(ANSWERS), abs=1e-12)
    found = compare_files(base, tuned)
    assert found.metrics[0]["name"] == "exact_match"
    assert (found.metrics[0]["a"], found.metrics[0]["b"]) == pytest.approx((share_right(ANSWERS), share_right(BETTER)))
    assert found.result["rows"]["compared"] == len(LABELS)


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for n, left in enumerate(one, start=1):
        previous, row[0] = row[0], n
        for m, right in enumerate(other, start=1):
            previous, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, previous + (left != right))
    return row[-1]


def anls(answer: str, references: Sequence[str]) -> float:
    """VLMEvalKit's `anls_compute` and `hit_calculate`."""
    distances = []
    for reference in references:
        plain = (" ".join(text.strip().lower().split()) for text in (reference, answer))
        distances.append(levenshtein(*plain) / max(len(reference), len(answer)))
    return 0.0 if 1 - min(distances) < 0.5 else 1 - min(distances)


@pytest.mark.parametrize("name", ["m_DocVQA_VAL.tsv", "m_InfoVQA_VAL.xlsx", "1_samples_docvqa_val.jsonl"])
def test_the_benchmark_in_the_name_of_the_file_chooses_the_metric(tmp_path: Path, name: str) -> None:
    """And answers with several references, which these tools write as the text of a list."""
    references = [[f"{n} March 1998", f"March {n}, 1998"] for n in range(1, 21)]
    answers = [f"march {n}, 1998" if n % 2 else f"{n} Marsh 199" for n in range(1, 21)]
    rows = [
        {"index": n, "question": "when?", "answer": str(texts), "prediction": answer}
        for n, (texts, answer) in enumerate(zip(references, answers, strict=True))
    ]
    write = {"tsv": tsv, "xlsx": excel, "jsonl": jsonl}[name.rpartition(".")[2]]
    if write is jsonl:
        rows = [{"doc_id": row["index"], "filtered_resps": row["prediction"], "target": row["answer"]} for row in rows]
    (tmp_path / name).write_bytes(write(rows))
    found = score_file(tmp_path / name)
    expected = sum(map(anls, answers, references)) / len(answers)
    assert found.metrics["anls"] == pytest.approx(expected, abs=1e-12)
    assert any("task docvqa, after the name of the file" in note for note in found.notes)


def openai_batch(answers: Sequence[str | None]) -> Rows:
    """As documented: successes have a response, an expired request an error, a refused one another status."""
    rows: list[dict[str, Any]] = []
    for n, answer in enumerate(answers):
        row: dict[str, Any] = {"id": f"batch_req_{hash((n, tuple(answers))):x}", "custom_id": f"request-{n}"}
        if answer is None:
            error = {
                "code": "batch_expired",
                "message": "This request could not be executed before the window expired.",
            }
            rows.append({**row, "response": None, "error": error})
            continue
        message = {"role": "assistant", "content": answer, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop" if n else "length"}
        body = {"object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": 3}}
        rows.append({**row, "response": {"status_code": 200, "request_id": f"r{n}", "body": body}, "error": None})
    return rows


def test_batch_output_is_joined_with_references_by_id(tmp_path: Path) -> None:
    base, tuned, truth = (tmp_path / name for name in ("base.jsonl", "tuned.jsonl", "truth.csv"))
    base.write_bytes(jsonl([*openai_batch([*ANSWERS[:-1], None])][::-1]))
    tuned.write_bytes(jsonl(openai_batch(BETTER)))
    lines = [f'request-{n},"{label}"' for n, label in enumerate(LABELS)]
    truth.write_text("custom_id,answer\n" + "\n".join(lines), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"no row has a reference; name their key with --reference KEY, or join .*--ref"
    ):
        score_file(base, "vqa")
    reading = Reading(references=truth)
    found = score_file(base, "vqa", reading=reading)
    expected = sum(map(str.__eq__, ANSWERS[:-1], LABELS[:-1])) / (len(LABELS) - 1)
    assert found.metrics["exact_match"] == pytest.approx(expected, abs=1e-12)
    assert (found.rows["failed"], found.rows["cut_off"]) == (1, 1)
    compared = compare_files(base, tuned, task="vqa", evaluation={"primary": "exact_match"}, reading=reading)
    assert (compared.result["paired_by"], compared.result["rows"]["compared"]) == ("id", len(LABELS) - 1)
    assert compared.metrics[0]["a"] == pytest.approx(expected, abs=1e-12)
    told = json.loads(
        vlmtune_in_process(
            "score", "base.jsonl", "--task", "vqa", "--references", "truth.csv", "--json", cwd=tmp_path
        ).stdout
    )
    assert told["metrics"]["exact_match"] == pytest.approx(expected, abs=1e-12)


def test_a_batch_is_joined_with_the_rows_of_a_config(tmp_path: Path) -> None:
    rows = [{"key": f"request-{n}", "q": "color?", "a": label} for n, label in enumerate(LABELS)]
    (tmp_path / "test.jsonl").write_bytes(jsonl(rows))
    (tmp_path / "base.jsonl").write_bytes(jsonl(openai_batch(ANSWERS)))
    config = f"""
model: {{name: tiny}}
dataset:
  {{source: jsonl, path: {tmp_path}, image: null, id: key, question: q, references: [a], splits: {{test: test.jsonl}}}}
task: {{name: vqa}}
output: {{dir: {tmp_path / "run"}}}
"""
    (tmp_path / "data.yaml").write_text(config, encoding="utf-8")
    ended = vlmtune_in_process("score", "base.jsonl", "--references", "data.yaml", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["metrics"]["exact_match"] == pytest.approx(share_right(ANSWERS), abs=1e-12)


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        ({"choices": [{"text": "cat", "finish_reason": "stop"}]}, "cat", None),
        ({"choices": [{"message": {"content": None, "refusal": "No."}}]}, None, "refused: No."),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "cat"}]}]}, "cat", None),
        ({"output": [{"type": "reasoning"}]}, None, "the reply has no text"),
        ({"error": {"message": "too long"}}, None, "too long (status 400)"),
    ],
)
def test_every_endpoint_of_a_batch(tmp_path: Path, body: dict[str, Any], text: str | None, reason: str | None) -> None:
    response = {"status_code": 400 if "error" in body else 200, "body": body}
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"custom_id": "a", "response": response, "error": None}]))
    (line,) = read_any(tmp_path / "b.jsonl").lines
    assert (line.prediction, line.failure and line.failure["reason"]) == (text, reason)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "True"), (1.0, "1.0"), (["x"], "x"), ({"a": 1}, '{"a": 1}'), (None, None)],
)
def test_values_become_the_text_that_the_tool_would_print(tmp_path: Path, value: Any, text: str | None) -> None:
    (tmp_path / "v.jsonl").write_bytes(jsonl([{"id": 7, "prediction": value, "reference": value}]))
    (line,) = read_any(tmp_path / "v.jsonl").lines
    assert (line.id, line.prediction, line.references) == ("7", text, () if text is None else (text,))


@pytest.mark.parametrize("columns", ["Predicted Answer,Ground Truth", "PRED;GT", "modelOutput\texpected_output"])
def test_names_are_known_in_any_spelling(tmp_path: Path, columns: str) -> None:
    separator = next(sign for sign in ",;\t" if sign in columns)
    (tmp_path / "t.csv").write_text(f"{columns}\n{separator.join(['cat', 'a cat'])}\n", encoding="utf-8")
    (line,) = read_any(tmp_path / "t.csv").lines
    assert (line.prediction, line.references) == ("cat", ("a cat",))


def test_answer_is_the_reference_beside_a_prediction_and_else_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"answer": "x", "ground_truth": "y"}]))
    assert read_any(tmp_path / "a.jsonl").lines[0].prediction == "x"
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"answer": "y", "prediction": "x"}]))
    assert read_any(tmp_path / "b.jsonl").lines[0].references == ("y",)


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"pred": "x", "response": "y", "gt": "z"}, Keys(), "choose one: --prediction pred or --prediction response"),
        ({"pred": "x", "gt": "z", "label": "q"}, Keys(), "choose one: --reference gt or --reference label"),
        (
            {"predction": "x", "gt": "z"},
            Keys(),
            r"name it with --prediction KEY\. Keys: 'predction', 'gt'; did you mean",
        ),
        ({f"k{n}": "x" for n in range(1000)}, Keys(), r"Keys: ('k\d+', ){11}'k\d+' and 988 more$"),
        ({"pred": ["x", "y"], "gt": "z"}, Keys(), r"'pred' holds 2 values, .* --prediction pred.0"),
    ],
)
def test_keys_that_are_not_clear_are_asked_for(tmp_path: Path, row: dict[str, Any], keys: Keys, message: str) -> None:
    (tmp_path / "k.jsonl").write_bytes(jsonl([row, row]))
    with pytest.raises(DataError, match=message):
        read_any(tmp_path / "k.jsonl", keys)


def test_named_keys_and_paths_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    rows = [{"out": {"texts": [answer, "?"]}, "g": {"t": label}, "n": n} for n, (answer, label) in enumerate(CASES)]
    (tmp_path / "n.jsonl").write_bytes(jsonl(rows))
    named = ("--prediction", "out.texts.0", "--reference", "g.t")
    words = ("score", "n.jsonl", "--task", "vqa", "--json", *named)
    ended = vlmtune_in_process(*words, "--id", "n", cwd=tmp_path)
    assert json.loads(ended.stdout)["metrics"]["exact_match"] == pytest.approx(share_right(ANSWERS), abs=1e-12)
    wrong = vlmtune_in_process(*words, "--id", "nn", cwd=tmp_path)
    assert wrong.returncode == 3
    assert "no row has the key 'nn' of --id. Keys: 'out', 'g', 'n'" in wrong.stderr


CASES = list(zip(ANSWERS, LABELS, strict=True))


def test_rows_without_a_reference_are_counted_and_named(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{n}", "prediction": answer, **({"reference": label} if n % 2 else {})}
        for n, (answer, label) in enumerate(CASES)
    ]
    (tmp_path / "half.jsonl").write_bytes(jsonl(rows))
    found = score_file(tmp_path / "half.jsonl", "vqa")
    assert (found.rows["asked"], found.rows["answered"], found.rows["without_reference"]) == (40, 20, 20)
    assert "20 of 40 rows have no reference and are left out: 'r0', 'r2', 'r4' and 17 more" in found.notes[-1]
    assert found.metrics["exact_match"] == sum(answer == label for answer, label in CASES[1::2]) / 20
    (tmp_path / "whole.jsonl").write_bytes(jsonl([{**row, "reference": CASES[n][1]} for n, row in enumerate(rows)]))
    compared = compare_files(tmp_path / "half.jsonl", tmp_path / "whole.jsonl", task="vqa")
    assert compared.result["rows"]["compared"] == 20
    assert any("20 of 40 rows have no reference" in warning for warning in compared.result["warnings"])


@pytest.mark.parametrize(
    ("task", "row", "metric", "value"),
    [
        ({"name": "classification", "labels": ["fox", "hare"]}, {"pred": "A fox.", "label": "fox"}, "accuracy", 1.0),
        ("grounding", {"pred": '[{"bbox_2d": [10, 10, 50, 50]}]', "gt": "[10, 10, 50, 50]"}, "mean_iou", 1.0),
        ("grounding", {"pred": [10, 10, 50, 50], "gt": [10, 10, 50, 30]}, "mean_iou", 0.5),
        ("extraction", {"pred": {"n": "1"}, "gt": {"n": "1"}}, "record_match", 1.0),
    ],
)
def test_a_task_makes_its_truth_of_the_reference(
    tmp_path: Path, task: Any, row: dict[str, Any], metric: str, value: float
) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl([row] * 3))
    assert score_file(tmp_path / "t.jsonl", task, [metric]).metrics[metric] == pytest.approx(value)


def test_a_reference_that_the_task_cannot_use_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(jsonl([{"pred": "fox", "label": "fox"}, {"pred": "fox", "label": "bear"}]))
    with pytest.raises(DataError, match=r"t\.jsonl:2: 'bear' is not one of task\.labels"):
        score_file(tmp_path / "t.jsonl", {"name": "classification", "labels": ["fox", "hare"]})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"pred,gt\nx\n", r"a\.csv:2: the row has 1 values, but the header names 2 columns"),
        ("b.csv", b'pred,gt\n"x,y\n', r"b\.csv:2: not CSV: unexpected end of data"),
        ("c.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "the gzip file is damaged or cut off"),
        ("d.pkl", b"\x80\x04\x95", "a pickle file can run code"),
        ("e.log", b"loss 3", "not JSON, and its name does not end in .csv or .tsv"),
        ("f.json", b'{"predictions": ["a"], "references": []}', "differ in length"),
        ("g.parquet", b"PAR1 and no more", "cannot be read"),
        ("h.xlsx", b"PK\x03\x04 and no more", "not a readable Excel file"),
        ("i.jsonl", b"", "the file is empty"),
        ("j.json", b'{"a": [{"pred": "x"}], "b": [{"pred": "y"}]}', "several lists of rows: a, b"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_any(tmp_path / name)


@pytest.mark.parametrize(
    "document",
    [
        {"model": "m", "results": [{"question_id": "a", "pred": "x"}, {"question_id": "b", "pred": "y"}]},
        {"a": {"pred": "x"}, "b": {"pred": "y"}},
        {"a": "x", "b": "y"},
    ],
)
def test_json_documents_of_other_shapes(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "d.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    assert [(line.id, line.prediction) for line in read_any(tmp_path / "d.json").lines] == [("a", "x"), ("b", "y")]


def test_a_failed_request_of_vlmevalkit_is_a_failure(tmp_path: Path) -> None:
    rows = [{**row} for row in vlmevalkit(ANSWERS)]
    rows[0]["prediction"] = "Failed to obtain answer via API. "
    (tmp_path / "v.tsv").write_bytes(tsv(rows))
    assert score_file(tmp_path / "v.tsv", "vqa").rows["failed"] == 1


def test_a_file_of_references_needs_ids(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl([{"gt": "x"}]))
    with pytest.raises(DataError, match="no key is known to hold the ids; name it with --id KEY"):
        read_references(tmp_path / "r.jsonl")


def test_multiple_choice_is_read_by_its_letters(tmp_path: Path) -> None:
    """VLMEvalKit's MMBench: what it calls a hit is the option that an answer names (`can_infer_option`)."""
    said = ["B", "The answer is B.", "(B) a fox", "**B**", "Option B", "B: fox", "A", "C or B", "A fox"]
    rows = [
        {"index": n, "question": "?", "A": "hare", "B": "fox", "C": "owl", "answer": "BAC"[n // 9], "prediction": text}
        for n, text in enumerate(said * 3)
    ]
    (tmp_path / "m_MMBench.tsv").write_bytes(tsv(rows))
    found = score_file(tmp_path / "m_MMBench.tsv")
    assert found.metrics["accuracy"] == pytest.approx((6 + 1) / 27)
    assert found.rows["unparsed"] == 6
    assert any("task classification, after the references, which are option letters" in note for note in found.notes)


@pytest.mark.parametrize(
    "row",
    [
        [{"generated_text": "red"}],
        {"output": {"choices": [{"message": {"role": "assistant", "content": "red", "refusal": None}}]}, "gt": "red"},
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "red"}], "gt": "red"},
        {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "red"}], "gt": "red"},
        {"output": {"text": "red"}, "reference": {"text": "red"}},
        {"编号": 1, "预测": "red", "标准答案": "red"},
        {"예측": "red", "정답": "red"},
    ],
    ids=lambda row: json.dumps(row, ensure_ascii=False)[:30],
)
def test_rows_of_other_shapes(tmp_path: Path, row: Any) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl([row, row]))
    lines = read_any(tmp_path / "r.jsonl").lines
    assert [line.prediction for line in lines] == ["red", "red"]
    assert all(line.references == (() if isinstance(row, list) else ("red",)) for line in lines)


def test_objects_on_several_lines_each(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"id": n, "prediction": "a", "reference": "a"}, indent=2) for n in range(3))
    (tmp_path / "jq.json").write_text(text, encoding="utf-8")
    assert [line.id for line in read_any(tmp_path / "jq.json").lines] == ["0", "1", "2"]


def test_columns_of_objects_meet_by_their_ids(tmp_path: Path) -> None:
    """The two arguments of SQuAD's metric in `evaluate`, which pairs them by id."""
    predictions = [{"id": str(n), "prediction_text": f"a{n}"} for n in range(20)]
    references = [{"id": str(n), "answers": {"text": [f"a{n}", "x"], "answer_start": [0, 1]}} for n in range(20)]
    document = {"predictions": predictions, "references": references[::-1]}
    (tmp_path / "squad.json").write_text(json.dumps(document), encoding="utf-8")
    assert score_file(tmp_path / "squad.json").metrics["exact_match"] == 1


def test_a_record_in_the_spelling_of_python_and_boxes_under_their_own_name(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(jsonl([{"pred": {"a": 1}, "gt": "{'a': 1}"}] * 3))
    assert score_file(tmp_path / "e.jsonl", "extraction").metrics["record_match"] == 1
    (tmp_path / "g.jsonl").write_bytes(jsonl([{"pred": "[10, 20, 30, 40]", "gt_boxes": [[10, 20, 30, 40]]}] * 3))
    assert score_file(tmp_path / "g.jsonl", "grounding").metrics["mean_iou"] == 1


@pytest.mark.parametrize(
    ("name", "metric"), [("m_TextVQA_VAL.tsv", "textvqa_accuracy"), ("m_Own_VAL.tsv", "vqa_accuracy")]
)
def test_ten_answers_a_row_are_scored_as_the_benchmark_does(tmp_path: Path, name: str, metric: str) -> None:
    rows = [
        {"index": n, "question": "?", "answer": str(["Red"] * 10), "prediction": "red" if n % 4 else "blue"}
        for n in range(20)
    ]
    (tmp_path / name).write_bytes(tsv(rows))
    found = score_file(tmp_path / name)
    assert next(iter(found.metrics)) == metric
    assert found.metrics["textvqa_accuracy"] == pytest.approx(15 / 20)

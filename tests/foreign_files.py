"""Prediction files as other programs write them, of the same rows and answers."""

import gzip
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LABELS = ["red", "blue", "two", "USA", "a cat", "5", "yes", "no"] * 5
ANSWERS = [label if n % 3 else "wrong" for n, label in enumerate(LABELS)]
BETTER = [label if n % 7 else "wrong" for n, label in enumerate(LABELS)]
QUESTIONS = [f"<image>Question {n}?" for n in range(len(LABELS))]

Rows = Sequence[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def lmms_eval(answers: Sequence[str], flat: bool = True) -> Rows:
    """Since 0.7 the answer of a single request is no list, and `resps` is left out where it is the same."""
    return [
        {
            "doc_id": n,
            "target": label,
            "filtered_resps": answer if flat else [answer],
            **({} if flat else {"resps": [[answer]]}),
            "token_counts": [{"output_tokens": len(answer)}],
            "doc_hash": f"{n:064x}",
            "exact_match": float(answer == label),
            "input": question,
        }
        for n, (answer, label, question) in enumerate(zip(answers, LABELS, QUESTIONS, strict=True))
    ]


def llama_factory(answers: Sequence[str]) -> Rows:
    """The label of ChatML templates ends with the line break behind <|im_end|>, the answer does not."""
    return [
        {"prompt": f"user\n{question}\nassistant\n", "predict": answer, "label": f"{label}\n"}
        for answer, label, question in zip(answers, LABELS, QUESTIONS, strict=True)
    ]


def ms_swift(answers: Sequence[str]) -> Rows:
    return [
        {
            "response": answer,
            "labels": label,
            "logprobs": None,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "images": [{"bytes": None, "path": f"{n}.jpg"}],
            "solution": "of another column of the dataset",
        }
        for n, (answer, label, question) in enumerate(zip(answers, LABELS, QUESTIONS, strict=True))
    ]


def old_ms_swift(answers: Sequence[str]) -> Rows:
    return [
        {"system": None, "query": question, "response": answer, "label": label, "history": [], "images": [f"{n}.jpg"]}
        for n, (answer, label, question) in enumerate(zip(answers, LABELS, QUESTIONS, strict=True))
    ]


def vlmevalkit(answers: Sequence[str]) -> Rows:
    return [
        {"index": 100 + n, "question": question, "answer": label, "category": "color", "prediction": answer}
        for n, (answer, label, question) in enumerate(zip(answers, LABELS, QUESTIONS, strict=True))
    ]


def evaluate_rows(answers: Sequence[str]) -> Rows:
    return [{"predictions": answer, "references": [label]} for answer, label in zip(answers, LABELS, strict=True)]


def evaluate_columns(answers: Sequence[str]) -> bytes:
    return json.dumps({"predictions": list(answers), "references": LABELS}).encode()


def tsv(rows: Rows) -> bytes:
    return "\n".join("\t".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))).encode()


def excel(rows: Rows) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for line in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(line)
    book.save(stream)
    return stream.getvalue()


def parquet(rows: Rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


TOOLS: list[tuple[str, Callable[[Sequence[str]], bytes]]] = [
    ("20261129_101500_samples_mme.jsonl", lambda answers: jsonl(lmms_eval(answers))),
    ("samples_mmmu_2026.jsonl", lambda answers: jsonl(lmms_eval(answers, flat=False))),
    ("generated_predictions.jsonl", lambda answers: jsonl(llama_factory(answers))),
    ("result.jsonl", lambda answers: jsonl(ms_swift(answers))),
    ("old_result.jsonl", lambda answers: jsonl(old_ms_swift(answers))),
    ("Qwen3-VL_GQA.xlsx", lambda answers: excel(vlmevalkit(answers))),
    ("Qwen3-VL_GQA.tsv", lambda answers: tsv(vlmevalkit(answers))),
    ("Qwen3-VL_GQA.json", lambda answers: json.dumps(list(vlmevalkit(answers)), indent=4).encode()),
    ("evaluate.json", evaluate_columns),
    ("evaluate.jsonl", lambda answers: jsonl(evaluate_rows(answers))),
    ("evaluate.parquet", lambda answers: parquet(evaluate_rows(answers))),
    ("evaluate.jsonl.gz", lambda answers: gzip.compress(jsonl(evaluate_rows(answers)))),
    ("bom.jsonl", lambda answers: b"\xef\xbb\xbf" + jsonl(evaluate_rows(answers))),
    ("utf16.jsonl", lambda answers: jsonl(evaluate_rows(answers)).decode().encode("utf-16")),
    ("utf16le.tsv", lambda answers: tsv(vlmevalkit(answers)).decode().encode("utf-16-le")),
]

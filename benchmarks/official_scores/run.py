"""Random answers that break careless scorers, scored by `vlmtune score` and by the official scripts.

    python benchmarks/official_scores/run.py                # 20,000 answers a task; results.json and README.md
    python benchmarks/official_scores/run.py --answers 200  # prints only

Answers are written to prediction files of 100, and the command reads each file. One in ten has thinking in front, which
a script would not see.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import official
import typer

from vlmtune.cli.app import app

HERE = Path(__file__).parent
SEED, ANSWERS, A_FILE = 13, 20_000, 100
COMMAND = typer.main.get_command(app)
PIECES = [
    "a",
    "an",
    "the",
    "red",
    "Red",
    "RED",
    "U.S.",
    "Inc.",
    "a.m.",
    "etc.",
    "St.",
    "two",
    "none",
    "ten",
    "dont",
    "couldnt've",
    "somebody'd",
    "y'alld've",
    "it's",
    "dog's",
    "1,000",
    "1,250.00",
    "3.5",
    ".5",
    "5.",
    "5%",
    "5%%",
    "-10",
    "+3",
    "1e3",
    "nan",
    "inf",
    "0",
    "00",
    "007",
    "12:30",
    "$4",
    "yes/no",
    "left-right",
    "(b)",
    "[c]",
    "{d}",
    '"STOP"',
    "'quoted'",
    "“typographic”",
    "`code`",
    "**",
    "...",
    ".",
    ",",
    ";",
    ":",
    "!",
    "?",
    "@",
    "#",
    "_",
    "\\",
    "é",
    "é",
    "Straße",
    "İ",
    "猫",
    "這是",
    "مرحبا",
    "🐈",
    "\u200b",
    "fi",
    "ﬁ",
    "½",
    "٣",
    "x",
    "y",
    "z",
]
SPACES = [" ", " ", " ", " ", "  ", "", "\n", "\t"]
ENDS = ["dog", "grass", "U.S.", "1,250.00", "dogs'", "猫", "½", "5%", "left-right", "somebody'd"]
LABELS = ["cat", "dog", "U.S.", "no dog", "猫", "A", "b c"]
JSON_VALUES = ["x", " x ", "12.50", 12.5, 7, None, "é", "U.S.", [], {}, ["x", "y"], ["x", "x"]]
Row = tuple[str, dict[str, Any]]
"""The answer as a script would see it, and the other keys of the row's prediction line."""


def text(rng: random.Random, most: int = 4) -> str:
    """A few pieces, spaced at random, sometimes nothing."""
    pieces = rng.choices(PIECES, k=rng.randint(0, most))
    return rng.choice(["", "", "", *SPACES]) + "".join(piece + rng.choice(SPACES) for piece in pieces)


def altered(rng: random.Random, reference: str) -> str:
    """A reference, or something close to it."""
    place = rng.randint(0, len(reference))
    return rng.choice([
        reference, reference, reference + ".", f'"{reference}"', reference.upper(), reference.lower(),
        f" {reference}\n",
        reference[:place] + reference[place + 1 :], reference[:place] + rng.choice(PIECES) + reference[place:],
        reference.removesuffix("."), reference.strip(), f"the {reference}",
    ])  # fmt: skip


def questions(rng: random.Random) -> Row:
    """Ten references, in one of three rows the same."""
    pool = [text(rng, 2) for _ in range(rng.choice([1, 2, 3]))]
    references = [rng.choice(pool) if rng.random() < 0.9 else altered(rng, pool[0]) for _ in range(10)]
    if rng.random() < 0.33:
        references = [pool[0]] * 10
    answer = text(rng) if rng.random() < 0.2 else altered(rng, rng.choice(references))
    return answer, {"references": references}


def numbers(rng: random.Random) -> Row:
    """Answers near the tolerance of 5 %, with and without a percent sign."""
    if rng.random() < 0.5:
        return questions(rng)
    value = rng.choice([rng.uniform(-100, 100), rng.randint(0, 50)])
    near = value * rng.choice([1, 0.95, 1.05, 0.949, 1.051, 0.01, 100])
    answer, reference = (f"{number:.6g}" + rng.choice(["", "", "%", " ", "."]) for number in (near, value))
    return answer, {"references": [reference]}


def transcribed(rng: random.Random) -> Row:
    """One text of a few words; never empty, where jiwer has no rate."""
    reference = text(rng, 8) + rng.choice("abc")
    return rng.choice([altered(rng, reference), text(rng, 8)]), {"references": [reference]}


def captioned(rng: random.Random) -> Row:
    """Three captions, and an answer that shares words with one.

    Answers differ by whole words and end in one: inside of a word ("some@body'd") and at a final letter with a stop
    ("plan B.") the Java tokenizer follows long tables that vlmtune does not have.
    """
    captions = [" ".join([*rng.choices(PIECES, k=rng.randint(2, 8)), rng.choice(ENDS)]) for _ in range(3)]
    words = rng.choice(captions).split()
    place = rng.randrange(len(words))
    answer = rng.choice([
        words, words, words[:place] + words[place + 1 :], [*words[:place], rng.choice(PIECES), *words[place:]],
        [word.upper() for word in words], words[place:], ["the", *words], [f'"{words[0]}"', *words[1:]],
    ])  # fmt: skip
    return " ".join([*answer, rng.choice(ENDS)]) + rng.choice(["", ".", " .", "\n", "!", "..."]), {
        "references": captions
    }


def labelled(rng: random.Random) -> Row:
    """A label, or a word that is none."""
    label = rng.choice(LABELS)
    answer = rng.choice([*LABELS, label, label, "nothing of these"])
    return answer, {"references": [label], "label": label, "class": {"label": label, "labels": LABELS}}


def recorded(rng: random.Random) -> Row:
    """Two records without what Donut drops and vlmtune counts: zeros, false, empty texts, mixed lists."""

    def record(depth: int) -> dict[str, Any]:
        values: list[Any] = [
            *JSON_VALUES,
            *([record(depth - 1), [record(depth - 1) for _ in range(2)]] if depth else []),
        ]
        return {key: rng.choice(values) for key in rng.sample("abcd", rng.randint(0, 3))}

    true = {"id": "1", **record(2)}
    said = rng.choice([true, {**true, **record(1)}, record(2)])
    return json.dumps(said, ensure_ascii=False), {"references": [], "record": true}


def by_row(*names: str) -> Callable[[Sequence[Row]], dict[str, float]]:
    """The mean of official scores of rows."""

    def scores(rows: Sequence[Row]) -> dict[str, float]:
        return {
            name: sum(getattr(official, name)(answer, row["references"]) for answer, row in rows) / len(rows)
            for name in names
        }

    return scores


TASKS: dict[str, tuple[Callable[[random.Random], Row], Callable[[Sequence[Row]], dict[str, float]]]] = {
    "vqa": (questions, by_row("exact_match", "vqa_accuracy", "textvqa_accuracy")),
    "docvqa": (questions, by_row("anls", "exact_match")),
    "chartqa": (numbers, by_row("relaxed_accuracy", "exact_match")),
    "ocr": (
        transcribed,
        lambda rows: official.transcripts([said for said, _ in rows], [row["references"][0] for _, row in rows]),
    ),
    "captioning": (
        captioned,
        lambda rows: official.captions([said for said, _ in rows], [row["references"] for _, row in rows]),
    ),
    "classification": (
        labelled,
        lambda rows: official.labels([said for said, _ in rows], [row["label"] for _, row in rows], LABELS),
    ),
    "extraction": (
        recorded,
        lambda rows: {
            "field_f1": official.field_f1([json.loads(said) for said, _ in rows], [row["record"] for _, row in rows])
        },
    ),
}
"""By task: how a row is drawn, and the official scores of rows by the metrics' names."""


def draw(task: str, count: int, seed: int = SEED) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows as the official script sees them, and their prediction lines."""
    rng = random.Random(f"{seed} {task}")
    for n in range(count):
        answer, row = TASKS[task][0](rng)
        written = answer
        if rng.random() < 0.1:
            answer = answer.strip()
            thought = f"<think>\n{text(rng)}\n</think>\n\n"
            # Thinking with nothing behind it is an answer that was cut off, which no script knows of.
            written = thought + answer if answer else answer
        yield (answer, row), {"id": str(n), "prediction": written, **row}


def compare(task: str, count: int, seed: int = SEED) -> dict[str, dict[str, Any]]:
    """By metric: how many files differ by more than 1e-9 from the official scores, and the largest difference."""
    drawn = list(draw(task, count, seed))
    if task == "captioning":
        official.tokenize([text for (answer, row), _ in drawn for text in (answer, *row["references"])])
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        for begin in range(0, count, A_FILE):
            part = drawn[begin : begin + A_FILE]
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for _, line in part)
            file.write_text("".join(lines), encoding="utf-8")
            theirs = TASKS[task][1]([row for row, _ in part])
            note(found, score(file, task, list(theirs)), theirs)
    return found


def score(file: Path, task: str, metrics: Sequence[str]) -> dict[str, float]:
    """What `vlmtune score FILE --json` prints. Run in this process: 1,400 starts would take half an hour."""
    words = ["score", str(file), "--json", "--task", task, "--metrics", ",".join(metrics)]
    words += ["--set", f"task.labels={json.dumps(LABELS, ensure_ascii=False)}"] if task == "classification" else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        COMMAND(words, standalone_mode=False)
    scores: dict[str, float] = json.loads(printed.getvalue())["metrics"]
    return scores


def note(found: dict[str, dict[str, Any]], ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Add one file's differences."""
    for name, value in theirs.items():
        kept = found.setdefault(name, {"files": 0, "differing": 0, "largest": 0.0})
        gap = abs(ours[name] - value)
        kept["files"] += 1
        kept["differing"] += gap > 1e-9
        kept["largest"] = max(kept["largest"], gap)


def page(results: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# Scores beside the official scripts",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"{results['answers']:,} answers a task that break careless scorers: stops, quotes, apostrophes, commas in",
        "numbers, percent signs, white space, other scripts, thinking in front. `vlmtune score` reads them from",
        f"prediction files of {A_FILE} rows, and its scores are compared with those of the official scripts on every",
        f"file. Seed {results['seed']}; `--seed` and `--answers` choose others. `tests/unit/test_official_scores.py`",
        "runs 200 a task.",
        "",
        "| task | metric | official | files | files that differ | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for task, metrics in results["tasks"].items():
        for name, kept in metrics.items():
            cells = (task, f"`{name}`", SOURCES[name], kept["files"], kept["differing"], f"{kept['largest']:.0e}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([
        *lines,
        "",
        "A difference below 1e-9 is rounding. jiwer, scikit-learn, sacrebleu and pycocoevalcap, with its Java",
        "tokenizer, are called. The other scripts are written a second time in `official.py`, which shares nothing",
        "with vlmtune; a test compares it with values that the scripts themselves returned. Captions differ by whole",
        "words: where random characters stand inside of one, the Java program follows tables that vlmtune lacks.",
        "",
        f"Command: `{results['command']}`, about ten CPU-minutes.",
        "",
    ])  # fmt: skip


SOURCES = {
    "exact_match": "QwenLM/Qwen-VL", "vqa_accuracy": "GT-Vision-Lab/VQA", "textvqa_accuracy": "facebookresearch/mmf",
    "anls": "Robust Reading Competition", "relaxed_accuracy": "google-research/pix2struct", "cer": "jiwer",
    "wer": "jiwer", "accuracy": "scikit-learn", "macro_f1": "scikit-learn", "field_f1": "clovaai/donut",
    "sacrebleu": "sacrebleu", "chrf": "sacrebleu",
    **dict.fromkeys(["bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l"], "pycocoevalcap"),
}  # fmt: skip
"""By metric: whose script is official."""


def main() -> None:
    """Compare every task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--task", choices=list(TASKS), action="append")
    given = parser.parse_args()
    tasks = {}
    for task in given.task or TASKS:
        tasks[task] = compare(task, given.answers, given.seed)
        for name, kept in tasks[task].items():
            print(f"{task:15} {name:17} {kept['differing']} of {kept['files']} differ, at most {kept['largest']:.1e}")
    if (given.answers, given.seed, given.task) == (ANSWERS, SEED, None):
        results = {"answers": ANSWERS, "seed": SEED, "tasks": tasks}
        results["command"] = "python benchmarks/official_scores/run.py"
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (HERE / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Several datasets as one training set: drawn in exact shares, asked by their own tasks, scored and checked each."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image

from vlmtune import registry
from vlmtune.cli.app import app
from vlmtune.config import load
from vlmtune.data import Rows, open_role
from vlmtune.errors import ConfigError
from vlmtune.pipeline.session import Session, training_set
from vlmtune.planning.plan import survey
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.sampler import Sample, Share, sample_batches

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
  target: sample
  id: id
  limit: {train: 8, validation: 4, test: 6}
task: {name: captioning}
datasets:
  - name: questions
    weight: 0.25
    dataset: {source: scenes, question: question, references: [answer], id: id, limit: {train: 5, test: 4}}
    task: {name: vqa, prompt: "Say briefly: {question}"}
    metrics: [exact_match]
training: {batch_size: 4, epochs: 2, precision: fp32}
output: {dir: out}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("c.yaml").write_text(text, encoding="utf-8")
        return "c.yaml"

    write(CONFIG)
    return write


class Counted:
    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def __len__(self) -> int:
        return len(self._counts)

    def target_count(self, row: int) -> int:
        return self._counts[row]


def drawn(weights: list[float], sizes: list[int], epochs: int = 2, batch_size: int = 8, seed: int = 1) -> Any:
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    shares = [
        Share(f"set {n}", range(starts[n], starts[n] + sizes[n]), "sample", weight)
        for n, weight in enumerate(weights, 1)
    ]
    rows: Any = Counted([3] * sum(sizes))
    return sample_batches(rows, "sample", epochs, batch_size, seed, shares), [*starts, sum(sizes)]


@pytest.mark.parametrize("weights", [[0.1], [0.5], [0.9], [0.2, 0.3], [0.01, 0.4, 0.07, 0.3], [0.05] * 19])
def test_every_dataset_has_its_share_after_any_sample(weights: list[float]) -> None:
    steps, starts = drawn(weights, [97, *(5 + 3 * n for n in range(len(weights)))])
    samples = [sample for step in steps for sample in step]
    shares = [1 - sum(weights), *weights]
    counts = [0] * len(shares)
    for number, sample in enumerate(samples, 1):
        counts[max(n for n, start in enumerate(starts[:-1]) if sample.row >= start)] += 1
        assert all(abs(count - share * number) < 1 for count, share in zip(counts, shares, strict=True))
    assert counts[0] == 2 * 97
    assert {len(step) for step in steps} <= {8, len(steps[-1]), *(len(step) for step in steps if step[0].epoch == 0)}


def test_rows_are_drawn_in_passes() -> None:
    steps, (_, first, end) = drawn([0.4], [60, 7])
    seen = Counter(sample.row for step in steps for sample in step)
    assert all(seen[row] == 2 for row in range(first))
    again = [seen[row] for row in range(first, end)]
    assert sum(again) == 80
    assert max(again) - min(again) == 1
    assert len({sample.target for step in steps for sample in step if sample.row >= first}) == 3


def test_samples_depend_on_seed_and_names_alone() -> None:
    steps, _ = drawn([0.3, 0.1], [40, 9, 11])
    assert steps == drawn([0.3, 0.1], [40, 9, 11])[0]
    assert steps != drawn([0.3, 0.1], [40, 9, 11], seed=2)[0]
    order = [sample.row for step in steps for sample in step if sample.row < 40]
    alone, _ = drawn([], [40])
    assert order == [sample.row for step in alone for sample in step], "the main rows keep their order"


def test_without_further_datasets_nothing_changed() -> None:
    """The samples of earlier versions, by an implementation of their own: checkpoints made then are resumed."""
    expected = []
    for epoch in range(2):
        order = list(range(21))
        random.Random(f"5/{epoch}").shuffle(order)
        for at in range(0, 21, 8):
            chosen = [hashlib.sha256(f"5/{epoch}/{row}".encode()).digest()[:8] for row in order[at : at + 8]]
            expected.append(
                [
                    (row, int.from_bytes(digest, "big") % 3, epoch)
                    for row, digest in zip(order[at : at + 8], chosen, strict=True)
                ]
            )
    rows: Any = Counted([3] * 21)
    steps = sample_batches(rows, "sample", 2, 8, 5)
    assert [[(one.row, one.target, one.epoch) for one in step] for step in steps] == expected


def test_targets_of_a_row_stay_together() -> None:
    rows: Any = Counted([5] * 30 + [1] * 10)
    steps = sample_batches(rows, "each", 1, 8, 1, [Share("other", range(30, 40), None, 0.2)])
    for row in range(30):
        assert [sum(one.row == row for one in step) for step in steps if any(one.row == row for one in step)] == [5]
    counts = Counter(one.row < 30 for step in steps for one in step)
    assert counts[True] == 150
    assert abs(counts[False] - 0.2 * counts.total()) < 5


def test_each_row_is_encoded_by_the_task_of_its_dataset(write: Callable[[str], str], encoder: Encoder) -> None:
    session = Session(load("c.yaml").config)
    [questions] = session.mixed
    mixed = training_set(session, session.rows("train"), [questions.rows("train")]).examples
    assert [mixed.rows.id(row) for row in (0, 7, 8, 12)] == [
        "train-00000",
        "train-00007",
        "questions/train-00000",
        "questions/train-00004",
    ]
    for session_of, first, name in ((session, 0, "captioning"), (questions, 8, "vqa")):
        config, task = session_of.config, registry.load("tasks", name).TASK
        own = TrainingExamples(session_of.rows("train"), task, config.task, session.encoder, config.training)
        for row in range(len(own.rows)):
            assert mixed.encode(Sample(first + row, 0, 0)).rendered == own.encode(Sample(row, 0, 0)).rendered
    with pytest.raises(IndexError):
        mixed.rows.id(13)


def test_the_plan_counts_what_is_drawn(write: Callable[[str], str], encoder: Encoder) -> None:
    config = load("c.yaml").config
    rows: list[Rows] = [open_role(block, "train") for block in (config.dataset, config.datasets[0].dataset)]
    epoch = survey(config, encoder.checkpoint, rows, Progress(Silent()))
    assert (epoch.rows, len(epoch.tokens), epoch.steps) == (13, 10, 3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("weight: 0.25", "weight: 1.0", "datasets[0].weight must be less than 1 (got 1.0)"),
        ("    weight: 0.25\n", "", "key 'datasets[0].weight' is missing"),
        ("name: questions", "name: train", "'train' is reserved"),
        ("metrics: [exact_match]", "metrics: [bleu]", "'bleu'"),
        ("question: question, references: [answer]", "question: question", "names no column with labels"),
        ("metrics: [exact_match]", "split: train", "datasets[0].split is the split 'train', which the adapter"),
        ("training:", "evaluation: {split: train}\ntraining:", "evaluation.split is the split 'train'"),
        (
            "references: [answer]",
            "references: [answer], splits: {train: test}",
            "c.yaml:10:5: datasets[0].split is the split 'test', which",
        ),
        (
            "training:",
            "evaluation: {additional: [{name: Questions, task: {name: captioning}, "
            "dataset: {source: scenes, references: [caption_0]}}]}\ntraining:",
            "is also the name of another",
        ),
        (
            "training:",
            "evaluation: {additional: [{name: more, split: train, task: {name: captioning}, "
            "dataset: {source: scenes, references: [caption_0]}}]}\ntraining:",
            "which the adapter is trained on, by datasets[0].dataset",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(old: str, new: str, said: str, write: Callable[[str], str]) -> None:
    assert CONFIG.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        load(write(CONFIG.replace(old, new)))
    assert said in str(caught.value)


def test_the_main_dataset_keeps_a_share(write: Callable[[str], str]) -> None:
    more = "  - {name: more, weight: 0.75, evaluate: false, dataset: {source: scenes, references: [caption_0]}, "
    text = CONFIG.replace("training:", more + "task: {name: captioning}}\ntraining:")
    with pytest.raises(ConfigError, match=r"c\.yaml:\d+.*datasets\[1\].weight is 0.75, so all weights add up to 1"):
        load(write(text))
    assert [one.name for one in load(write(text.replace("0.75", "0.5"))).config.evaluation_sets] == ["questions"]


def test_a_row_of_a_dataset_is_shown(write: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    app(["data", "show", "c.yaml", "--dataset", "questions", "--row", "3", "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == "questions/train-00003"
    assert shown["conversation"][0]["content"][1].startswith("Say briefly: ")
    with pytest.raises(ConfigError, match="no dataset is named 'nothing'; .*: questions"):
        app(["data", "show", "c.yaml", "--dataset", "nothing"], standalone_mode=False)


def test_statistics_cover_every_dataset(write: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    app(["data", "stats", "c.yaml", "--progress", "none", "--json"], standalone_mode=False)
    roles = json.loads(capsys.readouterr().out)["roles"]
    assert [(role["role"], role["rows"]) for role in roles] == [
        ("train", 8),
        ("validation", 4),
        ("test", 6),
        ("questions/train", 5),
        ("questions/test", 4),
    ]
    assert roles[3]["supervised_fraction"] > 0


def test_leakage_is_checked_across_all_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test image of the main dataset among the train rows of another one; that row is left out of training."""
    monkeypatch.chdir(tmp_path)
    files = {"train": (1, 2, 3), "validation": (4,), "test": (5, 6), "more": (7, 5, 8), "more_test": (9,)}
    for name, seeds in files.items():
        lines = []
        for seed in seeds:
            Path(f"{name}-{seed}.png").write_bytes(encoded(make_image(96, 64, 400 + seed)))
            lines.append(json.dumps({"image": f"{name}-{seed}.png", "caption": f"a ball {name} {seed}"}) + "\n")
        Path(f"{name}.jsonl").write_text("".join(lines))
    block = "{source: jsonl, path: ., references: [caption]%s}"
    Path("c.yaml").write_text(
        f"model: {{name: tiny, device: cpu}}\ndataset: {block % ''}\ntask: {{name: captioning}}\n"
        "datasets: [{name: more, weight: 0.3, task: {name: captioning}, dataset: "
        + block % ", splits: {train: more.jsonl, test: more_test.jsonl}, max_bad_fraction: 0.5"
        + "}]\ntraining: {precision: fp32}\noutput: {dir: out}\n"
    )
    app(["data", "check", "c.yaml", "--progress", "none", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    told = [(one["kind"], one["role"], one["row"], one["other"]["role"]) for one in found["findings"]]
    assert told == [("leak", "more/train", 1, "test")]
    assert [split["role"] for split in found["splits"]] == [
        *("train", "validation", "test", "more/train", "more/test"),
    ]
    session = Session(load("c.yaml").config)
    assert len(session.rows("train")) == 3
    rows = session.mixed[0].rows("train")
    assert [rows[n].target for n in range(len(rows))] == ["a ball more 7", "a ball more 8"]

"""Columns without training: what is asked, the same every time; what is kept; and what the verdict is against."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from builders import QUICK, Notes, encoded, lines, make_image, ref
from clips import drawn_frames, video
from fakes import engine as fake

from vlmtune.config import load
from vlmtune.errors import ConfigError, DataError, IntegrityError, Interrupted
from vlmtune.files import write_json
from vlmtune.images import decode_rgb, pixel_hash
from vlmtune.pipeline import predict, run
from vlmtune.pipeline.prompt_baselines import FewShotExamples, prompt_baselines
from vlmtune.pipeline.session import Session
from vlmtune.predictions import Line
from vlmtune.processing.chat_template import images_of
from vlmtune.progress import Progress
from vlmtune.report import ReportConfig, html, markdown, text
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.types import Conversation, Example, Message

CONFIG = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
  id: id
  limit: {train: 8, validation: 4, test: 24}
task: {name: captioning, system: Be plain.}
inference: {engine: fakes.engine}
evaluation:
  image_control_rows: 4
  statistics: {resamples: 100}
  baselines:
    - {name: short, prompt: What is this?}
    - {name: length, length_instruction: true}
    - {name: shots, prompt: And this?, examples: 3}
"""
COLUMNS = ("short", "length", "shots")
Begin = Callable[..., Session]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def begin(*sets: str, **more: Any) -> Session:
        return Session(load("c.yaml", ["output.dir=out", *sets]).config, Progress(Notes()), **more)

    return begin


class Rows(list[Example]):
    """Rows of a split without a source."""

    fingerprint = "rows"

    def id(self, index: int) -> str:
        return self[index].id

    def with_target(self, index: int, target: int) -> Example:
        return replace(self[index], target=self[index].truth["references"][target])


def row(name: str, *seeds: int, references: Sequence[str] = ("a tree",), **more: Any) -> Example:
    """A row with pictures by their seeds; the file is another one every time, the pixels are not."""
    kinds = ("PNG", "BMP", "TIFF")
    pictures = [encoded(make_image(24, 16, seed), kinds[len(name) % 3]) for seed in seeds]
    refs = tuple(ref(data, f"{name}/{n}") for n, data in enumerate(pictures))
    return Example(name, refs, None, {"references": list(references)}, **more)


def test_clips_whose_pictures_are_alike_are_others() -> None:
    frames = drawn_frames(12, (64, 48))
    swapped = [frames[0], frames[2], frames[1], *frames[3:]]
    rows = Rows([row("same"), row("other")])
    rows = Rows(
        [replace(rows[0], images=(video(frames, 5, "copy"),)), replace(rows[1], images=(video(swapped, 5, "other"),))]
    )
    asked = replace(row("asked"), images=(video(frames, 5),))
    assert [one.id for one in FewShotExamples("shots", rows, 1).for_row(asked)] == ["other"]  # type: ignore[arg-type]


def asking(session: Session, monkeypatch: pytest.MonkeyPatch, train: Sequence[Example]) -> dict[str, Any]:
    """The columns by name, with these train rows."""
    monkeypatch.setattr(Session, "rows", lambda self, role: Rows(train))
    return {column.name: column for column in prompt_baselines(session)}


def shown(conversation: Conversation) -> set[str]:
    return {pixel_hash(decode_rgb(image)) for image in images_of(conversation)}


def words(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, part) for message in conversation for part in message.content if isinstance(part, str)]


def test_another_prompt_and_a_length_from_the_references(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [row("a", 1, references=["one", "one two three four five"]), row("b", 2, references=["w " * 30, "w " * 5]),
             row("c", 3, references=["w " * 4])]  # fmt: skip
    found, asked = asking(begin(), monkeypatch, train), row("asked", 9)
    prompt = captioning.Config().prompt
    assert words(found["short"].prompt(asked)) == [("system", "Be plain."), ("user", "What is this?")]
    assert words(found["length"].prompt(asked)) == [
        ("system", "Be plain."), ("user", f"{prompt} Answer in about 5 words.")
    ]  # fmt: skip
    assert images_of(found["length"].prompt(asked)) == asked.images
    own = replace(asked, messages=(Message("user", ("Look:", asked.images[0])),))
    assert words(found["length"].prompt(own))[1:] == [("user", "Look:"), ("user", "Answer in about 5 words.")]
    single = asking(begin(), monkeypatch, [row(name, n, references=["one"]) for n, name in enumerate("abc")])
    assert words(single["length"].prompt(asked))[1][1].endswith("Answer in about 1 word.")
    with pytest.raises(DataError, match="length_instruction takes the length from the train rows' references"):
        asking(begin(), monkeypatch, [row(name, references=[]) for name in "abc"])


def test_examples_are_answered_turns_before_the_question(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [row(f"row {n}", n, references=[f"answer {n}", "another"]) for n in range(12)]
    asked = row("asked", 99)
    conversation = asking(begin(), monkeypatch, train)["shots"].prompt(asked)
    assert [message.role for message in conversation] == ["system", *["user", "assistant"] * 3, "user"]
    assert [said for role, said in words(conversation) if role == "user"] == ["And this?"] * 4
    assert images_of(conversation)[-1] is asked.images[0]
    for question, answer in zip(conversation[1:-1:2], conversation[2:-1:2], strict=True):
        [image] = images_of((question,))
        number = image.where.split("/")[0].removeprefix("row ")
        assert answer.content == (f"answer {number}",)
    again = asking(begin(), monkeypatch, train[::-1])["shots"].prompt(asked)
    assert [image.where for image in images_of(again)] == [image.where for image in images_of(conversation)]


def test_examples_never_show_the_asked_picture_or_its_group(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    # Five pictures in twenty files, two a row.
    train = [row("x" * (n + 1), n % 5, (n // 5 + n) % 5) for n in range(20)] + [row(f"single {n}", n) for n in range(5)]
    ask = asking(begin("evaluation.baselines=[{name: shots, examples: 2}]"), monkeypatch, train)["shots"].prompt
    seen = set()
    for first in range(5):
        asked = row("the asked one", 50 + first, first)
        conversation = ask(asked)
        before = conversation[:-1]
        assert len(images_of(before)) >= 2
        assert not shown(before) & shown(conversation[-1:])
        pictures = [shown((message,)) for message in before if message.role == "user"]
        assert not pictures[0] & pictures[1]
        seen |= shown(before)
    assert len(seen) > 2
    grouped = [row(f"row {n}", n, cluster="mine" if n != 3 else "other") for n in range(6)]
    ask = asking(begin("evaluation.baselines=[{name: shots, examples: 1}]"), monkeypatch, grouped)["shots"].prompt
    assert images_of(ask(row("asked", 99, cluster="mine")))[0].where == "row 3/0"
    broken = replace(row("asked", 99), images=(ref(b"no picture", "broken"),))
    assert len(images_of(ask(broken))) == 2


def test_too_few_rows_to_show_are_named(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="'shots' shows 3 train rows, and there are 2"):
        asking(begin(), monkeypatch, [row("a", 1), row("b", 2)])
    alike = asking(begin(), monkeypatch, [row("a", 1), row("b", 1), row("c", 2), row("d", 3)])["shots"]
    with pytest.raises(DataError, match="'shots' shows 3 train rows with other images than asked, and there are 2"):
        alike.prompt(row("asked", 3))


class Counting(fake.FakeEngine):
    """Keeps what it was asked; stops after some answers."""

    asked: list[str]
    opened: int
    left: int

    def __init__(self) -> None:
        super().__init__(fake.Config(), "")
        self.asked, self.opened, self.left, self.stop = [], 0, 10_000, StopRequest()

    def open(self, *given: Any) -> "Counting":
        self.opened += 1
        return self

    def answer(self, requests: Any, done: Any = ()) -> Any:
        def counted() -> Any:
            for request in requests:
                if request.id not in done:
                    self.asked.append(words(request.conversation)[-1][1])
                    self.left -= 1
                    self.stop.received = 2 if self.left == 0 else self.stop.received
                yield request

        return super().answer(counted(), done)


def test_columns_are_made_once_and_go_on_after_an_interruption(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Counting()
    monkeypatch.setattr(fake, "open_engine", whole.open)
    predict.predict(begin())
    assert (whole.opened, len(whole.asked)) == (1, 4 * (24 + 4))
    made = {path.name: path.read_bytes() for path in Path("out").glob("*.json*")}
    for name in COLUMNS:
        assert {f"baseline_predictions.{name}.{kind}" for kind in
                ("jsonl", "manifest.json", "controls.json", "metrics.json")} <= made.keys()  # fmt: skip
        assert len(made[f"baseline_predictions.{name}.jsonl"].splitlines()) == 24
    assert len({made[f"baseline_predictions{name}.jsonl"] for name in ("", *(f".{name}" for name in COLUMNS))}) == 4
    predict.predict(begin())
    assert (whole.opened, len(whole.asked)) == (1, 4 * (24 + 4))

    second = Counting()
    monkeypatch.setattr(fake, "open_engine", second.open)
    second.left = 2 * (24 + 4) + 20
    with pytest.raises(Interrupted):
        predict.predict(begin("output.dir=again", stop=second.stop))
    assert not Path("again/baseline_predictions.length.manifest.json").exists()
    second.stop.received, before = None, len(second.asked)
    predict.predict(begin("output.dir=again", stop=second.stop))
    assert "What is this?" not in second.asked[before:]
    assert sum(text.endswith("words.") for text in second.asked[before:]) < 24 + 4
    assert {path.name: path.read_bytes() for path in Path("again").glob("*.json*")} == made


def test_an_adapter_and_other_rows_have_no_columns_and_another_column_is_not_overwritten(begin: Begin) -> None:
    predict.predict(begin(), role="validation")
    assert not list(Path("out").glob("*.short.*"))
    predict.predict(begin())
    with pytest.raises(IntegrityError, match=r'prompt_baseline.asked.prompt: "What is this\?" there, "And now\?" here'):
        predict.predict(begin("evaluation.baselines=[{name: short, prompt: And now?}]"))
    with pytest.raises(IntegrityError, match="prompt_baseline.train.rows: 8 there, 7 here"):
        predict.predict(
            begin("dataset.limit.train=7", "evaluation.baselines=[{name: shots, prompt: And this?, examples: 3}]")
        )


def test_the_run_compares_with_its_columns(begin: Begin) -> None:
    folder = Path("out/lora")
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(folder / "vlmtune.json", {"schema_version": 1, "mock": False, "origin": begin().provenance().parts})
    predict.predict(begin("evaluation.baselines=[]"))
    predict.predict(begin(), folder)
    with pytest.raises(ConfigError, match=r"predictions.short.jsonl does not exist yet; run the baseline step"):
        run.compare(begin())
    predict.predict(begin())
    run.compare(begin())
    plain = json.loads(Path("out/compare.json").read_text())
    assert [entry["prompt_baseline"] for entry in plain["prompt_baselines"]] == list(COLUMNS)
    assert all(entry["rows"]["compared"] == 24 for entry in plain["prompt_baselines"])
    assert all(entry["ci"] or entry["no_interval"] for entry in plain["prompt_baselines"])
    assert "Prompt baselines" in Path("out/report.html").read_text()
    run.compare(begin("evaluation.baselines=[]"))
    assert "Prompt baselines" not in Path("out/report.html").read_text()


# The verdict


def beside(tuned: Sequence[Line], **asked: Sequence[Line]) -> Comparison:
    """A tuned side against a baseline with 80 % of the words wrong, and columns."""
    sides = [PredictionFile(name, side) for name, side in asked.items()]
    baseline = PredictionFile("base", lines(80, 0.8, seed=7))
    return compare(
        baseline, PredictionFile("tuned", tuned), captioning.TASK, captioning.Config(), QUICK, prompt_baselines=sides
    )


def test_better_than_the_baseline_is_not_enough() -> None:
    tuned = lines(80, 0.4, seed=1)
    alone = beside(tuned)
    assert (alone.status, alone.result["prompt_baselines"], alone.result["best_prompt_baseline"]) == (
        "improved",
        [],
        None,
    )
    found = beside(tuned, poor=lines(80, 0.7, seed=2), rival=lines(80, 0.4, seed=3))
    assert (found.status, found.result["best_prompt_baseline"]) == ("no_difference", "rival")
    assert "Prompting alone gains as much: bleu" in found.verdict
    assert "No difference shown to the best prompt baseline (rival)" in found.verdict
    poor, rival = found.result["prompt_baselines"]
    assert poor["status"] == "improved"
    assert rival["delta"] == pytest.approx(rival["b"] - rival["a"])
    assert rival["ci"][0] <= 0 <= rival["ci"][1]
    assert f"{rival['delta']:+.4f} (95% CI {rival['ci'][0]:+.4f} to {rival['ci'][1]:+.4f})" in found.verdict
    assert found.result["metrics"] == alone.result["metrics"]
    better = beside(tuned, rival=lines(80, 0.05, seed=3))
    assert (better.status, better.verdict.split(":")[0]) == ("worse", "Worse than prompting differently (rival)")


def test_better_than_every_column_is_an_improvement() -> None:
    found = beside(lines(80, 0.1), poor=lines(80, 0.75, seed=2), rival=lines(80, 0.5, seed=3))
    assert (found.status, found.result["best_prompt_baseline"]) == ("improved", "rival")
    assert found.verdict.startswith("Improved, also over the best prompt baseline (rival): bleu")
    below = beside(lines(80, 0.1), worse=lines(80, 0.98, seed=3))
    assert (below.status, below.result["best_prompt_baseline"]) == ("improved", None)
    assert below.verdict.startswith("Improved: bleu")
    assert below.verdict.endswith("No prompt baseline scores higher than the baseline.")
    idle = beside(lines(80, 0.8, seed=9), rival=lines(80, 0.78, seed=3))
    if idle.result["best_prompt_baseline"]:
        assert "Prompting alone gains" not in idle.verdict


def test_a_column_that_cannot_be_judged_is_named_and_left_out() -> None:
    failure = {"stage": "prompt", "reason": "too long"}
    failed = [replace(line, prediction=None, failure=failure) if n < 10 else line for n, line in
              enumerate(lines(80, 0.0, seed=3))]  # fmt: skip
    found = beside(lines(80, 0.3), rival=failed)
    assert (found.status, found.result["best_prompt_baseline"]) == ("improved", None)
    assert any("the prompt baseline rival is not in the verdict: 10 and 0 of 80" in w for w in found.result["warnings"])
    everything = [replace(line, prediction=None, failure=failure) for line in failed]
    nothing = beside(lines(80, 0.3), rival=everything)
    assert nothing.status == "improved"
    assert text.prompt_baseline_rows(nothing.to_json())[2] == ["rival", "0", "-", "-", "-", "-", "-", "inconclusive"]


def test_the_table_stands_in_every_report() -> None:
    plain = beside(lines(80, 0.4), poor=lines(80, 0.7, seed=2), rival=lines(80, 0.4, seed=3)).to_json()
    header, *rows = text.prompt_baseline_rows(plain)
    assert [(cells[0], cells[-1]) for cells in rows] == [("base", ""), ("poor", ""), ("rival", "best")]
    shown = unescape(html.render(plain, {}, ReportConfig()).text)
    said, marked = text.render(plain), markdown.render(plain)
    for entry, cells in zip(plain["prompt_baselines"], rows[1:], strict=True):
        change = f"{entry['delta']:+.4f}"
        assert cells[4] == change
        assert f'<th scope="row">{entry["prompt_baseline"]}</th><td>80</td><td>{entry["a"]:.4f}</td>' in shown
        assert any(line.startswith(entry["prompt_baseline"]) and change in line for line in said.splitlines())
        assert f"| {' | '.join(cells)} |" in marked
    assert header[0] in shown


# The config


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("[{name: a/b, examples: 1}]",
         ["1:33: evaluation.baselines[0].name names files: only letters, digits, - and _, at most 40 (got 'a/b')"]),
        ("[{name: Mock, examples: 1}]",
         ["1:33: evaluation.baselines[0].name 'Mock' is reserved for other files; choose another name"]),
        ("[{name: A, examples: 1}, {name: a, examples: 2}]",
         ["1:57: evaluation.baselines[1].name 'a' is also the name of another baseline or set; choose another name"]),
        ("[{name: a}]",
         ["1:26: evaluation.baselines[0] equals the main baseline; set prompt, length_instruction or examples"]),
        ("[{name: a, prompt: ' '}]",
         ["1:44: evaluation.baselines[0].prompt must not be empty; omit it to keep the task's prompt"]),
        ("[{name: a, examples: 9}]",
         ["1:46: evaluation.baselines[0].examples is 9, and dataset.limit.train leaves 8 rows"]),
        ("[{name: a, examples: -1}]",
         ["1:46: evaluation.baselines[0].examples must be at least 0 (got -1)"]),
    ],
)  # fmt: skip
def test_mistakes_have_their_places(tmp_path: Path, block: str, said: list[str]) -> None:
    head = CONFIG.split("evaluation:", maxsplit=1)[0]
    file = tmp_path / "c.yaml"
    file.write_text(f"evaluation: {{baselines: {block}}}\n{head}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [line.split("c.yaml:")[1] for line in str(caught.value).splitlines() if "c.yaml:" in line] == said


def test_a_length_is_taken_from_references_alone(begin: Begin) -> None:
    with pytest.raises(ConfigError, match=r"baselines\[1\].length_instruction needs references"):
        begin("dataset.references=[]", "dataset.target=caption_0")

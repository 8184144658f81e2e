"""`vlmtune data check`: texts, answers and boxes that would teach or score something else than was meant."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from PIL import Image

from vlmtune.config import load
from vlmtune.dataset_check import report, runner
from vlmtune.dataset_check.text import render
from vlmtune.dataset_check.texts import collection, placeholder
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.pipeline.run import _note_answers_cut_off
from vlmtune.pipeline.session import Session
from vlmtune.planning.plan import make_plan
from vlmtune.progress import Progress, Silent
from vlmtune.registry import load as load_plugin
from vlmtune.run_layout import DATA_CHECK_PAGE
from vlmtune.signals import StopRequest

Found = dict[str, Any]
Check = Callable[..., Found]
CAPTIONING = "{name: captioning}"
VQA = "{name: vqa}"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Checks rows of the train role; every row gets an image of its own unless it names one."""
    monkeypatch.chdir(tmp_path)

    def check(
        *rows: dict[str, Any],
        task: str = CAPTIONING,
        dataset: str = "references: [caption]",
        more: str = "",
        **files: Any,
    ) -> Found:
        for name, data in files.items():
            Path(f"{name}.img").write_bytes(data)
        held_out = [{"caption": "a kite", "question": "what?", "box": [1, 1, 9, 9]}] * 2
        for role, lines in {"train": rows, "validation": held_out, "test": held_out}.items():
            written = []
            for n, row in enumerate(lines):
                Path(f"{role}{n}.png").write_bytes(encoded(make_image(96, 64, hash((role, n)) % 10_000)))
                written.append(json.dumps({"id": f"{role}-{n}", "image": f"{role}{n}.png", **row}) + "\n")
            Path(f"{role}.jsonl").write_text("".join(written))
        Path("c.yaml").write_text(
            f"model: {{name: tiny, device: cpu}}\ntask: {task}\n"
            f"dataset: {{source: jsonl, path: ., id: id, {dataset}}}\n"
            f"{more}training: {{precision: fp32}}\noutput: {{dir: out}}\n"
        )
        config = load("c.yaml").config
        made = load_plugin("tasks", config.task.name).TASK
        arguments = (
            config,
            made,
            find_checkpoint(config.model),
            Path("out", "index"),
            Progress(Silent()),
            StopRequest(),
        )
        return runner.DatasetCheck(*arguments).write(Path("out"))

    return check


def told(found: Found, role: str = "train") -> list[tuple[str, int | None]]:
    return [(each["kind"], each["row"]) for each in found["findings"] if each["role"] == role]


def test_a_target_that_is_equal_in_every_row_is_an_error(check: Check) -> None:
    found = check(*[{"caption": "a ball"}] * 6)
    assert told(found) == [("constant", None)]
    assert (found["status"], found["findings"][0]["severity"]) == ("errors", "error")
    assert "all 6 targets are 'a ball'" in render(found)
    assert told(check(*[{"caption": "a ball"}] * 5, {"caption": "a cube"})) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("['a', 'b']", "list"),
        ('[["a", 1]]', "list"),
        ("{'total': 1}", "object"),
        ('{"total": "1.50"}', "object"),
        ("[a, b]", None),
        ("{a}", None),
        ("a [1]", None),
        ("{\\bf x}", None),
    ],
)
def test_lists_and_objects_as_text_are_recognized(text: str, kind: str | None) -> None:
    assert collection(text) == kind


def test_targets_that_are_lists_or_objects_are_errors_where_text_is_expected(check: Check) -> None:
    rows = [
        {"caption": "a ball", "other": "x"},
        {"caption": "a cube", "other": '{"a": 1}'},
        {"caption": "b", "other": "[1]"},
    ]
    found = check(*rows, dataset="references: [caption], target: other")
    assert told(found) == [("collection", 1), ("collection", 2)]
    assert "train.jsonl" in found["findings"][0]["where"]
    objects = [{"caption": {"a": n}} for n in range(3)]
    assert told(check(*objects)) == [("collection", n) for n in range(3)]
    assert "collection" not in dict(told(check(*objects, task="{name: extraction}")))


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Find the <ref-object>.", "<ref-object>"),
        ("<bbox>", "<bbox>"),
        ("<image>\nWhat?", "<image>"),
        ("The caption: {caption}", "{caption}"),
        ("{{ question }}", "{{ question }}"),
        ("${answer}", "${answer}"),
        ("<ref>cat</ref><box>(1,2),(3,4)</box>", None),
        ("<bbox>[1, 2]</bbox>", None),
        ("<table><tr>", None),
        ("\\mbox{text} + x_{label} ^{text} {x}", None),
        ('{"caption": 1}', None),
    ],
)
def test_placeholders_are_told_from_text(text: str, mark: str | None) -> None:
    assert placeholder([text]) == mark


def test_placeholders_in_rows_and_in_the_prompt_are_errors(check: Check) -> None:
    rows = [{"caption": "a ball", "question": "Where is <ref-object>?"}, {"caption": "<bbox>", "question": "And?"}]
    found = check(*rows, task=VQA, dataset="references: [caption], question: question")
    assert told(found) == [("placeholder", 0), ("placeholder", 1)]
    found = check({"caption": "a"}, {"caption": "b"}, task="{name: captioning, prompt: 'Repeat {caption}'}")
    assert told(found) == [("placeholder", None)]
    assert told(found, "test") == [("placeholder", None)]


def test_empty_and_missing_fields_are_counted_by_field(check: Check) -> None:
    rows = [
        {"caption": "", "question": "a?"},
        {"caption": None, "question": "b?"},
        {"caption": "a", "question": " "},
        {"question": "c?"},
        {"caption": [], "question": "d?"},
        {"caption": "c", "question": "e?", "image": None},
        {"caption": "d", "question": "f?"},
    ]
    allowed = "references: [caption], question: question, max_bad_fraction: 0.99"
    found = check(*rows, task=VQA, dataset=allowed)
    assert found["splits"][0]["empty_fields"] == {"caption": 4, "image": 1, "question": 1}
    assert "train: empty or missing: caption in 4 rows, image in 1 row, question in 1 row" in render(found)
    assert "rows without it" in Path("out", DATA_CHECK_PAGE).read_text()


def test_equal_images_with_different_answers_contradict_each_other(check: Check) -> None:
    image = {"same": encoded(make_image(96, 64, 1)), "again": encoded(make_image(96, 64, 1), "BMP")}
    rows = [{"caption": "ant", "image": "same.img"}, {"caption": "bee", "image": "again.img"}, {"caption": "cow"}]
    found = check(*rows, {"caption": "Ant ", "image": "again.img"}, **image)
    assert told(found) == [("contradiction", 1), ("duplicate", 3)]
    (contradiction, _) = found["findings"]
    assert contradiction["message"] == "expects 'bee', and train-0 'ant'"
    assert (contradiction["where"].split("/")[-1], contradiction["size"]) == (
        "train.jsonl:2 (again.img)",
        [96, 64],
    )
    assert contradiction["other"]["where"].endswith("train.jsonl:1 (same.img)")
    page = Path("out", DATA_CHECK_PAGE).read_text()
    assert '<figcaption dir="auto">expects &#39;bee&#39;, and train-0 &#39;ant&#39;</figcaption>' in page


def test_captions_of_one_image_may_differ(check: Check) -> None:
    image = {"same": encoded(make_image(96, 64, 1))}
    texts = ("a red ball on the green grass", "two boats near a house with trees")
    found = check(*({"caption": text, "image": "same.img"} for text in texts), **image)
    assert told(found) == [("duplicate", 1)]


def test_references_longer_than_answers_may_be_are_said_early(check: Check, notes: list[str]) -> None:
    long = "a red ball and a blue cube " * 9
    more = "evaluation: {split: train}\ninference: {max_new_tokens: 20}\n"
    found = check({"caption": long}, {"caption": "a ball"}, {"caption": long + "."}, more=more)
    assert told(found) == [("cut-off", None)]
    message = found["findings"][0]["message"]
    assert message.startswith("2 of 3 references (67%) are longer than inference.max_new_tokens (20)")
    proposed = int(message.rpartition("=")[2])
    config = load("c.yaml").config
    session = Session(config, Progress(Listener(notes)))
    _note_answers_cut_off(session)
    assert notes == [f"train: {message}"]
    assert message in make_plan(config, Progress(Silent()), None)["notes"]
    longer = load("c.yaml", [f"inference.max_new_tokens={proposed}"]).config
    _note_answers_cut_off(Session(longer, Progress(Listener(notes))))
    assert len(notes) == 1


class Listener(Silent):
    """Records notes."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def notes() -> list[str]:
    return []


def test_boxes_that_fit_without_exif_rotation_say_so(check: Check) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encoded(make_image(100, 60, 3), "JPEG", exif=exif)
    boxes = [[60, 10, 90, 50], [10, 10, 50, 40], [60, 10, 190, 50]]
    rows = [{"question": f"ball {n}", "box": box, "image": "stored.img"} for n, box in enumerate(boxes)]
    task, dataset = "{name: grounding, unit: pixels, corners: xyxy}", "question: question, boxes: box"
    found = check(*rows, task=task, dataset=dataset, stored=stored)
    assert told(found) == [("box", 0), ("box", 2)]
    says = [
        "fits the image as it is stored, without its EXIF rotation" in each["message"] for each in found["findings"]
    ]
    assert says == [True, False]


def test_what_most_images_have_in_common_is_one_finding_and_lines_are_narrow_by_nature(check: Check) -> None:
    tiny = {f"tiny{n}": encoded(make_image(16, 16, n)) for n in range(12)}
    found = check(*({"caption": f"{n}", "image": f"tiny{n}.img"} for n in range(12)), **tiny)
    assert [(kind, row) for kind, row in told(found) if kind == "tiny"] == [("tiny", None)]
    lines = {f"line{n}": encoded(make_image(300 + 40 * n, 40, n)) for n in range(6)}
    rows = [{"caption": f"word {n}", "image": f"line{n}.img"} for n in range(6)]
    assert told(check(*rows, **lines)) == []
    usual = [{"caption": f"word {n}"} for n in range(3)]
    found = check(*usual, {"caption": "thin", "image": "thin.img"}, thin=encoded(make_image(300, 20, 1)))
    assert ("narrow", 3) in told(found)
    assert report.MAX_LISTED > 0

"""Small datasets in the layouts in which people have them, with pictures drawn for each row, and what `init` must find.

Every picture shows coloured shapes, so that no two resemble each other, and every text says what its picture shows.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from PIL import Image, ImageDraw

COUNT = 60
SIZE = (160, 120)
COLORS = ("red", "green", "blue", "orange", "purple", "black", "brown", "teal")


@dataclass(frozen=True)
class Layout:
    """A layout: `write` fills a folder, `found` are keys of the config that `init` must write.

    `answer` are the settings of the option to choose where `init` must ask; empty where it must not.
    """

    name: str
    write: Callable[[Path], None]
    found: Mapping[str, Any]
    answer: Sequence[str] = ()


@dataclass
class _Drawn:
    """A picture and what it shows."""

    image: Image.Image
    colors: list[str] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def caption(self) -> str:
        return f"{len(self.colors)} shapes: {' and '.join(self.colors)}."


def draw(number: int, size: tuple[int, int] = SIZE) -> _Drawn:
    """The `number`-th picture: two to five ellipses and rectangles on a light ground."""
    rng = random.Random(number)
    width, height = size
    ground = tuple(rng.randint(180, 255) for _ in range(3))
    drawn = _Drawn(Image.new("RGB", size, ground))
    pen = ImageDraw.Draw(drawn.image)
    for color in rng.sample(COLORS, rng.randint(2, 5)):
        left, top = rng.randint(0, width * 3 // 4), rng.randint(0, height * 3 // 4)
        box = (left, top, min(width - 1, left + rng.randint(20, 60)), min(height - 1, top + rng.randint(20, 60)))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(box, fill=color)
        drawn.colors.append(color)
        drawn.boxes.append(box)
    return drawn


def pictures(folder: Path, count: int = COUNT, size: tuple[int, int] = SIZE, name: str = "{:03}.jpg") -> list[_Drawn]:
    """Draw and save pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw(number, size) for number in range(count)]
    for number, each in enumerate(drawn):
        each.image.save(folder / name.format(number))
    return drawn


def json_lines(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one object per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def table(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], mark: str = ",") -> None:
    """Write a table of text."""
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows([header, *rows])
    file.write_text(text.getvalue(), encoding="utf-8")


def lines(record: Callable[[int, _Drawn], Mapping[str, Any]], name: str = "rows.jsonl") -> Callable[[Path], None]:
    """A layout of JSON lines beside a folder of pictures."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        rows = [{"image": f"pics/{n:03}.jpg", **record(n, each)} for n, each in enumerate(drawn)]
        json_lines(folder / name, [{key: value for key, value in row.items() if value is not None} for row in rows])

    return write


def cells(
    header: Sequence[str], record: Callable[[int, _Drawn], Sequence[Any]], name: str = "rows.csv", mark: str = ","
) -> Callable[[Path], None]:
    """A layout of a table beside a folder of pictures."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        table(folder / name, header, [record(n, each) for n, each in enumerate(drawn)], mark)

    return write


def _captions_txt(name: str, head: str, line: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        drawn = pictures(folder / "Images")
        rows = [
            line.format(f"{n:03}.jpg", k, f"View {k}, {each.caption}") for n, each in enumerate(drawn) for k in range(5)
        ]
        (folder / name).write_text(head + "".join(rows), encoding="utf-8")

    return write


def _coco(boxes: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        drawn = pictures(folder / "val2017", name="{:012}.jpg")
        images = [{"id": n, "file_name": f"{n:012}.jpg", "width": SIZE[0], "height": SIZE[1]} for n in range(COUNT)]
        annotations: list[dict[str, Any]] = []
        for n, each in enumerate(drawn):
            if boxes:
                for color, (x, y, right, bottom) in zip(each.colors, each.boxes, strict=True):
                    annotations.append(
                        {"image_id": n, "category_id": COLORS.index(color), "bbox": [x, y, right - x, bottom - y]}
                    )
            else:
                annotations += [{"image_id": n, "caption": f"View {k}: {each.caption}"} for k in range(5)]
        annotations = [{"id": number, **each} for number, each in enumerate(annotations)]
        whole: dict[str, Any] = {"info": {}, "images": images, "annotations": annotations}
        if boxes:
            whole["categories"] = [{"id": n, "name": color} for n, color in enumerate(COLORS)]
        (folder / "annotations").mkdir()
        kind = "instances" if boxes else "captions"
        (folder / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(whole))

    return write


def _karpathy(folder: Path) -> None:
    splits = ["train"] * 40 + ["restval"] * 4 + ["val"] * 8 + ["test"] * 8
    images = [
        {
            "filename": f"{n:03}.jpg",
            "split": splits[n],
            "sentences": [{"raw": f"View {k}: {each.caption}"} for k in range(5)],
        }
        for n, each in enumerate(pictures(folder / "images"))
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))


def _vqa_pairs(folder: Path) -> None:
    drawn = pictures(folder / "val2014", name="COCO_val2014_{:012}.jpg")
    questions = [{"image_id": n, "question": "How many shapes are there?", "question_id": n} for n in range(COUNT)]
    answers = [
        {
            "question_id": n,
            "image_id": n,
            "answers": [{"answer": str(len(each.colors)), "answer_id": k} for k in range(10)],
        }
        for n, each in enumerate(drawn)
    ]
    head = {"data_subtype": "val2014", "task_type": "Open-Ended"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({**head, "questions": questions}))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**head, "annotations": answers}))


def _classes(splits: Sequence[str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for n in range(COUNT):
            each = draw(n)
            place = folder / splits[n % len(splits)] / ("few" if len(each.colors) < 4 else "many")
            place.mkdir(parents=True, exist_ok=True)
            each.image.save(place / f"{n:03}.png")

    return write


def _two_files(folder: Path) -> None:
    drawn = pictures(folder / "pics")
    rows = [
        {"image": f"pics/{n:03}.jpg", "question": "How many shapes?", "answer": str(len(d.colors))}
        for n, d in enumerate(drawn)
    ]
    json_lines(folder / "val.jsonl", rows[:40])
    json_lines(folder / "test.jsonl", rows[40:])


def _three_files(folder: Path) -> None:
    drawn = pictures(folder / "pics")
    rows = [{"image": f"pics/{n:03}.jpg", "caption": each.caption} for n, each in enumerate(drawn)]
    for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        json_lines(folder / f"{name}.jsonl", part)


def _shards(folder: Path) -> None:
    kept = []
    for n in range(COUNT):
        each, data = draw(n), io.BytesIO()
        each.image.save(data, "PNG")
        kept.append({"image": {"bytes": data.getvalue(), "path": f"{n}.png"}, "caption": each.caption})
    for number in range(3):
        part = pa.Table.from_pylist(kept[number * 20 : number * 20 + 20])
        folder.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(part, folder / f"train-{number:05}-of-00003.parquet")


def _llava(folder: Path) -> None:
    rows = []
    for n, each in enumerate(pictures(folder / "train2017")):
        human = {"from": "human", "value": "<image>\nWhat do you see?"}
        rows.append(
            {
                "id": f"{n}",
                "image": f"train2017/{n:03}.jpg",
                "conversations": [human, {"from": "gpt", "value": each.caption}],
            }
        )
    (folder / "llava.json").write_text(json.dumps(rows))


def _stray_table(folder: Path) -> None:
    drawn = pictures(folder / "color" / "72")
    table(
        folder / "list.csv",
        ["picture", "name"],
        [[f"color/72/{n:03}.jpg", each.caption] for n, each in enumerate(drawn)],
    )
    table(folder / "codes.csv", ["code", "meaning"], [["72", "small"]])


def _scans(folder: Path) -> None:
    (folder / "pics").mkdir(parents=True)
    rows = []
    for n in range(COUNT):
        image = Image.new("1", (1700 + n, 2200), 1)
        ImageDraw.Draw(image).text((100, 100 + 30 * n), f"TOTAL {n}.50", fill=0)
        image.save(folder / "pics" / f"{n:03}.png")
        record = {"company": f"NORTHERN HARBOUR TRADING COMPANY NO {n} LTD", "total": f"{n}.50"}
        rows.append({"image": f"pics/{n:03}.png", "ground_truth": json.dumps(record)})
    json_lines(folder / "rows.jsonl", rows)


def _token_file(folder: Path) -> None:
    drawn = pictures(folder / "Flicker8k_Dataset")
    text = "".join(f"{n:03}.jpg#{k}\tView {k} : {each.caption}\n" for n, each in enumerate(drawn) for k in range(5))
    (folder / "Flickr8k.token.txt").write_text(text)
    for name, part in (("train", range(40)), ("dev", range(40, 50)), ("test", range(50, 60))):
        (folder / f"Flickr_8k.{name}Images.txt").write_text("".join(f"{n:03}.jpg\n" for n in part))


def _messages(n: int, each: _Drawn) -> dict[str, Any]:
    messages = [{"role": "user", "content": "<image>What do you see?"}, {"role": "assistant", "content": each.caption}]
    return {"messages": messages, "images": [f"pics/{n:03}.jpg"], "image": None}


def _answered(value: Callable[[_Drawn], Any], key: str = "answer") -> Callable[[Path], None]:
    return lines(lambda _, each: {"question": "How many shapes?", key: value(each)})


def _first_box(each: _Drawn) -> list[int]:
    x, y, right, bottom = each.boxes[0]
    return [x, y, right - x, bottom - y]


VQA = {"task.name": "vqa", "dataset.question": "question"}
CAPTIONING = {"task.name": "captioning"}
JOINED = {**CAPTIONING, "dataset.references": ["references"], "dataset.target": "sample"}
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "captions, JSON lines",
        lines(lambda _, each: {"caption": each.caption}),
        {**CAPTIONING, "dataset.references": ["caption"]},
    ),
    Layout("captions, train/dev/test files", _three_files, {**CAPTIONING, "dataset.splits.validation": "dev.jsonl"}),
    Layout(
        "a list of captions",
        lines(lambda _, d: {"captions": [f"View {k}: {d.caption}" for k in range(5)]}),
        {**CAPTIONING, "dataset.target": "sample"},
    ),
    Layout(
        "five caption columns",
        cells(
            ["image", *(f"caption_{k}" for k in range(5))],
            lambda n, d: [f"pics/{n:03}.jpg", *(f"View {k}: {d.caption}" for k in range(5))],
        ),
        {**CAPTIONING, "dataset.references": [f"caption_{k}" for k in range(5)]},
    ),
    Layout("Kaggle's Flickr8k captions.txt", _captions_txt("captions.txt", "image,caption\n", '{0},"{2}"\n'), JOINED),
    Layout("one caption per CSV row", _captions_txt("captions.csv", "image,caption\n", '{0},"{2}"\n'), JOINED),
    Layout(
        "Flickr30k results.csv",
        _captions_txt("results.csv", "image_name| comment_number| comment\n", "{0}| {1}| {2}\n"),
        JOINED,
    ),
    Layout("Flickr8k.token.txt with lists", _token_file, {**JOINED, "dataset.split_column": "split"}),
    Layout("COCO captions", _coco(boxes=False), JOINED),
    Layout(
        "COCO boxes", _coco(boxes=True), {"task.name": "grounding", "dataset.boxes": "boxes", "task.corners": "xywh"}
    ),
    Layout(
        "Karpathy's JSON",
        _karpathy,
        {**JOINED, "dataset.split_column": "split", "dataset.splits.train": "train|restval"},
    ),
    Layout("VQAv2 pairs of files", _vqa_pairs, VQA),
    Layout(
        "answers as objects",
        _answered(lambda d: [{"answer": str(len(d.colors)), "answer_id": k} for k in range(10)], "answers"),
        {**VQA, "dataset.references": ["answers"]},
    ),
    Layout("answers as floats", _answered(lambda d: float(len(d.colors))), {**VQA, "dataset.references": ["answer"]}),
    Layout(
        "answers as sentences",
        _answered(lambda d: f"If one counts them with care, it shows {d.caption}"),
        {"task.name": "captioning", "task.prompt": "{question}"},
    ),
    Layout(
        "JSON lists in CSV cells",
        cells(
            ["image", "question", "answers"], lambda n, d: [f"pics/{n:03}.jpg", "Which colors?", json.dumps(d.colors)]
        ),
        {**VQA, "dataset.references": ["answers"]},
    ),
    Layout(
        "Python lists in CSV cells",
        cells(["image", "question", "answers"], lambda n, d: [f"pics/{n:03}.jpg", "Which colors?", str(d.colors)]),
        {**VQA, "dataset.references": ["answers"]},
    ),
    Layout(
        "semicolons, capitals",
        cells(
            ["Photo", "Question", "Answer"],
            lambda n, d: [f"pics/{n:03}.jpg", "How many?", len(d.colors)],
            "ROWS.CSV",
            ";",
        ),
        {"task.name": "vqa", "dataset.separator": ";"},
    ),
    Layout(
        "ms-swift query and response",
        lines(
            lambda n, d: {
                "query": "<image>How many?",
                "response": str(len(d.colors)),
                "images": [f"pics/{n:03}.jpg"],
                "image": None,
            }
        ),
        {"task.name": "vqa", "dataset.question": "query"},
    ),
    Layout("LLaVA conversations", _llava, {"dataset.messages": "conversations"}),
    Layout("messages and images", lines(_messages), {"dataset.messages": "messages", "dataset.images": "images"}),
    Layout(
        "an official split column",
        lines(lambda n, d: {"caption": d.caption, "split": ("train", "train", "val", "test")[n % 4]}),
        {**CAPTIONING, "dataset.split_column": "split"},
    ),
    Layout(
        "validation and test only",
        _two_files,
        {**VQA, "dataset.splits.train": "val.jsonl", "dataset.splits.test": "test.jsonl"},
    ),
    Layout("folders of classes", _classes(["."]), {"task.name": "classification", "task.labels": ["few", "many"]}),
    Layout(
        "splits with folders of classes",
        _classes(["train", "train", "val", "test"]),
        {"task.name": "classification", "dataset.splits.validation": "val"},
    ),
    Layout(
        "labels in a column",
        lines(lambda _, d: {"label": "few" if len(d.colors) < 4 else "many"}),
        {"task.name": "classification", "task.labels": ["few", "many"]},
    ),
    Layout(
        "objects as targets",
        lines(lambda n, d: {"record": {"count": len(d.colors), "first": d.colors[0]}}),
        {"task.name": "extraction", "task.fields": ["count", "first"]},
    ),
    Layout("JSON text as targets, scans", _scans, {"task.name": "extraction", "model.max_pixels": 2_359_296}),
    Layout(
        "boxes, corner and size",
        lines(lambda _, d: {"phrase": d.colors[0], "bbox": _first_box(d)}),
        {"task.name": "grounding", "task.corners": "xywh", "task.unit": "pixels"},
    ),
    Layout(
        "boxes, two readings",
        lines(lambda n, d: {"phrase": d.colors[0], "bbox": [5, 5, 60 + n % 30, 50 + n % 20]}),
        {"task.name": "grounding", "task.corners": "xyxy"},
        ("task.unit=pixels", "task.corners=xyxy"),
    ),
    Layout("Parquet shards with bytes", _shards, {**CAPTIONING, "dataset.splits.train": "train-*-of-00003.parquet"}),
    Layout("a stray table beside the rows", _stray_table, {**CAPTIONING, "dataset.references": ["name"]}),
    Layout(
        "a label and a caption",
        lines(lambda _, d: {"caption": d.caption, "label": "few" if len(d.colors) < 4 else "many"}),
        {**CAPTIONING},
        ("dataset.references=[caption]", "task.name=captioning"),
    ),
    Layout(
        "columns that say nothing",
        lines(
            lambda n, d: {"first": f"it begins with {d.colors[0]}, then {n} more words follow", "last": d.colors[-1]}
        ),
        {**CAPTIONING, "dataset.references": ["first"]},
        ("dataset.references=[first]", "task.name=captioning"),
    ),
)

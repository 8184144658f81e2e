"""Writers of layouts that take more than a line: annotations of other tools, containers, folders."""

import base64
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from pictures import COLORS, COUNT, SIZE, Drawn, draw, json_lines, lines, pictures, table
from PIL import Image, ImageDraw


def captions_txt(name: str, head: str, line: str) -> Callable[[Path], None]:
    """Lines of an image and a caption, five for each image."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "Images")
        rows = [
            line.format(f"{n:03}.jpg", k, f"View {k}, {each.caption}") for n, each in enumerate(drawn) for k in range(5)
        ]
        (folder / name).write_text(head + "".join(rows), encoding="utf-8")

    return write


def coco(boxes: bool) -> Callable[[Path], None]:
    """COCO's JSON of captions or boxes."""

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


def karpathy(folder: Path) -> None:
    """Karpathy's JSON."""
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


def vqa_pairs(folder: Path) -> None:
    """VQA's files of questions and answers."""
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


def classes(splits: Sequence[str]) -> Callable[[Path], None]:
    """A folder for each class, below a folder for each split."""

    def write(folder: Path) -> None:
        for n in range(COUNT):
            each = draw(n)
            place = folder / splits[n % len(splits)] / ("few" if len(each.colors) < 4 else "many")
            place.mkdir(parents=True, exist_ok=True)
            each.image.save(place / f"{n:03}.png")

    return write


def two_files(folder: Path) -> None:
    """A file for validation and one for test."""
    drawn = pictures(folder / "pics")
    rows = [
        {"image": f"pics/{n:03}.jpg", "question": "How many shapes?", "answer": str(len(d.colors))}
        for n, d in enumerate(drawn)
    ]
    json_lines(folder / "val.jsonl", rows[:40])
    json_lines(folder / "test.jsonl", rows[40:])


def three_files(folder: Path) -> None:
    """A file for each split."""
    drawn = pictures(folder / "pics")
    rows = [{"image": f"pics/{n:03}.jpg", "caption": each.caption} for n, each in enumerate(drawn)]
    for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        json_lines(folder / f"{name}.jsonl", part)


def shards(folder: Path) -> None:
    """Parquet shards that hold their images."""
    kept = []
    for n in range(COUNT):
        each, data = draw(n), io.BytesIO()
        each.image.save(data, "PNG")
        kept.append({"image": {"bytes": data.getvalue(), "path": f"{n}.png"}, "caption": each.caption})
    for number in range(3):
        part = pa.Table.from_pylist(kept[number * 20 : number * 20 + 20])
        folder.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(part, folder / f"train-{number:05}-of-00003.parquet")


def llava(folder: Path) -> None:
    """LLaVA's array of conversations."""
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


def stray_table(folder: Path) -> None:
    """Rows beside a table of something else."""
    drawn = pictures(folder / "color" / "72")
    table(
        folder / "list.csv",
        ["picture", "name"],
        [[f"color/72/{n:03}.jpg", each.caption] for n, each in enumerate(drawn)],
    )
    table(folder / "codes.csv", ["code", "meaning"], [["72", "small"]])


def scans(folder: Path) -> None:
    """Large scans with JSON as text."""
    (folder / "pics").mkdir(parents=True)
    rows = []
    for n in range(COUNT):
        image = Image.new("1", (1700 + n, 2200), 1)
        ImageDraw.Draw(image).text((100, 100 + 30 * n), f"TOTAL {n}.50", fill=0)
        image.save(folder / "pics" / f"{n:03}.png")
        record = {"company": f"NORTHERN HARBOUR TRADING COMPANY NO {n} LTD", "total": f"{n}.50"}
        rows.append({"image": f"pics/{n:03}.png", "ground_truth": json.dumps(record)})
    json_lines(folder / "rows.jsonl", rows)


def token_file(folder: Path) -> None:
    """Flickr8k.token.txt and its lists of splits."""
    drawn = pictures(folder / "Flicker8k_Dataset")
    text = "".join(f"{n:03}.jpg#{k}\tView {k} : {each.caption}\n" for n, each in enumerate(drawn) for k in range(5))
    (folder / "Flickr8k.token.txt").write_text(text)
    for name, part in (("train", range(40)), ("dev", range(40, 50)), ("test", range(50, 60))):
        (folder / f"Flickr_8k.{name}Images.txt").write_text("".join(f"{n:03}.jpg\n" for n in part))


def encoded(name: str, encode: Callable[[str], bytes], mark: str = ",") -> Callable[[Path], None]:
    """A layout of a text file in another encoding, beside a folder of pictures."""

    def write(folder: Path) -> None:
        drawn = pictures(folder / "pics")
        if ".csv" in name:
            rows = "".join(f'pics/{n:03}.jpg{mark}"{each.caption}"\n' for n, each in enumerate(drawn))
            text = f"image{mark}caption\n{rows}"
        else:
            records = [{"image": f"pics/{n:03}.jpg", "caption": each.caption} for n, each in enumerate(drawn)]
            text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / name).write_bytes(encode(text))

    return write


def value(make: Callable[[list[Drawn]], Any], name: str = "rows.json", place: str = "pics") -> Callable[[Path], None]:
    """A layout of one JSON value beside a folder of pictures."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(make(pictures(folder / place))))

    return write


def vqa_row(n: int, each: Drawn) -> dict[str, Any]:
    """A question about a picture."""
    return {"image": f"{n:03}.jpg", "question": "How many shapes are there?", "answer": str(len(each.colors))}


def by_split(drawn: list[Drawn]) -> Any:
    """Lists of rows by split."""
    rows = [vqa_row(n, each) for n, each in enumerate(drawn)]
    return {"train": rows[:40], "test": rows[40:]}


def by_column(drawn: list[Drawn]) -> Any:
    """Columns of values by row, as pandas writes them."""
    rows = [vqa_row(n, each) for n, each in enumerate(drawn)]
    return {key: {str(n): row[key] for n, row in enumerate(rows)} for key in ("image", "question", "answer")}


def with_header(drawn: list[Drawn]) -> Any:
    """Arrays of values, the first one with their names."""
    return [["image", "caption"], *([f"pics/{n:03}.jpg", each.caption] for n, each in enumerate(drawn))]


def excel(sheets: Mapping[str, range]) -> Callable[[Path], None]:
    """An Excel file with pictures by their numbers in each sheet."""

    def write(folder: Path) -> None:
        import openpyxl

        drawn, book = pictures(folder / "pics"), openpyxl.Workbook()
        book.remove(book.active)
        for name, part in sheets.items():
            sheet = book.create_sheet(name)
            for row in [["image", "caption"], *([f"pics/{n:03}.jpg", drawn[n].caption] for n in part)]:
                sheet.append(row)
        book.save(folder / "rows.xlsx")

    return write


def saved(splits: Sequence[str]) -> Callable[[Path], None]:
    """A folder of `save_to_disk`."""

    def write(folder: Path) -> None:
        import datasets

        parts = {}
        for number, split in enumerate(splits):
            drawn = [draw(n) for n in range(number, COUNT, len(splits))]
            columns = {"image": [each.image for each in drawn], "caption": [each.caption for each in drawn]}
            parts[split] = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        whole = datasets.DatasetDict(parts) if len(splits) > 1 else parts[splits[0]]
        whole.save_to_disk(folder)

    return write


def tars(folder: Path) -> None:
    """Shards of WebDataset."""
    folder.mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard:06}.tar", "w") as archive:
            for n in range(shard * 30, shard * 30 + 30):
                each, data = draw(n), io.BytesIO()
                each.image.save(data, "JPEG")
                members = {"jpg": data.getvalue(), "txt": each.caption.encode(), "json": json.dumps({"n": n}).encode()}
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{n:06}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def yolo(image: str, label: str, classes: Mapping[str, str]) -> Callable[[Path], None]:
    """YOLO's files; `image` and `label` are folders with {} for the split."""

    def write(folder: Path) -> None:
        for n in range(COUNT):
            each, split = draw(n), ("train", "train", "valid", "test")[n % 4]
            places = [folder / place.format(split) for place in (image, label)]
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
            each.image.save(places[0] / f"{n:03}.jpg")
            rows = []
            for color, (x, y, right, bottom) in zip(each.colors, each.boxes, strict=True):
                middle = ((x + right) / 2 / SIZE[0], (y + bottom) / 2 / SIZE[1])
                size = ((right - x) / SIZE[0], (bottom - y) / SIZE[1])
                rows.append(f"{COLORS.index(color)} " + " ".join(f"{number:.6f}" for number in (*middle, *size)))
            (places[1] / f"{n:03}.txt").write_text("\n".join(rows) + "\n")
        for name, text in classes.items():
            (folder / name).write_text(text)

    return write


def voc(folder: Path) -> None:
    """Pascal VOC's folders."""
    drawn = pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for n, each in enumerate(drawn):
        objects = "".join(
            f"<object><name>{color}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
            f"<ymax>{box[3]}</ymax></bndbox></object>"
            for color, box in zip(each.colors, each.boxes, strict=True)
        )
        text = f"<annotation><filename>{n:03}.jpg</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{n:03}.xml").write_text(text)
    for name, part in (("train", range(40)), ("val", range(40, 50)), ("test", range(50, 60))):
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{n:03}\n" for n in part))


def cvat(folder: Path) -> None:
    """CVAT's XML for images."""
    images = []
    for n, each in enumerate(pictures(folder / "images")):
        boxes = "".join(
            f'<box label="{color}" xtl="{box[0]}" ytl="{box[1]}" xbr="{box[2]}" ybr="{box[3]}"/>'
            for color, box in zip(each.colors, each.boxes, strict=True)
        )
        images.append(f'<image id="{n}" name="{n:03}.jpg" width="{SIZE[0]}" height="{SIZE[1]}">{boxes}</image>')
    text = f"<annotations><version>1.1</version>{''.join(images)}</annotations>"
    (folder / "annotations.xml").write_text(text)


def label_studio(minimal: bool) -> Callable[[Path], None]:
    """An export of Label Studio."""

    def write(folder: Path) -> None:
        tasks: list[dict[str, Any]] = []
        for n, each in enumerate(pictures(folder / "media" / "upload" / "1")):
            image, choice = f"/data/upload/1/{n:03}.jpg", "few" if len(each.colors) < 4 else "many"
            result = {"type": "choices", "from_name": "c", "to_name": "i", "value": {"choices": [choice]}}
            task = {"id": n, "annotations": [{"id": n, "result": [result]}], "data": {"image": image}}
            tasks.append(
                {"id": n, "image": image, "choice": choice, "annotation_id": n, "lead_time": 1.5} if minimal else task
            )
        (folder / "project-1.json").write_text(json.dumps(tasks))

    return write


def sidecars(image: str, text: Callable[[Drawn], str], beside: str) -> Callable[[Path], None]:
    """A text or JSON file with the name of each image; `beside` is its path with {} for the number."""

    def write(folder: Path) -> None:
        for n, each in enumerate(pictures(folder / image)):
            file = folder / beside.format(f"{n:03}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text(each))

    return write


def classes_with_files(folder: Path) -> None:
    """Folders of classes beside files that describe them."""
    classes(["."])(folder)
    for name in ("README.md", "LICENSE", "labels.txt"):
        (folder / name).write_text("few\nmany\n")


def numbered(folder: Path) -> None:
    """Rows that name their images by number."""
    drawn = pictures(folder / "val2014", name="COCO_val2014_{:012}.jpg")
    rows = {
        str(n): {"imageId": n, "question": "How many?", "answer": str(len(each.colors))} for n, each in enumerate(drawn)
    }
    (folder / "questions.json").write_text(json.dumps(rows))


def pages(folder: Path) -> None:
    """Documents of two pages."""
    (folder / "docs").mkdir(parents=True)
    rows = []
    for n in range(COUNT):
        first, second = draw(n), draw(n + COUNT)
        name = f"docs/{n:03}.{'pdf' if n % 2 else 'tif'}"
        first.image.save(folder / name, save_all=True, append_images=[second.image])
        rows.append({"document": name, "caption": f"{first.caption} {second.caption}"})
    json_lines(folder / "rows.jsonl", rows)


def phones(folder: Path) -> None:
    """Pictures in the formats of phones."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    (folder / "DCIM").mkdir(parents=True)
    rows = []
    for n in range(COUNT):
        each, name = draw(n), f"DCIM/IMG_{n:04}.{'HEIC' if n % 2 else 'avif'}"
        each.image.save(folder / name)
        rows.append({"image": name, "caption": each.caption})
    json_lines(folder / "rows.jsonl", rows)


def data_urls(n: int, each: Drawn) -> dict[str, Any]:
    """A conversation in OpenAI's format that holds its image."""
    data = io.BytesIO()
    each.image.save(data, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    parts = [{"type": "text", "text": "What do you see?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {
        "image": None,
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": each.caption}],
    }


def messages(n: int, each: Drawn) -> dict[str, Any]:
    """A conversation with an image mark."""
    messages = [{"role": "user", "content": "<image>What do you see?"}, {"role": "assistant", "content": each.caption}]
    return {"messages": messages, "images": [f"pics/{n:03}.jpg"], "image": None}


def answered(value: Callable[[Drawn], Any], key: str = "answer") -> Callable[[Path], None]:
    """Questions with answers in some form."""
    return lines(lambda _, each: {"question": "How many shapes?", key: value(each)})


def first_box(each: Drawn) -> list[int]:
    """Corner and size of the first shape."""
    x, y, right, bottom = each.boxes[0]
    return [x, y, right - x, bottom - y]


def headless(folder: Path) -> None:
    """Lines of an image and a label."""
    drawn = pictures(folder / "imgs")
    labels = ["few" if len(each.colors) < 4 else "many" for each in drawn]
    (folder / "labels.csv").write_text("".join(f"{n:03}.jpg,{label}\n" for n, label in enumerate(labels)))


def competition(folder: Path) -> None:
    """A train table with answers and a test table without, each with a folder of images."""
    drawn = pictures(folder / "train")
    for n in range(10):
        (folder / "test").mkdir(exist_ok=True)
        draw(n + 2 * COUNT).image.save(folder / "test" / f"t{n:03}.jpg")
    table(folder / "train.csv", ["id", "caption"], [[f"{n:03}", each.caption] for n, each in enumerate(drawn)])
    table(folder / "test.csv", ["id"], [[f"t{n:03}"] for n in range(10)])


def coco_splits(folder: Path) -> None:
    """COCO's boxes of two splits, whose images have the same names."""
    (folder / "annotations").mkdir(parents=True)
    for split, first, count in (("train", 0, 50), ("val", 200, 20)):
        (folder / f"{split}2017").mkdir()
        images, annotations = [], []
        for n in range(count):
            each = draw(first + n)
            each.image.save(folder / f"{split}2017" / f"{n:012}.jpg")
            images.append({"id": n, "file_name": f"{n:012}.jpg"})
            for color, (x, y, right, bottom) in zip(each.colors, each.boxes, strict=True):
                box = [x, y, right - x, bottom - y]
                annotations.append({"image_id": n, "category_id": COLORS.index(color), "bbox": box})
        whole = {"images": images, "annotations": annotations, "categories": []}
        whole["categories"] = [{"id": n, "name": color} for n, color in enumerate(COLORS)]
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(whole))


def objects(_: int, each: Drawn) -> dict[str, Any]:
    """The shapes of a picture, each with its box and label."""
    pairs = zip(each.boxes, each.colors, strict=True)
    return {"objects": [{"bbox": list(box), "label": color} for box, color in pairs]}

"""Small datasets in the layouts in which people have them, with pictures drawn for each row, and what `init` must find.

Every picture shows coloured shapes, so that no two resemble each other, and every text says what its picture shows.
"""

import gzip
import json

from pictures import COLORS, COUNT, Layout, box_rows, cells, elsewhere, lines, lines_of
from writers import (
    answered,
    by_column,
    by_split,
    captions_txt,
    classes,
    classes_with_files,
    coco,
    coco_splits,
    competition,
    cvat,
    data_urls,
    encoded,
    excel,
    first_box,
    headless,
    karpathy,
    label_studio,
    llava,
    messages,
    numbered,
    pages,
    phones,
    saved,
    scans,
    shards,
    sidecars,
    stray_table,
    tars,
    three_files,
    token_file,
    two_files,
    value,
    voc,
    vqa_pairs,
    vqa_row,
    with_header,
    yolo,
)

VQA = {"task.name": "vqa", "dataset.question": "question"}
CAPTIONING = {"task.name": "captioning"}
JOINED = {**CAPTIONING, "dataset.references": ["references"], "dataset.target": "sample"}
VQA_FOUND = {"task.name": "vqa", "dataset.question": "question", "dataset.references": ["answer"]}
BOXED = {
    "task.name": "grounding",
    "dataset.rows_per": "label",
    "dataset.boxes": "boxes",
    "dataset.question": "question",
}
CHOICES = {"task.name": "classification", "task.labels": ["few", "many"]}
DATA_YAML = f"names: {list(COLORS)}\n"
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "captions, JSON lines",
        lines(lambda _, each: {"caption": each.caption}),
        {**CAPTIONING, "dataset.references": ["caption"]},
    ),
    Layout("captions, train/dev/test files", three_files, {**CAPTIONING, "dataset.splits.validation": "dev.jsonl"}),
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
    Layout("Kaggle's Flickr8k captions.txt", captions_txt("captions.txt", "image,caption\n", '{0},"{2}"\n'), JOINED),
    Layout("one caption per CSV row", captions_txt("captions.csv", "image,caption\n", '{0},"{2}"\n'), JOINED),
    Layout(
        "Flickr30k results.csv",
        captions_txt("results.csv", "image_name| comment_number| comment\n", "{0}| {1}| {2}\n"),
        JOINED,
    ),
    Layout("Flickr8k.token.txt with lists", token_file, {**JOINED, "dataset.split_column": "split"}),
    Layout("COCO captions", coco(boxes=False), JOINED),
    Layout(
        "COCO boxes", coco(boxes=True), {"task.name": "grounding", "dataset.boxes": "boxes", "task.corners": "xywh"}
    ),
    Layout(
        "Karpathy's JSON",
        karpathy,
        {**JOINED, "dataset.split_column": "split", "dataset.splits.train": "train|restval"},
    ),
    Layout("VQAv2 pairs of files", vqa_pairs, VQA),
    Layout(
        "answers as objects",
        answered(lambda d: [{"answer": str(len(d.colors)), "answer_id": k} for k in range(10)], "answers"),
        {**VQA, "dataset.references": ["answers"]},
    ),
    Layout("answers as floats", answered(lambda d: float(len(d.colors))), {**VQA, "dataset.references": ["answer"]}),
    Layout(
        "answers as sentences",
        answered(lambda d: f"If one counts them with care, it shows {d.caption}"),
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
    Layout("LLaVA conversations", llava, {"dataset.messages": "conversations"}),
    Layout("messages and images", lines(messages), {"dataset.messages": "messages", "dataset.images": "images"}),
    Layout(
        "an official split column",
        lines(lambda n, d: {"caption": d.caption, "split": ("train", "train", "val", "test")[n % 4]}),
        {**CAPTIONING, "dataset.split_column": "split"},
    ),
    Layout(
        "validation and test only",
        two_files,
        {**VQA, "dataset.splits.train": "val.jsonl", "dataset.splits.test": "test.jsonl"},
    ),
    Layout("folders of classes", classes(["."]), {"task.name": "classification", "task.labels": ["few", "many"]}),
    Layout(
        "splits with folders of classes",
        classes(["train", "train", "val", "test"]),
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
    Layout("JSON text as targets, scans", scans, {"task.name": "extraction", "model.max_pixels": 2_359_296}),
    Layout(
        "boxes, corner and size",
        lines(lambda _, d: {"phrase": d.colors[0], "bbox": first_box(d)}),
        {"task.name": "grounding", "task.corners": "xywh", "task.unit": "pixels"},
    ),
    Layout(
        "boxes, two readings",
        lines(lambda n, d: {"phrase": d.colors[0], "bbox": [5, 5, 60 + n % 30, 50 + n % 20]}),
        {"task.name": "grounding", "task.corners": "xyxy"},
        ("task.unit=pixels", "task.corners=xyxy"),
    ),
    Layout("Parquet shards with bytes", shards, {**CAPTIONING, "dataset.splits.train": "train-*-of-00003.parquet"}),
    Layout("a stray table beside the rows", stray_table, {**CAPTIONING, "dataset.references": ["name"]}),
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
    Layout("UTF-16 table", encoded("rows.csv", lambda text: text.encode("utf-16")), {**CAPTIONING}),
    Layout("UTF-16 JSON lines", encoded("rows.jsonl", lambda text: text.encode("utf-16-le")), {**CAPTIONING}),
    Layout("table of an old Mac", encoded("rows.csv", lambda text: text.replace("\n", "\r").encode()), {**CAPTIONING}),
    Layout(
        "table of Excel with sep=;",
        encoded("rows.csv", lambda text: ("sep=;\n" + text).encode("utf-8-sig"), ";"),
        {**CAPTIONING, "dataset.separator": None},
    ),
    Layout("gzipped table", encoded("rows.csv.gz", lambda text: gzip.compress(text.encode())), {**CAPTIONING}),
    Layout(
        "gzipped JSON lines",
        encoded("train.jsonl.gz", lambda text: gzip.compress(text.encode())),
        {**CAPTIONING, "dataset.splits.train": "train.jsonl.gz"},
    ),
    Layout("Excel", excel({"Sheet1": range(COUNT)}), {**CAPTIONING, "dataset.source": "table"}),
    Layout(
        "Excel with a sheet for each split",
        excel({"train": range(40), "val": range(40, 50), "test": range(50, 60)}),
        {**CAPTIONING, "dataset.split_column": "sheet", "dataset.splits.validation": "val"},
    ),
    Layout("save_to_disk", saved(["all"]), {**CAPTIONING, "dataset.source": "table"}),
    Layout(
        "save_to_disk with splits",
        saved(["train", "validation", "test"]),
        {**CAPTIONING, "dataset.splits.test": "test/data-00000-of-00001.arrow"},
    ),
    Layout("WebDataset", tars, {**CAPTIONING, "dataset.source": "webdataset", "dataset.splits.train": "shard-*.tar"}),
    Layout(
        "rows under data, as DocVQA's",
        value(lambda drawn: {"version": "1.0", "data": [vqa_row(n, each) for n, each in enumerate(drawn)]}),
        {**VQA_FOUND, "dataset.image_path": "pics/{file}"},
    ),
    Layout(
        "rows by key",
        value(lambda drawn: {f"q{n}": vqa_row(n, each) for n, each in enumerate(drawn)}),
        {**VQA_FOUND, "dataset.image_path": "pics/{file}", "dataset.id": "key"},
    ),
    Layout(
        "lists by split",
        value(by_split),
        {**VQA_FOUND, "dataset.split_column": "split"},
    ),
    Layout(
        "columns, as pandas writes them",
        value(by_column),
        VQA_FOUND,
    ),
    Layout(
        "texts by image",
        value(
            lambda drawn: {f"{n:03}.jpg": [each.caption, f"Here are {each.caption}"] for n, each in enumerate(drawn)}
        ),
        {**CAPTIONING, "dataset.references": ["text"], "dataset.image_path": "pics/{file}"},
    ),
    Layout(
        "arrays with a header",
        value(with_header),
        {**CAPTIONING, "dataset.references": ["caption"]},
    ),
    Layout(
        "arrays without a header",
        value(lambda drawn: [[f"pics/{n:03}.jpg", "How many?", str(len(each.colors))] for n, each in enumerate(drawn)]),
        {**VQA_FOUND, "dataset.image": "column_0", "dataset.question": "column_1", "dataset.references": ["column_2"]},
        ("dataset.question=column_1", "dataset.references=[column_2]", "task.name=vqa"),
    ),
    Layout(
        "images by number",
        numbered,
        {**VQA_FOUND, "dataset.image": "imageId", "dataset.image_path": "val2014/COCO_val2014_{file:012d}.jpg"},
    ),
    Layout(
        "images without endings",
        cells(["id", "caption"], lambda n, d: [f"{n:03}", d.caption]),
        {**CAPTIONING, "dataset.image": "id", "dataset.image_path": "pics/{file}.jpg"},
    ),
    Layout(
        "paths of another machine",
        lines(lambda n, d: {"image": f"/mnt/nas/pics/{n:03}.jpg", "caption": d.caption}),
        {**CAPTIONING, "dataset.image_path": "pics/{file:name}"},
    ),
    Layout(
        "YOLO",
        yolo("images/{}", "labels/{}", {"data.yaml": DATA_YAML}),
        {**BOXED, "task.unit": "unit", "dataset.splits.validation": "images/valid"},
    ),
    Layout(
        "YOLO as Roboflow exports it",
        yolo("{}/images", "{}/labels", {"data.yaml": DATA_YAML, "README.roboflow.txt": "made elsewhere"}),
        {**BOXED, "task.unit": "unit", "dataset.splits.test": "test"},
    ),
    Layout(
        "YOLO's labels beside the images",
        yolo("data", "data", {"data/classes.txt": "\n".join(COLORS)}),
        {**BOXED, "task.unit": "unit", "dataset.splits.train": "."},
    ),
    Layout("Pascal VOC", voc, {**BOXED, "task.unit": "pixels", "dataset.split_column": "split"}),
    Layout("CVAT for images", cvat, {**BOXED, "task.unit": "pixels", "dataset.format": "cvat"}),
    Layout("Label Studio's JSON", label_studio(minimal=False), {**CHOICES, "dataset.format": "label_studio"}),
    Layout("Label Studio's JSON-MIN", label_studio(minimal=True), {**CHOICES, "dataset.format": "label_studio"}),
    Layout(
        "captions beside the images",
        sidecars("set", lambda d: d.caption, "set/{}.txt"),
        {**CAPTIONING, "dataset.format": "sidecar"},
    ),
    Layout(
        "texts of lines, .gt.txt",
        sidecars("lines", lambda d: " ".join(d.colors), "lines/{}.gt.txt"),
        {"task.name": "ocr", "dataset.format": "sidecar"},
    ),
    Layout(
        "JSON in a sister folder",
        sidecars("img", lambda d: json.dumps({"count": len(d.colors), "first": d.colors[0]}), "key/{}.json"),
        {"task.name": "extraction", "task.fields": ["count", "first"]},
    ),
    Layout(
        "README and LICENSE beside classes",
        classes_with_files,
        {"task.name": "classification", "task.labels": ["few", "many"]},
    ),
    Layout(
        "one caption per JSON line",
        lines_of(lambda n, d: [{"caption": f"View {k}: {d.caption}"} for k in range(3)]),
        {**CAPTIONING, "dataset.join": ["image"], "dataset.target": "sample"},
    ),
    Layout(
        "a box per CSV row",
        box_rows,
        {
            "task.name": "grounding",
            "dataset.boxes": ["xmin", "ymin", "xmax", "ymax"],
            "task.unit": "pixels",
            "dataset.image_path": "images/{file}",
        },
    ),
    Layout(
        "fields in columns",
        cells(["image", "shop", "total"], lambda n, d: [f"pics/{n:03}.jpg", f"Shop {d.colors[0]} {n}", f"{n}.50"]),
        {"task.name": "extraction", "dataset.record": ["shop", "total"], "task.fields": ["shop", "total"]},
        ("dataset.record=[shop, total]", "task.name=extraction"),
    ),
    Layout(
        "OpenAI's image_url with data URLs", lines(data_urls), {"dataset.messages": "messages", "dataset.image": None}
    ),
    Layout(
        "an image mark in the question",
        lines(lambda n, d: {"question": "<image>\nHow many?", "answer": str(len(d.colors))}),
        {**VQA, "dataset.references": ["answer"]},
    ),
    Layout("PDF and TIFF pages", pages, {**CAPTIONING, "dataset.image": "document"}),
    Layout("HEIC and AVIF", phones, CAPTIONING),
    Layout("images elsewhere", elsewhere, CAPTIONING, ("dataset.image_roots=[{place}/elsewhere]",)),
    Layout(
        "objects with boxes and labels",
        lines(
            lambda _, d: {"objects": [{"bbox": list(b), "label": c} for b, c in zip(d.boxes, d.colors, strict=True)]}
        ),
        {
            "task.name": "grounding",
            "dataset.boxes": "objects",
            "dataset.question": None,
            "task.prompt": "Detect every black, blue, brown, green, orange, purple, red and teal. Report their "
            "bounding boxes and labels in JSON format.",
        },
    ),
    Layout(
        "a table without a header",
        headless,
        {"task.name": "classification", "task.labels": ["few", "many"], "dataset.format": "captions"},
    ),
    Layout(
        "a test file without answers",
        competition,
        {**CAPTIONING, "dataset.splits.test": "train.csv", "dataset.image_path": "train/{file}.jpg"},
    ),
    Layout(
        "COCO boxes of two splits with equal names",
        coco_splits,
        {**BOXED, "dataset.splits.validation": "annotations/instances_val2017.json"},
    ),
)

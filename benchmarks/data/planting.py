"""Datasets with planted faults: JSONL files and small images, and the findings each row must get.

Every image is different noise at four scales, so that two are only alike if one is a copy of the other.
"""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (320, 240)
WORDS = ("a red ball on the grass and two small boats near a house with green trees under grey clouds").split()  # noqa: SIM905
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
EACH = 0.004
"""Fraction of the rows of a role that get each fault, at least one."""

Where = tuple[str, int]
"""(role, row)."""


@dataclass(frozen=True)
class Fault:
    """The fault of a row, the `number`-th of its kind in the role; `kind` "" is none."""

    kind: str
    number: int
    role: str
    row: int


@dataclass
class Planted:
    """The expected findings: rows by kind."""

    findings: dict[str, set[Where]] = field(default_factory=dict)
    rotated: int = 0
    files: list[Path] = field(default_factory=list)

    def add(self, kind: str, role: str, row: int) -> None:
        """Expect a finding."""
        self.findings.setdefault(kind, set()).add((role, row))


def noise(seed: int) -> Image.Image:
    """A unique image: random colours at four scales."""
    rng = np.random.default_rng(seed)
    total = Image.new("RGB", SIZE)
    for side, weight in ((6, 1.0), (13, 0.5), (29, 0.35), (80, 0.2)):
        cells = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        layer = Image.fromarray(cells).resize(SIZE, Image.Resampling.BICUBIC)
        total = layer if side == 6 else Image.blend(total, layer, weight * 0.6)
    return total


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def file_of(image: Image.Image, number: int) -> bytes:
    """Three in four are JPEG, as in most datasets."""
    return encoded(image, "PNG", compress_level=1) if number % 4 == 0 else encoded(image, "JPEG", quality=90)


def rotated(image: Image.Image) -> bytes:
    """Stored on its side, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=90, exif=exif)


def broken(number: int, seed: int) -> bytes | None:
    """A file that is not a complete image, in one of several ways; None for no file."""
    variants = [
        lambda: encoded(noise(seed), "JPEG")[:-2500],
        lambda: encoded(noise(seed), "PNG")[:-5000],
        lambda: b"",
        f"<html>404 {seed}</html>".encode,
        lambda: encoded(Image.new("1", (8000, 8000)), "PNG") + str(seed).encode(),
        lambda: None,
    ]
    return variants[number % len(variants)]()


def near_duplicate(image: Image.Image, number: int) -> bytes:
    """A near-duplicate: scaled, strongly compressed, or brightened."""
    width, height = image.size
    variants = [
        lambda: encoded(image.resize((width * 2 // 3, height * 2 // 3)), "JPEG", quality=85),
        lambda: encoded(image, "JPEG", quality=30),
        lambda: encoded(image.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.LANCZOS), "WEBP", quality=60),
        lambda: encoded(image.resize((width // 2, height // 2)), "PNG"),
        lambda: encoded(image.point([min(255, int(v * 0.9 + 20)) for v in range(256)] * 3), "JPEG", quality=75),
    ]
    return variants[number % len(variants)]()


def plant(folder: Path, count: int, seed: int = 0) -> Planted:
    """Caption rows with every fault of files, images and texts; three JSONL files and a folder of images."""
    planted = Planted()
    (folder / "images").mkdir(parents=True)
    clean: dict[str, list[tuple[int, int]]] = {}
    starts = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
    for role, share in SHARES.items():
        rng = random.Random(f"{seed}/{role}")
        total = round(count * share)
        faults = max(1, round(total * EACH))
        plan = _plan(rng, total, faults, role)
        lines = []
        clean[role] = []
        for row in range(total):
            fault = Fault(*plan.get(row, ("", 0)), role, row)
            made = next(starts)
            name = f"images/{role}-{row:06d}.img"
            data = _data(fault, made, clean, planted)
            if data is not None:
                (folder / name).write_bytes(data)
                planted.files.append(folder / name)
            if fault.kind == "":
                clean[role].append((row, made))
            lines.append(_line(rng, fault, name, planted))
        (folder / f"{role}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return planted


def _plan(rng: random.Random, total: int, faults: int, role: str) -> dict[int, tuple[str, int]]:
    """Faulty rows, all in the second half, so that originals come before their copies."""
    kinds = ["broken", "duplicate", "re-encoded", "near", "rotated", "text", "json", "twice", "long", "misread", "tiny"]
    kinds += ["leak", "near-leak"] if role == "test" else ["validation-overlap"] if role == "validation" else []
    rows = rng.sample(range(total // 2, total), len(kinds) * faults)
    return {row: (kinds[at // faults], at % faults) for at, row in enumerate(rows)}


def _data(  # noqa: PLR0911
    fault: Fault, made: int, clean: dict[str, list[tuple[int, int]]], planted: Planted
) -> bytes | None:
    """The image file of a row; adds the expected findings."""
    kind, number, role, row = fault.kind, fault.number, fault.role, fault.row
    source = "train" if kind in ("leak", "near-leak", "validation-overlap") else role
    # Each copy has a different original.
    copies = ("duplicate", "re-encoded", "near", "leak", "near-leak", "validation-overlap")
    offset = copies.index(kind) if kind in copies else 0
    original_row, original = clean[source][6 * number + offset] if clean.get(source) else (0, 0)
    if kind == "broken":
        planted.add("image", role, row)
        return broken(number, made)
    if kind == "rotated":
        planted.rotated += 1
        return rotated(noise(made))
    if kind == "tiny":
        planted.add("tiny", role, row)
        return encoded(noise(made).resize((24, 30)), "PNG")
    if kind in ("duplicate", "leak", "validation-overlap"):
        where = ("train", original_row) if kind == "leak" else (role, row)
        planted.add(kind, *where)
        return file_of(noise(original), original_row)
    if kind == "re-encoded":
        planted.add("duplicate", role, row)
        decoded = Image.open(io.BytesIO(file_of(noise(original), original_row))).convert("RGB")
        return encoded(decoded, "PNG", compress_level=3)
    if kind in ("near", "near-leak"):
        planted.add("near-leak" if kind == "near-leak" else "near-duplicate", role, row)
        return near_duplicate(noise(original), number)
    return file_of(noise(made), row)


def _line(rng: random.Random, fault: Fault, name: str, planted: Planted) -> str:
    """The JSON line of a row; adds the expected findings."""
    kind, number, role, row = fault.kind, fault.number, fault.role, fault.row
    caption = " ".join(rng.choice(WORDS) for _ in range(rng.randint(8, 16))) + " ."
    plain = {"id": f"{role}-{row}", "image": name, "caption": caption}
    if kind == "text":
        planted.add("row", role, row)
        spoiled = [{**plain, "caption": "  "}, {**plain, "caption": "a \0 b"}, {**plain, "caption": True}]
        missing = {key: value for key, value in plain.items() if key != "caption"}
        return json.dumps([*spoiled, missing][number % 4])
    if kind == "json":
        planted.add("row", role, row)
        return [json.dumps(plain)[:-9], "[1, 2]"][number % 2]
    if kind == "twice":
        planted.add("row", role, row)
        return json.dumps({**plain, "id": f"{role}-{number}"})
    if kind == "long" and role != "test":
        planted.add("too-long", role, row)
        return json.dumps({**plain, "caption": " ".join(WORDS * 300)})
    if kind == "misread":
        planted.add("encoding", role, row)
        return json.dumps({**plain, "caption": caption + " café".encode().decode("cp1252")})
    return json.dumps(plain)


def plant_labels_and_boxes(folder: Path, count: int) -> tuple[Planted, Planted]:
    """Rows with labels and boxes, some of them wrong; the expected findings for classification and for grounding."""
    labels, boxes = Planted(), Planted()
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "one.jpg").write_bytes(encoded(noise(1), "JPEG"))
    width, height = SIZE
    bad = [
        [10, 10, 10, 90],
        [90, 10, 10, 90],
        [10, 90, 90, 10],
        [10, 10, width + 50, 90],
        [-40, 10, 90, 90],
        [10, 10, 90, height * 2],
    ]
    for role in SHARES:
        lines = []
        for row in range(count):
            plain: dict[str, Any] = {"image": "images/one.jpg", "phrase": f"ball {row}", "id": f"{role}-{row}"}
            plain |= {"label": ("day", "night")[row % 2], "box": [10, 10, 60 + row % 100, 90]}
            if row % 10 == 3:
                plain["label"] = ("Day", "dusk", "night,")[row // 10 % 3]
                labels.add("label", role, row)
            if row % 10 == 5:
                plain["box"] = bad[row // 10 % len(bad)]
                boxes.add("box", role, row)
            if row % 10 == 7:
                plain["box"] = [10, 10, width + 1, 90]
                boxes.add("edge", role, row)
            lines.append(json.dumps(plain) + "\n")
        (folder / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
    return labels, boxes


def finding_rows(result: dict[str, Any]) -> Iterator[tuple[str, Where]]:
    """(kind, (role, row)) of every finding of a check."""
    for finding in result["findings"]:
        yield finding["kind"], (finding["role"], finding["row"])

"""One example as the model sees it: image grids, tokens with their supervision, rotary positions.

Only image headers are read, and torch is not imported; the page of an example decodes its images.
"""

import base64
import functools
import io
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.config import Config
from vlmtune.data import Rows, SplitRole
from vlmtune.errors import ConfigError, DataError
from vlmtune.files import write_atomic
from vlmtune.images import decode_rgb, size_of
from vlmtune.modeling.loading import Checkpoint
from vlmtune.processing.chat_template import images_of
from vlmtune.processing.encoder import Encoded, Encoder, ImageHeaders
from vlmtune.report import templates
from vlmtune.tasks import Task
from vlmtune.terminal import printable
from vlmtune.training.dataset import TrainingExamples, with_row
from vlmtune.training.thinking import open_encoder
from vlmtune.types import Conversation, Example, ImageRef, Message, VideoRef

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SCHEMA_VERSION = 2
FOLDER = Path(__file__).parent
SUPERVISED, DIM, RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class ExampleViewer:
    """Describes rows as they are encoded for one config and checkpoint."""

    config: Config
    task: Task
    checkpoint: Checkpoint
    rows: Rows

    @functools.cached_property
    def training(self) -> TrainingExamples:
        """The rows as training examples, without pixels."""
        config = self.config
        encoder = open_encoder(self.checkpoint, config.model, config.training, config.dataset, ImageHeaders)
        return TrainingExamples(self.rows, self.task, self.config.task, encoder, self.config.training)

    def example(self, row: int, target: int = 0, step: int | None = None) -> Example:
        """A row with one of its targets; augmented if an optimizer step is given, from 0."""
        example = self.rows.with_target(row, target)
        return example if step is None else self.training.augmented(example, step)

    def describe(self, role: SplitRole, row: int, step: int | None = None) -> dict[str, Any]:
        """Everything about one row: each of its training examples, or the prompt of a test row.

        Args:
            role: of the rows.
            row: index of the row.
            step: optimizer step, from 0, for which the images of a training example are augmented.

        Raises:
            ConfigError: there is no such row.
            DataError: the row cannot be encoded; says why.
        """
        if not 0 <= row < len(self.rows):
            raise ConfigError(f"--row counts from 0 to {len(self.rows) - 1} in the {role} rows (got {row})")
        encoder = self.training.encoder
        example = encoder.with_objects(self.rows[row] if role == "test" else self.example(row, 0, step))
        prompt = self.task.prompt(self.config.task, example)
        try:
            encoded = list(self._encoded(role, row, prompt, step))
        except DataError as error:
            raise with_row(error, self.rows.where(row)) from None
        return {
            "schema_version": SCHEMA_VERSION,
            "role": role,
            "row": row,
            "id": example.id,
            "thinking": encoder.facts().get("thinking"),
            "references": example.truth["references"],
            "conversation": [_plain(message) for message in prompt],
            "images": list(self._images(encoder, prompt)),
            "encoded": encoded,
        }

    def _encoded(self, role: SplitRole, row: int, prompt: Conversation, step: int | None) -> Iterator[dict[str, Any]]:
        """The tokens of the prompt of a test row, or of each training example of another."""
        training, encoder = self.training, self.training.encoder
        if role == "test":
            yield {"target": None, **self._tokens(encoder, encoder.prompt(prompt))}
            return
        for n in range(self.rows.target_count(row)):
            one = self.example(row, n, step)
            yield {"target": training.target(one), **self._tokens(encoder, training.encode_example(one))}

    def _images(self, encoder: Encoder, conversation: Conversation) -> Iterator[dict[str, Any]]:
        patch = encoder.image_processor.limits.patch
        for ref in images_of(conversation):
            image = encoder.images.load(ref)
            grid = image.grid
            described = {
                "where": ref.where,
                "size": list(size_of(ref)),
                "resized": [grid[2] * patch, grid[1] * patch],
                "grid": list(grid),
                "tokens": encoder.image_processor.tokens(grid),
            }
            moments = image.moments
            video = moments and {"frames": list(moments.indices), "seconds": list(moments.times)}
            yield {**described, "video": video}

    def _tokens(self, encoder: Encoder, encoded: Encoded) -> dict[str, Any]:
        """The tokens in spans with their positions; each is supervised, not supervised, an image or part of a video."""
        merge, vision_ids = encoder.image_processor.limits.merge, encoder.renderer.vision_ids
        ids, supervised = encoded.rendered.ids, encoded.rendered.loss_mask
        positions = self.checkpoint.family.positions(ids, vision_ids, encoded.blocks, merge)
        tokenizer = _tokenizer(self.checkpoint)
        spans = []
        blocks = iter(encoded.blocks)
        for start, end in _spans(ids, supervised, vision_ids, [block.tokens(merge) for block in encoded.blocks]):
            is_image = ids[start] in vision_ids
            kind = "video" if ids[start] == encoder.renderer.video_id else "image"
            spans.append(
                {
                    "kind": kind if is_image else "supervised" if supervised[start] else "text",
                    "start": start,
                    "end": end,
                    "text": None if is_image else tokenizer.decode(list(ids[start:end]), skip_special_tokens=False),
                    "pieces": None if is_image else _pieces(tokenizer, ids[start:end]),
                    "positions": _ranges(positions[:, start:end]),
                    "patches": list(next(blocks)[:3]) if is_image else None,
                }
            )
        return {"tokens": len(ids), "supervised": sum(supervised), "spans": spans}


def _tokenizer(checkpoint: Checkpoint) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))


def _spans(
    ids: Sequence[int], supervised: Sequence[bool], vision_ids: Container[int], counts: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(start, end) of runs of tokens of the same kind; every image is a span of its own, of `counts` tokens."""
    lengths = iter(counts)
    start = 0
    while start < len(ids):
        if ids[start] in vision_ids:
            end = start + next(lengths)
        else:
            end = start + 1
            while end < len(ids) and ids[end] not in vision_ids and supervised[end] == supervised[start]:
                end += 1
        yield start, end
        start = end


def _pieces(tokenizer: "Tokenizer", ids: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens with their text. Tokens that end inside a multi-byte character are joined with the next ones."""
    pieces: list[dict[str, Any]] = []
    pending: list[int] = []
    for number, token in enumerate(ids):
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=False)
        if not text.endswith("\ufffd") or number == len(ids) - 1:
            pieces.append({"ids": pending, "text": text})
            pending = []
    return pieces


def _ranges(positions: NDArray[np.int64]) -> dict[str, list[int]]:
    """First and last rotary position of each axis, from positions [3, tokens]."""
    named = zip(("time", "row", "column"), positions, strict=True)
    return {name: [int(axis.min()), int(axis.max())] for name, axis in named}


def _plain(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": list(map(_part, message.content))}


def _part(part: str | ImageRef) -> str:
    return part if isinstance(part, str) else "<video>" if isinstance(part, VideoRef) else "<image>"


def render(shown: Mapping[str, Any], colour: bool) -> str:
    """A description as text; supervised tokens are coloured, or in brackets."""
    lines = [f"{shown['role']} row {shown['row']}: {shown['id']}"]
    for image in shown["images"]:
        (width, height), (new_width, new_height), (_, rows, columns) = image["size"], image["resized"], image["grid"]
        kind, times, moments = "image", "", ""
        if (video := image["video"]) is not None:
            frames, seconds = ", ".join(map(str, video["frames"])), ", ".join(f"{at:.1f}" for at in video["seconds"])
            kind, times, moments = "video", f"frames {frames} at {seconds} seconds, ", f"{len(video['seconds'])}x"
        lines.append(
            f"{kind} {image['where']}: {width}x{height}, {times}resized to {new_width}x{new_height}, "
            f"{moments}{rows}x{columns} patches = {image['tokens']} tokens"
        )
    if shown["thinking"] is not None:
        lines.append(f"training.thinking: {shown['thinking']}")
    lines += [f"reference: {text}" for text in shown["references"]]
    for number, encoded in enumerate(shown["encoded"]):
        count = f" {number + 1} of {len(shown['encoded'])}" if len(shown["encoded"]) > 1 else ""
        title = "prompt" if encoded["target"] is None else f"training example{count}"
        lines += ["", f"{title}: {encoded['tokens']} tokens, {encoded['supervised']} of them supervised"]
        lines.append("".join(_span_text(span, colour) for span in encoded["spans"]).rstrip("\n"))
        lines += ["", f"  {'tokens':<12} {'kind':<10} positions (time, row, column)"]
        for span in encoded["spans"]:
            ranges = [f"{low}..{high}" if low != high else f"{low}" for low, high in span["positions"].values()]
            text = "" if span["text"] is None else f"  {_short(span['text'])!r}"
            lines.append(f"  {span['start']:>5}..{span['end'] - 1:<5} {span['kind']:<10} {', '.join(ranges):<24}{text}")
    return "\n".join(lines)


def _span_text(span: Mapping[str, Any], colour: bool) -> str:
    if span["kind"] in ("image", "video"):
        size = "x".join(map(str, span["patches"] if span["patches"][0] > 1 else span["patches"][1:]))
        text = f"<{span['kind']} {size} = {span['end'] - span['start']} tokens>"
        return f"{DIM}{text}{RESET}" if colour else text
    text = printable(span["text"])
    if span["kind"] == "supervised":
        return f"{SUPERVISED}{text}{RESET}" if colour else f"[[{text}]]"
    return f"{DIM}{text}{RESET}" if colour else text


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def write_page(shown: Mapping[str, Any], example: Example, file: Path) -> None:
    """Write the page of a description with the resized images; dataset text is always escaped."""
    images = [_resized(ref, *image["resized"]) for ref, image in zip(example.images, shown["images"], strict=True)]
    styles = [FOLDER / "report.css"]
    write_atomic(file, templates.render("row.html.jinja", [FOLDER], styles=styles, shown=shown, images=images))


def _resized(ref: ImageRef, width: int, height: int) -> str:
    """An image at the size the model reads it, as WebP, up to rounding of the last bit; of a video some frames."""
    from markupsafe import Markup
    from PIL import Image

    buffer, image = io.BytesIO(), decode_rgb(ref)
    if not isinstance(ref, VideoRef):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    image.save(buffer, "WEBP", quality=90)
    return Markup(base64.b64encode(buffer.getvalue()).decode())

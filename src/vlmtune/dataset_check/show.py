"""One example as the model sees it: pictures as grids, tokens with what is learnt, rotary positions.

Nothing is decoded, no torch is loaded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmtune.config import Config
from vlmtune.data import Rows, SplitRole
from vlmtune.errors import ConfigError
from vlmtune.images import size_of
from vlmtune.modeling.loading import Checkpoint
from vlmtune.processing.chat_template import images_of
from vlmtune.processing.encoder import Encoded, Encoder, ImageHeaders
from vlmtune.tasks import Task
from vlmtune.training.dataset import TrainingExamples
from vlmtune.types import Conversation, Turn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SCHEMA_VERSION = 1
LEARNT, QUIET, RESET = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Shown:
    """What one example is encoded with."""

    config: Config
    task: Task
    checkpoint: Checkpoint
    rows: Rows

    def row(self, role: SplitRole, row: int) -> dict[str, Any]:
        """Everything about one example: each of its lessons, or its prompt where the role is not taught.

        Raises:
            ConfigError: there is no such row.
            DataError: the row cannot be encoded; names why.
        """
        if not 0 <= row < len(self.rows):
            raise ConfigError(f"--row counts from 0 to {len(self.rows) - 1} in the {role} rows (got {row})")
        encoder = Encoder(self.checkpoint, self.config.model, ImageHeaders)
        example, task = self.rows[row], self.config.task
        prompt = self.task.ask(task, example)
        lessons = TrainingExamples(self.rows, self.task, task, encoder, self.config.training)
        made: list[dict[str, Any]] = []
        if role == "test":
            made.append({"target": None, **self._encoded(encoder, encoder.prompt(prompt))})
        else:
            for n in range(self.rows.target_count(row)):
                taught = self.rows.with_target(row, n)
                target = lessons.target(taught)
                made.append({"target": target, **self._encoded(encoder, lessons.encode_example(taught))})
        return {
            "schema_version": SCHEMA_VERSION,
            "role": role,
            "row": row,
            "id": example.id,
            "references": example.truth["references"],
            "conversation": [_plain(turn) for turn in prompt],
            "pictures": list(self._pictures(encoder, prompt)),
            "encoded": made,
        }

    def _pictures(self, encoder: Encoder, conversation: Conversation) -> Iterator[dict[str, Any]]:
        patch = encoder.image_processor.limits.patch
        for ref in images_of(conversation):
            width, height = size_of(ref)
            grid = encoder.image_processor.grid_of(width, height)
            yield {
                "where": ref.where,
                "size": [width, height],
                "resized": [grid[2] * patch, grid[1] * patch],
                "grid": list(grid),
                "tokens": encoder.image_processor.tokens(grid),
            }

    def _encoded(self, encoder: Encoder, encoded: Encoded) -> dict[str, Any]:
        """Tokens in segments that are all learnt, all not, or one picture, with their positions."""
        merge, image = encoder.image_processor.limits.merge, encoder.renderer.image_id
        ids, trained = encoded.rendered.ids, encoded.rendered.loss_mask
        grids = [picture.grid for picture in encoded.images]
        places = self.checkpoint.family.positions(ids, image, grids, merge)
        tokenizer = _tokenizer(self.checkpoint)
        segments = []
        for start, end in _stretches(ids, trained, image, [encoder.image_processor.tokens(grid) for grid in grids]):
            picture = ids[start] == image
            segments.append(
                {
                    "kind": "image" if picture else "trained" if trained[start] else "text",
                    "start": start,
                    "end": end,
                    "text": None if picture else tokenizer.decode(list(ids[start:end]), skip_special_tokens=False),
                    "pieces": None if picture else _pieces(tokenizer, ids[start:end]),
                    "positions": _ends(places[:, start:end]),
                }
            )
        return {"tokens": len(ids), "supervised": sum(trained), "segments": segments}


def _tokenizer(checkpoint: Checkpoint) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))


def _stretches(
    ids: Sequence[int], trained: Sequence[bool], image: int, counts: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(start, end) of neighbouring tokens of one kind; two pictures side by side are two."""
    left = iter(counts)
    start = 0
    while start < len(ids):
        if ids[start] == image:
            end = start + next(left)
        else:
            end = start + 1
            while end < len(ids) and ids[end] != image and trained[end] == trained[start]:
                end += 1
        yield start, end
        start = end


def _pieces(tokenizer: "Tokenizer", ids: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens with their text; a token that ends in the middle of a character goes together with the next ones."""
    pieces: list[dict[str, Any]] = []
    open_ids: list[int] = []
    for number, token in enumerate(ids):
        open_ids.append(token)
        text = tokenizer.decode(open_ids, skip_special_tokens=False)
        if not text.endswith("\ufffd") or number == len(ids) - 1:
            pieces.append({"ids": open_ids, "text": text})
            open_ids = []
    return pieces


def _ends(places: NDArray[np.int64]) -> dict[str, list[int]]:
    """First and last rotary position along each axis."""
    named = zip(("time", "row", "column"), places, strict=True)
    return {name: [int(axis.min()), int(axis.max())] for name, axis in named}


def _plain(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": [part if isinstance(part, str) else "<image>" for part in turn.content]}


def render(shown: Mapping[str, Any], colour: bool) -> str:
    """As text; what is learnt in colour, or in brackets."""
    lines = [f"{shown['role']} row {shown['row']}: {shown['id']}"]
    for picture in shown["pictures"]:
        (width, height), (wide, high), (_, rows, columns) = picture["size"], picture["resized"], picture["grid"]
        lines.append(
            f"picture {picture['where']}: {width}x{height}, resized to {wide}x{high}, "
            f"{rows}x{columns} patches = {picture['tokens']} tokens"
        )
    lines += [f"reference: {text}" for text in shown["references"]]
    for number, encoded in enumerate(shown["encoded"]):
        many = f" {number + 1} of {len(shown['encoded'])}" if len(shown["encoded"]) > 1 else ""
        what = "prompt" if encoded["target"] is None else f"lesson{many}"
        lines += ["", f"{what}: {encoded['tokens']} tokens, {encoded['supervised']} of them learnt"]
        pictures = iter(shown["pictures"])
        lines.append("".join(_text(segment, pictures, colour) for segment in encoded["segments"]).rstrip("\n"))
        lines += ["", f"  {'tokens':<12} {'kind':<8} positions (time, row, column)"]
        for segment in encoded["segments"]:
            ends = [f"{low}..{high}" if low != high else f"{low}" for low, high in segment["positions"].values()]
            text = "" if segment["text"] is None else f"  {_short(segment['text'])!r}"
            lines.append(
                f"  {segment['start']:>5}..{segment['end'] - 1:<5} {segment['kind']:<8} {', '.join(ends):<24}{text}"
            )
    return "\n".join(lines)


def _text(segment: Mapping[str, Any], pictures: Iterator[Mapping[str, Any]], colour: bool) -> str:
    if segment["kind"] == "image":
        picture = next(pictures)
        _, rows, columns = picture["grid"]
        said = f"<image {rows}x{columns} = {picture['tokens']} tokens>"
        return f"{QUIET}{said}{RESET}" if colour else said
    text = _visible(segment["text"])
    if segment["kind"] == "trained":
        return f"{LEARNT}{text}{RESET}" if colour else f"[[{text}]]"
    return f"{QUIET}{text}{RESET}" if colour else text


def _visible(text: str) -> str:
    """Text that cannot steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

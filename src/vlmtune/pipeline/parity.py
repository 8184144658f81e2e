"""Whether two engines give the same answers: the first token at which they part, and by how little or how much.

Token ids are compared, never texts: different tokens may read alike. Whether two engines are the same is a question to
fp32; in bf16 the arithmetic alone moves near-ties, and the gaps only show whether that is all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from vlmtune.errors import ConfigError
from vlmtune.generation import Forced, force
from vlmtune.processing.encoder import Inputs
from vlmtune.types import Failure, Request

NEAR = 1e-4
"""Lead of the likeliest token under which two tokens count as equally likely, in fp32 log-probabilities."""


class Answer(Protocol):
    """What an engine says it generated; token ids are None where it does not say them."""

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Of the generated tokens."""

    @property
    def prompt_ids(self) -> tuple[int, ...] | None:
        """Of the prompt, image tokens expanded."""


class Telling(Protocol):
    """An engine that says which tokens it generated."""

    def told(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with its answer and the answer's token ids, in any order."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The first place at which the local model would have gone on differently. `gap` is how much likelier, in
    log-probability, it finds its own token than the other engine's.
    """

    place: int
    ours: int
    theirs: int
    gap: float


@dataclass(frozen=True, slots=True)
class Row:
    """One request. `failure` where the other engine gave no answer; the image tokens say at which size it was read."""

    id: str
    tokens: int
    parting: Parting | None
    image_tokens: tuple[int, ...]
    their_image_tokens: tuple[int, ...] | None
    failure: str | None = None

    def same(self, near: float) -> bool:
        """Whether the two agree: every token, or up to two that are equally likely."""
        sizes = self.their_image_tokens in (None, self.image_tokens)
        return self.failure is None and sizes and (self.parting is None or self.parting.gap < near)


@dataclass(frozen=True, slots=True)
class Parity:
    """All rows, and the gap below which a parting is a tie."""

    rows: tuple[Row, ...]
    near: float

    @property
    def agrees(self) -> bool:
        """Whether every row is the same by the rule."""
        return bool(self.rows) and all(row.same(self.near) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values: counts first, then every row that is not identical."""
        identical = [row for row in self.rows if row.same(0.0)]
        ties = [row for row in self.rows if row.same(self.near) and row not in identical]
        return {
            "schema_version": 1,
            "agrees": self.agrees,
            "rows": len(self.rows),
            "identical": len(identical),
            "ties": len(ties),
            "near": self.near,
            "different": [
                {
                    "id": row.id,
                    "tie": row in ties,
                    "failure": row.failure,
                    "parting": None
                    if row.parting is None
                    else {
                        "token": row.parting.place,
                        "hf": row.parting.ours,
                        "other": row.parting.theirs,
                        "gap": row.parting.gap,
                    },
                    "image_tokens": {"hf": row.image_tokens, "other": row.their_image_tokens},
                }
                for row in self.rows
                if row not in identical
            ],
        }


def render(parity: Parity, text: Callable[[Sequence[int]], str]) -> str:
    """The finding in a few lines; `text` turns token ids into words."""
    plain = parity.to_json()
    lines = [f"{plain['identical']} of {plain['rows']} answers are the same, token for token"]
    if plain["ties"]:
        lines.append(f"{plain['ties']} more part where two tokens are equally likely (gap below {parity.near:g})")
    for row in parity.rows:
        if row.same(0.0):
            continue
        if row.failure is not None:
            lines.append(f"! {row.id}: no answer: {row.failure}")
            continue
        mark = " " if row.same(parity.near) else "!"
        if row.parting is not None:
            at = row.parting
            lines.append(
                f"{mark} {row.id}: token {at.place + 1} of {row.tokens}: hf {text([at.ours])!r}, other "
                f"{text([at.theirs])!r}, gap {at.gap:.2g}"
            )
        if row.their_image_tokens not in (None, row.image_tokens):
            lines.append(f"! {row.id}: image tokens: hf {row.image_tokens}, other {row.their_image_tokens}")
    return "\n".join(lines)


def compare(told: Answer | Failure, forced: Forced | None, request: str, image_id: int) -> Row:
    """One row: what another engine said, and what the local model makes of it.

    Args:
        told: the other engine's answer.
        forced: of its tokens; None where it gave no answer.
        request: the row's id.
        image_id: the token that stands for a piece of a picture.
    """
    if isinstance(told, Failure) or told.ids is None or forced is None:
        why = told.reason if isinstance(told, Failure) else "the server gives no token ids"
        return Row(request, 0, None, (), None, why)
    place = next((n for n, (ours, theirs) in enumerate(zip(forced.ids, told.ids, strict=True)) if ours != theirs), None)
    parting = None if place is None else Parting(place, forced.ids[place], told.ids[place], forced.leads[place])
    theirs = None
    if told.prompt_ids is not None:
        theirs = tuple(len(list(run)) for is_image, run in groupby(told.prompt_ids, image_id.__eq__) if is_image)
    return Row(request, len(told.ids), parting, forced.image_tokens, theirs)


def examine(engine: object, model: Any, inputs: Inputs, requests: Iterable[Request], near: float = NEAR) -> Parity:
    """Ask an engine, and put its answers into the local model's mouth.

    Args:
        engine: one that says its token ids: `vllm`, or `openai` with `server: vllm`.
        model: the same model, with the same adapter, as `models.load_model` and `attach_adapter` give it.
        inputs: of its checkpoint.
        requests: what is asked.
        near: gap under which a parting is a tie.

    Raises:
        ConfigError: the engine does not say its tokens.
    """
    if not hasattr(engine, "told"):
        raise ConfigError("this engine does not say its tokens; compare the engine vllm, or openai with server: vllm")
    telling: Telling = engine
    rows = []
    for request, told in telling.told(requests):
        ids = None if isinstance(told, Failure) else told.ids
        forced = None if ids is None else force(model, inputs, request.conversation, ids)
        rows.append(compare(told, forced, request.id, inputs.renderer.image_id))
    return Parity(tuple(sorted(rows, key=lambda row: row.id)), near)

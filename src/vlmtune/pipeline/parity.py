"""Whether two engines give the same answers: the first token at which they diverge, and by how much.

Token ids are compared, never texts, because different tokens may decode to the same text. Exact parity can only be
expected in fp32: in bf16 the arithmetic alone decides near-ties; the gaps show whether that explains the differences.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from vlmtune.errors import ConfigError
from vlmtune.generation import TeacherForced, teacher_force
from vlmtune.pipeline.export import open_engine
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.types import Failure, Request

NEAR = 1e-4
"""Two tokens closer than this in log-probability count as equally likely, in fp32."""


class Answer(Protocol):
    """What an engine generated; token ids are None if it does not report them."""

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Ids of the generated tokens."""

    @property
    def prompt_ids(self) -> tuple[int, ...] | None:
        """Ids of the prompt, image tokens expanded."""


class TokenEngine(Protocol):
    """An engine that reports the tokens it generated."""

    def token_outputs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | Failure]]:
        """Each request with its answer and the answer's token ids, in any order."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first token that the local model would have generated differently. `gap` is the difference in
    log-probability between its own token and the other engine's.
    """

    token: int
    local: int
    other: int
    gap: float


@dataclass(frozen=True, slots=True)
class Row:
    """One request. `failure` says why there is no answer; image tokens show at which size it was read."""

    id: str
    tokens: int
    divergence: Divergence | None
    image_tokens: tuple[int, ...]
    other_image_tokens: tuple[int, ...] | None
    failure: str | None = None

    def same(self, near: float) -> bool:
        """Whether the two agree: on every token, or up to a pair of equally likely ones."""
        sizes = self.other_image_tokens in (None, self.image_tokens)
        return self.failure is None and sizes and (self.divergence is None or self.divergence.gap < near)


@dataclass(frozen=True, slots=True)
class Parity:
    """All rows, and the gap below which a divergence is a tie."""

    rows: tuple[Row, ...]
    near: float

    @property
    def agrees(self) -> bool:
        """Whether all rows agree."""
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
                    "divergence": None
                    if row.divergence is None
                    else {
                        "token": row.divergence.token,
                        "hf": row.divergence.local,
                        "other": row.divergence.other,
                        "gap": row.divergence.gap,
                    },
                    "image_tokens": {"hf": row.image_tokens, "other": row.other_image_tokens},
                }
                for row in self.rows
                if row not in identical
            ],
        }


def render(parity: Parity, text: Callable[[Sequence[int]], str]) -> str:
    """The result in a few lines; `text` decodes token ids."""
    plain = parity.to_json()
    lines = [f"{plain['identical']} of {plain['rows']} answers are identical, token for token"]
    if plain["ties"]:
        lines.append(f"{plain['ties']} more diverge where two tokens are equally likely (gap below {parity.near:g})")
    for row in parity.rows:
        if row.same(0.0):
            continue
        if row.failure is not None:
            lines.append(f"! {row.id}: no answer: {row.failure}")
            continue
        mark = " " if row.same(parity.near) else "!"
        if row.divergence is not None:
            at = row.divergence
            lines.append(
                f"{mark} {row.id}: token {at.token + 1} of {row.tokens}: hf {text([at.local])!r}, other "
                f"{text([at.other])!r}, gap {at.gap:.2g}"
            )
        if row.other_image_tokens not in (None, row.image_tokens):
            lines.append(f"! {row.id}: image tokens: hf {row.image_tokens}, other {row.other_image_tokens}")
    return "\n".join(lines)


def compare(answer: Answer | Failure, forced: TeacherForced | None, request: str, vision_ids: frozenset[int]) -> Row:
    """Compare another engine's answer with what the local model makes of it.

    Args:
        answer: the other engine's.
        forced: its tokens, teacher-forced; None if it gave no answer.
        request: the row's id.
        vision_ids: the tokens that stand for patches.
    """
    if isinstance(answer, Failure) or answer.ids is None or forced is None:
        reason = answer.reason if isinstance(answer, Failure) else "the server reports no token ids"
        return Row(request, 0, None, (), None, reason)
    pairs = enumerate(zip(forced.ids, answer.ids, strict=True))
    first = next((n for n, (local, other) in pairs if local != other), None)
    divergence = None if first is None else Divergence(first, forced.ids[first], answer.ids[first], forced.leads[first])
    sizes = None
    if answer.prompt_ids is not None:
        sizes = tuple(
            len(list(run)) for is_vision, run in groupby(answer.prompt_ids, vision_ids.__contains__) if is_vision
        )
    return Row(request, len(answer.ids), divergence, forced.image_tokens, sizes)


def examine(engine: object, model: Any, encoder: Encoder, requests: Iterable[Request], near: float = NEAR) -> Parity:
    """Query an engine and teacher-force its answers with the local model.

    Args:
        engine: one that reports token ids: `vllm`, or `openai` with `server: vllm`.
        model: the same model with the same adapter, from `loading.load_model` and `attach_adapter`.
        encoder: of its checkpoint.
        requests: sent to the engine.
        near: gap below which a divergence is a tie.

    Raises:
        ConfigError: the engine does not report its tokens.
    """
    if not hasattr(engine, "token_outputs"):
        raise ConfigError("this engine reports no token ids; compare the engine vllm, or openai with server: vllm")
    token_engine: TokenEngine = engine
    rows = []
    for request, answer in token_engine.token_outputs(requests):
        ids = None if isinstance(answer, Failure) else answer.ids
        forced = None if ids is None else teacher_force(model, encoder, request.conversation, ids)
        rows.append(compare(answer, forced, request.id, encoder.renderer.vision_ids))
    return Parity(tuple(sorted(rows, key=lambda row: row.id)), near)


def check_parity(session: Session, count: int, adapter: Path | None = None) -> Parity:
    """Compare the config's engine with transformers in this process on the first `count` evaluation rows.

    Raises:
        ConfigError: the config's engine does not report its tokens, as `hf` does not.
    """
    from vlmtune.modeling.loading import attach_adapter, load_model, pick_device

    config = session.config
    if adapter is not None:
        session.verify_adapter(adapter)
    rows = list(session.rows(config.evaluation.split))[:count]
    requests = [Request(row.id, session.task.prompt(config.task, row)) for row in rows]
    engine = open_engine(session, adapter)
    try:
        model = load_model(session.encoder.checkpoint, pick_device(config.model), session.precision)
        local = attach_adapter(model, adapter) if adapter is not None else model
        return examine(engine, local, session.encoder, requests)
    finally:
        engine.close()

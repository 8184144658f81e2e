"""Which keys of a file hold the answers, the references and the ids.

Files of known tools are recognized by a set of keys that only they have; in other files the names decide. Where two
keys could hold the answers, the user is asked.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from vlmtune.errors import DataError
from vlmtune.predictions.names import (
    IDS,
    MAYBE_ANSWERS,
    MAYBE_REFERENCES,
    REFERENCES,
    TALKS,
    is_answer,
    plain_name,
)
from vlmtune.predictions.tables import Table
from vlmtune.registry import did_you_mean

KEYS_SHOWN = 12
"""How many keys of a file an error lists."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys named by the user, dotted for nested values (`outputs.0.text`); None where the names decide."""

    prediction: str | None = None
    reference: str | None = None
    id: str | None = None
    filter: str | None = None
    """The filter of lm-eval whose answers count, of several; None takes the file's first."""

    def given(self) -> dict[str, str]:
        """The keys that were named, by the option that names them."""
        options = {"prediction": self.prediction, "reference": self.reference, "id": self.id}
        return {option: key for option, key in options.items() if key is not None}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which keys hold what, and what is special about the tool that wrote them.

    `lists_as_text` says that `['a', 'b']` in a text is a list of references, as tools write that store texts only.
    `failure` begins the answers that stand for a failed request.
    """

    tool: str | None
    answer: str | None
    reference: str | None
    id: str | None
    lists_as_text: bool = False
    failure: str | None = None
    strip_reference: bool = False
    empty_lists: bool = False
    """Whether an empty list is a value: that of a row without objects, where other rows have lists of them."""

    def consumed(self) -> set[str]:
        """The keys that this layout consumes."""
        return {key for key in (self.answer, self.reference, self.id) if key is not None}


OPENAI_BATCH, ANTHROPIC_BATCH = "OpenAI batch output", "Anthropic batch results"
LM_EVAL, LMMS_EVAL, VLMEVALKIT = "lm-evaluation-harness samples", "lmms-eval samples", "VLMEvalKit"
VLMTUNE = "vlmtune"
"""The tool of files in our own format."""

TOOLS: tuple[tuple[set[str], Layout], ...] = (
    (
        {"doc_id", "filtered_resps", "arguments"},
        Layout(LM_EVAL, "filtered_resps", "target", "doc_id", lists_as_text=True),
    ),
    ({"doc_id", "filtered_resps", "filter"}, Layout(LM_EVAL, "filtered_resps", "target", "doc_id", lists_as_text=True)),
    ({"doc_id", "filtered_resps"}, Layout(LMMS_EVAL, "filtered_resps", "target", "doc_id", lists_as_text=True)),
    ({"doc_id", "resps", "target"}, Layout(LMMS_EVAL, "resps", "target", "doc_id", lists_as_text=True)),
    ({"response", "labels", "messages"}, Layout("ms-swift", "response", "labels", None)),
    # The label is decoded with the line break that ends a turn of the chat template.
    ({"prompt", "predict", "label"}, Layout("LLaMA-Factory", "predict", "label", None, strip_reference=True)),
    (
        {"index", "prediction", "answer"},
        Layout(VLMEVALKIT, "prediction", "answer", "index", lists_as_text=True, failure="Failed to obtain answer"),
    ),
)
"""Known tools by the keys that every file of theirs has; formats read from their sources."""


def lookup(record: Mapping[str, Any], key: str) -> Any:
    """The value under a key, or under a dotted path of keys and list positions.

    Raises:
        KeyError: there is none.
    """
    if key in record:
        return record[key]
    value: Any = record
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(key)
    return value


def find_layout(table: Table, given: Keys, answers: bool = True) -> Layout:
    """Which keys of a file hold what.

    A key named by the user that no row has is left to the names, as one file of several may have other keys.

    Args:
        table: the rows.
        given: what the user named.
        answers: whether the file must have answers; a file of references need not.

    Raises:
        DataError: no key, or several keys, could hold the answers or the references; names the options.
    """
    layout = _known_tool(table)
    named = {option: key for option, key in given.given().items() if has(table, key)}
    if layout is None:
        answer = named.get("prediction") or (_answer_key(table, named) if answers else None)
        reference = named.get("reference") or _reference_key(table, answer, set(named.values()))
        tool = VLMTUNE if answer == "prediction" and reference in ("references", "reference") else None
        own_id = "id" if tool and "id" in table.keys else None
        row_id = named.get("id") or (own_id if tool else _id_key(table, {answer, reference}))
        return Layout(tool, answer, reference, row_id)
    return replace(
        layout,
        answer=named.get("prediction", layout.answer),
        reference=named.get("reference", layout.reference),
        id=named.get("id", layout.id),
    )


def has(table: Table, key: str) -> bool:
    """Whether any row has a key."""
    for row in table.rows:
        try:
            lookup(row.values, key)
        except KeyError:
            continue
        return True
    return False


def _known_tool(table: Table) -> Layout | None:
    keys = set(table.keys)
    if {"custom_id", "response"} <= keys and any(isinstance(row.values.get("response"), dict) for row in table.rows):
        return Layout(OPENAI_BATCH, "response", None, "custom_id")
    if {"custom_id", "error"} <= keys and "response" in keys:  # the error file of a batch
        return Layout(OPENAI_BATCH, "response", None, "custom_id")
    if {"custom_id", "result"} <= keys and any(isinstance(row.values.get("result"), dict) for row in table.rows):
        return Layout(ANTHROPIC_BATCH, "result", None, "custom_id")
    if "references" in keys or "reference" in keys:
        return None
    known = next((layout for needed, layout in TOOLS if needed <= keys), None)
    if known is not None and known.lists_as_text and all(row.values.get("target") == "None" for row in table.rows):
        return replace(known, reference=None)  # str(None): the benchmark keeps its answers secret
    return known if known is None or known.id is not None else replace(known, id=_id_key(table, known.consumed()))


def _answer_key(table: Table, named: Mapping[str, str]) -> str:
    keys = [key for key in table.keys if key not in named.values()]
    certain = [key for key in keys if is_answer(key)]
    candidates = certain or [key for key in keys if plain_name(key) in TALKS and _is_answered(table, key)]
    candidates = candidates or [key for key in keys if plain_name(key) in MAYBE_ANSWERS]
    if candidates and all(_equal(table, candidates[0], key) for key in candidates[1:]):
        return candidates[0]
    if candidates:
        options = " or ".join(f"--prediction {key}" for key in candidates[:KEYS_SHOWN])
        raise DataError(f"{table.file}: several keys could hold the answers; choose one: {options}")
    raise DataError(
        f"{table.file}: no key is known to hold the answers; name it with --prediction KEY. "
        + keys_of(table, "prediction")
    )


def _is_answered(table: Table, key: str) -> bool:
    """Whether every conversation ends with a message of the model."""
    talks = [row.values.get(key) for row in table.rows]
    last = [talk[-1] if isinstance(talk, list) and talk else None for talk in talks]
    spoken = [message.get("role", message.get("from")) if isinstance(message, Mapping) else None for message in last]
    return all(speaker in ("assistant", "gpt", "model") for speaker in spoken)


def _reference_key(table: Table, answer: str | None, named: set[str]) -> str | None:
    keys = [key for key in table.keys if key != answer and key not in named]
    found = [key for key in keys if plain_name(key) in REFERENCES]
    found = found or [key for key in keys if plain_name(key) in MAYBE_REFERENCES]
    own = next((key for key in ("references", "reference") if key in found), None)
    if own is not None or len(found) <= 1:
        return own or next(iter(found), None)
    plural = [key for key in found if plain_name(key) + "s" not in map(plain_name, found)]
    if len(plural) == 1 or all(_equal(table, plural[0], key) for key in plural[1:]):
        return plural[0]  # `answers` has all of them, `answer` the most frequent one
    options = " or ".join(f"--reference {key}" for key in found[:KEYS_SHOWN])
    raise DataError(f"{table.file}: several keys could hold the references; choose one: {options}")


def _equal(table: Table, one: str, other: str) -> bool:
    return all(row.values.get(one) == row.values.get(other) for row in table.rows)


def _id_key(table: Table, taken: Set[str | None]) -> str | None:
    by_name = {plain_name(key): key for key in reversed(table.keys) if key not in taken}
    for name in IDS:
        key = by_name.get(name)
        if key is None:
            continue
        values = [row.values.get(key) for row in table.rows]
        scalar = all(isinstance(value, str | int | float) and value != "" for value in values)
        if key == "id" or (scalar and len(set(values)) == len(values)):
            return key
    return None


def keys_of(table: Table, wanted: str) -> str:
    """A sentence about the keys that a file has, those most like the wanted one first."""
    keys = table.keys
    shown = ", ".join(repr(key) for key in _nearest(keys, wanted)[:KEYS_SHOWN])
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return f"Keys: {shown}{more}{did_you_mean(wanted, keys)}"


def _nearest(keys: Sequence[str], wanted: str) -> list[str]:
    """The keys in their order; if they are too many to list, those that share a beginning with the wanted one first."""
    if len(keys) <= KEYS_SHOWN:
        return list(keys)
    import difflib

    near = difflib.get_close_matches(wanted, keys, n=KEYS_SHOWN, cutoff=0.4)
    return [*near, *(key for key in keys if key not in near)]

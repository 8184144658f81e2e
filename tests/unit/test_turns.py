"""Keys of turns, parts and rows with messages: what changes what is learnt is read, or refused by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TINY, encoded, make_image
from hypothesis import given
from hypothesis import strategies as st

from vlmtune.data import jsonl
from vlmtune.engines._messages import messages as as_sent
from vlmtune.errors import ConfigError, DataError
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.processing.encoder import Encoder
from vlmtune.types import Example, Message

Write = Callable[..., Path]
ASKED = {"role": "user", "content": "<image>What?"}
ANSWERED = {"role": "assistant", "content": "red"}
CALL = {"name": "zoom", "arguments": {"box": [1, 2]}}


@pytest.fixture
def read(tmp_path: Path, write_jsonl: Write) -> Callable[..., Example]:
    """The example of a row, by its messages and further keys."""
    (tmp_path / "turn.png").write_bytes(encoded(make_image(64, 64)))

    def read_row(messages: list[Any], config: dict[str, Any] | None = None, **keys: Any) -> Example:
        write_jsonl("t.jsonl", {"messages": messages, "images": ["turn.png"], **keys})
        settings = {"path": str(tmp_path), "messages": "messages", "images": "images", **(config or {})}
        return jsonl.open(jsonl.Config.model_validate(settings), "t.jsonl")[0]

    return read_row


def supervised(encoder: Encoder, example: Example) -> list[str]:
    """The texts of an example that are trained on."""
    assert example.messages is not None
    answer = Message("assistant", (str(example.target),), reasoning=example.reasoning)
    rendered = encoder.training_example((*example.messages, answer), "all", 4096).rendered
    texts, before = [], False
    for token, counts in zip(rendered.ids, rendered.loss_mask, strict=True):
        if counts:
            texts = texts if before else [*texts, []]
            texts[-1].append(token)
        before = counts
    return [encoder.renderer.text(ids) for ids in texts]


@pytest.mark.parametrize("key", ["weight", "loss", "train"])
@pytest.mark.parametrize("value", [0, False, 0.0])
def test_an_answer_of_weight_0_is_context(key: str, value: Any, read: Any, encoder: Encoder) -> None:
    talk = [
        ASKED,
        {**ANSWERED, "content": "WRONG", key: value},
        {"role": "user", "content": "no"},
        {**ANSWERED, key: 1},
    ]
    assert supervised(encoder, read(talk)) == ["red"]


def test_what_follows_the_last_answer_that_counts_is_left_out(read: Any) -> None:
    later = [{"role": "user", "content": "And?"}, {**ANSWERED, "content": "hm", "weight": 0}]
    example = read([ASKED, {**ANSWERED, "weight": 1}, *later])
    assert example.target == "red"
    assert len(example.messages) == 1


def test_the_system_prompt_and_thought_of_a_row_are_learnt(read: Any, encoder: Encoder) -> None:
    example = read([ASKED, {**ANSWERED, "reasoning_content": "It is red."}], system="Be brief.")
    assert example.messages[0] == Message("system", ("Be brief.",))
    assert supervised(encoder, example) == ["<think>\nIt is red.\n</think>\n\nred"]
    assert read([ASKED, ANSWERED], system="Be brief.").id != read([ASKED, ANSWERED], system="Be long.").id
    assert read([ASKED, ANSWERED], {"system": None}, system="Be brief.").messages[0].role == "user"


def test_users_may_speak_twice(read: Any, encoder: Encoder) -> None:
    example = read([{"role": "user", "content": "<image>"}, {"role": "user", "content": "What?"}, ANSWERED])
    assert [message.role for message in example.messages] == ["user", "user"]
    assert encoder.renderer.text(encoder.prompt(example.messages).rendered.ids).count("user\n") == 2


TOOL_FORMATS: dict[str, list[Any]] = {
    "OpenAI": [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "zoom", "arguments": json.dumps(CALL["arguments"])}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "a red ball"},
    ],
    "LLaMA-Factory": [
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "a red ball"},
    ],
    "ms-swift": [
        {"role": "tool_call", "content": json.dumps(CALL)},
        {"role": "tool_response", "content": "a red ball"},
    ],
}


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_calls_of_tools_reach_the_template_and_the_server(name: str, read: Any, encoder: Encoder) -> None:
    example = read([ASKED, *TOOL_FORMATS[name], ANSWERED], tools=[{"type": "function", "function": {"name": "zoom"}}])
    user, call, result = example.messages
    assert user.more["tools"][0]["function"]["name"] == "zoom"
    assert call.more["tool_calls"][0]["function"] == CALL
    assert (result.role, result.content) == ("tool", ("a red ball",))
    sent = as_sent(example.messages, None, None)
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == CALL["arguments"]
    with pytest.raises(DataError, match=r"the chat template drops 'zoom' of message 0"):
        encoder.prompt(example.messages)  # the tiny model's template knows no tools


PART = {"type": "text", "text": "What?"}
REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "a half weight": ([ASKED, {**ANSWERED, "weight": 0.5}], {}, "message 1: weight must be 0 or 1"),
    "a user's weight": ([{**ASKED, "loss": True}, ANSWERED], {}, "message 0: loss is True, but only the assistant's"),
    "nothing counts": ([ASKED, {**ANSWERED, "weight": 0}], {}, "every assistant message has weight 0"),
    "an unknown key": ([{**ASKED, "priority": 3}, ANSWERED], {}, "message 0: the key 'priority'"),
    "a false unknown key": ([ASKED, {**ANSWERED, "masked": False}], {}, "message 1: the key 'masked'"),
    "a part's size": ([{**ASKED, "content": [{"type": "image", "max_pixels": 5}, PART]}, ANSWERED], {}, "'max_pixels'"),
    "another image": (
        [{**ASKED, "content": [{"type": "image", "index": 1}, PART]}, ANSWERED],
        {},
        "index 1 of an image",
    ),
    "a user's thought": ([{**ASKED, "reasoning_content": "x"}, ANSWERED], {}, "message 0: reasoning_content must be"),
    "a call at the end": ([ASKED, {**ANSWERED, "tool_calls": [CALL]}], {}, "tool_calls in the last answer"),
    "a broken call": ([ASKED, {"from": "function_call", "value": "zoom()"}], {}, "message 1: a tool call must be"),
    "two answers": ([ASKED, ANSWERED, ANSWERED], {}, "assistant must follow user or tool"),
    "a tool first": ([{"role": "tool", "content": "x"}, ANSWERED], {}, "the first to speak must be the user"),
    "two system prompts": ([{"role": "system", "content": "a"}, ASKED, ANSWERED], {"system": "b"}, "not that of its"),
    "two thoughts": ([ASKED, {**ANSWERED, "thinking": "a", "reasoning": "b"}], {}, "'reasoning' and 'thinking' mean"),
    "two weights": ([ASKED, {**ANSWERED, "weight": 1, "loss": False}], {}, "'weight' and 'loss' mean the same"),
    "two formats": ([{**ASKED, "value": "And?"}, ANSWERED], {}, "message 0: the key 'value'"),
    "an image of a text": ([{**ASKED, "content": [{**PART, "image": "b.png"}]}, ANSWERED], {}, "the key 'image'"),
    "two images of a part": (
        [{**ASKED, "content": [{"image": "turn.png", "url": "b.png"}, PART]}, ANSWERED],
        {},
        "the key 'url'",
    ),
    "a call apart from its turn": (
        [ASKED, ANSWERED, {"role": "tool_call", "content": json.dumps(CALL), "loss": False}, ASKED, ANSWERED],
        {},
        "message 2: the call and what the assistant says",
    ),
    "no content": ([ASKED, {**ANSWERED, "content": None}, ASKED, ANSWERED], {}, "message 1: content must be text"),
    "sound": ([ASKED, ANSWERED], {"audios": ["a.wav"]}, "the key 'audios'"),
    "OpenAI's old tools": ([ASKED, ANSWERED], {"functions": [CALL]}, "the key 'functions'"),
    "variables of the template": ([ASKED, ANSWERED], {"chat_template_kwargs": {"a": 1}}, "the key 'chat_template_kw"),
    "tools in words": ([ASKED, ANSWERED], {"tools": "zoom"}, "column 'tools' must hold a list of tools"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_row_and_key(name: str, read: Any) -> None:
    talk, keys, said = REFUSED[name]
    with pytest.raises(DataError, match=f"t.jsonl, row 0.*{said}"):
        read(talk, **keys)


@pytest.mark.parametrize(
    "completion",
    ["red ", [{**ANSWERED, "content": [{"type": "text", "text": "red "}]}], {"from": "gpt", "value": "red "}],
)
def test_the_answer_may_lie_in_a_column_of_its_own(completion: Any, read: Any, encoder: Encoder) -> None:
    """TRL's prompt and completion: what assistants said in the prompt is not trained on, and white space is kept."""
    prompt = [ASKED, {**ANSWERED, "content": "blue"}, {"role": "user", "content": "No."}]
    example = read(prompt, {"references": ["completion"]}, completion=completion)
    assert example.truth["references"] == [example.target] == ["red "]
    if not isinstance(completion, str):
        assert supervised(encoder, example) == ["red "]


@pytest.mark.parametrize("target", ["each", "sample"])
def test_the_answer_in_a_completion_is_one_of_each(target: str, tmp_path: Path, write_jsonl: Write) -> None:
    asked = {"role": "user", "content": "What?"}
    write_jsonl("t.jsonl", {"messages": [asked], "completion": [ANSWERED]}, {"messages": [asked], "completion": []})
    settings = {"messages": "messages", "image": None, "references": ["completion"], "target": target}
    rows = jsonl.open(jsonl.Config.model_validate({"path": str(tmp_path), **settings}), "t.jsonl")
    assert rows.target_count(0) == 1
    assert rows.with_target(0, 0).target == "red"
    with pytest.raises(DataError, match="row 1: no reference to train on"):
        rows.target_count(1)


@pytest.mark.parametrize("key", ["weight", "loss", "train"])
def test_no_turn_of_a_prompt_is_trained_on(key: str, read: Any, encoder: Encoder) -> None:
    def row(**more: Any) -> Example:
        prompt = [ASKED, {**ANSWERED, "content": "blue", **more}, {"role": "user", "content": "No."}]
        return read(prompt, {"references": ["completion"]}, completion=[ANSWERED])

    for more in ({}, {key: 0}, {key: False}, {key: None}):
        assert supervised(encoder, row(**more)) == ["red"]
    for value in (1, True, 0.5, "x"):
        with pytest.raises(DataError, match=f"row 0, message 1: {key} is {value!r}, but .* only that is trained on"):
            row(**{key: value})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Question?", "messages must be a list of messages"),
        (ASKED, "messages must be a list of messages"),
        ([{"role": "user", "content": "hi"}, {"text": "x"}], "message 1: needs role"),
        ([{"role": "user", "content": "hi"}, "x"], "message 1: needs role"),
    ],
)
@pytest.mark.parametrize("completion", [[ANSWERED], [{"role": "user", "content": "B"}, ANSWERED]])
def test_a_prompt_before_a_completion_is_never_dropped(prompt: Any, said: str, completion: Any, read: Any) -> None:
    with pytest.raises(DataError, match=f"row 0.*{said}"):
        read(prompt, {"references": ["completion"], "images": None, "image": None}, completion=completion)


def test_empty_keys_and_those_to_be_ignored_are_left_out(read: Any) -> None:
    talk = [{**ASKED, "priority": None, "tags": [], "note": "x"}, {**ANSWERED, "tool_calls": None, "weight": None}]
    assert read(talk, {"ignored_keys": ["note"]}).target == "red"


@given(key=st.text(min_size=1, max_size=8), value=st.one_of(st.integers(), st.text(min_size=1), st.booleans()))
def test_no_key_of_a_turn_is_left_out(key: str, value: Any) -> None:
    """Whatever a turn holds more, the row differs or is refused."""
    from vlmtune.data._messages import read_messages

    plain: list[Any] = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]
    if key in plain[1]:
        return
    try:
        changed = read_messages([plain[0], {**plain[1], key: value}], (), "row 0")
    except DataError as error:
        assert repr(key)[1:-1] in str(error) or "weight 0" in str(error)
        return
    assert changed != read_messages(plain, (), "row 0") or (key in ("weight", "loss", "train") and value == 1)


@pytest.mark.parametrize("column", ["images", "absent"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "turn.png"}},
        {"type": "image_url", "image_url": "turn.png"},
        {"type": "image", "image": "turn.png"},
        {"image": "turn.png"},
    ],
)
def test_parts_name_their_images(part: Any, column: str, tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "turn.png").write_bytes(encoded(make_image(64, 64)))
    write_jsonl("t.jsonl", {"messages": [{"role": "user", "content": [part, {"text": "What?"}]}, ANSWERED]})
    rows = jsonl.open(jsonl.Config(path=str(tmp_path), messages="messages", images=column), "t.jsonl")
    assert [image.where.endswith("(turn.png)") for image in rows[0].images] == [True]


def test_a_row_of_any_task_may_be_text_only(tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl("t.jsonl", {"image": None, "q": "1 + 1?", "a": "2"})
    keys: dict[str, Any] = {"path": str(tmp_path), "question": "q", "references": ["a"]}
    assert jsonl.open(jsonl.Config(**keys, images="image"), "t.jsonl")[0].images == ()
    with pytest.raises(DataError, match=r"column 'image' is empty.*dataset.images instead"):
        jsonl.open(jsonl.Config(**keys), "t.jsonl")[0]


BOX = "<|box_start|>(10,20),(50,60)<|box_end|>"


def test_special_tokens_are_trained_and_kept_where_the_config_says_so() -> None:
    allowed = TINY.model_copy(update={"special_tokens": ["<|box_start|>", "<|box_end|>"]})
    encoder = Encoder(find_checkpoint(allowed), allowed)
    talk = (Message("user", ("Where?",)), Message("assistant", (BOX,)))
    rendered = encoder.training_example(talk, "all", 4096).rendered
    answer = [token for token, counts in zip(rendered.ids, rendered.loss_mask, strict=True) if counts]
    assert encoder.renderer.text(answer) == BOX
    assert len(answer) == encoder.answer_length(BOX)
    assert encoder.facts()["special_tokens"] == allowed.special_tokens
    with pytest.raises(DataError, match=r"<\|object_ref_start\|>.*add it to model.special_tokens"):
        encoder.prompt((Message("user", ("<|object_ref_start|>",)),))


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "ball"])
def test_tokens_that_structure_a_conversation_are_never_text(token: str) -> None:
    model = TINY.model_copy(update={"special_tokens": [token]})
    with pytest.raises(ConfigError, match="model.special_tokens"):
        Encoder(find_checkpoint(model), model)

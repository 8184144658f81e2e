"""Rendered conversations equal the processor's `apply_chat_template`; the loss mask covers the assistant's answers."""

import pytest
from builders import assistant, make_image, ref, user
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from vlmtune.errors import DataError, ExampleTooLong
from vlmtune.families.qwen3_vl import FAMILY
from vlmtune.processing.chat_template import Renderer
from vlmtune.processing.encoder import Encoder
from vlmtune.types import Conversation, ImageRef, Message

ONE, TWO = ref(make_image(128, 128), "one"), ref(make_image(100, 75), "two")
SHAPES: dict[str, Conversation] = {
    "one image": (user(ONE, "Describe this image."), assistant("A red ball .")),
    "text only": (user("What is a ball?"), assistant("Round.")),
    "two images": (user(ONE, "Compare with", TWO, "please."), assistant("Both are red.")),
    "system": (Message("system", ("Be brief.",)), user(ONE, "What?"), assistant("A ball.")),
    "several messages": (
        user(ONE, "What is it?"),
        assistant("A ball."),
        user("What colour?\n"),
        assistant("Red,\nI think ."),
    ),
    "other scripts": (user(TWO, "これは何ですか 🎈"), assistant("红色的球。 كرة حمراء")),
}


@pytest.fixture(scope="module")
def processor(encoder: Encoder) -> AutoProcessor:
    return AutoProcessor.from_pretrained(str(encoder.checkpoint.folder))


def as_processor(conversation: Conversation) -> list[dict[str, object]]:
    def part(value: str | ImageRef) -> dict[str, object]:
        return {"type": "text", "text": value} if isinstance(value, str) else {"type": "image", "image": value.read()}

    return [{"role": message.role, "content": [part(value) for value in message.content]} for message in conversation]


def golden(processor: AutoProcessor, conversation: Conversation, asks: bool) -> list[int]:
    encoded = processor.apply_chat_template(
        [as_processor(conversation)], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=asks
    )
    ids: list[int] = encoded["input_ids"][0].tolist()
    return ids


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_equals_the_processor(name: str, encoder: Encoder, processor: AutoProcessor) -> None:
    asked = SHAPES[name][:-1]
    assert list(encoder.prompt(asked).rendered.ids) == golden(processor, asked, asks=True)


@pytest.mark.parametrize("name", SHAPES)
def test_training_example_equals_the_processor_up_to_the_end_of_turn(
    name: str, encoder: Encoder, processor: AutoProcessor
) -> None:
    ids = list(encoder.training_example(SHAPES[name], "all", 4096).rendered.ids)
    whole = golden(processor, SHAPES[name], asks=False)
    assert whole[: len(ids)] == ids
    assert encoder.renderer.text(whole[len(ids) :]) == "\n", (
        "only the template's newline after the end of turn is missing"
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("turns", ["all", "last"])
def test_supervised_tokens_are_the_answers_and_their_end(name: str, turns: str, encoder: Encoder) -> None:
    rendered = encoder.training_example(SHAPES[name], turns, 4096).rendered  # type: ignore[arg-type]
    supervised = [token for token, counts in zip(rendered.ids, rendered.loss_mask, strict=True) if counts]
    answers = [message.content[0] for message in SHAPES[name] if message.role == "assistant"]
    expected = answers if turns == "all" else answers[-1:]
    assert supervised.count(encoder.renderer.end_id) == len(expected)
    assert encoder.renderer.text(supervised) == "".join(map(str, expected))


@pytest.mark.parametrize("name", SHAPES)
def test_training_example_begins_with_the_prompt_of_inference(name: str, encoder: Encoder) -> None:
    example = encoder.training_example(SHAPES[name], "all", 4096).rendered
    prompt = encoder.prompt(SHAPES[name][:-1]).rendered
    assert example.ids[: len(prompt)] == prompt.ids
    assert example.loss_mask[len(prompt)], "the first token after the prompt is supervised"


@settings(max_examples=60, deadline=None)
@given(question=st.text(max_size=40), answer=st.text(min_size=1, max_size=40))
def test_prefix_holds_for_any_text(question: str, answer: str, encoder: Encoder) -> None:
    """An answer that begins with white space must not merge with the last token of the prompt."""
    asked: Conversation = (user(question),)
    try:
        example = encoder.training_example((*asked, assistant(answer)), "all", 4096).rendered
    except DataError:
        assert "<|" in question + answer
        return
    prompt = encoder.prompt(asked).rendered
    assert example.ids[: len(prompt)] == prompt.ids


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_special_tokens_in_the_data_are_refused(token: str, encoder: Encoder) -> None:
    with pytest.raises(DataError, match="special token"):
        encoder.prompt((user(f"Ignore this {token} please"),))


def test_too_long_is_an_error_with_the_count(encoder: Encoder) -> None:
    with pytest.raises(ExampleTooLong, match=r"\d+ tokens, more than training.max_tokens \(10\)"):
        encoder.training_example(SHAPES["one image"], "all", 10)


def test_a_template_that_rewrites_earlier_turns_cannot_train_on_all(encoder: Encoder) -> None:
    forgetful = (
        "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
        "{%- if m.role != 'assistant' or loop.last -%}{% for p in m.content %}{{ p.text }}{% endfor %}{%- endif -%}"
        "<|im_end|>{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    renderer = Renderer(encoder.renderer._tokenizer, forgetful, FAMILY)
    talk = (user("a"), assistant("b"), user("c"), assistant("d"))
    with pytest.raises(DataError, match="trained_turns: last"):
        renderer.training_example(talk, (), "all")
    assert renderer.training_example(talk, (), "last").supervised == 2


def test_a_repeated_conversation_is_rendered_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(encoder.renderer._tokenizer, encoder.renderer.template_text, FAMILY)
    template, rendered = renderer._template, []
    render = type(template).render
    monkeypatch.setattr(type(template), "render", lambda *a, **kw: rendered.append(1) or render(*a, **kw))
    for answer in ("A ball.", "A cat.", "A ball."):
        renderer.training_example((user("What?"), assistant(answer)), [])
    assert len(rendered) == 3  # the prompt, and each answer

"""Models that think: their templates, what is trained, what prompts begin, and what counts as an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import assistant, user

from vlmtune.data import jsonl
from vlmtune.engines import InferenceConfig
from vlmtune.engines._client import Client, Endpoint
from vlmtune.engines._messages import read_answer
from vlmtune.engines.openai import Config as OpenAI
from vlmtune.errors import ConfigError, DataError
from vlmtune.families.qwen3_vl import FAMILY
from vlmtune.inference import resolved, thinking_warning
from vlmtune.modeling.loading import ModelConfig, find_checkpoint
from vlmtune.predictions import Line
from vlmtune.processing.chat_template import Renderer, ThinkingMode
from vlmtune.processing.encoder import Encoder
from vlmtune.report.rows import parted
from vlmtune.scoring.score import score
from vlmtune.tasks import vqa
from vlmtune.training.config import TrainingConfig
from vlmtune.training.thinking import open_encoder, thinking_note
from vlmtune.types import Conversation, Message, Prediction, Request

CONTENT = (
    "{%- macro c(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}{%- for p in content -%}"
    "{{- p.text if 'text' in p else '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
TURNS = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- set text = c(m.content) -%}"
    "{%- if m.role != 'assistant' -%}{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' -}}{%- else -%}"
    "{%- set thought = m.reasoning_content or '' -%}"
    "{%- if '</think>' in text -%}{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}"
    "{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if loop.index0 > ns.last -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- text + '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
)
ALWAYS = CONTENT + TURNS + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
"""As Qwen3-VL-Thinking: prompts begin a thought."""

SWITCHED = (
    CONTENT
    + TURNS
    + (
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- if enable_thinking is defined and "
        "enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- else -%}{{- '<think>\\n' -}}{%- endif -%}"
        "{%- endif -%}"
    )
)
"""As Qwen3.5: `enable_thinking` decides."""

TEMPLATES = {"always": ALWAYS, "switched": SWITCHED}
ASKED = user("What color?")
PLAIN, THOUGHT = assistant("red"), Message("assistant", ("red",), reasoning="I look. It is red.")
INLINE = assistant("<think>\nI look. It is red.\n</think>\n\nred")


def renderer(encoder: Encoder, template: str, thinking: ThinkingMode) -> Renderer:
    return Renderer(encoder.renderer._tokenizer, template, FAMILY, (), thinking)


def taught(made: Renderer, *talk: Message) -> str:
    """The text that is trained on."""
    rendered = made.training_example(talk, ())
    return made.text([token for token, counts in zip(rendered.ids, rendered.loss_mask, strict=True) if counts])


TAUGHT: list[tuple[ThinkingMode, Message, str]] = [
    ("keep", PLAIN, "red"),
    ("keep", THOUGHT, "I look. It is red.\n</think>\n\nred"),
    ("keep", INLINE, "I look. It is red.\n</think>\n\nred"),
    ("empty", PLAIN, "\n</think>\n\nred"),
    ("empty", THOUGHT, "\n</think>\n\nred"),
    ("off", PLAIN, "red"),
    ("off", THOUGHT, "red"),
    ("off", INLINE, "red"),
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("thinking", "answer", "expected"), TAUGHT)
def test_what_each_mode_teaches(
    thinking: ThinkingMode, answer: Message, expected: str, template: str, encoder: Encoder
) -> None:
    made = renderer(encoder, TEMPLATES[template], thinking)
    assert taught(made, ASKED, answer) == expected
    example, prompt = made.training_example((ASKED, answer), ()), made.prompt((ASKED,), ())
    assert example.ids[: len(prompt)] == prompt.ids, "a training example begins with the prompt of inference"
    assert not any(example.loss_mask[: len(prompt)])
    end = "<think>\n\n</think>\n\n" if thinking == "off" else "<think>\n"
    assert made.text(prompt.ids).endswith(end)
    assert made.opened_thought == ("" if thinking == "off" else "<think>\n")
    assert made.template_variables == ({"enable_thinking": thinking != "off"} if template == "switched" else {})


def test_thoughts_of_earlier_turns_follow_the_rule_of_the_template(encoder: Encoder) -> None:
    made = renderer(encoder, ALWAYS, "keep")
    talk: Conversation = (ASKED, THOUGHT, user("Sure?"), Message("assistant", ("Yes.",), reasoning="It was red."))
    assert made.text(made.prompt(talk[:-1], ()).ids).count("I look.") == 0
    assert made.training_example(talk, (), "last").supervised
    with pytest.raises(DataError, match="rewrites earlier messages.*trained_turns: last"):
        made.training_example(talk, ())


def test_a_template_without_thoughts_has_them_in_the_text(encoder: Encoder) -> None:
    plain = encoder.renderer
    assert (plain.thinks, plain.may_think, plain.opened_thought) == (False, False, "")
    assert taught(plain, ASKED, THOUGHT) == "<think>\nI look. It is red.\n</think>\n\nred"
    assert taught(renderer(encoder, plain.template_text, "off"), ASKED, INLINE) == "red"
    with pytest.raises(ConfigError, match="writes no thoughts"):
        renderer(encoder, plain.template_text, "empty")


@pytest.fixture
def thinker(tmp_path: Path) -> ModelConfig:
    (tmp_path / "thinks.jinja").write_text(SWITCHED)
    return ModelConfig(name="tiny", device="cpu", chat_template=str(tmp_path / "thinks.jinja"))


@pytest.mark.parametrize(
    ("answer", "mode", "limit"), [("red", "off", 64), ("<think>\nRed?\n</think>\n\nred", "keep", 2048)]
)
def test_the_rows_decide_and_it_is_said(
    answer: str, mode: str, limit: int, tmp_path: Path, write_jsonl: Any, thinker: ModelConfig
) -> None:
    write_jsonl("train.jsonl", {"q": "What color?", "a": "blue"}, {"q": "What color?", "a": answer})
    rows = jsonl.Config(path=str(tmp_path), image=None, question="q", references=["a"])
    made = open_encoder(find_checkpoint(thinker), thinker, TrainingConfig(), rows)
    assert made.facts()["thinking"] == mode
    assert f"training.thinking is {mode}" in str(thinking_note(made, TrainingConfig()))
    assert resolved(InferenceConfig(), made).max_new_tokens == limit
    assert (thinking_warning(InferenceConfig(), made) is None) == (mode == "off")
    assert ("is little" in str(thinking_warning(InferenceConfig(max_new_tokens=40), made))) == (mode == "keep")
    kept = open_encoder(find_checkpoint(thinker), thinker, TrainingConfig(thinking="empty"), rows)
    assert (kept.facts()["thinking"], thinking_note(kept, TrainingConfig(thinking="empty"))) == ("empty", None)


def reply(content: str | None, finish: str = "stop", **more: str) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"model": "thinker", "choices": [choice], "usage": {"completion_tokens": 3}}).encode()


REPLIES: dict[str, tuple[bytes, str, bool]] = {
    "as vLLM without a parser": (reply("It is plainly red.\n</think>\n\nred"), "red", True),
    "with a parser": (reply("red", reasoning_content="It is plainly red."), "red", True),
    "a parser's other key": (reply("red", reasoning="Red."), "red", True),
    "at once": (reply("red"), "red", True),
    "cut off in the thought": (reply("It is plainly", "length"), "", False),
    "cut off, with a parser": (reply(None, "length", reasoning_content="It is"), "", False),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_of_servers(name: str, thinker: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    body, expected, complete = REPLIES[name]
    client = Client(
        OpenAI(logprobs=False),
        Endpoint("http://x", None, "thinker", own_checkpoint=False),
        Encoder(find_checkpoint(thinker), thinker),
    )
    read = read_answer(body, "thinker", "served_model")
    monkeypatch.setattr(client, "_send", lambda request, decoding: read)
    outcome = client._outcome(Request("1", (ASKED,)))
    assert isinstance(outcome, Prediction)
    line = Line("1", outcome.text, {"references": ["red"]}, finish_reason=outcome.finish_reason)
    scored = score([line], vqa.TASK, vqa.Config(), ["exact_match"])
    assert scored.metrics["exact_match"] == float(complete)
    assert any("1 of 1 answers are thoughts that did not end" in text for text in scored.warnings) != complete
    assert parted(outcome.text)[1] == expected


def test_the_report_parts_thought_and_answer() -> None:
    assert parted("red") == (None, "red")
    assert parted("<think>\nRed?\n</think>\n\nred") == ("Red?", "red")
    assert parted("<think>\nRed") == ("<think>\nRed", "")
    assert parted("<think>\n\n</think>\n\nred") == (None, "red")

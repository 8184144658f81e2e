"""Chat templates are rendered as transformers renders them; a broken one is named by its line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import TINY, user
from transformers.utils.chat_template_utils import render_jinja_template

from vlmtune.errors import DataError, Exit, IntegrityError
from vlmtune.modeling.loading import ModelConfig, find_checkpoint
from vlmtune.processing._templates import ChatTemplate
from vlmtune.processing.encoder import Encoder

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> é."},
    {"role": "user", "content": "What?"},
    {
        "role": "assistant",
        "content": "A ball.",
        "tool_calls": [{"function": {"name": "zoom", "arguments": {"b": [1]}}}],
    },
]
SAME = {
    "generation": (
        "{% for m in messages %}\n  {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}\n{% endif %}\n{%- endfor %}"
    ),
    "nested generation": (
        "{% for m in messages %}{% set x = m.role %}{%- generation -%}{% if x == 'user' %}!{% endif %}"
        "{{ x ~ loop.index }}{%- endgeneration -%}{% endfor %}"
    ),
    "date": "{{ strftime_now('%d %b %Y') }}",
    "json": "{{ messages | tojson }}|{{ messages[2].tool_calls | tojson(indent=2) }}|{{ {'b': 1, 'a': 2} | tojson }}",
    "json spelled out": "{{ {'b': 1, 'a': [2]} | tojson(separators=(',', ':'), sort_keys=true) }}",
    "tools": "{% if tools is none %}none{% endif %}{{ documents is none }}",
    "asks": "{% if add_generation_prompt %}>{% endif %}",
    "trimmed": "{%- for m in messages -%}\n    {% if loop.first %}\nfirst\n    {% endif %}\n{% endfor %}",
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("asks", [True, False])
def test_rendered_as_transformers_does(name: str, asks: bool) -> None:
    golden, _ = render_jinja_template([TALK], chat_template=SAME[name], add_generation_prompt=asks)
    assert ChatTemplate(SAME[name]).render(TALK, asks) == golden[0]


BROKEN = {
    "syntax": ("a\nb {% if %}", r"t.jinja:2: not a valid chat template"),
    "unclosed": ("a\n{% generation %}\nb", r"t.jinja:\d: not a valid chat template"),
    "unknown tag": ("\n\n{% speak %}", r"t.jinja:3: not a valid"),
    "undefined": ("a\n\n{{ messages[0].tone.of.voice }}", r"t.jinja:3: the chat template fails: .*tone"),
    "list as text": ("{{ '' }}\n{{ 'a' + messages[0].content }}", r"t.jinja:2: the chat template fails"),
    "sandbox": ("{{ '' }}\n{{ messages.__class__.__mro__ }}", r"t.jinja:2: the chat template fails"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_template_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    text, said = BROKEN[name]
    (tmp_path / "t.jinja").write_text(text)
    model = TINY.model_copy(update={"chat_template": str(tmp_path / "t.jinja")})
    with pytest.raises(IntegrityError, match=said) as error:
        Encoder(find_checkpoint(model), model).prompt((user("What?"),))
    assert error.value.exit_code == Exit.INTEGRITY == 9


def test_a_template_may_refuse_a_row(tmp_path: Path) -> None:
    text = "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
    with pytest.raises(DataError, match="the chat template refuses the conversation: one at a time"):
        ChatTemplate(text).render(TALK, False)


def copied(folder: Path) -> Path:
    target = folder / "model"
    shutil.copytree(find_checkpoint(TINY).folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return target


def test_half_a_character_is_the_rows_mistake() -> None:
    with pytest.raises(DataError, match="half a surrogate pair"):
        ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": "\ud800"}], False)


def test_a_template_must_begin_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    turn = "{{ '<|im_start|>' + message.role + '\\n' + message.content[0].text + '<|im_end|>' }}"
    file.write_text("{% for message in messages %}" + turn + "{% endfor %}")
    with pytest.raises(IntegrityError, match=r"the model would have to write '<\|im_start\|>assistant"):
        Encoder(find_checkpoint(TINY), TINY.model_copy(update={"chat_template": str(file)}))


def test_where_templates_and_their_variables_are(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("chat_template", None)
    file.write_text(json.dumps(settings))
    with pytest.raises(IntegrityError, match="no chat template.*model.chat_template"):
        ChatTemplate.of_checkpoint(folder)
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}]
    token = {"content": "<e>", "special": True}
    file.write_text(json.dumps({**settings, "chat_template": named, "bos_token": "<b>", "eos_token": token}))
    assert ChatTemplate.of_checkpoint(folder).render(TALK, False) == "<b><e>"
    named = {"default": "{{ bos_token }}{{ image_token }}"}
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": named}))
    file.write_text(json.dumps({"model_specific_special_tokens": {"image_token": "<i>"}}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": token}))
    assert ChatTemplate.of_checkpoint(folder).render(TALK, False) == "<e><i>"
    (folder / "chat_template.jinja").write_text("jinja")
    (folder / "processor_config.json").write_text(json.dumps({"chat_template": "processor"}))
    assert ChatTemplate.of_checkpoint(folder).text == "processor"
    with pytest.raises(IntegrityError, match=r"model.chat_template: .*: no such file"):
        ChatTemplate.of_checkpoint(folder, str(tmp_path / "absent.jinja"))


def test_a_template_of_ones_own_is_part_of_the_preprocessing(tmp_path: Path) -> None:
    own = Encoder(find_checkpoint(TINY), TINY)
    file = tmp_path / "own.jinja"
    file.write_text("{#- other -#}" + own.renderer.template_text)
    model = ModelConfig(name="tiny", device="cpu", chat_template=str(file))
    other = Encoder(find_checkpoint(model), model)
    assert other.prompt((user("What?"),)).rendered == own.prompt((user("What?"),)).rendered
    assert other.facts()["template"] != own.facts()["template"]
    assert (own.renderer.custom, other.renderer.custom) == (False, True)

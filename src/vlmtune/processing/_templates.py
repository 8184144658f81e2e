"""Chat templates as transformers renders them, without importing it: the same environment, variables and functions."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from vlmtune.errors import DataError, IntegrityError
from vlmtune.files import read_json
from vlmtune.json_values import mismatch

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE_FILE = "chat_template.jinja"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Variables of templates that a tokenizer's settings define."""


class _Named(TypedDict):
    """One of several templates."""

    name: str
    template: str


class ChatTemplate:
    """A compiled template.

    Args:
        text: of the template (Jinja).
        where: its file, for messages.
        variables: further variables, such as `bos_token`.
        custom: whether it is another one than the checkpoint has.

    Raises:
        IntegrityError: it is no valid template; names the line.
    """

    def __init__(
        self,
        text: str,
        where: str = "chat template",
        variables: Mapping[str, Any] | None = None,
        custom: bool = False,
    ) -> None:
        self.text, self._where, self._variables, self.custom = text, where, variables or {}, custom
        self._template = _compile(text, where)

    @classmethod
    def of_checkpoint(cls, folder: Path, custom: str | None = None) -> "ChatTemplate":
        """The template in a checkpoint's folder, or the one in another file.

        Raises:
            IntegrityError: there is none, or it is broken.
        """
        variables = _special_tokens(folder)
        if custom is not None:
            if not Path(custom).is_file():
                raise IntegrityError(f"model.chat_template: {custom}: no such file")
            return cls(_read_text(Path(custom)), custom, variables, custom=True)
        for name in ("processor_config.json", "chat_template.json", TEMPLATE_FILE, "tokenizer_config.json"):
            file = folder / name
            if file.is_file():
                template = _read_text(file) if name == TEMPLATE_FILE else _default(read_json(file).get("chat_template"))
                if isinstance(template, str):
                    return cls(template, str(file), variables)
        raise IntegrityError(
            f"{folder}: no chat template; use an instruction-tuned checkpoint, or name a file in model.chat_template"
        )

    def extended(self, text: str) -> "ChatTemplate":
        """The template with more text behind it."""
        return ChatTemplate(self.text + text, self._where, self._variables, custom=True)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any) -> str:
        """The text of a conversation.

        Raises:
            DataError: the template refuses the conversation (`raise_exception`).
            IntegrityError: the template fails; names the line.
        """
        given = {"tools": None, "documents": None, **self._variables, **variables}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **given)
            text.encode()  # half a surrogate pair is no text
            return text
        except UnicodeEncodeError:
            raise DataError("a text contains half a surrogate pair, which is no character; repair the row") from None
        except _Refusal as error:
            raise DataError(f"the chat template refuses the conversation: {error}") from None
        except Exception as error:  # a template is a program of others
            line, reason = _line(error.__traceback__), str(error).rstrip(".") or type(error).__name__
            raise IntegrityError(
                f"{self._where}{line}: the chat template fails: {reason}. Repair it, or set model.chat_template to "
                "another one"
            ) from None


def _special_tokens(folder: Path) -> dict[str, str]:
    """The variables that a tokenizer's settings define, by name; some models have tokens of their own names."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        settings = read_json(file) if file.is_file() else {}
        own = [settings.get(key) for key in ("extra_special_tokens", "model_specific_special_tokens")]
        found |= {name: settings[name] for name in SPECIAL_TOKENS if settings.get(name)}
        found |= {name: token for tokens in own if isinstance(tokens, dict) for name, token in tokens.items()}
    texts: dict[str, str] = {}
    for name, token in found.items():
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise IntegrityError(
                f"{folder}: the tokenizer's settings define {name} as {text!r:.80}, which is no text; repair "
                "special_tokens_map.json or tokenizer_config.json"
            )
        texts[name] = text
    return texts


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeError:
        raise IntegrityError(f"{file}: not UTF-8; save the chat template as UTF-8") from None


def _default(template: Any) -> Any:
    """The default of several templates, in either form; anything else as it is."""
    if mismatch(template, list[_Named]) is None:
        template = {one["name"]: one["template"] for one in template}
    return template.get("default") if isinstance(template, dict) else template


class _Refusal(Exception):
    """Raised by `raise_exception` in a template."""


def _line(traceback: TracebackType | None) -> str:
    """Line of the innermost frame in the template, to which Jinja maps its code, after a colon."""
    found = ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            found = f":{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _compile(text: str, where: str) -> "Template":
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError, TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks what an assistant writes; the loss mask does not need it."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise _Refusal(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise IntegrityError(f"{where}:{error.lineno}: not a valid chat template: {error.message}") from None
    except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        raise IntegrityError(f"{where}: not a valid chat template: {error!s:.300}") from None

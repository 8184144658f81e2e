r"""Renders conversations as token ids with a loss mask and image tokens, for training and inference alike. No torch.

The rendered text is split where each assistant turn begins, and the pieces are tokenized one by one. A training example
therefore begins, token for token, with the prompt used in inference, and the loss mask follows from the pieces instead
of being searched for in the ids.

A conversation of a question and an answer becomes two pieces:

    <|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n     the prompt, masked out
    Two.<|im_end|>                                                     supervised
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import DataError, IntegrityError
from vlmtune.families import Family
from vlmtune.files import read_json
from vlmtune.types import Conversation, ImageRef, Message

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, [T], and which of them are supervised: the assistant's text and end-of-turn tokens."""

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return sum(self.loss_mask)


def images_of(conversation: Conversation) -> tuple[ImageRef, ...]:
    """The images of a conversation in the order in which the model sees them."""
    return tuple(part for message in conversation for part in message.content if isinstance(part, ImageRef))


class Renderer:
    """Renders conversations for one checkpoint.

    Args:
        tokenizer: the checkpoint's fast tokenizer.
        template: text of its chat template (Jinja).
        family: names the image and end-of-turn tokens.
    """

    def __init__(self, tokenizer: "Tokenizer", template: str, family: Family) -> None:
        self._tokenizer = tokenizer
        self._template = _compile(template)
        self._end_of_turn = family.end_of_turn
        self.template_text = template
        self.image_id = self._token_id(family.image_token)
        self.end_id = self._token_id(family.end_of_turn)
        self._special = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)

    @classmethod
    def load(cls, folder: Path, family: Family) -> "Renderer":
        """From a checkpoint's folder.

        Raises:
            IntegrityError: it has no fast tokenizer or no chat template, or its tokenizer is of another family.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise IntegrityError(f"{folder}: no tokenizer.json; vlmtune needs a checkpoint with a fast tokenizer")
        return cls(Tokenizer.from_file(str(file)), _template_text(folder), family)

    def prompt(self, conversation: Conversation, image_tokens: Sequence[int]) -> Rendered:
        """The prompt, up to where the assistant's answer begins.

        Args:
            conversation: ends with a user message.
            image_tokens: tokens of each image, in order.

        Raises:
            DataError: a text contains one of the model's special tokens, or the template drops or repeats an image.
        """
        return self._tokenize([(self._text(conversation, add_generation_prompt=True), False)], image_tokens)

    def training_example(
        self, conversation: Conversation, image_tokens: Sequence[int], trained_turns: Literal["all", "last"] = "all"
    ) -> Rendered:
        """A conversation that ends with an assistant message, with its loss mask.

        Raises:
            DataError: as in `prompt`; or the template rewrites earlier messages, which then cannot be trained on.
        """
        supervised = [n for n, message in enumerate(conversation) if message.role == "assistant"]
        if trained_turns == "last":
            supervised = supervised[-1:]
        pieces: list[tuple[str, bool]] = []
        done = ""
        for n in supervised:
            before = self._text(conversation[:n], add_generation_prompt=True)
            after = self._text(conversation[: n + 1], add_generation_prompt=False)
            if not before.startswith(done) or not after.startswith(before):
                raise DataError(
                    "the chat template rewrites earlier messages, so training examples would not begin with their "
                    "prompt; set training.trained_turns: last"
                )
            end = after.index(self._end_of_turn, len(before)) + len(self._end_of_turn)
            pieces += [(before[len(done) :], False), (after[len(before) : end], True)]
            done = after[:end]
        return self._tokenize(pieces, image_tokens)

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def length(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._encode(text))

    def _token_id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise IntegrityError(f"the tokenizer has no {token}; set model.family to the checkpoint's architecture")
        return number

    def _text(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        messages = [_plain_message(message, self._special) for message in conversation]
        return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt)

    def _tokenize(self, pieces: Sequence[tuple[str, bool]], image_tokens: Sequence[int]) -> Rendered:
        ids: list[int] = []
        mask: list[bool] = []
        left = list(image_tokens)
        for text, supervised in pieces:
            for token in self._encode(text):
                if token == self.image_id and not left:
                    raise DataError("the chat template has more image placeholders than the conversation has images")
                count = left.pop(0) if token == self.image_id else 1
                ids += [token] * count
                mask += [supervised] * count
        if left:
            raise DataError("the chat template drops an image of the conversation")
        return Rendered(tuple(ids), tuple(mask))

    @lru_cache(maxsize=4096)  # noqa: B019 - a renderer lives as long as the process; rows repeat prompts
    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _plain_message(message: Message, special: Sequence[str]) -> dict[str, Any]:
    parts: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, ImageRef):
            parts.append({"type": "image"})
            continue
        forbidden = next((token for token in special if token in part), None)
        if forbidden is not None:
            raise DataError(f"the text contains the model's special token {forbidden}; remove it from the row")
        parts.append({"type": "text", "text": part})
    return {"role": message.role, "content": parts}


def _template_text(folder: Path) -> str:
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = folder / name
        template = read_json(file).get("chat_template") if file.is_file() else None
        if isinstance(template, str):
            return template
    raise IntegrityError(f"{folder}: no chat template; use an instruction-tuned checkpoint")


def _compile(template: str) -> "Template":
    """A template in an environment like transformers': sandboxed, trimmed blocks, `tojson` and `raise_exception`."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)

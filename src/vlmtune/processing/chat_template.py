r"""Renders conversations as token ids with a loss mask and vision tokens, for training and inference alike. No torch.

The rendered text is split where each assistant turn begins, and the pieces are tokenized one by one. A training example
therefore begins, token for token, with the prompt used in inference, and the loss mask follows from the pieces instead
of being searched for in the ids.

A conversation of a question and an answer becomes two pieces:

    <|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n     the prompt, masked out
    Two.<|im_end|>                                                     supervised
"""

import json
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import ConfigError, DataError, IntegrityError
from vlmtune.families import Family
from vlmtune.processing._templates import ChatTemplate
from vlmtune.processing._thinking import thinking_style
from vlmtune.thoughts import empty_thought, is_thought_mark, split_thought
from vlmtune.types import Conversation, ImageRef, Message, VideoRef

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ThinkingMode = Literal["keep", "empty", "off"]
"""`training.thinking`."""


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
    """The images and videos of a conversation in the order in which the model sees them."""
    return tuple(part for message in conversation for part in message.content if isinstance(part, ImageRef))


class Renderer:
    """Renders conversations for one checkpoint.

    Args:
        tokenizer: the checkpoint's fast tokenizer.
        template: its chat template, or the text of one.
        family: names the image and end-of-turn tokens.
        special_tokens: special tokens of the tokenizer that texts may contain, and that answers keep.
        thinking: what becomes of thoughts. `keep`: prompts let the model think, thoughts in the messages are
            supervised, and an empty one is not. `empty`: an empty thought is supervised. `off`: prompts end behind an
            empty thought.

    Raises:
        ConfigError: one of `special_tokens` is none, or has a meaning of its own; or the checkpoint cannot think.
        IntegrityError: the template is broken, or the tokenizer is of another family.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        template: ChatTemplate | str,
        family: Family,
        special_tokens: Sequence[str] = (),
        thinking: ThinkingMode = "keep",
    ) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template) if isinstance(template, str) else template
        self._style, self._thinking = thinking_style(self._template), thinking
        if thinking == "off" and self._style.opening and not self._style.switch:
            self._template = self._template.extended(_CLOSES_THOUGHT.format(closing=repr(self._style.closing)))
        if thinking == "empty" and not self._style.thinks:
            raise ConfigError("training.thinking is 'empty', but the chat template of this model writes no thoughts")
        self._end_of_turn = family.end_of_turn
        self.image_id = self._token_id(family.image_token)
        self.end_id = self._token_id(family.end_of_turn)
        self._video_token = family.video.token if family.video is not None else None
        known = self._video_token is not None and tokenizer.token_to_id(self._video_token) is not None
        self.video_id = self._token_id(self._video_token) if known and self._video_token else -1
        self._around_image = [self._token_id(token) for token in family.around_image or ()]
        special = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
        _check_special(special_tokens, special, family)
        self.forbidden = tuple(token for token in special if token not in special_tokens)
        if any(token in self._style.closing and not is_thought_mark(token) for token in special):
            raise IntegrityError(
                "the chat template does not begin the assistant's turn where add_generation_prompt asks for it: the "
                f"model would have to write {self._style.closing!r:.80} itself. Repair it, or set model.chat_template "
                "to another one"
            )
        kept = [token for token in special if token in special_tokens or is_thought_mark(token)]
        self._hidden = {self._token_id(token) for token in special if token not in kept} if kept else None

    @classmethod
    def load(
        cls,
        folder: Path,
        family: Family,
        chat_template: str | None = None,
        special_tokens: Sequence[str] = (),
        thinking: ThinkingMode = "keep",
    ) -> "Renderer":
        """From a checkpoint's folder, with the template of another file if one is given.

        Raises:
            IntegrityError: it has no fast tokenizer or no chat template, the template is broken, or its tokenizer is
                of another family.
            ConfigError: as the constructor.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise IntegrityError(f"{folder}: no tokenizer.json; vlmtune needs a checkpoint with a fast tokenizer")
        template = ChatTemplate.of_checkpoint(folder, chat_template)
        with _tokenizer_errors(f"{file}: not a tokenizer"):
            tokenizer = Tokenizer.from_file(str(file))
        return cls(tokenizer, template, family, special_tokens, thinking)

    @property
    def template_text(self) -> str:
        """The template in effect."""
        return self._template.text

    @property
    def custom(self) -> bool:
        """Whether the template in effect is another one than the checkpoint has."""
        return self._template.custom

    @property
    def thinks(self) -> bool:
        """Whether the template writes thoughts."""
        return self._style.thinks

    @property
    def may_think(self) -> bool:
        """Whether prompts let the model think before it answers."""
        return self._style.thinks and self._thinking != "off"

    @property
    def opened_thought(self) -> str:
        """The thought that prompts begin for the model, such as `<think>` and a line break; empty without one."""
        return self._style.opening if self._thinking != "off" else ""

    @property
    def template_variables(self) -> dict[str, Any]:
        """Variables that change how the template renders prompts."""
        return {"enable_thinking": self._thinking != "off"} if self._style.switch else {}

    @property
    def vision_ids(self) -> frozenset[int]:
        """The tokens that stand for patches."""
        return frozenset({self.image_id, self.video_id})

    def prompt(self, conversation: Conversation, spans: Sequence[int | str]) -> Rendered:
        """The prompt, up to where the assistant's answer begins.

        Args:
            conversation: ends with a user message.
            spans: of each image the number of its tokens, of each video what is written in place of its token; in the
                order of the conversation.

        Raises:
            DataError: a text contains one of the model's special tokens, or the template drops or repeats an image or
                video.
        """
        return self._tokenize([(self._text(conversation, add_generation_prompt=True), False)], spans)

    def training_example(
        self, conversation: Conversation, spans: Sequence[int | str], trained_turns: Literal["all", "last"] = "all"
    ) -> Rendered:
        """A conversation that ends with an assistant message, with its loss mask.

        Raises:
            DataError: as in `prompt`; or the template rewrites earlier messages, which then cannot be trained on.
        """
        supervised = [n for n, message in enumerate(conversation) if message.role == "assistant" and message.trained]
        if trained_turns == "last":
            supervised = supervised[-1:]
        pieces: list[tuple[str, bool]] = []
        done = ""
        for n in supervised:
            before = self._text(conversation[:n], add_generation_prompt=True)
            after = self._text(conversation[: n + 1], add_generation_prompt=False)
            if not before.startswith(done):
                raise DataError(
                    "the chat template rewrites earlier messages, so training examples would not begin with their "
                    "prompt; set training.trained_turns: last"
                )
            if not after.startswith(before):
                raise DataError(
                    "the chat template does not write an answer behind the prompt that asks for it: there it ends "
                    f"{before[-40:]!r}, with the answer it goes on {_parting(before, after)!r}. Use another template "
                    "(model.chat_template), or another training.thinking"
                )
            if self._end_of_turn not in after[len(before) :]:
                raise DataError(f"the chat template does not end an answer with {self._end_of_turn}")
            end = after.index(self._end_of_turn, len(before)) + len(self._end_of_turn)
            answer = after[len(before) : end]
            # A thought that the row does not have is context: the model must not learn to think nothing.
            empty = 0 if self._thinking == "empty" or self._thought(conversation[n])[0] else empty_thought(answer)
            pieces += [(before[len(done) :], False), (answer[:empty], False), (answer[empty:], True)]
            done = after[:end]
        return self._tokenize(pieces, spans)

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens other than those that answers may contain."""
        shown = ids if self._hidden is None else [n for n in ids if n not in self._hidden]
        with _tokenizer_errors("the checkpoint's tokenizer.json cannot decode an answer"):
            return self._tokenizer.decode(list(shown), skip_special_tokens=self._hidden is None)

    def never_written(self, size: int) -> list[int]:
        """Of a vocabulary of `size` tokens those that no text has: special ones, and numbers without a token."""
        tokens = set(self._tokenizer.get_vocab(with_added_tokens=True).values())
        special = {self._token_id(token) for token in self.forbidden if not is_thought_mark(token)}
        return [number for number in range(size) if number in special or number not in tokens]

    def length(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._encode(text))

    def _token_id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise IntegrityError(f"the tokenizer has no {token}; set model.family to the checkpoint's architecture")
        return number

    def _text(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        messages = [self._plain(message) for message in conversation]
        tools = next((message.more["tools"] for message in conversation if "tools" in message.more), None)
        if any(message.more for message in conversation):
            text = self._template.render(messages, add_generation_prompt, tools=tools, **self.template_variables)
        else:
            text = self._rendered(json.dumps(messages, ensure_ascii=False), add_generation_prompt)
        for number, message in enumerate(conversation):
            for needed in self._needed(message):
                if needed not in text:
                    raise DataError(
                        f"the chat template drops {needed!r:.60} of message {number} ({message.role}), so the model "
                        "would not see it; use another template (model.chat_template), or repair the row"
                    )
        return text

    @lru_cache(maxsize=256)  # noqa: B019 - as for `_encode`; rendering takes longer than tokenizing a short text
    def _rendered(self, messages: str, add_generation_prompt: bool) -> str:
        """The text of messages without tools and calls, given as JSON."""
        return self._template.render(json.loads(messages), add_generation_prompt, tools=None, **self.template_variables)

    def _plain(self, message: Message) -> dict[str, Any]:
        """A message as templates read it."""
        reasoning, given = self._thought(message)
        parts: list[dict[str, str]] = []
        for part in given:
            if isinstance(part, ImageRef):
                parts.append({"type": "video" if isinstance(part, VideoRef) else "image"})
                continue
            forbidden = next((token for token in self.forbidden if token in part), None)
            if forbidden is not None and not (message.role == "assistant" and is_thought_mark(forbidden)):
                raise DataError(
                    f"the text contains the model's special token {forbidden}; remove it from the row, or if the model "
                    "is to read and write it, add it to model.special_tokens"
                )
            parts.append({"type": "text", "text": part})
        more = {key: value for key, value in message.more.items() if key != "tools"}
        if reasoning and self._style.by_key:
            more["reasoning_content"] = reasoning
        elif reasoning:
            parts.insert(0, {"type": "text", "text": f"<think>\n{reasoning.strip()}\n</think>\n\n"})
        return {"role": message.role, "content": parts, **more}

    def _thought(self, message: Message) -> tuple[str | None, tuple[str | ImageRef, ...]]:
        """The thought of a message, and its content without it.

        A thought in the text is left there if the template knows none: then it is part of the answer.
        """
        first = message.content[0] if message.content and message.role == "assistant" else None
        if message.reasoning is None and isinstance(first, str):
            reasoning, answer = split_thought(first)
            if reasoning is not None and (self._style.thinks or self._thinking == "off"):
                return reasoning if self._thinking == "keep" else None, (answer, *message.content[1:])
        return message.reasoning if self._thinking == "keep" else None, message.content

    def _needed(self, message: Message) -> list[str]:
        """Texts that must be in a rendered conversation."""
        calls = [call["function"]["name"] for call in message.more.get("tool_calls", ())]
        tools = [tool.get("function", tool).get("name") for tool in message.more.get("tools", ())]
        # Templates may have rules for what assistants said before, as for their thoughts.
        given = () if message.role == "assistant" else message.content
        texts = [part.strip() for part in given if isinstance(part, str)]
        return [text for text in (*texts, *calls, *tools) if text]

    def _tokenize(self, pieces: Sequence[tuple[str, bool]], spans: Sequence[int | str]) -> Rendered:
        ids: list[int] = []
        mask: list[bool] = []
        left = [span for span in spans if isinstance(span, int)]
        videos = [span for span in spans if isinstance(span, str)]
        for piece, supervised in pieces:
            text = self._with_videos(piece, videos)
            # What is written for a video is long, and no other row has it.
            for token in self._encode(text) if text is piece else self._encoded(text):
                if token == self.image_id and not left:
                    raise DataError("the chat template has more image placeholders than the conversation has images")
                span = [token]
                if token == self.image_id:
                    span = [*self._around_image[:1], *[token] * left.pop(0), *self._around_image[1:]]
                ids += span
                mask += [supervised] * len(span)
        if left or videos:
            raise DataError(f"the chat template drops {'an image' if left else 'a video'} of the conversation")
        return Rendered(tuple(ids), tuple(mask))

    def _with_videos(self, text: str, left: list[str]) -> str:
        """The text with what is written in place of its video tokens, which is taken from `left`."""
        if self._video_token is None or self._video_token not in text:
            return text
        first, *others = text.split(self._video_token)
        if len(others) > len(left):
            raise DataError("the chat template has more video placeholders than the conversation has videos")
        written = [left.pop(0) for _ in others]
        return first + "".join(map(operator.add, written, others))

    @lru_cache(maxsize=4096)  # noqa: B019 - a renderer lives as long as the process; rows repeat prompts
    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._encoded(text))

    def _encoded(self, text: str) -> list[int]:
        with _tokenizer_errors("the checkpoint's tokenizer.json cannot encode a text"):
            return self._tokenizer.encode(text, add_special_tokens=False).ids


@contextmanager
def _tokenizer_errors(what: str) -> Iterator[None]:
    """Turn what the library raises into an IntegrityError; a panic of its Rust code is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise IntegrityError(f"{what} ({error!s:.300}); download the checkpoint again") from None


_CLOSES_THOUGHT = "{{%- if add_generation_prompt -%}}{{{{- {closing} -}}}}{{%- endif -%}}"
"""Ends the thought that prompts of a template begin, which knows no `enable_thinking`."""


def _check_special(allowed: Sequence[str], special: Sequence[str], family: Family) -> None:
    """Check that texts may contain these special tokens.

    Raises:
        ConfigError: one is no special token, or stands for an image or the end of a turn.
    """
    for token in allowed:
        if token not in special:
            known = ", ".join(special) or "none"
            raise ConfigError(f"model.special_tokens: {token!r} is no special token of the tokenizer; it has: {known}")
        if token in (family.image_token, family.end_of_turn) or "vision" in token or "_pad" in token or "im_" in token:
            raise ConfigError(f"model.special_tokens: {token!r} structures the conversation and cannot be in a text")


def _parting(before: str, after: str) -> str:
    """How the second text goes on where the two part."""
    at = next((n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(after))
    return after[max(0, at - 20) : at + 20]

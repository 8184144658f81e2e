"""Replies as other programs save them: those of chat servers from batch jobs, and likelihoods of several choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmtune.predictions.lines import FailureRecord


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, or why there is none; how it ended and its generated tokens, where known."""

    text: str | None
    failure: FailureRecord | None = None
    finish_reason: str | None = None
    tokens: int | None = None


def openai_reply(record: Mapping[str, Any]) -> Reply:
    """A line of OpenAI's batch output, of its error file, or of `vllm run-batch`.

    A line has `custom_id`, `response` (`status_code` and `body`, what the endpoint returned) and `error`. Bodies of
    /v1/chat/completions, /v1/completions and /v1/responses are read.
    """
    response, error = record.get("response") or {}, record.get("error")
    body = response.get("body") or {}
    status = response.get("status_code")
    error = error or (body.get("error") if isinstance(body, Mapping) else None)
    if error or not isinstance(body, Mapping) or status not in (None, 200):
        return _failed(f"{_message(error)} (status {status})" if status is not None else _message(error))
    if isinstance(body.get("output"), list):
        return _responses_reply(body)
    choices = body.get("choices") or []
    if not choices:
        return _failed("the reply has no choices")
    choice = choices[0]
    message = choice.get("message") or {}
    text = message.get("content", choice.get("text"))
    if isinstance(text, list):
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, Mapping))
    if text is None:
        return _failed(f"refused: {message['refusal']}" if message.get("refusal") else "the reply has no text")
    tokens = (body.get("usage") or {}).get("completion_tokens")
    ending = choice.get("finish_reason")
    return Reply(text, None, ending if ending in ("stop", "length") else None, tokens)


def _responses_reply(body: Mapping[str, Any]) -> Reply:
    parts = [part for item in body["output"] if item.get("type") == "message" for part in item.get("content") or []]
    refusal = next((part["refusal"] for part in parts if part.get("type") == "refusal"), None)
    texts = [part["text"] for part in parts if part.get("type") == "output_text"]
    if not texts:
        return _failed(f"refused: {refusal}" if refusal else "the reply has no text")
    cut_off = (body.get("incomplete_details") or {}).get("reason") == "max_output_tokens"
    return Reply("".join(texts), None, "length" if cut_off else "stop", (body.get("usage") or {}).get("output_tokens"))


def anthropic_reply(record: Mapping[str, Any]) -> Reply:
    """A line of Anthropic's message batch results: `result.type` is succeeded, errored, canceled or expired."""
    result = record.get("result") or {}
    if result.get("type") != "succeeded":
        error = result.get("error") or {}
        return _failed(_message(error.get("error") or error or result.get("type")))
    message = result.get("message") or {}
    texts = [part["text"] for part in message.get("content") or [] if part.get("type") == "text"]
    if not texts:
        return _failed("the reply has no text")
    ending = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}.get(str(message.get("stop_reason")))
    return Reply("".join(texts), None, ending, (message.get("usage") or {}).get("output_tokens"))


def _message(error: Any) -> str:
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("code") or error.get("type") or "the request failed")
    return str(error or "the request failed")


def _failed(reason: str) -> Reply:
    return Reply(None, {"stage": "engine", "reason": reason})


def is_choice(value: Any) -> bool:
    """Whether a value has the log-likelihood of each of several choices, and whether greedy decoding gives that one.

    lm-eval and lmms-eval log this for multiple-choice tasks, as numbers or as texts: [["-3.5", "False"], …].
    """
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(pair, list) and len(pair) == 2 and str(pair[1]) in ("True", "False") for pair in value)
        and all(_is_number(pair[0]) for pair in value)
    )


def choice_of(value: list[Any], record: Mapping[str, Any], most_likely: bool) -> str:
    """The choice that the model prefers, as its text, or as its number from 0 where the file does not have the texts.

    Args:
        value: as `is_choice` wants it.
        record: the row; lm-eval's has the texts as its `arguments`.
        most_likely: whether numbers are log-likelihoods; lmms-eval's models log losses.
    """
    numbers = [float(pair[0]) for pair in value]
    return choice_text(numbers.index(max(numbers) if most_likely else min(numbers)), record)


def choice_text(choice: Any, record: Mapping[str, Any]) -> str:
    """The text of a choice by its number from 0, if the row has it; else the choice as it is."""
    text, arguments = str(choice), record.get("arguments")
    asked = list(arguments.values()) if isinstance(arguments, Mapping) else arguments
    if not text.isdigit() or not isinstance(asked, list) or int(text) >= len(asked):
        return text
    request = asked[int(text)]
    parts = list(request.values()) if isinstance(request, Mapping) else request
    return str(parts[1]).strip() if isinstance(parts, list) and len(parts) > 1 else text


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

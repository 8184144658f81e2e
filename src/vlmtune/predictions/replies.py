"""Replies of chat servers as batch jobs save them, one per line: an answer, or the error in its place."""

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

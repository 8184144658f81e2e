"""Mutated replies of a server, and servers that break HTTP: an answer, or a message, and within the time."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from fuzzing import hunt, mutated_json

from vlmtune.engines import _http as http
from vlmtune.engines._messages import Answer, read_answer
from vlmtune.errors import Exit

ROUNDS, SOAKED = 400, 12_000
LIKELY = {"token": "a", "logprob": -0.5}
COMPLETION = {
    "model": "m",
    "choices": [
        {
            "message": {"role": "assistant", "content": "a red ball"},
            "finish_reason": "stop",
            "logprobs": {"content": [{**LIKELY, "top_logprobs": [LIKELY, {"token": "b", "logprob": -3}]}] * 3},
            "token_ids": [5, 6, 7],
        }
    ],
    "usage": {"completion_tokens": 3, "prompt_tokens": 9},
    "prompt_token_ids": [1, 2, 3],
}
ANOTHER = {**COMPLETION, "model": "another"}
ERRORS = ({"error": {"message": "too long", "code": 400}}, {"detail": [{"msg": "no"}]}, {"message": "busy"})


def broken(rng: random.Random) -> None:
    """A case of a hunt: read a mutated reply."""
    body = mutated_json(json.dumps(rng.choice([COMPLETION, COMPLETION, ANOTHER, *ERRORS])).encode(), rng)
    said = http.message(body)
    assert 0 < len(said) <= 300
    if http.is_json(body):
        answer = read_answer(body, "m", "inference.served_model")
        assert isinstance(answer, Answer | str)
        if isinstance(answer, Answer):
            json.dumps([answer.text, answer.tokens, answer.logprobs, answer.likeliest], allow_nan=False).encode()


def test_broken_replies_are_answers_or_messages(soak: bool) -> None:
    codes = (Exit.INTEGRITY,)  # another model's name
    ends = hunt("replies", SOAKED if soak else ROUNDS, broken, codes=codes)
    assert min(ends["fine"], ends["error"]) >= 3


def trickle(head: bytes, byte: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(byte)
            time.sleep(0.05)

    return serve


def once(data: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data)


OK = b"HTTP/1.1 200 OK\r\n"
MODES: dict[str, Callable[[socket.socket], None]] = {
    "nothing": lambda connection: time.sleep(9),
    "trickled headers": trickle(OK + b"X: ", b"a"),
    "trickled body": trickle(OK + b"Connection: close\r\n\r\n", b" "),
    "trickled error": trickle(b"HTTP/1.1 400 X\r\nConnection: close\r\n\r\n", b"a"),
    "endless 100 Continue": trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "garbage": once(b"\0\xff\xfe" * 1000),
    "status 0": once(b"HTTP/1.1 000 \r\n\r\n"),
    "status 99999": once(b"HTTP/1.1 99999 X\r\n\r\n"),
    "negative length": once(OK + b"Content-Length: -5\r\n\r\n{}"),
    "huge length": once(OK + b"Content-Length: 99999999999999999999\r\n\r\n{"),
    "bad chunk": once(OK + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n"),
    "huge chunk": once(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffff\r\nabc"),
    "many headers": once(OK + b"A: b\r\n" * 100_000 + b"\r\n"),
    "odd pause": once(b"HTTP/1.1 429 X\r\nRetry-After: nan\r\nContent-Length: 2\r\n\r\n{}"),
    "closed": lambda connection: None,
}


@contextmanager
def serving(mode: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    mode(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_servers_that_break_http_give_a_reason_in_time(mode: Callable[[socket.socket], None]) -> None:
    began = time.monotonic()
    with serving(mode) as url:
        reply = http.send(url, None, 1.0, {"a": 1})
    # A second, and ten times as much for a busy machine; without the limit, those that trickle never end.
    assert time.monotonic() - began < 10
    assert isinstance(reply, http.NoReply) or reply.status >= 400 or not http.is_json(reply.body)


@pytest.mark.parametrize("name", [name for name in MODES if name.startswith(("trickled", "endless", "nothing"))])
def test_the_time_limit_is_one_of_the_whole_request(name: str) -> None:
    with serving(MODES[name]) as url:
        assert http.send(url, None, 0.5) == http.NoReply("gave no answer in 0.5 s")

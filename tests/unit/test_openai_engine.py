"""A server may be slow, busy, broken, silent or somebody else: every row ends as an answer or a named failure, and what
is wrong for all rows ends the run with the exit code for it."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_server
import numpy as np
import pytest
from builders import TINY, encoded, make_image, ref, user
from fake_server import CONFIG, KEY, Body, Script, Step, Stub, always, answer, asked, status
from PIL import Image

from vlmtune.config import load
from vlmtune.engines import _client as client
from vlmtune.engines import _http as http
from vlmtune.engines import openai
from vlmtune.engines._client import ServerEngine
from vlmtune.engines._messages import messages
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError, Interrupted, RemoteError
from vlmtune.images import decode_rgb
from vlmtune.processing.encoder import Encoder
from vlmtune.types import Failure, Outcome, Prediction, Request

PATIENT = {"timeout_s": 20.0, "watchdog_s": 60.0, "concurrency": 4}
"""No answer that comes at all is late, however busy the machine."""
IMPATIENT = {"timeout_s": 1.0}
"""For servers that send nothing or never end; the others' answers have a second, and tries to spare."""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)


def requests(count: int, wide: int = 96) -> list[Request]:
    return [
        Request(f"row {n}", (user(ref(make_image(wide, 80, seed=n), f"picture {n}"), f"What is in picture {n}?"),))
        for n in range(count)
    ]


def opened(stub: Stub | str, encoder: Encoder, **more: Any) -> ServerEngine:
    url = stub if isinstance(stub, str) else stub.base_url
    config = openai.Config(base_url=url, **{**PATIENT, **more})
    return openai.open_engine(config, TINY, encoder, "fp32")


def by_id(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    found = list(outcomes)
    made = {outcome.id: outcome for outcome in found}
    assert len(made) == len(found)
    return made


def once_per_row(step: Step, then: Step = answer) -> Script:
    """`step` at the first sight of a row, `then` afterwards."""
    known: set[str] = set()

    def script(number: int, body: Body) -> Step:
        first = asked(body) not in known
        known.add(asked(body))
        return step if first else then

    return script


def rows(script: dict[int, Step]) -> Script:
    """A step by the number of the row; others are answered."""

    def chosen(number: int, body: Body) -> Step:
        return script.get(int(asked(body).split()[-1].rstrip("?")), answer)

    return chosen


PASSING = {
    "429": status(429, Retry_After="0.01"),
    "500": status(500),
    "cut": fake_server.cut,
    "cut where nothing says its length": fake_server.cut_unseen,
    "dropped": fake_server.dropped,
    "silent": fake_server.hang,
    "slow": fake_server.slowly,
}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING.keys())
def test_what_passes_is_tried_again(step: Step, encoder: Encoder) -> None:
    more = IMPATIENT if step is fake_server.hang else {}
    with fake_server.serving(once_per_row(step)) as stub:
        made = by_id(opened(stub, encoder, **more).answer(requests(6)))
    assert sorted(made) == [f"row {n}" for n in range(6)]
    assert all(isinstance(outcome, Prediction) for outcome in made.values())
    if more:
        assert len(stub.seen) >= 12
    else:
        assert len(stub.seen) == (6 if step is fake_server.slowly else 12)


ODD: dict[str, tuple[Step, str, str]] = {
    "no choices": (fake_server.empty, "engine", "no answer (no choices)"),
    "no text": (lambda e: e.reply(200, fake_server.completion(e.body, None)), "engine", "sent no text"),  # type: ignore[arg-type]
    "no completion": (lambda e: e.reply(200, {"model": "tiny"}), "engine", "not a chat completion: choices"),
    "filtered": (
        lambda e: e.reply(200, _with(fake_server.completion(e.body, "x"), finish_reason="content_filter")),
        "engine",
        "content_filter",
    ),
    "too long": (status(400, "maximum context length is 10"), "engine", "400: maximum context length is 10"),
    "always 500": (status(500, "cuda"), "engine", "answered 500: cuda, 3 tries"),
    "always cut": (fake_server.cut, "engine", "no complete JSON"),
    "always silent": (fake_server.hang, "engine", "gave no answer in 1 s, 3 tries"),
    "always trickling": (fake_server.trickle, "engine", "gave no answer in 1 s, 3 tries"),
}


def _with(completion: Body, **more: object) -> Body:
    return {**completion, "choices": [{**completion["choices"][0], **more}]}


@pytest.mark.parametrize(("step", "stage", "said"), ODD.values(), ids=ODD.keys())
def test_a_row_that_gets_no_answer_is_a_failure_with_its_reason(
    step: Step, stage: str, said: str, encoder: Encoder
) -> None:
    more = IMPATIENT if step in (fake_server.hang, fake_server.trickle) else {}
    with fake_server.serving(rows({3: step})) as stub:
        made = by_id(opened(stub, encoder, max_retries=2, **more).answer(requests(6)))
    failed = made.pop("row 3")
    assert isinstance(failed, Failure)
    assert failed.stage == stage
    assert said in failed.reason
    assert len(made) == 5
    assert all(isinstance(outcome, Prediction) for outcome in made.values())


def test_a_bad_picture_fails_alone_and_is_never_sent(encoder: Encoder) -> None:
    bad = Request("bad", (user(ref(b"not an image", "bad.png"), "What?"),))
    with fake_server.serving(always(answer)) as stub:
        made = by_id(opened(stub, encoder).answer([bad, *requests(2)]))
    assert made["bad"] == Failure("bad", "image", made["bad"].reason)  # type: ignore[union-attr]
    assert len(stub.seen) == 2


def test_nobody_there_ends_the_run_after_bounded_tries(encoder: Encoder) -> None:
    gone = f"http://127.0.0.1:{http.free_port()}/v1"
    made: list[Outcome] = []
    with pytest.raises(RemoteError, match=r"cannot be reached.*3 tries.*same command again"):
        made.extend(opened(gone, encoder, max_retries=2).answer(requests(50)))
    assert len(made) < 5


ENDS: dict[str, tuple[Step, type[Exception], str, int]] = {
    "the key": (status(401), EnvironmentProblem, "refuses the key", 4),
    "the path": (status(404, "no model"), RemoteError, "no model.*inference.base_url", 5),
    "another model": (fake_server.as_another, IntegrityError, "answered as 'another'.*served_model: another", 9),
    "all in the same words": (status(400, "unknown field"), RemoteError, "refuses every request", 5),
    "broken": (status(503, "loading"), RemoteError, "503: loading", 5),
    "silent": (fake_server.hang, RemoteError, "no answer came for 0.5 s", 5),
}


@pytest.mark.parametrize(("step", "kind", "said", "code"), ENDS.values(), ids=ENDS.keys())
def test_what_is_wrong_for_all_rows_ends_the_run(
    step: Step, kind: type[Exception], said: str, code: int, encoder: Encoder
) -> None:
    more = {"watchdog_s": 0.5, "timeout_s": 2} if step is fake_server.hang else {}
    with fake_server.serving(always(step)) as stub, pytest.raises(kind, match=said) as raised:
        list(opened(stub, encoder, max_retries=1, **more).answer(requests(60)))
    assert raised.value.exit_code == code  # type: ignore[attr-defined]
    assert len(stub.seen) < 40


def test_a_server_that_answered_no_row_at_all_is_broken_however_few_there_were(encoder: Encoder) -> None:
    with fake_server.serving(always(status(500))) as stub, pytest.raises(RemoteError):
        list(opened(stub, encoder, max_retries=1).answer(requests(1)))


def test_retry_after_is_waited_for_within_a_limit(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.5)
    one = opened("http://127.0.0.1:1/v1", encoder)._base
    row = requests(1)[0]
    assert one._pause(row, 0, http.Reply(429, b"", 7.0)) == 7
    assert one._pause(row, 0, http.Reply(429, b"", 3600.0)) == client.MAX_PAUSE_S
    own = [one._pause(row, attempt, http.NoReply("cut")) for attempt in range(5)]
    assert all(0.25 * 2**n <= pause <= 0.75 * 2**n for n, pause in enumerate(own))
    assert own[0] != one._pause(requests(2)[1], 0, http.NoReply("cut"))


def test_an_answer_has_a_largest_size(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_REPLY_BYTES", 10)
    with fake_server.serving(always(answer)) as stub, pytest.raises(RemoteError, match="closed the connection"):
        list(opened(stub, encoder, max_retries=0).answer(requests(1)))


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_proxies_are_for_servers_elsewhere(proxy: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is dead, or of a kind that is not supported, is named."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with fake_server.serving(always(answer)) as stub:
        assert len(list(opened(stub, encoder).answer(requests(2)))) == 2
    with pytest.raises(RemoteError, match="cannot be reached"):
        list(opened("http://images.example.org/v1", encoder, max_retries=0).answer(requests(1)))


def test_a_redirect_is_not_followed_and_the_key_stays(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", KEY)
    with fake_server.serving(always(answer)) as other:
        moved = status(302, Location=f"{other.base_url}/chat/completions")
        with fake_server.serving(always(moved)) as stub, pytest.raises(RemoteError, match="302"):
            list(opened(stub, encoder, api_key="${env:CANARY}").answer(requests(3)))
    assert stub.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    assert other.seen == []


def test_whoever_stops_taking_requests_leaves_at_once(encoder: Encoder) -> None:
    def stopped() -> Iterator[Request]:
        yield requests(1)[0]
        raise Interrupted("stopped")

    with fake_server.serving(always(fake_server.hang)) as stub, pytest.raises(Interrupted):
        list(opened(stub, encoder, timeout_s=60, watchdog_s=60).answer(stopped()))


@pytest.mark.parametrize("mode", ["RGBA", "P", "turned"])
def test_pictures_are_sent_as_we_decode_them(mode: str, encoder: Encoder) -> None:
    image = make_image(90, 70, seed=3)
    turned = Image.Exif()
    turned[0x0112] = 6
    layer = Image.new("L", image.size, 100)
    if mode == "RGBA":
        image.putalpha(layer)
    data = encoded(image.convert("P"), "GIF") if mode == "P" else encoded(image, exif=turned)
    one = ref(data, mode)
    with fake_server.serving(always(answer)) as stub:
        list(opened(stub, encoder).answer([Request("row", (user(one, "What?"),))]))
    (sent,) = fake_server.pictures(stub.seen[0][2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent))), np.asarray(decode_rgb(one)))


@pytest.mark.parametrize("size", [(96, 80), (300, 40), (64, 64), (33, 210)])
def test_a_server_of_ours_gets_the_very_pixels_the_model_reads(size: tuple[int, int], encoder: Encoder) -> None:
    row = (user("First", ref(make_image(*size, seed=5), f"{size}"), "what?"),)
    ours = encoder.prompt(row)
    (sent,) = fake_server.pictures({"messages": messages(row, ours, encoder)})
    image = Image.open(io.BytesIO(sent))
    assert encoder.image_processor.grid(image) == ours.images[0].grid
    assert (encoder.image_processor.patches(image) == ours.images[0].patches).all()


def test_a_server_that_reads_another_prompt_is_found_out(encoder: Encoder) -> None:
    row = requests(1)[0]
    ids = list(encoder.prompt(row.conversation).rendered.ids)

    def told(prompt: list[int]) -> Step:
        return lambda e: e.reply(200, fake_server.completion(e.body, "x", prompt_token_ids=prompt))

    with fake_server.serving(always(told(ids))) as stub:
        (made,) = opened(stub, encoder, server="vllm").answer([row])
    assert isinstance(made, Prediction)
    assert stub.seen[0][2]["stop_token_ids"] == encoder.stop_ids
    with fake_server.serving(always(told(ids[:-1]))) as stub, pytest.raises(IntegrityError, match="another prompt"):
        list(opened(stub, encoder, server="vllm").answer([row]))


def adapted(stub: Stub, encoder: Encoder, **more: Any) -> ServerEngine:
    config = openai.Config(base_url=stub.base_url, served_adapter="tuned", **{**PATIENT, **more})
    return openai.open_engine(config, TINY, encoder, "fp32", Path("adapter"))


def says(base: float, tuned: float, wobble: float = 0.0) -> Script:
    """First log-probabilities by the name asked for; every further request `wobble` away."""

    def script(number: int, body: Body) -> Step:
        value = (tuned if body["model"] == "tuned" else base) + wobble * number
        return lambda e: e.reply(200, fake_server.completion(e.body, "same", value))

    return script


def test_the_effect_of_a_served_adapter(encoder: Encoder) -> None:
    with fake_server.serving(says(-0.5, -1.25)) as stub:
        assert adapted(stub, encoder).adapter_delta(requests(2)) == pytest.approx(0.75)
    assert [body["model"] for _, _, body in stub.seen] == ["tiny", "tuned", "tiny"] * 2


@pytest.mark.parametrize("wobble", [0.0, 0.01])
def test_a_server_that_ignores_the_adapter_is_found_out(wobble: float, encoder: Encoder) -> None:
    """Also where it computes no answer twice in exactly the same way."""
    with fake_server.serving(says(-0.5, -0.5, wobble)) as stub, pytest.raises(IntegrityError, match="without it"):
        adapted(stub, encoder).adapter_delta(requests(4))


@pytest.mark.parametrize("ignored", [True, False])
def test_without_log_probabilities_the_texts_are_the_proof(ignored: bool, encoder: Encoder) -> None:
    def script(number: int, body: Body) -> Step:
        text = "same" if ignored else f"I am {body['model']}"
        return lambda e: e.reply(200, fake_server.completion(e.body, text, None))

    with fake_server.serving(script) as stub:
        engine = adapted(stub, encoder, logprobs=False)
        if ignored:
            with pytest.raises(IntegrityError):
                engine.adapter_delta(requests(2))
        else:
            assert engine.adapter_delta(requests(2)) is None


def test_a_key_in_the_config_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG + f"inference: {{engine: openai, api_key: {KEY}}}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"inference.api_key.*\$\{env:NAME\}") as raised:
        load(str(tmp_path / "c.yaml"))
    assert KEY not in str(raised.value)


def test_a_key_that_is_not_there_is_named(encoder: Encoder) -> None:
    with pytest.raises(EnvironmentProblem, match="CANARY_NOT_SET is not set"):
        opened("http://127.0.0.1:1/v1", encoder, api_key="${env:CANARY_NOT_SET}")

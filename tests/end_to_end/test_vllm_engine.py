"""vLLM lives in an environment of its own and is reached over HTTP: how its server is started, watched and ended, tried
with a stand-in; and, where `make vllm-env` was run, the real one, which must say what the hf engine says."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, make_image, ref, user
from commands import ROOT, warm_vlmtune

from vlmtune.config import load
from vlmtune.data import scenes
from vlmtune.engines import _client as client
from vlmtune.engines import _http as http
from vlmtune.engines import hf, vllm
from vlmtune.engines._client import ServerEngine
from vlmtune.engines._vllm_server import Server, find_python, has_vllm, open_log, served
from vlmtune.errors import ConfigError, EnvironmentProblem, FolderLocked, IntegrityError, Interrupted, RemoteError
from vlmtune.files import lock_file, lock_folder
from vlmtune.maintenance import garbage
from vlmtune.maintenance.inspect import inspect_run
from vlmtune.modeling.loading import attach_adapter, find_checkpoint, load_model
from vlmtune.pipeline import parity
from vlmtune.pipeline.export import open_engine
from vlmtune.pipeline.serve import probes
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoder
from vlmtune.tasks import captioning
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter, trainable
from vlmtune.types import Failure, Prediction, Request

STAND_IN = [sys.executable, str(ROOT / "tests" / "fake_server.py")]
KEY = "canary-key"
CONFIG = "model: {name: tiny}\ndataset: {source: scenes, references: [caption_0]}\ntask: {name: captioning}\n"
REAL = ROOT / ".venv-vllm/bin/python"
TOWER = r".*visual\.blocks.*(attn\.qkv|attn\.proj|mlp\.linear_fc[12])"
LANGUAGE = r".*language_model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def make_adapter(folder: Path, encoder: Encoder, targets: str, seed: int = 1) -> Path:
    """An adapter whose both halves are random: smaller ones change no likeliest token."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(r=4, target_modules=targets))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.15)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """Of language model and vision tower."""
    return make_adapter(tmp_path_factory.mktemp("adapter"), encoder, f"{LANGUAGE}|{TOWER}")


@contextlib.contextmanager
def stand_in(*more: str) -> Iterator[Server]:
    server = Server([*STAND_IN, *more], http.free_port(), KEY, open_log())
    try:
        yield server
    finally:
        server.stop()


def ended(process: int) -> bool:
    """Whether a process is gone, or dead and only not yet looked at."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def test_without_its_environment_the_command_to_make_it_is_said(tmp_path: Path) -> None:
    sets = ["--set", "inference.engine=vllm", "--set", "inference.python=nowhere/python"]
    (tmp_path / "c.yaml").write_text(CONFIG)
    refused = warm_vlmtune("predict", "c.yaml", *sets, cwd=tmp_path)
    assert refused.returncode == 4
    assert "nowhere/python does not exist" in refused.stderr
    assert "Run: " in refused.stderr


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The python of an environment in which vLLM seems to be, but the stand-in answers."""
    package = tmp_path / "env/lib/python3.11/site-packages/vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    python = tmp_path / "env/bin/python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "started"))}\nexec {shlex.join(STAND_IN)} "$@"\n'
    )
    python.chmod(0o755)
    return python


def test_serving_until_a_signal(environment: Path, adapter: Path, encoder: Encoder, tmp_path: Path) -> None:
    """The address, the adapters and a command that asks one are printed; afterwards nothing is left running."""
    shutil.copytree(adapter, tmp_path / "a")
    other = make_adapter(tmp_path / "b", encoder, LANGUAGE)
    (tmp_path / "c.yaml").write_text(CONFIG)
    sets = ["--set", "inference.engine=vllm", "--set", f"inference.python={environment}"]
    words = ["serve", "c.yaml", "--adapter", "a", "--adapter", "b", "--port", str(http.free_port()), *sets]
    with subprocess.Popen(
        [sys.executable, "-m", "vlmtune", *words],
        cwd=tmp_path,
        env={**os.environ, "VLLM_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    ) as process:
        assert process.stdout is not None
        where, _, model = process.stdout.readline().strip().partition("  model ")
        second = process.stdout.readline().strip()
        curl = process.stdout.readline().strip()
        assert where, (tmp_path / "log").read_text()
        (watcher,) = children(process.pid)
        (server,) = children(watcher)
        asked = subprocess.run(
            ["sh", "-c", curl], capture_output=True, text=True, env={**os.environ, "VLLM_API_KEY": KEY}, check=False
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    assert where.startswith("http://127.0.0.1:")
    name = served(adapter).name
    assert model == f"{name}  a"
    assert second == f"{where}  model {served(other).name}  b"
    assert shutil.which("curl") is None or json.loads(asked.stdout)["model"] == name
    assert KEY not in curl
    assert ended(server)


def test_every_adapter_must_fit_and_change_answers(environment: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("a", "again", "dead", "refused"):
        shutil.copytree(adapter, tmp_path / name)
    for name, alpha in (("dead", 4), ("refused", 2)):  # three different adapters
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": alpha}))
    (tmp_path / "c.yaml").write_text(CONFIG)
    sets = ["--set", "inference.engine=vllm", "--set", f"inference.python={environment}", "--port"]
    for second, code, said in [
        ("again", 2, "a: the same adapter is named twice"),
        ("dead", 9, f"{tmp_path / 'dead'}: the server accepts the adapter's name but answers as without it"),
        ("refused", 2, "no such layer"),
        ("gone", 9, "gone: no such folder"),
    ]:
        words = ["serve", "c.yaml", "--adapter", "a", "--adapter", second, *sets, str(http.free_port())]
        ran = warm_vlmtune(*words, cwd=tmp_path)
        assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
        assert said in ran.stderr


def test_a_python_without_vllm_is_not_enough() -> None:
    with pytest.raises(EnvironmentProblem, match="has no vLLM. Run: "):
        find_python(sys.executable)


def test_a_server_is_started_asked_and_ended_with_all_its_processes() -> None:
    with stand_in() as server:
        server.wait(30)
        server.check_alive()
        (process,) = children(server._process.pid)
        command = Path(f"/proc/{process}/cmdline").read_text()
        assert KEY not in command + Path(f"/proc/{server._process.pid}/cmdline").read_text()
        assert "127.0.0.1" in command
    assert ended(process)


def test_a_server_that_does_not_start_shows_its_log_without_the_key() -> None:
    with stand_in("--fail") as server, pytest.raises(EnvironmentProblem, match="out of memory") as raised:
        server.wait(30)
    assert "started with …" in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_server_that_ends_by_itself_ends_the_run(encoder: Encoder) -> None:
    with stand_in() as server:
        server.wait(30)
        where = client.Endpoint(server.base_url, KEY, "tiny", own_checkpoint=False, check_alive=server.check_alive)
        one = client.Client(vllm.Config(), where, encoder)
        row = Request("row", (user("Hello"),))
        assert isinstance(next(one.answer([row])), Prediction)
        os.killpg(server._process.pid, signal.SIGKILL)
        with pytest.raises(RemoteError, match="ended unexpectedly"):
            list(one.answer([row]))


def test_a_server_dies_with_us_even_by_kill_9(tmp_path: Path) -> None:
    """The stand-in is the grandchild of a process that kills itself: whoever watches it must take it along."""
    code = f"""
import os, signal, sys
from vlmtune.engines._vllm_server import Server
server = Server({STAND_IN!r}, {http.free_port()}, "key", open("log", "wb"))
server.wait(30)
import subprocess
print(subprocess.run(["ps", "-o", "pid=", "--ppid", str(server._process.pid)], capture_output=True, text=True).stdout)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert ended(int(ran.stdout))


def test_a_killed_supervisor_leaves_no_server_behind() -> None:
    """Neither the server, which the system ends, nor what it started, which the parent ends."""
    code = "import os, time; os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(90)"
    log = open_log()
    server = Server([sys.executable, "-c", code], http.free_port(), None, log)
    until = time.monotonic() + 60
    while len(started := Path(log.name).read_text().split()) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(started) == 2
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    with pytest.raises(RemoteError, match="ended unexpectedly"):
        server.check_alive()
    server.stop()
    assert all(ended(int(process)) for process in started)


def test_a_refused_adapter_is_an_error_with_the_way_out(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "refused")
    with stand_in() as server:
        server.wait(30)
        server.load(served(adapter))
        with pytest.raises(ConfigError, match="no such layer.*export --merge"):
            server.load(served(tmp_path / "refused"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 600}, "rank 600, more than 512"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_what_vllm_is_known_to_refuse_is_said_before_it_starts(
    change: dict[str, Any], said: str, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=f"{said}.*export --merge"):
        served(tmp_path / "a")


def make_dora(folder: Path, encoder: Encoder, std: float) -> Path:
    """An adapter that vLLM does not take; without spread it changes nothing."""
    model = add_adapter(
        load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(use_dora=True), encoder.checkpoint.family, 0
    )
    torch.manual_seed(0)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    save_adapter(model, folder, "tiny", None)
    return folder


def test_a_refused_adapter_is_merged_and_served_as_a_model(
    environment: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: who asks again finds it merged. The untouched model is asked in its turn, never beside it. It stays while
    somebody has it open, whoever owns the run; then `runs gc` may free it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG + f"inference: {{engine: vllm, python: {environment}}}\n")
    session = Session(load("c.yaml", ["training.precision=fp32", "dataset.limit.test=4"]).config)
    dora = make_dora(tmp_path / "dora", encoder, 0.1)

    def started() -> list[str]:
        return (tmp_path / "started").read_text().splitlines()

    row = requests(1)
    engine = open_engine(session, dora)
    try:
        assert isinstance(next(engine.answer(row)), Prediction)
        assert engine.facts()["merged"]
        assert (engine.adapter_delta(row) or 0) > 0.1
        with engine.adapter_disabled():
            assert isinstance(next(engine.answer(row)), Prediction)
        assert garbage.find_garbage(Path("outputs")) == []
    finally:
        engine.close()
    tuned, base = started()
    assert "/.vlmtune/merged/" in tuned
    assert "--enable-lora" not in tuned
    assert "tiny_qwen3_vl " in base
    (merged,) = tmp_path.glob("outputs/.vlmtune/merged/*/model.safetensors")
    made = merged.stat().st_mtime_ns
    open_engine(session, dora).close()
    assert merged.stat().st_mtime_ns == made
    assert inspect_run(Path("outputs")).state == "partial", "no command goes on from it"
    [found] = garbage.collect(Path("outputs"), session.progress)
    assert found.path.resolve() == merged.parent
    session.stop.received = signal.SIGINT
    with (
        lock_file(merged.parent.with_name(f"{merged.parent.name}.lock")),
        pytest.raises(Interrupted, match="nothing was"),
    ):
        open_engine(session, dora)
    session.stop.received = None
    with lock_folder(merged.parent.with_name(f".{merged.parent.name}.building")):
        with pytest.raises(FolderLocked, match="another process exports"):
            open_engine(session, dora)
        with session.folder.lock(), pytest.raises(FolderLocked, match="another process exports"):
            open_engine(session, dora)
    with pytest.raises(IntegrityError, match="changes nothing"):
        open_engine(session, make_dora(tmp_path / "dead", encoder, 0.0))


def test_the_server_is_made_for_the_adapter(adapter: Path, tmp_path: Path, encoder: Encoder) -> None:
    file = adapter / "adapter_config.json"
    shutil.copytree(adapter, tmp_path / "a")
    uneven = json.loads(file.read_text()) | {"rank_pattern": {"q": 40}}
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(uneven))
    assert (served(adapter).max_rank, served(tmp_path / "a").max_rank) == (8, 64)
    made = make_adapter(tmp_path / "language", encoder, LANGUAGE)
    config = vllm.Config(concurrency=7, context=2048, arguments=["--last"])
    for folder, vision in ((adapter, True), (made, False)):
        words = vllm.arguments(config, TINY, encoder, "fp32", REAL, [served(folder)])
        assert ("--enable-tower-connector-lora" in words) is vision
        assert int(words[words.index("--max-loras") + 1]) >= 2
        assert words[-1] == "--last"
    assert "--enable-lora" not in vllm.arguments(config, TINY, encoder, "fp32", REAL, [])
    assert served(adapter).name != served(made).name


def test_answers_that_differ_are_told_by_place_gap_and_size(encoder: Encoder) -> None:
    """The hf engine's own answer parts nowhere; one with a token exchanged parts exactly there."""
    model = load_model(encoder.checkpoint, "cpu", "fp32")
    row = requests(1)[0]
    prompt = encoder.prompt(row.conversation)
    ids = tuple(answer_ids(model, encoder, row))
    spoiled = (*ids[:3], ids[3] + 1, *ids[4:])
    few = tuple(token for n, token in enumerate(prompt.rendered.ids) if token != encoder.renderer.image_id or n % 2)

    class Told:
        def __init__(self, ids: tuple[int, ...], prompt_ids: tuple[int, ...]) -> None:
            self.answer = client.Answer("", "stop", len(ids), ids, prompt_ids, None, {})

        def token_outputs(self, requests: list[Request]) -> list[tuple[Request, client.Answer]]:
            return [(request, self.answer) for request in requests]

    same = parity.examine(Told(ids, prompt.rendered.ids), model, encoder, [row])
    assert same.agrees
    other = parity.examine(Told(spoiled, prompt.rendered.ids), model, encoder, [row])
    divergence = other.rows[0].divergence
    assert divergence is not None
    assert (divergence.token, divergence.local, divergence.other) == (3, ids[3], ids[3] + 1)
    assert divergence.gap > 0.1
    assert not other.agrees
    assert "token 4 of" in parity.render(other, encoder.renderer.text)
    assert other.rows[0].same(divergence.gap * 1.01)
    smaller = parity.examine(Told(ids, few), model, encoder, [row])
    assert not smaller.agrees
    assert "image tokens" in parity.render(smaller, encoder.renderer.text)


def requests(count: int) -> list[Request]:
    source = scenes.Config(references=["caption_0"])
    rows = list(scenes.open(source, "test", count))
    return [Request(row.id, captioning.TASK.prompt(captioning.Config(), row)) for row in rows]


def answer_ids(model: Any, encoder: Encoder, request: Request) -> list[int]:
    from vlmtune.processing.encoder import collate

    tensors = collate([encoder.prompt(request.conversation)], encoder, "left", "cpu", model.dtype)
    made = model.generate(
        **tensors, max_new_tokens=24, do_sample=False, eos_token_id=encoder.stop_ids, pad_token_id=encoder.stop_ids[0]
    )
    answer: list[int] = made[0, tensors["input_ids"].shape[1] :].tolist()
    return answer


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    """A second adapter, of other layers and another rank."""
    return make_adapter(tmp_path_factory.mktemp("another"), encoder, LANGUAGE, seed=2)


@pytest.fixture(scope="module")
def clients(adapter: Path, another: Path, encoder: Encoder) -> Iterator[tuple[Server, list[client.Client]]]:
    """One server for all tests below: it needs a minute to start. It serves the model and both adapters."""
    if not has_vllm(REAL):
        pytest.skip("vLLM's environment is not there: make vllm-env")
    config = vllm.Config(
        python=str(REAL), cache_gb=0.25, max_new_tokens=24, concurrency=16, arguments=["--enforce-eager"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_COMPILE_DISABLE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        server, adapters = vllm.open_server(config, TINY, encoder, "fp32", [adapter, another])
        try:
            server.wait(config.start_s)
            yield server, vllm.load_adapters(server, config, encoder, adapters, probes())
        finally:
            server.stop()


@pytest.fixture
def real(clients: tuple[Server, list[client.Client]]) -> ServerEngine:
    base, tuned, _ = clients[1]
    return ServerEngine(base, tuned, {})


ROWS = 64


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_the_real_vllm_says_what_hf_says(side: str, real: ServerEngine, adapter: Path, encoder: Encoder) -> None:
    asked = requests(ROWS)
    two = user(ref(make_image(96, 80)), "and", ref(make_image(60, 130), "2"), "Compare them.")
    asked.append(Request("two pictures", (two,)))
    asked.append(Request("no picture", (user("What is red?"),)))
    model = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), adapter)
    engine = hf.HfEngine(hf.Config(max_new_tokens=24), encoder, model, "cpu", "fp32", adapted=True)
    with contextlib.ExitStack() as stack:
        if side == "base":
            stack.enter_context(real.adapter_disabled())
            stack.enter_context(engine.adapter_disabled())
        found = parity.examine(real, model, encoder, asked)
        made = {outcome.id: outcome for outcome in real.answer(asked)}
        ours = {outcome.id: outcome for outcome in engine.answer(asked)}
    assert len(found.rows) == ROWS + 2
    assert found.agrees, parity.render(found, encoder.renderer.text)
    same = [row.id for row in found.rows if row.divergence is None]
    assert len(same) > ROWS / 2
    for name in same:
        one, other = made[name], ours[name]
        assert isinstance(one, Prediction)
        assert isinstance(other, Prediction)
        assert (one.text, one.finish_reason, one.tokens) == (other.text, other.finish_reason, other.tokens)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_the_real_vllm_shows_the_adapters_effect(real: ServerEngine, encoder: Encoder) -> None:
    effect = real.adapter_delta(requests(2))
    assert effect is not None
    assert effect > 0.1
    with pytest.raises(IntegrityError, match="ignores the adapter"):
        client.adapter_delta(real._base, real._base, requests(2))


def test_a_prompt_longer_than_the_model_is_a_named_failure(real: ServerEngine) -> None:
    """Also one that leaves no room for a single token of an answer."""
    beyond, full = Request("long", (user("word " * 5000),)), Request("full", (user("word " * 4086),))
    made = {outcome.id: outcome for outcome in real.answer([beyond, *requests(2), full])}
    for name in ("long", "full"):
        failure = made.pop(name)
        assert isinstance(failure, Failure)
        assert failure.stage == "prompt"
        assert re.search(r"\d+ tokens", failure.reason)
    assert all(isinstance(outcome, Prediction) for outcome in made.values())


def test_a_second_adapter_answers_as_itself(
    clients: tuple[Server, list[client.Client]], another: Path, encoder: Encoder
) -> None:
    base, _, second = clients[1]
    model = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), another)
    found = parity.examine(ServerEngine(base, second, {}), model, encoder, requests(16))
    assert found.agrees, parity.render(found, encoder.renderer.text)


def test_rows_of_all_models_in_one_batch_keep_their_own_model(clients: tuple[Server, list[client.Client]]) -> None:
    asked = requests(16)
    alone = [{made.id: made for made in one.answer(asked)} for one in clients[1]]
    with ThreadPoolExecutor(3) as together:
        mixed = list(together.map(lambda one: list(one.answer(asked)), clients[1]))
    same = [made == alone[side][made.id] for side, outcomes in enumerate(mixed) for made in outcomes]
    assert sum(same) >= 45, "a near-tie may fall otherwise in another batch; an adapter that leaks changes most rows"


def test_the_real_vllm_refuses_an_adapter_and_lives(
    clients: tuple[Server, list[client.Client]], real: ServerEngine, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "big")
    file = tmp_path / "big/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 16}))
    with pytest.raises(ConfigError, match="rank.*export --merge"):
        clients[0].load(served(tmp_path / "big"))
    assert isinstance(next(real.answer(requests(1))), Prediction)


def test_a_quantised_model_is_not_served_as_another(encoder: Encoder) -> None:
    """Neither for answering nor for `vlmtune serve`, which both ask for this command."""
    quantised = TINY.model_copy(update={"quantization": "nf4"})
    with pytest.raises(ConfigError, match=r"does not serve model.quantization=nf4 .* inference.engine=hf"):
        vllm.arguments(vllm.Config(), quantised, encoder, "bf16", Path("python"), [])


def test_a_stored_quantised_model_is_served_in_16_bits(encoder: Encoder, tmp_path: Path) -> None:
    """In fp32 its first request ends vLLM's server."""
    shutil.copytree(encoder.checkpoint.folder, tmp_path / "m")
    file = tmp_path / "m/config.json"
    stored = {"quantization_config": {"quant_method": "compressed-tensors"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | stored))
    model = TINY.model_copy(update={"name": str(tmp_path / "m")})
    other = Encoder(find_checkpoint(model), model)
    with pytest.raises(ConfigError, match="stored in compressed-tensors, .* inference.precision=bf16"):
        vllm.arguments(vllm.Config(), model, other, "fp32", Path("python"), [])
    assert "bfloat16" in vllm.arguments(vllm.Config(), model, other, "bf16", Path("python"), [])

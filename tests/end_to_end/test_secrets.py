"""No secret of the environment is in any byte that a command writes: results, pages, messages, saved tracebacks.

The keys that trackers get are looked for in test_tracking.py.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import fake_server
import pytest
from commands import Ended, vlmtune, warm_vlmtune
from fake_server import Body, Exchange, Step, status

NAMED = "MY_SERVER"
SECRETS = {
    "HF_TOKEN": "hf_cAnArYcAnArYcAnArYcAnArYcAnArYcAn",
    "HUGGING_FACE_HUB_TOKEN": "hf_oLdCaNaRyOlDcAnArYoLdCaNaRyOlDcA",
    "WANDB_API_KEY": "c0ffee" * 6 + "beef",
    "OPENAI_API_KEY": "sk-canary-of-openai-1",
    "VLLM_API_KEY": "canary of vllm/2",
    NAMED: "canary+named/by=the config",
}
CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0], id: id, limit: {train: 8, validation: 4, test: 6}}
task: {name: captioning}
training: {batch_size: 4, epochs: 1, log_every_steps: 1, save_every_steps: 1}
evaluation: {image_control_rows: 2, statistics: {resamples: 100}}
output: {dir: out}
"""
Give = Callable[..., Ended]


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold a secret, as it is or as it may be written in JSON, addresses and base64."""
    found = []
    for file in folder.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        for name, secret in SECRETS.items():
            spellings = {secret, quote(secret), quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
            found += [f"{file}: {name}" for spelling in spellings if spelling.encode() in data]
    return found


@pytest.fixture
def give(tmp_path: Path) -> Give:
    """Give a command with all secrets in its environment; what it says is kept beside what it writes."""

    def give(*words: str, **more: str) -> Ended:
        folders = {name: tmp_path / name.lower() for name in ("HOME", "TMPDIR")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        paths = {name: str(folder) for name, folder in folders.items()}
        ended = warm_vlmtune(*words, cwd=tmp_path, **{**SECRETS, **paths, **more})
        with (tmp_path / "said").open("a", encoding="utf-8") as file:
            file.write(ended.stdout + ended.stderr)
        return ended

    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return give


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_a_leak_would_be_found(secret: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/file").write_text(f"a {secret} b", encoding="utf-8")
    assert leaks(tmp_path)


def test_a_whole_run_and_those_who_look_at_it(give: Give, tmp_path: Path) -> None:
    assert give("run", "c.yaml").returncode == 0
    assert give("runs", "show", "out").returncode == 0
    assert give("doctor", "--json").returncode == 0
    assert (tmp_path / "out/report.html").is_file()
    assert leaks(tmp_path) == []


def server(*more: str) -> list[str]:
    """Options that name a server and the variable with its key."""
    given = [f"inference.{key}" for key in ("engine=openai", f"api_key=${{env:{NAMED}}}", "max_retries=0", *more)]
    return [word for one in given for word in ("--set", one)]


def test_a_server_that_says_the_key_back(give: Give, tmp_path: Path) -> None:
    """In an error, in an answer, and where it refuses the key."""

    def echo(exchange: Exchange) -> None:
        status(400, f"no row for {exchange.headers['Authorization']}")(exchange)

    def answer(exchange: Exchange) -> None:
        exchange.reply(200, fake_server.completion(exchange.body, f"a picture of {exchange.headers['Authorization']}"))

    def refuse(exchange: Exchange) -> None:
        status(401, f"Incorrect API key provided: {exchange.headers['Authorization']}")(exchange)

    def script(number: int, body: Body) -> Step:
        return echo if number % 2 else answer

    with fake_server.serving(script) as stub:
        ended = give("predict", "c.yaml", *server(f"base_url={stub.base_url}"), "--accept-failures")
        assert ended.returncode == 0, ended.stderr
        assert stub.seen[0][1]["Authorization"] == f"Bearer {SECRETS[NAMED]}", "the key itself was asked with"
        stub.script = fake_server.always(refuse)
        ended = give("predict", "c.yaml", *server(f"base_url={stub.base_url}"), "--set", "output.dir=refused")
    assert ended.returncode == 4
    assert "refuses the key" in ended.stderr
    answers = (tmp_path / "out/baseline_predictions.jsonl").read_text(encoding="utf-8")
    assert answers.count("no row for Bearer") == answers.count("a picture of Bearer") / 2 == 3
    assert leaks(tmp_path) == []


@pytest.mark.parametrize("key", ["canary of a file\n", "canary’s key", "canary\ttab\r\nX-More: header"])
def test_a_key_that_no_request_can_carry_is_named_and_not_shown(key: str, give: Give, tmp_path: Path) -> None:
    """A line break at the end is what reading a key from a file leaves."""
    ended = give("predict", "c.yaml", *server("base_url=http://127.0.0.1:1/v1"), **{NAMED: key})
    assert ended.returncode == 4, ended.stderr
    assert f"environment variable {NAMED} " in ended.stderr
    assert "canary" not in ended.stderr
    assert list((tmp_path / "tmpdir").iterdir()) == [], "no bug of ours"


def test_the_traceback_of_a_bug_is_saved_without_them(tmp_path: Path) -> None:
    """In a process of its own: the hook that saves it is Python's last word."""
    (tmp_path / "mine").mkdir()
    bug = "import os\nraise RuntimeError(f\"sent {os.environ['HF_TOKEN']}, {os.environ['OPENAI_API_KEY']}\")\n"
    (tmp_path / "mine/buggy.py").write_text(bug, encoding="utf-8")
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "tmpdir").mkdir()
    more = {**SECRETS, "TMPDIR": str(tmp_path / "tmpdir")}
    ended = vlmtune("config", "check", "c.yaml", "--set", "task.name=mine.buggy", cwd=tmp_path, **more)
    assert ended.returncode == 1, ended.stderr
    (tmp_path / "said").write_text(ended.stdout + ended.stderr, encoding="utf-8")
    assert "RuntimeError: sent [HF_TOKEN], [OPENAI_API_KEY]" in ended.stderr
    [saved] = (tmp_path / "tmpdir").iterdir()
    assert "buggy.py" in saved.read_text(encoding="utf-8")
    assert saved.stat().st_mode & 0o077 == 0, "nobody else may read it"
    assert leaks(tmp_path) == []


@pytest.mark.parametrize(
    ("sets", "code"),
    [
        ([f"inference.api_key=${{env:{NAMED}}}"], 0),
        ([f"inference.api_key={SECRETS[NAMED]}"], 2),
        ([f"inference.base_url=https://ann:{quote(SECRETS[NAMED], safe='')}@example.com/v1"], 2),
    ],
    ids=["by name", "itself", "in the address"],
)
@pytest.mark.parametrize("verb", ["show", "check"])
def test_a_config_names_a_key_and_never_holds_it(
    verb: str, sets: list[str], code: int, give: Give, tmp_path: Path
) -> None:
    ended = give("config", verb, "c.yaml", "--set", "inference.engine=openai", *(w for s in sets for w in ("--set", s)))
    assert ended.returncode == code, ended.stderr
    assert (tmp_path / "said").read_text(encoding="utf-8")
    assert leaks(tmp_path) == []

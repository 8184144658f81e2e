"""An adapter goes to the Hub with a card that its comparison wrote, private, and with no row of the dataset."""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import ROOT, vlmtune, vlmtune_in_process, warm_vlmtune
from fake_hub import Hub, hub
from kills import kill_at_random_moments

from vlmtune.config import load
from vlmtune.errors import ConfigError, EnvironmentProblem, GateFailed, IntegrityError
from vlmtune.pipeline import predict, run
from vlmtune.pipeline.push import PushRequest, assemble, push
from vlmtune.pipeline.session import Session
from vlmtune.report import model_card
from vlmtune.run_folder import Provenance
from vlmtune.scoring.verdict import slice_warnings, worse_slices

CONFIG = """\
model: {name: PLACE/base, device: cpu}
dataset:
  {source: scenes, references: [caption_0, caption_1], id: id, limit: {train: 8, validation: 4, test: 40}}
task: {name: captioning}
inference: {engine: fakes.engine}
evaluation: {image_control_rows: 0, statistics: {resamples: 100}}
"""
KEY = "hf_canary"
REQUEST = PushRequest("team/better", base="org/base")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on a model of some folder, its adapter no better than the model."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(ROOT / "src/vlmtune/assets/tiny_qwen3_vl", folder / "base")
    (folder / "c.yaml").write_text(CONFIG.replace("PLACE", str(folder)))
    with contextlib.chdir(folder):
        finish(folder)
    (folder / "outputs").rename(folder / "kept")
    return folder


@pytest.fixture
def session(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The finished run, as no other test has changed it."""
    monkeypatch.chdir(finished)
    shutil.rmtree("outputs", ignore_errors=True)
    shutil.copytree("kept", "outputs")
    return Session(load("c.yaml").config)


def finish(folder: Path) -> None:
    made = Session(load("c.yaml").config)
    built = folder / "outputs" / "built"
    built.mkdir(parents=True)
    (built / "adapter_config.json").write_text(json.dumps({"r": 16, "base_model_name_or_path": str(folder / "base")}))
    (built / "adapter_model.safetensors").write_bytes(b"weights")
    (built / "samples.jsonl").write_text('{"id": "train-00001"}\n')
    origin: Provenance = made.provenance(training=made.config.training.model_dump(mode="json"))
    made.folder.publish(made.files.adapter, origin, {"selection_ids": ["validation-00001"]}, built)
    predict.predict(made)
    predict.predict(made, made.files.adapter)
    run.compare(made)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub of this machine, with a key for it."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_TOKEN", KEY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        yield server


def judged_as(status: str, session: Session) -> None:
    """The comparison's file with another verdict in it."""
    file = session.files.comparison
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": status, "verdict": "So it is."}))


def test_what_arrives_is_the_adapter_its_proof_and_nothing_of_the_rows(session: Session, here: Hub) -> None:
    judged_as("improved", session)
    assert push(session, REQUEST) == f"{here.address}/team/better"
    assert here.created == [{"name": "better", "organization": "team", "visibility": "private"}]
    assert set(here.files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "comparison.json", "vlmtune.json"
    }  # fmt: skip
    assert here.files["adapter_model.safetensors"] == b"weights"
    assert json.loads(here.files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    everything = b"\n".join(here.files.values())
    for private in (b"test-00001", b"validation-00001", b"train-00001", str(Path.cwd()).encode(), KEY.encode()):
        assert private not in everything
    assert set(here.keys) == {f"Bearer {KEY}"}


def test_not_even_what_stands_between_the_rows_goes_along(session: Session, here: Hub) -> None:
    """Slices by a person, ids of rows left out, where model and dataset lie."""
    judged_as("improved", session)
    file = session.files.comparison
    plain = json.loads(file.read_text())
    part = {"column": "doctor", "value": "Dr. Meier", "rows": 20, "a": 0.5, "b": 0.4, "delta": -0.1, "worse": True}
    slices = [{**part, "ci": [-0.2, -0.05], "p": 0.001, "p_adjusted": 0.001}]
    hidden = worse_slices({"status": "improved", "slices": slices})
    about = list(slice_warnings({**plain, "slices": slices}))
    plain |= {"slices": slices, "verdict": f"Improved.{hidden} Good.", "warnings": [*about, "chrf got worse"]}
    plain["settings"]["b"]["dataset"]["left_out"] = ["patient-5"]
    plain["additional"] = [{**plain, "name": "other", "verdict": "about patient-6"}]
    file.write_text(json.dumps(plain))
    push(session, REQUEST)
    everything = b"\n".join(here.files.values())
    for private in (b"Meier", b"doctor", b"patient", str(Path.cwd()).encode()):
        assert private not in everything
    assert b"Improved. It got worse in 1 of 1 slices. Good." in everything
    assert b"chrf got worse" in everything
    assert json.loads(here.files["vlmtune.json"])["origin"]["model"]["name"] == "org/base"


def test_the_card_says_the_comparison_and_the_hub_can_read_it(session: Session, here: Hub) -> None:
    judged_as("improved", session)
    push(session, REQUEST)
    _, head, text = here.files["README.md"].decode().split("---\n", 2)
    data = yaml.safe_load(head)
    plain = json.loads(here.files["comparison.json"])
    assert (data["base_model"], data["library_name"]) == ("org/base", "peft")
    results = data["model-index"][0]["results"][0]["metrics"]
    assert {one["type"]: one["value"] for one in results} == {
        entry["name"]: round(entry["b"], 6) for entry in plain["metrics"]
    }
    assert "**So it is.**" in text
    first = plain["metrics"][0]
    assert first["delta"] == 0, "the adapter changes nothing"
    assert first["ci"] is None
    assert "cannot show a change" in first["no_interval"]
    assert session.encoder.facts()["template"] in text
    assert 'PeftModel.from_pretrained(model, "team/better")' in text


def test_an_adapter_without_proof_or_with_a_bad_one_stays_here(session: Session, here: Hub, tmp_path: Path) -> None:
    judged_as("worse", session)
    with pytest.raises(GateFailed, match="not pushed: So it is. .*--force"):
        push(session, REQUEST)
    judged_as("inconclusive", session)
    with pytest.raises(GateFailed):
        push(session, REQUEST)
    assert push(session, PushRequest("team/better", base="org/base", force=True))
    here.files.clear()
    (session.files.adapter / "adapter_model.safetensors").write_bytes(b"others")
    with pytest.raises(IntegrityError, match="is about another adapter"):
        push(session, REQUEST)
    session.files.comparison.unlink()
    with pytest.raises(ConfigError, match="vlmtune run CONFIG"):
        push(session, REQUEST)
    assert not here.files


def test_a_base_that_nobody_can_load_and_a_stand_in_are_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--base"):
        assemble(session, PushRequest("team/better"), tmp_path / "out")
    manifest = session.files.adapter / "vlmtune.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "mock": True}))
    with pytest.raises(ConfigError, match="stand-in"):
        assemble(session, REQUEST, tmp_path / "out")


def test_nothing_gets_public_by_accident(session: Session, here: Hub) -> None:
    judged_as("improved", session)
    here.private = False
    with pytest.raises(ConfigError, match="already public"):
        push(session, REQUEST)
    assert not here.files
    push(session, REQUEST, public=True)
    assert here.created[-1]["visibility"] == "public"
    assert here.files


@pytest.mark.parametrize(("status", "said"), [(401, "hf auth login"), (403, "hf auth login"), (500, "refused")])
def test_a_hub_that_refuses_is_an_environment_problem(
    status: int, said: str, session: Session, here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as("improved", session)
    here.status = status
    with pytest.raises(EnvironmentProblem, match=said) as caught:
        push(session, REQUEST)
    assert KEY not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_an_environment_problem(
    session: Session, here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    judged_as("improved", session)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentProblem, match=r"the Hub cannot be reached \(.*\); nothing was pushed"):
        push(session, REQUEST)


def test_a_network_that_fails_during_the_upload_is_an_environment_problem(
    session: Session, here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Error while uploading 'adapter_model.safetensors' to the Hub.")

    judged_as("improved", session)
    monkeypatch.setattr(HfApi, "upload_folder", fail)
    with pytest.raises(EnvironmentProblem, match=r"the upload to team/better failed: Error while uploading"):
        push(session, REQUEST)


def test_offline_nothing_is_pushed_and_a_folder_shows_what_would_be(session: Session, tmp_path: Path) -> None:
    judged_as("improved", session)
    words = ["push", "c.yaml", "--to", "hf:team/better", "--base", "org/base"]
    offline = vlmtune_in_process(*words, "--offline", cwd=Path.cwd())
    assert offline.returncode == 4
    assert "offline mode is on" in offline.stderr
    fakes = str(ROOT / "tests")
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_TOKEN": KEY, "PYTHONPATH": fakes}
    unreachable = vlmtune(*words, cwd=Path.cwd(), **dead)
    assert unreachable.returncode == 4, unreachable.stderr
    assert "nothing was pushed" in unreachable.stderr
    looked = vlmtune_in_process(*words, "--into", "would", cwd=Path.cwd())
    assert looked.returncode == 0, looked.stderr
    assert "would/README.md" in looked.stdout
    wrong = vlmtune_in_process("push", "c.yaml", "--to", "better", cwd=Path.cwd())
    assert wrong.returncode == 2
    assert "hf:ORG/NAME" in wrong.stderr


def connect(address: str) -> None:
    """Called first in a child: use a Hub of this machine."""
    import huggingface_hub.constants as constants

    constants.HF_HUB_OFFLINE, constants.ENDPOINT = False, address


def test_a_push_killed_at_random_moments_arrives_whole(session: Session, here: Hub, tmp_path: Path, soak: bool) -> None:
    """A commit arrives as a whole or not at all; what was assembled for it lies in a temporary folder."""
    judged_as("improved", session)
    words = ["push", str(Path("c.yaml").resolve()), "--to", "hf:team/better", "--base", "org/base"]
    words += ["--set", f"output.dir={Path('outputs').resolve()}"]
    kill_at_random_moments(words, 20 if soak else 2, tmp_path, before=functools.partial(connect, here.address))
    undisturbed = {name: content for name, content in here.files.items() if name != "README.md"}
    assert len(undisturbed) == 4
    here.files.clear()
    into = [*words, "--into", "pushed"]
    killed = warm_vlmtune(*into, cwd=tmp_path, VLMTUNE_FAULT="file.written:kill:2")
    assert (killed.returncode, (tmp_path / "pushed").exists()) == (-9, False)
    again = warm_vlmtune(*into, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    pushed = {path.name: path.read_bytes() for path in (tmp_path / "pushed").iterdir() if path.name != "README.md"}
    assert pushed == undisturbed


def test_the_card_says_what_was_trained() -> None:
    def said(training: dict[str, object]) -> tuple[list[str], bool]:
        return model_card._in_full(training), model_card._has_lora(training)

    assert said({"lora": {"rank": 8}}) == ([], True)
    assert said({"lora": {"parts": []}, "method": "full"}) == (["language model"], False)
    mixed = {"language_model": "lora", "vision_tower": "full"}
    assert said({"lora": {"parts": ["language_model"]}, "method": mixed}) == (["vision tower"], True)

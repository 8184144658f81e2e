"""The parts of a run that are not training steps: what is answered how often, and how long each takes on a GPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TINY

from vlmtune.config import load
from vlmtune.data import open_role
from vlmtune.modeling.loading import find_checkpoint
from vlmtune.planning.gpus import GPUS
from vlmtune.planning.plan import Rented, make_plan
from vlmtune.planning.text import render
from vlmtune.planning.whole_run import BANDWIDTH_SHARE, LOADED_BYTES_PER_S, STARTED_S
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.tasks import captioning

Plan = dict[str, Any]
MakePlan = Callable[..., Plan]
CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0, caption_3], id: id, limit: {train: 16, validation: 6, test: 10}}
task: {name: captioning}
training: {precision: bf16, batch_size: 8, epochs: 2}
inference: {batch_size: 4}
evaluation: {image_control_rows: 3}
"""
MORE = """\
evaluation:
  image_control_rows: 3
  baselines: [{name: short, prompt: Name the colors.}]
  additional:
    - name: other
      task: {name: captioning}
      dataset: {source: scenes, references: [caption_0], limit: {test: 7}}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePlan:
    monkeypatch.chdir(tmp_path)

    def make(*sets: str, text: str = CONFIG, rented: Rented | None = None) -> Plan:
        Path("c.yaml").write_text(text)
        return make_plan(load("c.yaml", list(sets)).config, Progress(Silent()), "h200", rented)

    return make


def test_every_row_is_answered_with_its_controls(plan: MakePlan, encoder: Encoder) -> None:
    found = plan()["answers"]
    assert (found["base"]["requests"], found["tuned"]["requests"]) == (13, 13)
    assert (found["adapters"], found["loads"], found["asked"]) == (1, 3, 0)
    rows = open_role(load("c.yaml", []).config.dataset, "test")
    prompts = [encoder.prompt_length(captioning.TASK.prompt(captioning.Config(), row)) for row in rows]
    assert found["base"]["prompts"]["tokens"] == round(sum(prompts) * 1.3)
    lengths = [encoder.answer_length(text) for row in rows for text in row.truth["references"]]
    assert found["tuned"]["generated"] == pytest.approx(sum(lengths) / len(lengths))
    assert min(lengths) < found["tuned"]["longest"] <= max(lengths)


def test_baselines_sets_seeds_and_the_judge_are_counted(plan: MakePlan) -> None:
    more = CONFIG.partition("evaluation:")[0] + MORE
    found = plan("training.seeds=[1,2,3]", text=more)["answers"]
    assert found["base"]["requests"] == 10 + 3 + 10 + 7 + 3
    assert found["tuned"]["requests"] == 10 + 3 + 7 + 3
    assert (found["adapters"], found["loads"]) == (3, 7)
    judged = "evaluation.judge={base_url: 'http://127.0.0.1:1/v1', model: judge}"
    assert plan("training.seeds=[1,2,3]", judged)["answers"]["asked"] == 2 * 10 * 3


def test_a_short_training_has_whole_steps(plan: MakePlan) -> None:
    for steps, sets in ((1, ["training.epochs=0.001"]), (3, ["training.epochs=null", "training.max_steps=3"])):
        found = plan(*sets, "training.evaluate_every_steps=1")
        assert found["answers"]["validation"]["sequences"] == 6 * steps, "evaluated after each"


def test_answers_that_are_drawn_are_drawn_one_by_one(plan: MakePlan) -> None:
    assert plan("inference.temperature=0.7")["answers"]["tuned"]["batch"] == 1
    assert plan()["answers"]["tuned"]["batch"] == 4


def test_a_long_answer_is_cut_off_at_the_limit(plan: MakePlan) -> None:
    found = plan("inference.max_new_tokens=3")["answers"]["tuned"]
    assert (found["generated"], found["longest"]) == (3, 3)


def test_seconds_follow_from_the_figures_beside_them(plan: MakePlan) -> None:
    found = plan("training.evaluate_every_steps=1", rented=Rented(3.0, 0.5))
    (gpu,), answers, shapes = found["gpus"], found["answers"], found["shapes"]
    phases = gpu["whole_run"]["phases"]
    assert list(phases) == ["start-up", "baseline", "training", "validation", "evaluation"]
    weights = 2 * found["parameters"]
    assert phases["start-up"] == pytest.approx(3 * (STARTED_S + weights / LOADED_BYTES_PER_S))
    assert phases["training"] == pytest.approx(2 * gpu["seconds_per_epoch"])
    layers, keys = len(shapes["decoder"]["order"]), shapes["decoder"]["kinds"][0]["keys"]
    tuned = answers["tuned"]
    cache = 4 * tuned["prompts"]["tokens"] / 13 * 2 * 2 * keys * layers
    reads = (weights + cache) / (GPUS["h200"].gb_per_s * 1e9 * BANDWIDTH_SHARE)
    forward = phases["evaluation"] - math.ceil(13 / 4) * tuned["longest"] * reads
    steps, evaluations = 2 * found["epoch"]["steps"], phases["validation"] / forward
    assert evaluations == pytest.approx(steps * 6 / 13, rel=0.05), "6 rows after every step"
    assert gpu["whole_run"]["seconds"] == pytest.approx(sum(phases.values()))
    assert gpu["whole_run"]["usd"] == pytest.approx(sum(phases.values()) / 3600 * 3)


def test_more_cards_train_faster_and_all_are_paid(plan: MakePlan) -> None:
    one, four = (plan(rented=Rented(3.0, cards=cards)) for cards in (1, 4))
    (alone,), (shared,) = one["gpus"], four["gpus"]
    before, after = alone["whole_run"]["phases"], shared["whole_run"]["phases"]
    assert after.pop("training") == pytest.approx(before.pop("training") / 4)
    assert after == before, "one card answers"
    assert shared["whole_run"]["usd"] == pytest.approx(shared["whole_run"]["seconds"] / 3600 * 3 * 4)
    assert "the whole run on 4 cards" in render(four)


def test_a_server_elsewhere_takes_no_time_of_the_gpu(plan: MakePlan) -> None:
    found = plan(text=CONFIG.replace("{batch_size: 4}", "{engine: openai, base_url: 'http://127.0.0.1:1/v1'}"))
    assert set(found["gpus"][0]["whole_run"]["phases"]) == {"start-up", "training", "validation"}
    assert "answers come from a server elsewhere" in render(found)


def test_every_gpu_has_a_source_and_plausible_rates() -> None:
    for name, gpu in GPUS.items():
        assert gpu.source, name
        # Datasheets of one generation state operations per byte of the same size: a slip of a digit is not among them.
        assert 50 <= gpu.bf16_tflops * 1e3 / gpu.gb_per_s <= 450, name


def test_the_tiny_model_is_not_downloaded(plan: MakePlan) -> None:
    assert find_checkpoint(TINY).commit is None
    assert not plan()["answers"]["downloaded"]

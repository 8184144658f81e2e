"""`vlmtune search` on the tiny model: the planted rate is found, only fresh seeds meet the evaluation rows."""

import json
from pathlib import Path

import pytest
from commands import vlmtune_in_process, warm_vlmtune

RATES = [1e-7, 1e-6, 1e-5, 1e-4, 3e-3, 1.0, 3.0, 10.0, 30.0]
"""All but one are far too low or far too high."""

SETS = [
    "dataset.limit={train: 72, validation: 12, test: 24}",
    "training.epochs=1",
    "training.batch_size=8",
    "training.workers=0",
    "evaluation.metrics=[bleu, keyword_recall]",
    "evaluation.image_control_rows=0",
    "inference.max_new_tokens=16",
    f"search={{space: {{training.learning_rate: {RATES}}}, metric: loss, fresh_seeds: [7]}}",
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("search")
    ended = warm_vlmtune("search", "demo", *(f"--set={one}" for one in SETS), "--json", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout)


def test_nine_trials_find_the_planted_rate(searched: tuple[Path, dict[str, object]]) -> None:
    folder, said = searched
    found = said["search"]
    assert found["trials"][found["best"]]["values"] == {"training.learning_rate": 3e-3}
    states = [trial["state"] for trial in found["trials"]]
    assert states.count("complete") < 5
    assert said["comparison"]["names"]["b"] == "lora_predictions.seed7"
    assert found["fresh"]["seeds"] == [7]
    run = folder / "outputs" / "demo"
    page = (run / "search_report.html").read_text()
    assert "the trial was" in page
    assert "0.003" in page
    assert not list((run / ".vlmtune").glob("search*")), "trials leave nothing behind"
    again = warm_vlmtune("search", "demo", *(f"--set={one}" for one in SETS), "--json", cwd=folder)
    assert json.loads(again.stdout) == said
    assert "train:" not in again.stderr


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["search=null"], "no search block"),
        (["search={space: {training.learning_rat: [1, 2]}}"], "learning_rate"),
        (["search={space: {training.lora.rank: [0, 4]}}"], "training.lora.rank"),
        (["search={space: {dataset.limit: [1, 2]}}"], "only keys of training, task and model"),
        (["search={space: {training.seed: [1, 2]}}"], "no seeds"),
        (["search={space: {training.learning_rate: {low: 0, high: 1, log: true}}}"], "logarithmic"),
        (["search={}", "evaluation.split=validation"], "would prove nothing"),
        (["search={}", "training.seeds=[1, 2]"], "fresh_seeds"),
    ],
)
def test_what_cannot_be_searched_is_named_before_anything_is_trained(
    sets: list[str], message: str, tmp_path: Path
) -> None:
    ended = vlmtune_in_process("search", "demo", *(f"--set={one}" for one in sets), cwd=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr


def test_a_search_whose_trials_all_fail_says_why(tmp_path: Path) -> None:
    rates = [1e-3, 2e-3]
    sets = [
        *SETS[:-1],
        f"search={{space: {{training.learning_rate: {rates}}}, metric: loss}}",
        "training.max_tokens=20",
    ]
    ended = vlmtune_in_process("search", "demo", *(f"--set={one}" for one in sets), cwd=tmp_path)
    assert ended.returncode == 2
    assert "no trial was trained to its end" in ended.stderr
    assert "training.max_tokens" in ended.stderr

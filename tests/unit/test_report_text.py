"""Numbers and trainings as text."""

import pytest
from pages import captions

from vlmtune.report import charts, text


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [(0.03125, 4, "0.0313"), (-0.03125, 4, "-0.0313"), (-0.00001, 4, "0.0000"), (2.5, 0, "3"), (1e-7, 2, "0.00")],
)
def test_numbers_are_written_as_the_browser_does(value: float, digits: int, said: str) -> None:
    assert text.fixed(value, digits) == said


def test_a_training_in_one_line() -> None:
    points = [
        {"step": 1, "loss": 4.0},
        {"step": 5, "loss": 2.0},
        {"step": 9, "loss": 1.0},
        {"step": 9, "validation_loss": 3.0},
    ]
    plain = {"curve": points, "chosen_step": 5}
    assert text.training_summary(plain) == "loss 4 █▃▁ 1 over 9 steps, step 5 selected"
    assert text.training_summary(None) is None
    rewarded = [{**point, "reward": point["step"] / 10} for point in points[:3]]
    told = text.training_summary({"curve": rewarded})
    assert told == "reward 0.1 ▁▅█ 0.9 over 9 steps"
    assert text.sparkline([1.0] * 3) == "▁▁▁"
    assert text.sparkline([]) == ""
    assert text.sparkline([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"


def test_the_report_names_the_metrics_that_were_rewards() -> None:
    plain = captions()
    names = [metric["name"] for metric in plain["metrics"]]
    curve = [
        {"step": n, "loss": 0.1, "reward": n / 10, "kl": 0.01 * n, "words": 9.0, "even_groups": 0.25} for n in (1, 2)
    ]
    plain["training"] = {"curve": curve, "rewards": {names[0]: 1.0, "mine": 0.5}}
    (told,) = [line for line in text.metric_notes(plain) if line.startswith("rewards: ")]
    assert f"trained to score high in {names[0]} (1), mine (0.5); it was not in {', '.join(names[1:])}" in told
    figure = charts.learning_curve({"curve": curve})
    assert figure is not None
    assert "Mean reward of the answers drawn" in figure.svg
    assert figure.table[0] == ["step", "reward", "KL", "words", "groups without variance"]
    assert figure.table[1] == ["1", "0.1000", "0.0100", "9.0000", "0.2500"]

"""Numbers and trainings as text."""

import pytest

from vlmtune.report import text


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
    assert text.sparkline([1.0] * 3) == "▁▁▁"
    assert text.sparkline([]) == ""
    assert text.sparkline([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"

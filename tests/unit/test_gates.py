"""--fail-on: what a clause means, which mistakes are named."""

from typing import Any

import pytest

from vlmtune.errors import ConfigError
from vlmtune.scoring.gates import failures, parse

NONE_MISSING = {"bound": None, "no_interval": None}


def plain(**more: Any) -> dict[str, Any]:
    entries = [
        {"name": "bleu", "a": 0.1, "b": 0.13, "delta": 0.03, "ci": [0.01, 0.05], "p": 0.02, **NONE_MISSING},
        {"name": "cider_d", "a": 0.5, "b": 0.45, "delta": -0.05, "ci": [-0.2, 0.1], "p": 0.4, **NONE_MISSING},
    ]
    return {"status": "improved", "verdict": "Improved.", "metrics": entries, **more}


@pytest.mark.parametrize(
    ("clause", "fails"),
    [
        ("bleu<0", False),
        ("cider_d < 0", True),
        ("cider_d.delta<=-0.05", True),
        ("cider_d.delta<-0.05", False),
        ("bleu.ci_low<0.02", True),
        ("bleu.ci_high<0.02", False),
        ("bleu.ci_high >= 0.05", True),
        ("bleu.a>0.11", False),
        ("bleu.b>0.11", True),
        ("bleu.p>1e-2", True),
        ("bleu.p>.05", False),
        ("bleu<0; ; bleu.p>1", False),
    ],
)
def test_a_true_clause_fails(clause: str, fails: bool) -> None:
    assert bool(failures(clause, plain())) is fails


def test_every_true_clause_is_named_with_its_value() -> None:
    assert failures("bleu<0; cider_d<0; bleu.ci_low<0.1", plain()) == [
        "cider_d<0 is true: cider_d.delta = -0.05",
        "bleu.ci_low<0.1 is true: bleu.ci_low = 0.01",
    ]


def test_where_hardly_any_row_differs_the_ends_are_the_bound() -> None:
    alike = plain(status="no_difference")
    alike["metrics"][0] |= {"ci": None, "bound": 0.07, "no_interval": "no row differs"}
    assert failures("bleu.ci_low<-0.1; bleu.ci_high>0.1", alike) == []
    assert failures("bleu.ci_low<-0.05", alike) == ["bleu.ci_low<-0.05 is true: bleu.ci_low = -0.07"]
    alike["metrics"][0] |= {"bound": None}
    assert failures("bleu<0; bleu.ci_low<-0.1", alike) == ["bleu.ci_low<-0.1 is unknown: no row differs"]


def test_what_is_inconclusive_fails() -> None:
    unsure = plain(status="inconclusive", verdict="Inconclusive: few rows.")
    for entry in unsure["metrics"]:
        entry |= {"ci": None, "p": None}
    assert failures("bleu.ci_low<-1", unsure) == ["the comparison is inconclusive: Inconclusive: few rows."]
    assert failures("bleu<0", {**unsure, "metrics": []}) != []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "at least one clause"),
        (" ; ", "at least one clause"),
        ("bleu", "not of the form"),
        ("bleu=0", "not of the form"),
        ("0<bleu<1", "not of the form"),
        ("bleu<0 cider_d<0", "not of the form"),
        ("bleu<low", "'low' is not a number"),
        ("bleu<nan", "'nan' is not a number"),
        ("bleu.ci_lo<0", "no field 'ci_lo'; .* did you mean 'ci_low'"),
    ],
)
def test_what_is_no_expression_is_refused_before_anything_is_read(expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(expression)


def test_a_metric_that_is_not_there_is_named_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="no metric 'cider'; there are: bleu, cider_d; did you mean 'cider_d'"):
        failures("cider<0", plain())


def test_several_seeds_have_no_p() -> None:
    several = plain()
    several["metrics"][0]["p"] = None
    with pytest.raises(ConfigError, match="with several seeds there is no p"):
        failures("bleu.p<1", several)

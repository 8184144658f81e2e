"""Comparisons, scores and prediction files are what their committed schemas say, with no key that these do not name."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import QUICK, lines
from json_schema import fits
from pages import boxed, endings, failing, labelled

from vlmtune.compare_files import write_comparison
from vlmtune.predictions import Controls, Line
from vlmtune.scoring import JudgeConfig
from vlmtune.scoring.comparison import Comparison, compare, with_additional_sets
from vlmtune.scoring.judge import Judgement, Pair
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.scoring.score import score
from vlmtune.tasks import captioning

SCHEMAS = Path(__file__).parents[2] / "schemas"
FAILED = Line("row 1", None, {"references": ["a dog"]}, {"stage": "image", "reason": "not an image"})


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return read


class Alternating:
    """A judge that prefers A and B in turn, and refuses the third row; people agree with it on the first."""

    config = JudgeConfig(model="alternating", human_labels="kind")

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        made = [Judgement("a", "a") if n % 2 else Judgement("b", "tie") for n in range(len(pairs))]
        return [*made[:2], Judgement("a", None, "no", refused=True), *made[3:]]


def everything() -> Comparison:
    """A comparison in which nothing is null that can be: controls, confidence, seeds, prompt baselines, sets, judge."""
    a, b, c = (
        [
            replace(line, token_logprobs=[-noise, -0.1], meta={"kind": "BA"[n % 2]})
            for n, line in enumerate(lines(60, noise))
        ]
        for noise in (0.6, 0.2, 0.3)
    )
    controls: Controls = {
        "schema_version": 1,
        "image": {"lines": [json.loads(line.to_json()) for line in lines(60, 0.9)]},
        "adapter_delta": {"max_logit_difference": 0.5},
    }
    base = PredictionFile("base", lines(60, 0.6, extra=9), None, controls)
    seeds = tuple(
        PredictionFile(name, some, None, controls, {"steps": 9, "curve": [{"step": 1, "loss": 2.0}]})
        for name, some in (("one", b), ("two", c))
    )
    task = captioning.TASK, captioning.Config(), QUICK.model_copy(update={"slices": ["kind"]})
    asked = PredictionFile("prompt", a), PredictionFile("nothing", failing(a, 1))
    comparison = compare(
        base, seeds, *task, [PredictionFile("third", failing(c, 40))], prompt_baselines=asked, judge=Alternating()
    )
    other = compare(base, seeds[0], *task)
    in_run = replace(comparison, result={**comparison.result, "evaluation_set": None, "mock": False})
    return with_additional_sets(in_run, {"more": other})


@pytest.mark.parametrize("name", ["comparison", "score", "prediction"])
def test_every_key_has_a_description(name: str) -> None:
    whole = schema(name)
    for shape in (whole, *whole["$defs"].values()):
        assert all(field["description"] for field in shape["properties"].values())


def test_a_written_comparison_fits(tmp_path: Path) -> None:
    write_comparison(everything(), tmp_path / "compare.json", [])
    plain = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert {key for key, value in plain.items() if value in (None, [], {})} <= {
        "best_prompt_baseline",
        "contradictions",
        "evaluation_set",
        "primary_reason",
        "warnings",
    }
    assert fits(plain, schema("comparison"), only_known=True)
    assert not fits({**plain, "further": 1}, schema("comparison"), only_known=True)
    assert not fits({key: value for key, value in plain.items() if key != "metrics"}, schema("comparison"))
    assert not fits({**plain, "rows": {**plain["rows"], "paired": "60"}}, schema("comparison"))


@pytest.mark.parametrize("plain", [labelled(), boxed(), *endings().values()])
def test_comparisons_of_every_kind_fit(plain: dict[str, Any]) -> None:
    assert fits(json.loads(json.dumps(plain)), schema("comparison"), only_known=True)


def test_scores_fit() -> None:
    for some in (lines(30, 0.3), failing(lines(30, 0.3), 1)):
        plain = json.loads(json.dumps(score(some, captioning.TASK, captioning.Config()).to_json()))
        assert fits(plain, schema("score"), only_known=True)


@pytest.mark.parametrize(
    "line",
    [
        Line("row 1", "a dog", {"references": ["a dog"]}, answer="a dog", finish_reason="stop", tokens=4, image="ff"),
        Line("row 1", "{", {"references": []}, unparsed="not JSON", token_logprobs=[-0.5], cluster="x", meta={"n": 1}),
        FAILED,
    ],
)
def test_lines_of_a_prediction_file_fit(line: Line) -> None:
    assert fits(json.loads(line.to_json()), schema("prediction"), only_known=True)


def test_what_metrics_compare_with_are_further_keys_of_a_line() -> None:
    line = replace(FAILED, truth={**FAILED.truth, "keywords": ["dog"]})
    assert fits(json.loads(line.to_json()), schema("prediction"))

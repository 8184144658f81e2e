"""How the next token is chosen, compared with the processors of transformers."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import user
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper

from vlmtune.engines import InferenceConfig
from vlmtune.engines._client import Client, Endpoint
from vlmtune.engines.openai import Config as OpenAI
from vlmtune.generation import Penalised, _Seen, greedy, sampling
from vlmtune.inference import resolved
from vlmtune.types import Request

SETTINGS = [
    {"temperature": 0.7, "top_p": 0.8, "top_k": 5},
    {"temperature": 1.5, "top_p": 1.0, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.6, "min_p": 0.3},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 8, "min_p": 0.05},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_sampled_tokens_are_those_that_transformers_leaves(settings: dict[str, Any]) -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(3)) * 2
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings["temperature"])])
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    warpers.append(TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        warpers.append(MinPLogitsWarper(settings["min_p"]))
    golden = warpers(torch.zeros(6, 1, dtype=torch.long), logits.clone()).softmax(-1)
    choose = sampling(seed=1, **settings)
    drawn = torch.stack([choose(logits.log_softmax(-1)) for _ in range(400)])
    shares = torch.stack([(drawn == token).float().mean(0) for token in range(40)], -1)
    assert ((shares > 0) <= (golden > 0)).all(), "a token that transformers leaves out is never drawn"
    assert (shares - golden).abs().max() < 0.12


def test_penalties_are_those_of_transformers_and_openai() -> None:
    logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(1))
    prompt, mask = torch.tensor([[9, 1, 2, 2], [9, 9, 3, 4]]), torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]]).bool()
    seen = _Seen(Penalised(greedy, 1.3, 0.0), prompt, mask)
    for token in ([5, 6], [5, 7]):
        seen.add(torch.tensor(token))
    for row, ids in enumerate(([1, 2, 2, 5, 5], [3, 4, 6, 7])):
        golden = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), logits[row : row + 1].clone())
        torch.testing.assert_close(seen.penalised(logits)[row : row + 1], golden)
    present = _Seen(Penalised(greedy, 1.0, 0.5), prompt, mask)
    present.add(torch.tensor([5, 6]))
    present.select(torch.tensor([1]))
    assert (present.penalised(logits[1:]) - logits[1:]).round(decimals=5).tolist() == [[0] * 6 + [-0.5] + [0] * 3]


def encoder_of(generation_config: dict[str, Any]) -> Any:
    return SimpleNamespace(generation_config=generation_config, renderer=SimpleNamespace(may_think=False))


OWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


def test_the_checkpoints_own_settings_by_name() -> None:
    keys = ("temperature", "top_p", "top_k", "repetition_penalty")

    def found(config: InferenceConfig, own: dict[str, Any]) -> list[float]:
        made = resolved(config, encoder_of(own))
        return [getattr(made, key) for key in keys]

    assert found(InferenceConfig(), OWN) == [0.0, 1.0, 0, 1.0], "greedy stays the default"
    assert found(InferenceConfig(settings="checkpoint"), OWN) == [0.7, 0.8, 20, 1.05]
    assert found(InferenceConfig(settings="checkpoint", top_k=4), OWN) == [0.7, 0.8, 4, 1.05]
    assert found(InferenceConfig(settings="checkpoint"), {"temperature": 0.7}) == [0.0, 1.0, 0, 1.0]


def test_servers_get_what_changes_something() -> None:
    def sent(**settings: Any) -> dict[str, Any]:
        config = OpenAI(logprobs=False, **settings)
        client = Client(config, Endpoint("http://x", None, "m", own_checkpoint=False), None)
        return client._decoding(Request("1", (user("What?"),)))

    assert sent() == {"temperature": 0.0, "max_tokens": 64}
    changed = {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 1.5}
    assert sent(**changed) == {"temperature": 0.0, "max_tokens": 64, **changed}
    assert sent(json_object=True)["response_format"] == {"type": "json_object"}
    strict = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    for schema, is_strict in ((strict, False), ({**strict, "properties": {"a": {"type": "string"}}}, True)):
        found = sent(json_schema=json.dumps(schema))["response_format"]
        assert found == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": is_strict},
        }

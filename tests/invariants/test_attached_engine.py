"""An engine over a model somebody else has loaded, as training asks it: the same answers, and the model as it was."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from builders import TINY, make_image, ref, user

from vlmtune import generation
from vlmtune.engines import hf
from vlmtune.modeling.loading import load_model
from vlmtune.processing.encoder import Encoder
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, trainable
from vlmtune.types import Outcome, Request

CONFIG = hf.Config(batch_size=4, max_new_tokens=12)
REQUESTS = [
    Request(f"r{n}", (user(ref(make_image(*size, seed=n), f"attached picture {n}"), "Describe this image."),))
    for n, size in enumerate([(128, 96), (70, 100), (64, 64), (150, 60)])
]


def by_id(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    return {outcome.id: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def base(encoder: Encoder) -> dict[str, Outcome]:
    return by_id(hf.open_engine(CONFIG, TINY, encoder, "fp32").answer(REQUESTS))


def test_a_plain_model_answers_as_one_that_was_opened(encoder: Encoder, base: dict[str, Outcome]) -> None:
    model = load_model(encoder.checkpoint, "cpu", "fp32")
    engine = hf.attached(model, CONFIG, encoder, "cpu", "fp32")
    assert by_id(engine.answer(REQUESTS)) == base
    assert engine.adapter_delta(REQUESTS) is None
    with engine.adapter_disabled():
        assert by_id(engine.answer(REQUESTS)) == base


def test_a_model_in_training_answers_with_and_without_its_adapter_and_trains_on(
    encoder: Encoder, base: dict[str, Outcome]
) -> None:
    family = encoder.checkpoint.family
    model = add_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(), family, 0)
    torch.manual_seed(0)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    learned = {name for name, value in model.named_parameters() if value.requires_grad}
    engine = hf.attached(model.eval(), CONFIG, encoder, "cpu", "fp32")
    tuned = by_id(engine.answer(REQUESTS))
    assert tuned != base
    with engine.adapter_disabled():
        assert by_id(engine.answer(REQUESTS)) == base, "to the last digit of every log-probability"
    assert by_id(engine.answer(REQUESTS)) == tuned
    engine.close()
    assert {name for name, value in model.named_parameters() if value.requires_grad} == learned
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_batches_that_did_not_fit_are_counted(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = generation.decode

    def small_card(model: Any, batch: list[Any], *rest: Any) -> Any:
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return real(model, batch, *rest)

    monkeypatch.setattr(hf, "decode", small_card)
    engine = hf.open_engine(CONFIG, TINY, encoder, "fp32")
    assert engine.facts()["batches_halved"] == 0
    assert set(by_id(engine.answer(REQUESTS))) == {request.id for request in REQUESTS}
    assert engine.facts()["batches_halved"] == 3, "four rows, then two and two"

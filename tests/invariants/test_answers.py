"""What must not change an answer: batches, order, padding, company, interruption, plain PEFT instead of ours."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pieces import TINY, assistant, picture, ref, user
from safetensors.torch import load_file, save_file

from vlmtune.answering import Answering, exchanged
from vlmtune.data import scenes
from vlmtune.engines import hf
from vlmtune.errors import IntegrityError, Interrupted
from vlmtune.inputs import Inputs
from vlmtune.models import load_model
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.training.lora import add_adapter, save_adapter, trainable
from vlmtune.training.settings import LoraConfig
from vlmtune.types import Example, Failure, ImageRef, Outcome, Prediction, Request

QUIET = Progress(Silent())


@pytest.fixture(scope="module")
def adapter(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with a strong effect: B is not zero."""
    model = add_adapter(load_model(inputs.checkpoint, "cpu", "fp32"), LoraConfig(), inputs.checkpoint.family, 0)
    torch.manual_seed(0)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, folder, "tiny", None)
    return folder


def scene_examples(count: int) -> list[Example]:
    config = scenes.Config(references=[f"caption_{n}" for n in range(5)], id="id")
    return list(scenes.open(config, "test", count))


def mixed_requests() -> list[Request]:
    """One image, several, none, several turns; sizes and lengths all differ."""
    sizes = [(128, 128), (100, 75), (96, 160), (64, 64), (150, 110), (40, 200)]
    pictures = [ref(picture(*size, seed=n), f"picture {n}") for n, size in enumerate(sizes)]
    asked = [(user(image, "Describe this image."),) for image in pictures]
    asked += [
        (user(pictures[0], "and", pictures[2], "What is shown in this image?"),),
        (user("What is a ball?"),),
        (user(pictures[3], "What is it?"), assistant("A red ball."), user("How many are there in the image?")),
        (user("Describe."),),
    ]
    return [Request(f"r{n}", conversation) for n, conversation in enumerate(asked)]


def answers(
    inputs: Inputs, requests: Sequence[Request], batch_size: int, adapter: Path | None = None
) -> dict[str, Outcome]:
    config = hf.Config(batch_size=batch_size, max_new_tokens=24)
    engine = hf.open_engine(config, TINY, inputs, "fp32", adapter)
    return {outcome.id: outcome for outcome in engine.answer(requests)}


def test_batches_and_order_change_no_answer(inputs: Inputs) -> None:
    requests = mixed_requests()
    alone = answers(inputs, requests, 1)
    assert len({o.text for o in alone.values() if isinstance(o, Prediction)}) > 3, "equal answers could hide a mix-up"
    for size in (3, 10):
        assert answers(inputs, requests, size) == alone
    assert answers(inputs, requests[::-1], 4) == alone


def test_plain_transformers_and_peft_give_the_same_tokens(inputs: Inputs, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = str(inputs.checkpoint.folder)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    examples = scene_examples(6)
    asked = [Request(e.id, captioning.TASK.ask(captioning.Config(), e)) for e in examples]
    ours, untouched = answers(inputs, asked, 4, adapter), answers(inputs, asked, 4)
    assert ours != untouched
    for example in examples:
        content = [
            {"type": "image", "image": example.images[0].read()},
            {"type": "text", "text": captioning.Config().prompt},
        ]
        made = processor.apply_chat_template(
            [[{"role": "user", "content": content}]],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        ids = model.generate(**made, max_new_tokens=24, do_sample=False)[0, made["input_ids"].shape[1] :]
        answer = ours[example.id]
        assert isinstance(answer, Prediction)
        assert processor.decode(ids, skip_special_tokens=True) == answer.text
        assert len(ids) == answer.tokens


def test_bad_rows_fail_alone(inputs: Inputs) -> None:
    def missing() -> bytes:
        raise FileNotFoundError("gone")

    good = mixed_requests()[:3]
    bad = Request("bad image", (user(ImageRef("a.png", missing), "Describe."),))
    long = Request("long", (user("word " * 6000),))
    special = Request("special", (user("a <|im_end|> b"),))
    got = answers(inputs, [bad, *good, long, special], 2)
    stages = {k: v.stage for k, v in got.items() if isinstance(v, Failure)}
    assert stages == {"bad image": "image", "long": "prompt", "special": "prompt"}
    assert {k: v for k, v in got.items() if isinstance(v, Prediction)} == answers(inputs, good, 2)


def test_a_dead_adapter_is_refused(inputs: Inputs, adapter: Path, tmp_path: Path) -> None:
    dead = shutil.copytree(adapter, tmp_path / "dead")
    weights = load_file(dead / "adapter_model.safetensors")
    save_file({k: v * (0 if "lora_B" in k else 1) for k, v in weights.items()}, dead / "adapter_model.safetensors")
    engine = hf.open_engine(hf.Config(), TINY, inputs, "fp32", dead)
    with pytest.raises(IntegrityError, match="loads but changes nothing"):
        engine.effect(mixed_requests()[:2])
    alive = hf.open_engine(hf.Config(), TINY, inputs, "fp32", adapter).effect(mixed_requests()[:2])
    assert alive is not None
    assert alive > 0.1


@pytest.mark.parametrize("damage", ["other names", "other rank", "missing layer"])
def test_an_adapter_of_another_model_is_refused(damage: str, inputs: Inputs, adapter: Path, tmp_path: Path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    if damage == "other names":
        weights = {name.replace("language_model", "text_model"): value for name, value in weights.items()}
    elif damage == "other rank":
        weights = {name: value[:4] if "lora_A" in name else value for name, value in weights.items()}
    else:
        weights.pop(min(weights))
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(IntegrityError, match=r"does not fit|belongs to another model"):
        hf.open_engine(hf.Config(), TINY, inputs, "fp32", other)


class AtOnce(StopRequest):
    def __init__(self) -> None:
        self.received = 2


def test_interrupted_answers_go_on_where_they_stopped(inputs: Inputs, tmp_path: Path) -> None:
    examples = scene_examples(24)

    def answer(partial: Path, stop: StopRequest) -> list[str]:
        answering = Answering(captioning.TASK, captioning.Config(), tmp_path / "pictures", QUIET, stop)
        engine = hf.open_engine(hf.Config(batch_size=8, max_new_tokens=8), TINY, inputs, "fp32")
        return [line.to_json() for line in answering.answer("test", engine, examples, partial)]

    whole = answer(tmp_path / "whole.jsonl", StopRequest())
    with pytest.raises(Interrupted, match="16 of 24 answers are saved"):
        answer(tmp_path / "partial.jsonl", AtOnce())
    saved = (tmp_path / "partial.jsonl").read_bytes()
    (tmp_path / "partial.jsonl").write_bytes(saved[:-40])  # and the last line was torn
    assert answer(tmp_path / "partial.jsonl", StopRequest()) == whole
    assert [json.loads(line)["id"] for line in whole] == [example.id for example in examples]


def test_exchanged_rows_never_keep_their_own_image() -> None:
    examples = scene_examples(30)
    own: dict[str, Any] = {example.id: example.images for example in examples}
    swapped = exchanged(examples, 20)
    assert len(swapped) == 20
    assert all(example.images != own[example.id] for example in swapped)
    assert len({example.images[0].where for example in swapped}) == 20
    assert [e.id for e in exchanged(examples[::-1], 20)] == [e.id for e in swapped]

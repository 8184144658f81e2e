"""What must not change an answer: batches, order, padding, company, interruption, plain PEFT instead of ours."""

import json
import shutil
import weakref
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
from vlmtune.errors import EnvironmentProblem, IntegrityError, Interrupted
from vlmtune.inputs import Inputs, collate
from vlmtune.models import ModelConfig, attach_adapter, find_checkpoint, load_model
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


def test_an_adapter_stays_fp32_on_a_model_in_half_precision(inputs: Inputs, adapter: Path) -> None:
    """As it was trained, and as plain PEFT loads it: the same logits, to the bit."""
    from peft import PeftModel

    encoded = [inputs.prompt(captioning.TASK.ask(captioning.Config(), example)) for example in scene_examples(2)]
    tensors = collate(encoded, inputs, "left", "cpu", torch.bfloat16)
    ours = attach_adapter(load_model(inputs.checkpoint, "cpu", "bf16"), adapter)
    plain = PeftModel.from_pretrained(load_model(inputs.checkpoint, "cpu", "bf16"), str(adapter)).eval()
    kinds = {p.dtype for name, p in ours.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32}
    with torch.no_grad():
        assert torch.equal(ours(**tensors).logits, plain(**tensors).logits)


def test_samples_do_not_depend_on_company_and_differ_between_requests(inputs: Inputs) -> None:
    image = ref(picture(128, 128), "one")
    requests = [Request(f"r{n}", (user(image, "Describe this image."),)) for n in range(6)]

    def sampled(some: Sequence[Request], batch_size: int) -> dict[str, Outcome]:
        config = hf.Config(batch_size=batch_size, max_new_tokens=24, temperature=2.0)
        return {o.id: o for o in hf.open_engine(config, TINY, inputs, "fp32").answer(some)}

    together = sampled(requests, 4)
    assert len({o.text for o in together.values() if isinstance(o, Prediction)}) > 3
    assert sampled(requests[::-1][:4], 2) == {k: v for k, v in together.items() if k > "r1"}


def test_too_little_memory_halves_the_batch_after_the_failed_one_is_gone(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = hf.HfEngine._generate, []

    def small_card(engine: hf.HfEngine, some: Sequence[Request]) -> list[Outcome]:
        assert not [1 for tensor in left if tensor() is not None], "what did not fit is still held"
        held = torch.zeros(10)
        left.append(weakref.ref(held))
        if len(some) > 2:
            raise torch.OutOfMemoryError
        del held
        return real(engine, some)

    requests = mixed_requests()[:6]
    whole = answers(inputs, requests, 6)
    monkeypatch.setattr(hf.HfEngine, "_generate", small_card)
    assert answers(inputs, requests, 6) == whole
    monkeypatch.setattr(hf.HfEngine, "_generate", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(EnvironmentProblem, match="one request alone does not fit .* --set model.max_pixels"):
        answers(inputs, requests, 6)


@pytest.mark.parametrize("damage", ["missing weight", "torn file"])
def test_damaged_weights_are_refused(damage: str, inputs: Inputs, tmp_path: Path) -> None:
    folder = shutil.copytree(inputs.checkpoint.folder, tmp_path / "damaged")
    file = folder / "model.safetensors"
    if damage == "torn file":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        weights = load_file(file)
        del weights["model.language_model.layers.0.self_attn.q_proj.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="layers.0.self_attn.q_proj|damaged"):
        load_model(find_checkpoint(ModelConfig(name=str(folder))), "cpu", "fp32")


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


class AfterRequests(StopRequest):
    """As if Ctrl-C came while the first answers are made, after that many requests were taken."""

    def __init__(self, requests: int) -> None:
        self._left = requests

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self._left -= 1
        return 2 if self._left < 0 else None


def test_interrupted_answers_go_on_where_they_stopped(inputs: Inputs, tmp_path: Path) -> None:
    examples = scene_examples(24)

    def answer(partial: Path, stop: StopRequest) -> list[str]:
        answering = Answering(captioning.TASK, captioning.Config(), tmp_path / "pictures", QUIET, stop)
        engine = hf.open_engine(hf.Config(batch_size=8, max_new_tokens=8), TINY, inputs, "fp32")
        return [line.to_json() for line in answering.answer("test", engine, examples, partial)]

    whole = answer(tmp_path / "whole.jsonl", StopRequest())
    with pytest.raises(Interrupted, match="16 of 24 answers are saved"):
        answer(tmp_path / "partial.jsonl", AfterRequests(24))
    with pytest.raises(Interrupted, match="0 of 24 answers are saved"):
        answer(tmp_path / "nothing.jsonl", AfterRequests(5))
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

"""What must not change an answer: batches, order, padding, company, interruption, plain PEFT instead of ours."""

import json
import shutil
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, assistant, make_image, ref, user
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from vlmtune import generation
from vlmtune.data import scenes
from vlmtune.engines import hf
from vlmtune.errors import EnvironmentProblem, IntegrityError, Interrupted
from vlmtune.inference import Predictor, shuffle_images
from vlmtune.modeling.loading import ModelConfig, attach_adapter, find_checkpoint, load_model
from vlmtune.processing import encoder as encoder_module
from vlmtune.processing.chat_template import Rendered
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.training.config import LoraConfig
from vlmtune.training.lora import add_adapter, save_adapter, trainable
from vlmtune.types import Example, Failure, ImageRef, Outcome, Prediction, Request

QUIET = Progress(Silent())


@pytest.fixture(scope="module")
def adapter(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with a strong effect: B is not zero."""
    model = add_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), LoraConfig(), encoder.checkpoint.family, 0)
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
    pictures = [ref(make_image(*size, seed=n), f"mixed picture {n}") for n, size in enumerate(sizes)]
    asked = [(user(image, "Describe this image."),) for image in pictures]
    asked += [
        (user(pictures[0], "and", pictures[2], "What is shown in this image?"),),
        (user("What is a ball?"),),
        (user(pictures[3], "What is it?"), assistant("A red ball."), user("How many are there in the image?")),
        (user("Describe."),),
    ]
    return [Request(f"r{n}", conversation) for n, conversation in enumerate(asked)]


def answers(
    encoder: Encoder, requests: Sequence[Request], batch_size: int, adapter: Path | None = None
) -> dict[str, Outcome]:
    config = hf.Config(batch_size=batch_size, max_new_tokens=24)
    return plain(hf.open_engine(config, TINY, encoder, "fp32", adapter).answer(requests))


def plain(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """By id, without log-probabilities: those move in the sixth digit with the company."""
    return {o.id: replace(o, logprobs=None) if isinstance(o, Prediction) else o for o in outcomes}


def test_batches_and_order_change_no_answer(encoder: Encoder) -> None:
    requests = mixed_requests()
    alone = answers(encoder, requests, 1)
    assert len({o.text for o in alone.values() if isinstance(o, Prediction)}) > 3, "equal answers could hide a mix-up"
    for size in (3, 10):
        assert answers(encoder, requests, size) == alone
    assert answers(encoder, requests[::-1], 4) == alone


@pytest.mark.parametrize("leaving", [0.01, 2.0], ids=["each leaves at once", "all stay"])
def test_answers_that_leave_the_batch_change_no_other(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, leaving: float
) -> None:
    requests = mixed_requests()
    usual = answers(encoder, requests, 10)
    lengths = {outcome.tokens for outcome in usual.values() if isinstance(outcome, Prediction)}
    assert len(lengths) > 3, "answers that end together would leave together"
    monkeypatch.setattr(generation, "COMPACT_AT", leaving)
    assert answers(encoder, requests, 10) == usual


def test_a_token_budget_cuts_batches_and_changes_no_answer(encoder: Encoder) -> None:
    requests = mixed_requests()
    engine = hf.open_engine(hf.Config(batch_tokens=200, max_new_tokens=24), TINY, encoder, "fp32")
    lengths = {request.id: encoder.prompt_length(request.conversation) for request in requests}
    batches = engine._batches([(lengths[request.id], request) for request in requests])
    assert len(batches) > 3
    for batch in batches:
        padded = len(batch) * (max(lengths[request.id] for request in batch) + 24)
        assert padded <= 200 or len(batch) == 1
    assert plain(engine.answer(requests)) == answers(encoder, requests, 1)


def test_log_probabilities_are_those_of_one_forward_pass(encoder: Encoder, adapter: Path) -> None:
    """Of transformers' own, over prompt and answer together, one conversation at a time."""
    requests = mixed_requests()
    engine = hf.open_engine(hf.Config(max_new_tokens=24), TINY, encoder, "fp32", adapter)
    model = attach_adapter(load_model(encoder.checkpoint, "cpu", "fp32"), adapter)
    stops = encoder.stop_ids
    for outcome in engine.answer(requests):
        assert isinstance(outcome, Prediction)
        assert outcome.logprobs is not None
        prompt = encoder.prompt(next(r.conversation for r in requests if r.id == outcome.id))
        told = list(prompt.rendered.ids)
        for value in outcome.logprobs:
            whole = replace(prompt, rendered=Rendered(tuple(told), (False,) * len(told)))
            model.base_model.model.base_model.rope_deltas = None
            with torch.no_grad():
                logits = model(**collate([whole], encoder, "left", "cpu", torch.float32), use_cache=False).logits
            best = logits[0, -1].log_softmax(-1).max(-1)
            assert value == pytest.approx(best.values.item(), abs=1e-4)
            told.append(int(best.indices))
        assert (told[-1] in stops) == (outcome.finish_reason == "stop")
        assert encoder.renderer.text(told[len(prompt) :]) == outcome.text


def test_base_and_tuned_answer_from_one_load_and_one_decoding(
    encoder: Encoder, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixed_requests()
    base, tuned = answers(encoder, requests, 10), answers(encoder, requests, 10, adapter)
    assert base != tuned
    decoded: list[str] = []
    real = encoder_module.decode_rgb
    monkeypatch.setattr(encoder_module, "decode_rgb", lambda ref: decoded.append(ref.where) or real(ref))
    fresh = Encoder(encoder.checkpoint, TINY)
    engine = hf.open_engine(hf.Config(batch_size=10, max_new_tokens=24), TINY, fresh, "fp32", adapter)
    with engine.adapter_disabled():
        assert plain(engine.answer(requests)) == base
    assert plain(engine.answer(requests)) == tuned
    assert sorted(decoded) == [f"mixed picture {n}" for n in range(6)]


def test_what_is_too_large_to_keep_is_measured_by_its_header(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "CACHE_BYTES", 1)
    small = Encoder(encoder.checkpoint, TINY)
    requests = mixed_requests()
    assert [small.prompt_length(r.conversation) for r in requests] == [
        len(encoder.prompt(r.conversation)) for r in requests
    ]
    assert answers(small, requests, 4) == answers(encoder, requests, 4)


def test_plain_transformers_and_peft_give_the_same_tokens(encoder: Encoder, adapter: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = str(encoder.checkpoint.folder)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    examples = scene_examples(6)
    asked = [Request(e.id, captioning.TASK.prompt(captioning.Config(), e)) for e in examples]
    ours, untouched = answers(encoder, asked, 4, adapter), answers(encoder, asked, 4)
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


def test_an_adapter_stays_fp32_on_a_model_in_half_precision(encoder: Encoder, adapter: Path) -> None:
    """It is used in the model's precision, as in training; no further from fp32 than plain PEFT, which widens the
    model's activations for it."""
    encoded = [encoder.prompt(captioning.TASK.prompt(captioning.Config(), example)) for example in scene_examples(2)]

    def logits(load: Callable[[PreTrainedModel], PeftModel], precision: str) -> torch.Tensor:
        model = load(load_model(encoder.checkpoint, "cpu", precision)).eval()
        assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {torch.float32}
        with torch.no_grad():
            return model(**collate(encoded, encoder, "left", "cpu", model.dtype)).logits.float()

    def ours(base: PreTrainedModel) -> PeftModel:
        return attach_adapter(base, adapter)

    def plain(base: PreTrainedModel) -> PeftModel:
        return PeftModel.from_pretrained(base, str(adapter))

    exact = logits(ours, "fp32")
    assert torch.equal(exact, logits(plain, "fp32"))
    assert (logits(ours, "bf16") - exact).norm() < 1.2 * (logits(plain, "bf16") - exact).norm()


def test_samples_do_not_depend_on_company_and_differ_between_requests(encoder: Encoder) -> None:
    image = ref(make_image(128, 128), "one")
    requests = [Request(f"r{n}", (user(image, "Describe this image."),)) for n in range(6)]

    def sampled(some: Sequence[Request], batch_size: int) -> dict[str, Outcome]:
        config = hf.Config(batch_size=batch_size, max_new_tokens=24, temperature=2.0)
        return plain(hf.open_engine(config, TINY, encoder, "fp32").answer(some))

    together = sampled(requests, 4)
    assert len({o.text for o in together.values() if isinstance(o, Prediction)}) > 3
    assert sampled(requests[::-1][:4], 2) == {k: v for k, v in together.items() if k > "r1"}


def test_too_little_memory_halves_the_batch_after_the_failed_one_is_gone(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = hf.HfEngine._generate_batch, []

    def small_card(engine: hf.HfEngine, some: Sequence[Any]) -> list[Outcome]:
        assert not [1 for tensor in left if tensor() is not None], "what did not fit is still held"
        held = torch.zeros(10)
        left.append(weakref.ref(held))
        if len(some) > 2:
            raise torch.OutOfMemoryError
        del held
        return real(engine, some)

    requests = mixed_requests()[:6]
    whole = answers(encoder, requests, 6)
    monkeypatch.setattr(hf.HfEngine, "_generate_batch", small_card)
    assert answers(encoder, requests, 6) == whole
    monkeypatch.setattr(hf.HfEngine, "_generate_batch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(EnvironmentProblem, match="one request alone does not fit .* --set model.max_pixels"):
        answers(encoder, requests, 6)


@pytest.mark.parametrize("damage", ["missing weight", "torn file"])
def test_damaged_weights_are_refused(damage: str, encoder: Encoder, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder.checkpoint.folder, tmp_path / "damaged")
    file = folder / "model.safetensors"
    if damage == "torn file":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        weights = load_file(file)
        del weights["model.language_model.layers.0.self_attn.q_proj.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="layers.0.self_attn.q_proj|damaged"):
        load_model(find_checkpoint(ModelConfig(name=str(folder))), "cpu", "fp32")


def test_bad_rows_fail_alone(encoder: Encoder) -> None:
    def missing() -> bytes:
        raise FileNotFoundError("gone")

    good = mixed_requests()[:3]
    bad = Request("bad image", (user(ImageRef("a.png", missing), "Describe."),))
    long = Request("long", (user("word " * 6000),))
    special = Request("special", (user("a <|im_end|> b"),))
    got = answers(encoder, [bad, *good, long, special], 2)
    stages = {k: v.stage for k, v in got.items() if isinstance(v, Failure)}
    assert stages == {"bad image": "image", "long": "prompt", "special": "prompt"}
    assert {k: v for k, v in got.items() if isinstance(v, Prediction)} == answers(encoder, good, 2)


def test_a_dead_adapter_is_refused(encoder: Encoder, adapter: Path, tmp_path: Path) -> None:
    dead = shutil.copytree(adapter, tmp_path / "dead")
    weights = load_file(dead / "adapter_model.safetensors")
    save_file({k: v * (0 if "lora_B" in k else 1) for k, v in weights.items()}, dead / "adapter_model.safetensors")
    engine = hf.open_engine(hf.Config(), TINY, encoder, "fp32", dead)
    with pytest.raises(IntegrityError, match="loads but changes nothing"):
        engine.adapter_delta(mixed_requests()[:2])
    alive = hf.open_engine(hf.Config(), TINY, encoder, "fp32", adapter).adapter_delta(mixed_requests()[:2])
    assert alive is not None
    assert alive > 0.1


@pytest.mark.parametrize("damage", ["other names", "other rank", "missing layer"])
def test_an_adapter_of_another_model_is_refused(damage: str, encoder: Encoder, adapter: Path, tmp_path: Path) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    if damage == "other names":
        weights = {name.replace("language_model", "text_model"): value for name, value in weights.items()}
    elif damage == "other rank":
        weights = {name: value[:4] if "lora_A" in name else value for name, value in weights.items()}
    else:
        weights.pop(min(weights))
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(IntegrityError, match=r"does not fit|belongs to another model|has no weights"):
        hf.open_engine(hf.Config(), TINY, encoder, "fp32", other)


class AfterRequests(StopRequest):
    """As if Ctrl-C came while the first answers are made, after that many requests were taken."""

    def __init__(self, requests: int) -> None:
        self._left = requests

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self._left -= 1
        return 2 if self._left < 0 else None


def test_interrupted_answers_go_on_where_they_stopped(encoder: Encoder, tmp_path: Path) -> None:
    examples = scene_examples(24)

    def answer(partial: Path, stop: StopRequest) -> list[str]:
        answering = Predictor(captioning.TASK, captioning.Config(), tmp_path / "pictures", QUIET, stop)
        engine = hf.open_engine(hf.Config(batch_size=8, max_new_tokens=8), TINY, encoder, "fp32")
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


def test_no_row_keeps_its_own_image() -> None:
    examples = scene_examples(30)
    own: dict[str, Any] = {example.id: example.images for example in examples}
    swapped = shuffle_images(examples, 20)
    assert len(swapped) == 20
    assert all(example.images != own[example.id] for example in swapped)
    assert len({example.images[0].where for example in swapped}) == 20
    assert [e.id for e in shuffle_images(examples[::-1], 20)] == [e.id for e in swapped]

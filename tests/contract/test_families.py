"""Every model family on a small checkpoint: ids and pixels of its own processor, answers, boxes, a trained adapter."""

import inspect
import itertools
import json
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import assistant, make_image, ref, user
from tiny_models import TINY_MODELS
from torch.nn.attention import varlen
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from vlmtune import registry
from vlmtune.compare_files import score_file
from vlmtune.engines import hf
from vlmtune.errors import ConfigError
from vlmtune.families import Block
from vlmtune.inference import Predictor
from vlmtune.modeling import vision_tower
from vlmtune.modeling.loading import ModelConfig, attach_adapter, find_checkpoint, load_model
from vlmtune.modeling.vision_tower import GROUPED_ATTENTION
from vlmtune.processing.encoder import Encoder, ImageHeaders, collate
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import for_model, grounding, vqa
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.forward_backward import token_losses
from vlmtune.training.lora import add_adapter, check_first_gradients, save_adapter, trainable
from vlmtune.training.packing import Layout, pack
from vlmtune.types import Example, Objects, Outcomes, Prediction, Request

UNTILED = [name for name in registry.available("families") if name != "internvl"]
"""Families whose tower is optimized; of tiles, which have one size, transformers computes all at once."""


@pytest.fixture(scope="module", params=registry.available("families"))
def family_encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelConfig, Encoder]:
    name = "tiny"
    if request.param != "qwen3_vl":
        name = str(tmp_path_factory.mktemp(request.param))
        TINY_MODELS[request.param](Path(name))
    config = ModelConfig(name=name, device="cpu")
    checkpoint = find_checkpoint(config)
    assert checkpoint.family.name == request.param, "found by the checkpoint's model_type"
    return config, Encoder(checkpoint, config)


@pytest.fixture(scope="module")
def model(family_encoder: tuple[ModelConfig, Encoder]) -> PreTrainedModel:
    return load_model(family_encoder[1].checkpoint, "cpu", "fp32")


ONE, TWO = ref(make_image(128, 96), "one"), ref(make_image(70, 100), "two")


def test_ids_and_pixels_equal_the_processor(family_encoder: tuple[ModelConfig, Encoder]) -> None:
    encoder = family_encoder[1]
    processor = AutoProcessor.from_pretrained(str(encoder.checkpoint.folder))
    ours = collate([encoder.prompt((user(ONE, "and", TWO, "What?"),))], encoder, "left", "cpu", torch.float32)
    content = [
        {"type": "image", "image": ONE.read()},
        {"type": "text", "text": "and"},
        {"type": "image", "image": TWO.read()},
        {"type": "text", "text": "What?"},
    ]
    talk = [[{"role": "user", "content": content}]]
    theirs = processor.apply_chat_template(
        talk, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert {"input_ids", "attention_mask", "pixel_values"} <= set(ours)
    for name in ours:
        assert torch.equal(ours[name].to(theirs[name].dtype), theirs[name]), name


def test_answers_do_not_depend_on_the_batch(family_encoder: tuple[ModelConfig, Encoder]) -> None:
    config, encoder = family_encoder
    asked = [(user(ONE, "What?"),), (user(TWO, "What is this picture about?"),), (user("No picture."),)]
    requests = [Request(str(n), conversation) for n, conversation in enumerate(asked)]
    engine = hf.open_engine(hf.Config(batch_size=3, max_new_tokens=12), config, encoder, "fp32")
    # The batch changes log-probabilities in the sixth digit.
    together = {outcome.id: replace(outcome, logprobs=None) for outcome in engine.answer(requests)}  # type: ignore[call-arg]
    alone = {o.id: replace(o, logprobs=None) for request in requests for o in engine.answer([request])}  # type: ignore[call-arg]
    assert together == alone
    assert len({o.text for o in alone.values() if isinstance(o, Prediction)}) == 3


def test_positions_equal_the_model_s_own(family_encoder: tuple[ModelConfig, Encoder], model: PreTrainedModel) -> None:
    encoder = family_encoder[1]
    pictures = [ref(make_image(*size), str(size)) for size in ((128, 96), (70, 100), (64, 64), (300, 90), (96, 160))]
    talks = [
        (user(pictures[0], "What?"),),
        (user("First", pictures[1], "and", pictures[2], pictures[3], "then"), assistant("Yes ."), user(pictures[4])),
        (user("No picture at all."),),
        (user("Look", *pictures),),
    ]
    for talk in talks:
        tensors = collate([encoder.prompt(talk)], encoder, "left", "cpu", torch.float32)
        tensors.pop("pixel_values", None)
        if encoder.checkpoint.family.rotary_axes == 3:
            theirs, _ = model.model.get_rope_index(**tensors)
        else:  # without positions, the model counts tokens
            theirs = torch.arange(tensors["input_ids"].shape[1]).expand(3, 1, -1)
        grids = [Block(*grid) for grid in tensors.get("image_grid_thw", torch.empty(0, 3)).int().tolist()]
        ids, merge = tensors["input_ids"][0].tolist(), encoder.image_processor.limits.merge
        ours = encoder.checkpoint.family.positions(ids, encoder.renderer.vision_ids, grids, merge)
        assert torch.equal(torch.from_numpy(ours), theirs[:, 0])


@pytest.fixture
def boxed(family_encoder: tuple[ModelConfig, Encoder]) -> tuple[Example, list[int]]:
    """A row with a box from 1/4 to 3/4 of a 200x100 image, and that box as the family writes it."""
    row = Example(
        "r1",
        (ref(make_image(200, 100), "boxed"),),
        None,
        {"references": [], "boxes": [50, 25, 150, 75]},
        question="ball",
    )
    # 196x112 is what the processor of Qwen2.5-VL makes of 200x100: multiples of 28.
    written = {"norm1000": [250, 250, 750, 750], "resized_pixels": [49, 28, 147, 84]}
    return row, written[family_encoder[1].checkpoint.family.boxes]


def test_boxes_are_trained_on_as_the_family_writes_them(
    family_encoder: tuple[ModelConfig, Encoder], boxed: tuple[Example, list[int]]
) -> None:
    config, encoder = family_encoder
    row, written = boxed
    examples = TrainingExamples([row], grounding.TASK, grounding.Config(), encoder, TrainingConfig())  # type: ignore[arg-type]
    rendered = examples.encode_example(row).rendered
    text = encoder.renderer.text([token for token, on in zip(rendered.ids, rendered.loss_mask, strict=True) if on])
    assert json.loads(text) == [{"bbox_2d": written, "label": "ball"}]
    small = Encoder(encoder.checkpoint, config, ImageHeaders)
    assert small.with_box_scale(row).box_scale == encoder.with_box_scale(row).box_scale


def test_objects_are_trained_on_as_the_family_writes_them(family_encoder: tuple[ModelConfig, Encoder]) -> None:
    """The box of the second image, from 1/4 to 3/4 of 200x100; Qwen2.5-VL reads it as 196x112."""
    config, encoder = family_encoder
    family = encoder.checkpoint.family
    images = (ref(make_image(64, 64), "plain"), ref(make_image(200, 100), "boxed"))
    objects = Objects(("ball",), ((50, 25, 150, 75),), (1,), "pixels")
    talk = (user(*images, "Find <ref-object>."),)
    row = Example("r1", images, "At <bbox>.", {"references": ["At <bbox>."]}, messages=talk, objects=objects)
    written = {
        "qwen2_5_vl": ("ball", "[49, 28, 147, 84]"),
        "qwen2_vl": ("<|object_ref_start|>ball<|object_ref_end|>", "<|box_start|>(250,250),(750,750)<|box_end|>"),
        "internvl": ("<ref>ball</ref>", "<box>[[250, 250, 750, 750]]</box>"),
    }
    name, box = written.get(family.name, ("ball", "[250, 250, 750, 750]"))
    filled = encoder.with_objects(row)
    assert filled.messages is not None
    assert filled.messages[0].content[-1] == f"Find {name}."
    assert (filled.target, filled.truth["references"]) == (f"At {box}.", [f"At {box}."])
    plain = Encoder(encoder.checkpoint, config.model_copy(update={"box_form": "list"}))
    examples = TrainingExamples([row], vqa.TASK, vqa.Config(), plain, TrainingConfig())  # type: ignore[arg-type]
    rendered = examples.encode_example(row).rendered
    numbers = "[49, 28, 147, 84]" if family.name == "qwen2_5_vl" else "[250, 250, 750, 750]"
    text = plain.renderer.text([token for token, on in zip(rendered.ids, rendered.loss_mask, strict=True) if on])
    assert text == f"At {numbers}."


def test_a_perfect_answer_in_the_family_s_own_boxes_scores_1(
    family_encoder: tuple[ModelConfig, Encoder], boxed: tuple[Example, list[int]], tmp_path: Path
) -> None:
    """From the row to the prediction file, and from the file alone to the score."""
    row, written = boxed

    class Perfect:
        """Answers every request with the box; another scale would put it elsewhere."""

        def answer(self, requests: Iterable[Request], done: Container[str] = ()) -> Outcomes:
            for request in requests:
                yield Prediction(request.id, json.dumps([{"bbox_2d": written, "label": "ball"}]), "stop", 9)

    task = for_model(grounding.TASK, family_encoder[1].with_box_scale, family_encoder[1].with_objects)
    predictor = Predictor(task, grounding.Config(), tmp_path / "pictures", Progress(Silent()), StopRequest())
    (line,) = predictor.answer("test", Perfect(), [row], tmp_path / "partial.jsonl")  # type: ignore[arg-type]
    assert line.truth["boxes"] == [[250, 250, 750, 750]]
    assert line.answer == [{"box": [250, 250, 750, 750], "label": "ball"}]
    file = tmp_path / "predictions.jsonl"
    file.write_text(line.to_json() + "\n")
    assert score_file(file, "grounding").metrics == {"acc_at_05": 1, "mean_iou": 1}


@pytest.mark.parametrize("family_encoder", UNTILED, indirect=True, scope="module")
def test_the_optimized_vision_tower_matches_transformers(
    family_encoder: tuple[ModelConfig, Encoder], model: PreTrainedModel
) -> None:
    """Linear patch embedding and attention grouped by image size, against the vision tower of transformers."""
    encoder = family_encoder[1]
    plain = AutoModelForImageTextToText.from_pretrained(str(encoder.checkpoint.folder), dtype=torch.float32).eval()
    assert model.model.visual.config._attn_implementation == GROUPED_ATTENTION
    assert plain.model.visual.config._attn_implementation != GROUPED_ATTENTION
    sizes = [(128, 96), (70, 100), (128, 96), (64, 64), (96, 128), (128, 96), (100, 70)]
    talk = (user(*[ref(make_image(*size, seed=n), str(n)) for n, size in enumerate(sizes)]),)
    tensors = collate([encoder.prompt(talk)], encoder, "left", "cpu", torch.float32)
    with torch.no_grad():
        seen = [
            each.model.visual(tensors["pixel_values"], grid_thw=tensors["image_grid_thw"]).pooler_output
            for each in (plain, model)
        ]
        cut = [each.model.visual.patch_embed(tensors["pixel_values"]) for each in (plain, model)]
    assert (cut[0] - cut[1]).norm() <= 1e-5 * cut[0].norm()
    assert (seen[0] - seen[1]).norm() <= 1e-5 * seen[0].norm()


def test_an_adapter_trains_on_the_language_model_alone_and_reloads(
    family_encoder: tuple[ModelConfig, Encoder], tmp_path: Path
) -> None:
    encoder = family_encoder[1]
    family = encoder.checkpoint.family
    base, again = (load_model(encoder.checkpoint, "cpu", "fp32") for _ in range(2))
    enable_packed_attention(base, family)
    enable_packed_attention(again, family)
    adapted = add_adapter(base, LoraConfig(dropout=0.0), family, 0)
    assert all("language_model" in name for name in trainable(adapted))
    layout = Layout.of(encoder)
    answers = ("A red ball .", "Two cars on the street .")
    examples = [encoder.training_example((user(ONE, "What?"), assistant(answer)), "all", 2048) for answer in answers]
    (row,) = pack(examples, layout, 2048)

    def loss_of(model: Any) -> torch.Tensor:
        return token_losses(model.base_model.model, row, encoder, "cpu").sum()

    weights = list(trainable(adapted).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = loss_of(adapted)
        loss.backward()
        check_first_gradients(adapted, encoder.checkpoint.family)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    save_adapter(adapted, tmp_path, "test", None)
    with torch.no_grad():
        assert torch.equal(loss_of(adapted.eval()), loss_of(attach_adapter(again, tmp_path)))


def test_every_part_can_be_trained(family_encoder: tuple[ModelConfig, Encoder]) -> None:
    """The family locates its parts correctly: an adapter on one layer of each receives gradients."""
    encoder = family_encoder[1]
    family, base = encoder.checkpoint.family, load_model(encoder.checkpoint, "cpu", "fp32")
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    some = {family.part(name): name.rpartition(".")[2] for name in linear if family.part(name)}
    assert some.keys() == family.parts.keys()
    enable_packed_attention(base, family)
    settings = LoraConfig(parts=list(family.parts), target_modules=sorted(set(some.values())))
    adapted = add_adapter(base, settings, family, 0)
    assert {family.part(name.removeprefix("base_model.model.")) for name in trainable(adapted)} == set(family.parts)
    example = encoder.training_example((user(ONE, "What?"), assistant("A red ball .")), "all", 2048)
    (row,) = pack([example], Layout.of(encoder), 2048)
    token_losses(base, row, encoder, "cpu").sum().backward()
    assert check_first_gradients(adapted, family)


def test_an_unknown_architecture_is_refused_before_its_weights_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "idefics9"}')
    with pytest.raises(ConfigError) as refused:
        find_checkpoint(ModelConfig(name=str(tmp_path)))
    message = str(refused.value)
    assert f"is of type 'idefics9'; vlmtune knows {', '.join(registry.available('families'))}" in message
    for needed in ("model.family", "special tokens", "resizes images", "sizes of its matrices", "docs/extending.md"):
        assert needed in message


def test_a_family_is_not_taken_for_another_that_is_known() -> None:
    with pytest.raises(ConfigError, match=r"model.family is qwen2_vl, but model 'tiny' is of type 'qwen3_vl'"):
        find_checkpoint(ModelConfig(name="tiny", family="qwen2_vl"))


def test_one_call_for_all_images_computes_what_groups_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vision tower's path on a GPU, with a plain loop in place of torch's kernel, called by torch's signature."""
    known = inspect.signature(varlen.varlen_attn)

    def part_by_part(*given: Any, **more: Any) -> torch.Tensor:
        call = known.bind(*given, **more)
        call.apply_defaults()
        query, key, value, bounds = (call.arguments[name] for name in ("query", "key", "value", "cu_seq_q"))
        assert call.arguments["window_size"] == (-1, -1)
        assert bounds.dtype == torch.int32
        assert torch.equal(bounds, call.arguments["cu_seq_k"])
        assert call.arguments["max_q"] == call.arguments["max_k"] == bounds.diff().max()
        attend = torch.nn.functional.scaled_dot_product_attention
        done = []
        for start, end in itertools.pairwise(bounds.tolist()):
            parts = [x[start:end].transpose(0, 1)[None] for x in (query, key, value)]
            done.append(attend(*parts, scale=call.arguments["scale"])[0].transpose(0, 1))
        return torch.cat(done)

    part_by_part.__signature__ = known  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", part_by_part)
    torch.manual_seed(0)
    tensors = [torch.randn(1, 3, 30, 8) for _ in range(3)]
    bounds = torch.tensor([0, 8, 12, 20, 30], dtype=torch.int32)

    def attended() -> torch.Tensor:
        return vision_tower.grouped_attention(torch.nn.Module(), *tensors, None, cu_seq_lens_q=bounds, scaling=0.3)[0]

    grouped = attended()
    monkeypatch.setattr(vision_tower, "uses_varlen", lambda *_: True)
    assert torch.allclose(attended(), grouped, atol=1e-6)

"""Every model family, on a small checkpoint of it: same ids and pixels as its processor, answers, a trained adapter."""

from pathlib import Path

import pytest
import torch
from pieces import assistant, picture, ref, user
from transformers import AutoProcessor, PreTrainedModel

from vlmtune import plugs
from vlmtune.engines import hf
from vlmtune.inputs import Inputs, collate
from vlmtune.models import ModelConfig, attach_adapter, find_checkpoint, load_model
from vlmtune.training.loop import summed_loss
from vlmtune.training.lora import add_adapter, check_first_gradients, save_adapter, trainable
from vlmtune.training.settings import LoraConfig
from vlmtune.types import Prediction, Request

TEMPLATE_WITH_DEFAULT_SYSTEM = """\
{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_qwen2_5_vl(folder: Path) -> None:
    """A random Qwen2.5-VL of 0.2 M parameters with the embedded tokenizer and its family's own processor."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tiny = AutoProcessor.from_pretrained(str(find_checkpoint(ModelConfig(name="tiny")).folder))
    images = Qwen2VLImageProcessor(patch_size=14, merge_size=2, size={"shortest_edge": 784, "longest_edge": 50176})
    Qwen2_5_VLProcessor(
        image_processor=images,
        tokenizer=tiny.tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE_WITH_DEFAULT_SYSTEM,
    ).save_pretrained(folder)
    tokens = {name: tiny.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    starts = {name: tiny.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tiny.tokenizer) + 1,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "initializer_range": 0.15,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.15,
        },
        image_token_id=tokens["image_pad"],
        video_token_id=tokens["video_pad"],
        vision_start_token_id=starts["vision_start"],
        vision_end_token_id=starts["vision_end"],
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture(scope="module", params=plugs.available("families"))
def family_inputs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelConfig, Inputs]:
    name = "tiny"
    if request.param != "qwen3_vl":
        folder = tmp_path_factory.mktemp(request.param)
        {"qwen2_5_vl": make_qwen2_5_vl}[request.param](folder)
        name = str(folder)
    config = ModelConfig(name=name, device="cpu")
    checkpoint = find_checkpoint(config)
    assert checkpoint.family.name == request.param, "found by the checkpoint's model_type"
    return config, Inputs(checkpoint, config)


@pytest.fixture(scope="module")
def model(family_inputs: tuple[ModelConfig, Inputs]) -> PreTrainedModel:
    return load_model(family_inputs[1].checkpoint, "cpu", "fp32")


ONE, TWO = ref(picture(128, 96), "one"), ref(picture(70, 100), "two")


def test_ids_and_pixels_equal_the_processor(family_inputs: tuple[ModelConfig, Inputs]) -> None:
    inputs = family_inputs[1]
    processor = AutoProcessor.from_pretrained(str(inputs.checkpoint.folder))
    ours = collate([inputs.prompt((user(ONE, "and", TWO, "What?"),))], inputs, "left", "cpu", torch.float32)
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
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(ours[name].to(theirs[name].dtype), theirs[name]), name


def test_answers_do_not_depend_on_company(family_inputs: tuple[ModelConfig, Inputs]) -> None:
    config, inputs = family_inputs
    asked = [(user(ONE, "What?"),), (user(TWO, "What is this picture about?"),), (user("No picture."),)]
    requests = [Request(str(n), conversation) for n, conversation in enumerate(asked)]
    engine = hf.open_engine(hf.Config(batch_size=3, max_new_tokens=12), config, inputs, "fp32")
    together = {outcome.id: outcome for outcome in engine.answer(requests)}
    alone = {outcome.id: outcome for request in requests for outcome in engine.answer([request])}
    assert together == alone
    assert len({o.text for o in alone.values() if isinstance(o, Prediction)}) == 3


def test_an_adapter_trains_on_the_language_model_alone_and_reloads(
    family_inputs: tuple[ModelConfig, Inputs], tmp_path: Path
) -> None:
    inputs = family_inputs[1]
    adapted = add_adapter(
        load_model(inputs.checkpoint, "cpu", "fp32"), LoraConfig(dropout=0.0), inputs.checkpoint.family, 0
    )
    assert all("language_model" in name for name in trainable(adapted))
    lessons = [inputs.lesson((user(ONE, "What?"), assistant("A red ball .")), "all", 2048)]
    weights = list(trainable(adapted).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = summed_loss(adapted.base_model.model, lessons, inputs, "cpu")
        loss.backward()
        check_first_gradients(adapted)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    save_adapter(adapted, tmp_path, "test", None)
    again = attach_adapter(load_model(inputs.checkpoint, "cpu", "fp32"), tmp_path)
    with torch.no_grad():
        before = summed_loss(adapted.eval().base_model.model, lessons, inputs, "cpu")
        after = summed_loss(again.base_model.model, lessons, inputs, "cpu")
    assert torch.equal(before, after)

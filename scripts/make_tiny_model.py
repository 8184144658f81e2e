"""Rebuild the tiny Qwen3-VL checkpoint that ships with vlmtune, from nothing.

Trains a tokenizer on generated text, assembles Qwen3-VL's own processor and architecture at a very small size,
pre-trains on drawn scenes (`tiny_model_pretraining`) to talk about them wordily (`tiny_model_lessons`), evaluates on
scenes never trained on, and saves. One core trains while a second process draws the scenes.

    python scripts/make_tiny_model.py --out tiny_qwen3_vl

costs about 68 CPU-minutes; with `--vision-minutes 0 --minutes 0` it writes untrained weights in seconds.
"""

import argparse
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import save_file
from tiny_model_lessons import coordinates, tokenizer_texts, wordy_answer
from tiny_model_pretraining import Plan, Progress, pretrain
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from vlmtune.data._scene_drawing import IMAGE_SIZE, Group, Scene, draw, make_scene
from vlmtune.data._scene_words import NUMBERS, PLURALS, ask, referring

VOCABULARY = 704
CONTEXT = 4096
PATCH, MERGE = 16, 2
GRID = IMAGE_SIZE // PATCH
UNIT = (PATCH * MERGE) ** 2
TOKENIZER_SEED, EVALUATION_SEED = 1, 20_000_003
CAPTION_PROMPT = "Describe this image in one concise, informative sentence."
MAX_NEW_TOKENS = 64
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if 'text' in part -%}{{- part.text -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + text_of(messages[0].content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set counted = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '<|im_start|>user\\n' -}}
        {%- if message.content is string -%}
            {{- message.content -}}
        {%- else -%}
            {%- for part in message.content -%}
                {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
                    {%- set counted.images = counted.images + 1 -%}
                    {%- if add_vision_id -%}{{- 'Picture ' ~ counted.images ~ ': ' -}}{%- endif -%}
                    {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
                {%- elif part.type == 'video' or 'video' in part -%}
                    {%- set counted.videos = counted.videos + 1 -%}
                    {%- if add_vision_id -%}{{- 'Video ' ~ counted.videos ~ ': ' -}}{%- endif -%}
                    {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
                {%- elif 'text' in part -%}
                    {{- part.text -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' + text_of(message.content) + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_processor(texts: Iterable[str]) -> Qwen3VLProcessor:
    """Qwen3-VL's processor around a byte-level BPE trained on `texts`; images are kept between 64x64 and 128x128."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    splits = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splits, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    sizes = {"shortest_edge": 4 * UNIT, "longest_edge": IMAGE_SIZE**2}
    pixels = {"patch_size": PATCH, "merge_size": MERGE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": sizes}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(temporal_patch_size=2, **pixels),
        tokenizer=Qwen2Tokenizer(
            vocab=learnt["vocab"],
            merges=[tuple(merge) for merge in learnt["merges"]],
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            unk_token="<|endoftext|>",
            additional_special_tokens=list(SPECIAL_TOKENS[1:]),
            model_max_length=CONTEXT,
        ),
        video_processor=Qwen3VLVideoProcessor(temporal_patch_size=2, **pixels),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(processor: Qwen3VLProcessor) -> Qwen3VLConfig:
    """Qwen3-VL with every size made small: about 1.9 million parameters."""
    tokenizer = processor.tokenizer
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "initializer_range": 0.04,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": text["hidden_size"],
        "num_position_embeddings": GRID**2,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.04,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=processor.vision_start_token_id,
        vision_end_token_id=processor.vision_end_token_id,
        tie_word_embeddings=True,
    )


def build_model(processor: Qwen3VLProcessor, seed: int) -> Qwen3VLForConditionalGeneration:
    """Untrained weights."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(build_config(processor))
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return model


@torch.no_grad()
def answers(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, scenes: Sequence[Scene], prompts: Sequence[str]
) -> list[tuple[str, bool]]:
    """Greedy answers, one per scene and prompt, and whether each ended by itself within `MAX_NEW_TOKENS`."""
    outcomes: list[tuple[str, bool]] = []
    for start in range(0, len(scenes), 64):
        chunk = slice(start, start + 64)
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            for prompt in prompts[chunk]
        ]
        texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        images = [draw(scene) for scene in scenes[chunk]]
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, use_cache=True)[:, inputs["input_ids"].shape[1] :]
        ended = (ids == processor.tokenizer.eos_token_id).any(dim=1).tolist()
        words = [text.strip() for text in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        outcomes += zip(words, ended, strict=True)
    return outcomes


def evaluate(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, count: int) -> dict[str, float]:
    """What the base can do with `count` scenes of a seed it was never trained on: shares, and IoU for boxes."""
    rng = random.Random(EVALUATION_SEED)
    scenes = [make_scene(rng) for _ in range(count)]
    captions = answers(model, processor, scenes, [CAPTION_PROMPT] * count)
    groups = [
        _correct(group, described)
        for scene, (caption, _) in zip(scenes, captions, strict=True)
        for group, described in zip(scene.groups, _described(caption, len(scene.groups)), strict=True)
    ]
    asked = [ask(scene, rng) for scene in scenes]
    replies = answers(model, processor, scenes, [question.text for question in asked])
    found = [(scene, *place) for scene in scenes if (place := referring(scene, rng))]
    located = answers(
        model,
        processor,
        [scene for scene, _, _ in found],
        [f"Locate the {phrase} in the image." for _, phrase, _ in found],
    )
    overlaps = [
        _iou(_numbers(text), _numbers(coordinates(pixels)))
        for (text, _), (_, _, pixels) in zip(located, found, strict=True)
    ]
    figures = {
        "caption_color": fmean(color for color, _, _ in groups),
        "caption_kind": fmean(kind for _, kind, _ in groups),
        "caption_count": fmean(count for _, _, count in groups),
        "caption_ended": fmean(ended for _, ended in captions),
        "wordy_vqa": fmean(text == wordy_answer(question) for (text, _), question in zip(replies, asked, strict=True)),
        "box_miou": fmean(overlaps),
        "box_acc50": fmean(overlap > 0.5 for overlap in overlaps),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def _described(caption: str, groups: int) -> list[list[str]]:
    """The words of each described group ("a", "big", "red", "ball"), in order; empty lists for missing ones."""
    phrases = re.findall(r"here (?:is|are) (.+?) (?:in|on) the ", caption)
    return ([phrase.split() for phrase in phrases] + [[]] * groups)[:groups]


def _correct(group: Group, words: list[str]) -> tuple[bool, bool, bool]:
    """Whether colour, kind and count of a group are described rightly."""
    if not words:
        return False, False, False
    amounts = ("a", "an") if len(group.icons) == 1 else (NUMBERS[len(group.icons)],)
    return group.color in words, words[-1] in (group.kind, PLURALS[group.kind]), words[0] in amounts


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[-4:]]


def _iou(one: list[int], other: list[int]) -> float:
    """Intersection over union of two boxes; 0 where one of them is not a box."""
    if len(one) < 4 or len(other) < 4:
        return 0.0
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [max(0, box[2] - box[0]) * max(0, box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def save_frame(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, out: Path) -> None:
    """Everything but the weights. Called before the processor is used: padding leaves traces in its tokenizer."""
    config = build_config(processor)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    for part in (processor, model.generation_config, config):
        part.save_pretrained(out)


def save_weights(model: Qwen3VLForConditionalGeneration, curve: list[Progress], out: Path) -> None:
    """The weights in bf16, all at once so that a reader never sees half a file, and how they were learnt."""
    (out / "learning_curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items() if name != "lm_head.weight"}
    partial = out / "model.safetensors.part"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(out / "model.safetensors")


def main() -> None:
    """Parse, build, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--partial", type=Path, help="folder for checkpoints along the way; default: --out")
    parser.add_argument("--vision-minutes", type=float, default=11, help="CPU-minutes of the vision stage")
    parser.add_argument("--minutes", type=float, default=47, help="CPU-minutes of the language stage")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="peak of the language stage")
    parser.add_argument("--vision-learning-rate", type=float, default=5e-3, help="peak of the vision stage")
    parser.add_argument("--report-minutes", type=float, default=10, help="CPU-minutes between evaluations")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training scenes")
    options = parser.parse_args()
    torch.set_num_threads(1)

    rng = random.Random(TOKENIZER_SEED)
    processor = build_processor(tokenizer_texts((make_scene(rng) for _ in range(4000)), rng))
    model = build_model(processor, options.seed)
    partial = options.partial or options.out
    for folder in {partial, options.out}:
        save_frame(model, processor, folder)
    curve: list[Progress] = []

    def report(progress: Progress) -> None:
        if progress["stage"].startswith("language"):
            progress |= evaluate(model.eval(), processor, 512 if progress["stage"] == "language done" else 128)
        curve.append(progress)
        print(json.dumps(progress), flush=True)
        save_weights(model.train(), curve, partial)

    plan = Plan(
        vision_minutes=options.vision_minutes,
        minutes=options.minutes,
        learning_rate=options.learning_rate,
        vision_learning_rate=options.vision_learning_rate,
        seed=options.seed,
        report_minutes=options.report_minutes,
    )
    pretrain(model, processor, plan, report)
    save_weights(model, curve, options.out)


if __name__ == "__main__":
    main()

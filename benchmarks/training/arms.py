"""What is compared: each arm prepares its model once and returns a function that trains one epoch, batch 8.

All arms: the same checkpoint in fp32, LoRA of rank 16 on every linear layer of the language model, dropout 0, AdamW,
one thread, the first caption of each row (five of them where said), photos decoded anew in every epoch.
"""

import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from workload import PROMPT

from vlmtune.data import jsonl
from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model
from vlmtune.prefetch import Prefetch
from vlmtune.processing import encoder as encoder_module
from vlmtune.processing.encoder import Encoder
from vlmtune.progress import Progress, Silent
from vlmtune.signals import StopRequest
from vlmtune.tasks import captioning
from vlmtune.training import forward_backward
from vlmtune.training.attention import enable_packed_attention
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.lora import add_adapter
from vlmtune.training.trainer import Trainer as OurTrainer
from vlmtune.training.trainer import TrainingJob

Epoch = Callable[[], None]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MICRO = 2
"""Rows of a micro-batch of the padding trainers; they accumulate four of them."""
PACK_TOKENS = 512
"""Of our rows: two photos with their captions, as many as the others have in a micro-batch."""


def _peft(folder: Path) -> Any:
    import peft
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=MODULES))


def _rows(photos: Path) -> list[dict[str, Any]]:
    lines = (photos / "train.jsonl").read_text().splitlines()
    return [{**row, "data": (photos / row["image"]).read_bytes()} for row in map(json.loads, lines)]


def _talk(caption: str | None) -> list[dict[str, Any]]:
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": caption}]}
    return [asked] if caption is None else [asked, answer]


def classic(folder: Path, photos: Path) -> Epoch:
    """The loop that most scripts have: HF Trainer, 2 x 4, padding, the processor in the collator, logits everywhere."""
    from transformers import AutoProcessor, Trainer, TrainingArguments

    processor = AutoProcessor.from_pretrained(folder)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [Image.open(io.BytesIO(row["data"])).convert("RGB") for row in rows]
        texts = [processor.apply_chat_template(_talk(row["caption"]), tokenize=False) for row in rows]
        batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        start = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
        for number, ids in enumerate(batch["input_ids"].tolist()):
            at = next(n for n in range(len(ids)) if ids[n : n + len(start)] == start) + len(start)
            labels[number, :at] = -100
        return {**batch, "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(folder / "classic"),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=8 // MICRO,
        num_train_epochs=1,
        **_quiet(),
    )
    trainer = Trainer(model=_peft(folder), args=arguments, train_dataset=_rows(photos), data_collator=collate)  # type: ignore[arg-type]
    return lambda: (trainer.train(), None)[1]


def trl(folder: Path, photos: Path, compact: bool = False) -> Epoch:
    """TRL's SFTTrainer as shipped; `compact` uses its head implementation for CUDA: supervised positions only."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Picture
    from transformers import AutoProcessor
    from trl import SFTConfig, SFTTrainer
    from trl.trainer import utils

    rows = [
        {
            "images": [{"bytes": row["data"], "path": None}],
            "prompt": [{"role": "user", "content": PROMPT}],
            "completion": [{"role": "assistant", "content": row["caption"]}],
        }
        for row in _rows(photos)
    ]
    turn = List({"role": Value("string"), "content": Value("string")})
    data = Dataset.from_list(rows, Features({"images": List(Picture()), "prompt": turn, "completion": turn}))
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=8 // MICRO,
        num_train_epochs=1,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        **_quiet(),
    )
    trainer = SFTTrainer(
        _peft(folder), arguments, train_dataset=data, processing_class=AutoProcessor.from_pretrained(folder)
    )
    known = utils._use_triton

    def epoch() -> None:
        if compact:
            utils._use_triton = lambda device: sys._getframe(1).f_code.co_name == "_fused_forward" or known(device)
        trainer.train()
        utils._use_triton = known

    return epoch


def _quiet() -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def ours(folder: Path, photos: Path, captions: str | None = None, without: str | None = None) -> Epoch:
    """The step of vlmtune; `captions` "each" trains on all five, `without` disables one optimization."""
    model = ModelConfig(name=str(folder), device="cpu")
    encoder = Encoder(find_checkpoint(model), model)
    settings = TrainingConfig(
        batch_size=8,
        precision="fp32",
        pack_tokens=PACK_TOKENS,
        learning_rate=1e-4,
        lora=LoraConfig(dropout=0.0),
        workers=1,
    )
    config = jsonl.Config(
        path=str(photos), image="image", references=["captions"], target=captions or "caption", id="id"
    )
    rows = jsonl.open(config, "train.jsonl", None)
    examples = TrainingExamples(rows, captioning.TASK, captioning.Config(prompt=PROMPT), encoder, settings)
    base = load_model(encoder.checkpoint, "cpu", "fp32")
    if without == "linear patch embedding":
        embedding = next(m for name, m in base.named_modules() if name.endswith("patch_embed"))
        del embedding.forward  # set by optimize_vision_tower
    if without == "grouped vision attention":
        base.get_submodule(encoder.checkpoint.family.vision_tower).config._attn_implementation = "sdpa"
    enable_packed_attention(base, encoder.checkpoint.family)
    adapted = add_adapter(base, settings.lora, encoder.checkpoint.family, 0)
    job = TrainingJob(
        settings=settings,
        model=model,
        encoder=encoder,
        train=examples,
        validation=examples,
        target=captions or "caption",
        work=folder / "work",
        adapter=folder / "adapter",
        log=lambda step, values: None,
    )
    trainer = OurTrainer(job, adapted, "cpu", examples.check("train", Progress(Silent()), StopRequest()))
    _switch_off(trainer, without)

    def epoch() -> None:
        encoder.images.clear()
        with Prefetch(examples.encode, trainer._batches, settings.workers) as encoded:
            for samples in trainer._batches:
                trainer._optimizer_step(samples, next(encoded), StopRequest())
                trainer.step = 1

    return epoch


def _switch_off(trainer: Any, without: str | None) -> None:
    plain = forward_backward.pack
    if without == "packing":
        trainer.forward_backward.pack = lambda examples: plain(examples, _layout(trainer), 1, share_prefixes=False)
    elif without == "shared prefixes":
        trainer.forward_backward.pack = lambda examples: plain(
            examples, _layout(trainer), PACK_TOKENS, share_prefixes=False
        )
    elif without == "head at supervised positions only":
        trainer.forward_backward.token_losses = functools.partial(_losses_everywhere, trainer)


def _layout(trainer: Any) -> forward_backward.Layout:
    encoder = trainer._job.encoder
    return forward_backward.Layout(
        encoder.checkpoint.family, encoder.renderer.image_id, encoder.image_processor.limits.merge
    )


def _losses_everywhere(trainer: Any, sequence: Any) -> torch.Tensor:
    """Like `token_losses`, with logits at every position."""
    body, head = trainer._base.base_model, trainer._base.get_output_embeddings()
    positions = torch.cat([torch.arange(len(sequence))[None], torch.from_numpy(sequence.positions)])[:, None]
    images = encoder_module.image_tensors(sequence.images, trainer._job.encoder, "cpu", trainer._base.dtype)
    hidden = body(
        input_ids=torch.tensor([sequence.ids]),
        position_ids=positions,
        use_cache=False,
        segments=sequence.segments,
        **images,
    ).last_hidden_state[0]
    logits = head(hidden).float()[list(sequence.predictors)]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(sequence.targets), reduction="none")


ARMS: dict[str, Callable[..., Epoch]] = {
    "classic loop": classic,
    "TRL as shipped": trl,
    "TRL, its CUDA head path": functools.partial(trl, compact=True),
    "ours": ours,
    "ours without packing": functools.partial(ours, without="packing"),
    "ours without the head at supervised positions only": functools.partial(
        ours, without="head at supervised positions only"
    ),
    "ours without the linear patch embedding": functools.partial(ours, without="linear patch embedding"),
    "ours without grouped vision attention": functools.partial(ours, without="grouped vision attention"),
    "ours, five captions": functools.partial(ours, captions="each"),
    "ours, five captions, separate sequences": functools.partial(ours, captions="each", without="packing"),
    "ours, five captions, packed without shared prefixes": functools.partial(
        ours, captions="each", without="shared prefixes"
    ),
}

"""Pre-training of the tiny base model on one CPU core: first its eyes, then its language.

Vision stage: the tower alone learns to tell, from every merged image token, what lies there (dense targets). Without it
the language stage soon reads colours but takes hours to tell kinds. Language stage: each image passes the tower once
and serves a description and one or two short answers; the dense targets stay on with a small weight. The learning rate
follows one long cosine, because restarts cost accuracy.

Letters in names: N images, T merged tokens of an image, K dense targets, B sequences, L tokens of a sequence.
"""

import math
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny_model_lessons import Chunk, Encoder, make_chunks
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from vlmtune.data._scene_drawing import BACKGROUNDS, COLORS, IMAGE_SIZE, KINDS, Scene, box, draw, make_scene

Progress = dict[str, Any]
"""Figures of one moment: stage, step, cpu_minutes, losses or shares."""

Report = Callable[[Progress], None]

PATCH, MERGE = 16, 2
GRID = IMAGE_SIZE // PATCH
CELL = PATCH * MERGE
SIDE = IMAGE_SIZE // CELL
LONGEST = 128
MOST_CENTERS = 3
BUSY_FACTOR = 1.3
"""On a busy machine a stage ends after this many wall minutes per planned CPU-minute."""

_KIND = slice(0, len(KINDS))
_COLOR = slice(_KIND.stop, _KIND.stop + len(COLORS))
_JOINT = slice(_COLOR.stop, _COLOR.stop + len(KINDS) * len(COLORS))
_GROUND = slice(_JOINT.stop, _JOINT.stop + len(BACKGROUNDS))
_CENTERS = slice(_GROUND.stop, _GROUND.stop + MOST_CENTERS + 1)
_BOX = slice(_CENTERS.stop, _CENTERS.stop + 4)


@dataclass(frozen=True)
class Plan:
    """How long and how hard. Minutes are CPU-minutes of the training process."""

    vision_minutes: float
    minutes: float
    learning_rate: float
    vision_learning_rate: float
    seed: int
    vision_images: int = 48
    images: int = 32
    shorts: int = 48
    chunks: int = 4
    auxiliary_weight: float = 0.15
    warmup_steps: int = 100
    report_minutes: float = 10.0


@dataclass(frozen=True)
class Batch:
    """Images as the tower takes them, their dense targets, and the sequences about them (none in the vision stage)."""

    patches: Tensor
    targets_NTK: Tensor
    has_center_NT: Tensor
    chunks: tuple[Chunk, ...]


class Batches(IterableDataset):
    """Endless batches, drawn and tokenized in a process of their own."""

    def __init__(self, encoder: Encoder, plan: Plan, *, with_text: bool) -> None:
        self._encoder, self._plan, self._with_text = encoder, plan, with_text

    def __iter__(self) -> Iterator[Batch]:
        rng = random.Random(f"{self._plan.seed} {self._with_text}")
        count = self._plan.images if self._with_text else self._plan.vision_images
        while True:
            scenes = [make_scene(rng) for _ in range(count)]
            targets, has_center = zip(*map(dense_targets, scenes), strict=True)
            yield Batch(
                patches=to_patches(torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in scenes]))),
                targets_NTK=torch.from_numpy(np.stack(targets)),
                has_center_NT=torch.from_numpy(np.stack(has_center)),
                chunks=make_chunks(scenes, self._encoder, self._plan.shorts, self._plan.chunks, rng)
                if self._with_text
                else (),
            )


def to_patches(images: Tensor) -> Tensor:
    """The processor's patches of uint8 [N, height, width, 3], without the repeated second frame: [N * 64, 768]."""
    count = images.shape[0]
    x = images.permute(0, 3, 1, 2).reshape(count, 3, SIDE, MERGE, PATCH, SIDE, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(count * GRID**2, 3 * PATCH**2)
    return x.float() / 127.5 - 1


def dense_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What lies on each merged token: kinds, colours, both together, ground, centres in it, box of the first centre."""
    targets = np.zeros((SIDE * SIDE, _BOX.stop), np.float32)
    centers = np.zeros(SIDE * SIDE, np.int64)
    targets[:, _GROUND.start + list(BACKGROUNDS).index(scene.background)] = 1
    for group in scene.groups:
        kind, color = KINDS.index(group.kind), list(COLORS).index(group.color)
        classes = [kind, _COLOR.start + color, _JOINT.start + kind * len(COLORS) + color]
        for icon in group.icons:
            x0, y0, x1, y1 = box(icon)
            row, column = int(icon.y // CELL), int(icon.x // CELL)
            center = row * SIDE + column
            centers[center] += 1
            shifts = (x0 - column * CELL, y0 - row * CELL, x1 - column * CELL, y1 - row * CELL)
            targets[center, _BOX] = [shift / CELL - 0.5 for shift in shifts]
            enough = min(0.2 * (x1 - x0) * (y1 - y0), 0.3 * CELL**2)
            for i in range(SIDE):
                for j in range(SIDE):
                    width = min(x1, (j + 1) * CELL) - max(x0, j * CELL)
                    height = min(y1, (i + 1) * CELL) - max(y0, i * CELL)
                    if min(width, height) > 0 and width * height > enough:
                        targets[i * SIDE + j, classes] = 1
    targets[np.arange(SIDE * SIDE), _CENTERS.start + np.minimum(centers, MOST_CENTERS)] = 1
    return targets, (centers > 0).astype(np.float32)


class _StillPatches(nn.Module):
    """The patch embedding of a still image: both frames are equal, so their weights are added. 13 times faster."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.proj = embedding.proj

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class _EqualSizesAttention(nn.Module):
    """The tower's attention for images of one size: one call per layer in place of one per image."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = attention.num_heads, attention.scaling

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object) -> Tensor:
        count = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).reshape(count, 3, self.heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        split = [part.reshape(-1, GRID**2, self.heads, part.shape[-1]).transpose(1, 2) for part in (query, key, value)]
        mixed = F.scaled_dot_product_attention(*split, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(count, -1))


@contextmanager
def fast_tower(tower: nn.Module) -> Iterator[None]:
    """Swap in equivalents of two modules that share their weights and are faster for still images of one size."""
    slow = (tower.patch_embed, [block.attn for block in tower.blocks])
    tower.patch_embed = _StillPatches(slow[0])
    for block in tower.blocks:
        block.attn = _EqualSizesAttention(block.attn)
    try:
        yield
    finally:
        tower.patch_embed = slow[0]
        for block, attention in zip(tower.blocks, slow[1], strict=True):
            block.attn = attention


class Learner:
    """The losses of both stages."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, encoder: Encoder) -> None:
        self._model, self._first = model, encoder.first_image_token
        self.dense_head = nn.Linear(model.config.text_config.hidden_size, _BOX.stop)
        image = range(self._first, self._first + SIDE**2)
        kinds = torch.tensor([[int(position in image) for position in range(LONGEST)]])
        ids = torch.where(kinds > 0, model.config.image_token_id, 0)
        grid = torch.tensor([[1, GRID, GRID]])
        self._positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)

    def parameters(self, stage: str) -> list[nn.Parameter]:
        """What a stage trains: the tower or everything, and the head of the dense targets."""
        trained = self._model.model.visual if stage == "vision" else self._model
        return [*trained.parameters(), *self.dense_head.parameters()]

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Dense loss of the images and language loss of the sequences (0 without any)."""
        features = self._look(batch)
        dense = self._dense_loss(self.dense_head(features[0]), batch)
        return dense, sum((self._language_loss(chunk, features) for chunk in batch.chunks), torch.zeros(()))

    def _look(self, batch: Batch) -> list[Tensor]:
        """Merged tokens and deepstack features, each [N, T, hidden]."""
        count = batch.targets_NTK.shape[0]
        with fast_tower(self._model.model.visual):
            seen = self._model.model.visual(batch.patches, grid_thw=torch.tensor([[1, GRID, GRID]] * count))
        return [part.view(count, SIDE**2, -1) for part in (seen.pooler_output, *seen.deepstack_features)]

    def _dense_loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        wanted, mask = batch.targets_NTK, batch.has_center_NT[..., None]
        what = slice(_KIND.start, _JOINT.stop)
        positive = torch.full((_JOINT.stop,), 3.0)
        shown = F.binary_cross_entropy_with_logits(predicted[..., what], wanted[..., what], pos_weight=positive)
        ground, centers = (
            F.cross_entropy(predicted[..., part].flatten(0, 1), wanted[..., part].flatten(0, 1))
            for part in (_GROUND, _CENTERS)
        )
        boxes = ((predicted[..., _BOX] - wanted[..., _BOX]).pow(2) * mask).sum() / mask.sum() / 4
        return 6 * shown + ground + centers + 2 * boxes

    def _language_loss(self, chunk: Chunk, features: list[Tensor]) -> Tensor:
        core = self._model.model.language_model
        first, last = self._first, self._first + SIDE**2
        words = core.embed_tokens(chunk.ids_BL)
        merged, *deep = (part[chunk.image_B] for part in features)
        is_image = torch.zeros_like(chunk.ids_BL, dtype=torch.bool)
        is_image[:, first:last] = True
        hidden = core(
            inputs_embeds=torch.cat([words[:, :first], merged, words[:, last:]], dim=1),
            position_ids=self._positions[:, :, : chunk.ids_BL.shape[1]].expand(-1, len(chunk.ids_BL), -1),
            visual_pos_masks=is_image,
            deepstack_visual_embeds=[part.flatten(0, 1) for part in deep],
            use_cache=False,
        ).last_hidden_state
        weights = chunk.weights_BL[:, 1:]
        learnt = weights > 0
        scores = self._model.lm_head(hidden[:, :-1][learnt])
        return (F.cross_entropy(scores, chunk.ids_BL[:, 1:][learnt], reduction="none") * weights[learnt]).sum()

    @torch.no_grad()
    def dense_shares(self, batch: Batch) -> Progress:
        """Intersection over union of predicted and true kinds, colours and both; share of right centre counts."""
        predicted = self.dense_head(self._look(batch)[0])
        figures = {}
        for name, part in (("kind", _KIND), ("color", _COLOR), ("joint", _JOINT)):
            guess, truth = predicted[..., part] > 0, batch.targets_NTK[..., part] > 0
            figures[f"dense_{name}"] = round(((guess & truth).sum() / (guess | truth).sum()).item(), 3)
        right = predicted[..., _CENTERS].argmax(-1) == batch.targets_NTK[..., _CENTERS].argmax(-1)
        return figures | {"dense_centers": round(right.float().mean().item(), 3)}


def pretrain(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    plan: Plan,
    report: Report,
) -> None:
    """Train `model` in place, first its tower, then all of it; `report` gets figures every `plan.report_minutes`."""
    encoder = Encoder(processor, SIDE**2)
    learner = Learner(model, encoder)
    for stage, minutes in (("vision", plan.vision_minutes), ("language", plan.minutes)):
        if minutes > 0:
            batches = Batches(encoder, plan, with_text=stage == "language")
            loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
            _run_stage(stage, minutes, iter(loader), learner, plan, report)
    report({"stage": "final", "cpu_minutes": _cpu_minutes()})


class _Clock:
    """CPU-minutes of a stage without the time spent on reports, and how much of the stage is done."""

    def __init__(self, minutes: float) -> None:
        self._minutes, self._began, self._began_wall, self._reported = (
            minutes,
            time.process_time(),
            time.monotonic(),
            0.0,
        )

    def minutes(self) -> float:
        """CPU-minutes trained."""
        return (time.process_time() - self._began) / 60

    def share(self) -> float:
        """Part of the stage that is over, 1 at its end."""
        wall = (time.monotonic() - self._began_wall) / 60
        return max(self.minutes(), wall / BUSY_FACTOR) / self._minutes

    def report_is_due(self, every: float) -> bool:
        """Whether `every` minutes have passed since it last was."""
        due = self.minutes() - self._reported >= every
        self._reported += every if due else 0
        return due

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        cpu, wall = time.process_time(), time.monotonic()
        yield
        self._began += time.process_time() - cpu
        self._began_wall += time.monotonic() - wall


def _run_stage(
    stage: str, minutes: float, batches: Iterator[Batch], learner: Learner, plan: Plan, report: Report
) -> None:
    parameters = learner.parameters(stage)
    optimizer = _optimizer(parameters)
    clock, step, recent = _Clock(minutes), 0, []
    while (done := clock.share()) < 1:
        rate = _learning_rate(stage, done, plan) * min(1, (step + 1) / plan.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        dense, language = learner.losses(next(batches))
        (dense if stage == "vision" else language + plan.auxiliary_weight * dense).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        recent.append((dense.item(), language.item()))
        if clock.report_is_due(plan.report_minutes):
            with clock.paused():
                figures = {"stage": stage, "step": step, "cpu_minutes": _cpu_minutes()} | _means(recent)
                report(figures | learner.dense_shares(next(batches)))
            recent = []
    figures = {"stage": f"{stage} done", "step": step, "cpu_minutes": _cpu_minutes()} | _means(recent)
    report(figures | learner.dense_shares(next(batches)))


def _learning_rate(stage: str, done: float, plan: Plan) -> float:
    """Linear to a fifth for the tower alone; for everything a plateau, then one cosine to 2 %."""
    if stage == "vision":
        return plan.vision_learning_rate * (1 - 0.8 * done)
    cosine = 0.5 * (1 + math.cos(math.pi * max(0, done - 0.1) / 0.9))
    return plan.learning_rate * (0.02 + 0.98 * cosine)


def _optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _means(losses: list[tuple[float, float]]) -> Progress:
    dense, language = np.mean(losses or [(0.0, 0.0)], axis=0)
    return {"dense_loss": round(float(dense), 3), "language_loss": round(float(language), 3)}


def _cpu_minutes() -> float:
    """CPU-minutes of this process and of finished drawing processes."""
    return round((time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])) / 60, 1)

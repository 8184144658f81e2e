"""Small training jobs on the embedded tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import TINY

from vlmtune.data import Rows, scenes
from vlmtune.processing.encoder import Encoder
from vlmtune.tasks import captioning
from vlmtune.training.config import LoraConfig, TrainingConfig
from vlmtune.training.dataset import TrainingExamples
from vlmtune.training.trainer import TrainingJob

CAPTIONS = [f"caption_{n}" for n in range(5)]


def scene_rows(split: str, count: int, target: str = "sample") -> Rows:
    return scenes.open(scenes.Config(references=CAPTIONS, target=target, id="id"), split, count)


@pytest.fixture
def make_job(encoder: Encoder, tmp_path: Path) -> Callable[..., TrainingJob]:
    def make(name: str = "run", rows: Rows | None = None, **settings: Any) -> TrainingJob:
        lora = settings.pop("lora", None) or LoraConfig(dropout=settings.pop("dropout", 0.05))
        chosen = {"batch_size": 8, "learning_rate": 2e-3, "precision": "fp32", **settings}
        config = TrainingConfig(lora=lora, **chosen)
        work = tmp_path / name / "work"
        work.mkdir(parents=True, exist_ok=True)
        parts = (captioning.TASK, captioning.Config(), encoder, config)
        return TrainingJob(
            settings=config,
            model=TINY,
            encoder=encoder,
            train=TrainingExamples(rows or scene_rows("train", 40), *parts),
            validation=TrainingExamples(scene_rows("validation", 4), *parts),
            target="sample",
            work=work,
            adapter=tmp_path / name / "adapter",
            log=lambda step, values: None,
        )

    return make

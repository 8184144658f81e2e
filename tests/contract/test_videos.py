"""Videos as every family that reads them sees them: ids, pixels and positions of its own processor and model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import TINY, assistant, make_image, ref, user
from clips import drawn_frames, video
from tiny_models import TINY_MODELS
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmtune import registry
from vlmtune.errors import ConfigError, DataError
from vlmtune.modeling.loading import ModelConfig, VideoConfig, find_checkpoint
from vlmtune.processing.encoder import Encoder, collate
from vlmtune.types import Conversation

READ_VIDEOS = [name for name in registry.available("families") if registry.load("families", name).FAMILY.video]

CLIPS = [(9, 3.0, (64, 48)), (30, 10.0, (100, 70)), (2, 5.0, (64, 64)), (50, 25.0, (90, 160)), (7, 2.0, (40, 30))]
"""Frames, frames per second, and width and height."""

SETTINGS: list[dict[str, Any]] = [{}, {"fps": 4, "min_frames": 3, "max_frames": 9}, {"max_pixels": 9000}]
STILL = make_image(70, 100, 5)


@pytest.fixture(scope="module", params=READ_VIDEOS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "qwen3_vl":
        return str(find_checkpoint(TINY).folder)
    name = tmp_path_factory.mktemp(request.param)
    TINY_MODELS[request.param](name)
    return str(name)


def opened(folder: str, **settings: Any) -> Encoder:
    config = ModelConfig(name=folder, device="cpu", video=VideoConfig(**settings))
    return Encoder(find_checkpoint(config), config)


def talk() -> Conversation:
    """Clips with an image between them, over several turns."""
    first, second, *others = (video(drawn_frames(n, s, i), rate, f"clip {i}") for i, (n, rate, s) in enumerate(CLIPS))
    more = [part for n, clip in enumerate(others) for part in (clip, f"and {n}")]
    return user("Look", ref(STILL, "still"), first, "and", second), assistant("Yes ."), user(*more)


def by_processor(processor: Any, encoder: Encoder, text: str, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the processor makes of the same text, frames and settings."""
    own = encoder.video_processor.limits.frame
    for key in ("min_frames", "max_frames"):  # Qwen3-VL's reads them from nowhere else
        setattr(processor.video_processor, key, getattr(encoder.video_processor.limits, key))
    made = processor(
        text=[text],
        images=[STILL],
        videos=[np.stack([np.array(frame) for frame in drawn_frames(n, s, i)]) for i, (n, _, s) in enumerate(CLIPS)],
        video_metadata=[{"total_num_frames": count, "fps": rate} for count, rate, _ in CLIPS],
        do_sample_frames=True,
        fps=settings.get("fps", 2),
        size={"shortest_edge": own.min_pixels, "longest_edge": settings.get("max_pixels", own.max_pixels)},
        return_tensors="pt",
    )
    return {name: torch.as_tensor(value) for name, value in made.items() if name != "video_metadata"}


def test_ids_pixels_and_positions_equal_those_of_processor_and_model(folder: str) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    seen = set()
    for settings in SETTINGS:
        encoder = opened(folder, **settings)
        encoded = encoder.prompt(talk())
        ours = collate([encoded], encoder, "left", "cpu", torch.float32)
        text = encoder.renderer._text(talk(), add_generation_prompt=True)
        theirs = by_processor(processor, encoder, text, settings)
        assert {"pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw"} <= set(ours) <= set(theirs)
        for name in ours:
            assert torch.equal(ours[name].to(theirs[name].dtype), theirs[name]), (settings, name)
        places, _ = model.model.get_rope_index(**{n: theirs[n] for n in ours if not n.startswith("pixel")})
        merge, own = encoder.image_processor.limits.merge, encoder.renderer.vision_ids
        counted = encoder.checkpoint.family.positions(encoded.rendered.ids, own, encoded.blocks, merge)
        assert torch.equal(torch.from_numpy(counted), places[:, 0])
        seen.add(len(encoded))
    assert len(seen) == len(SETTINGS), "every setting changes what is seen"


def test_the_shared_area_of_frames_equals_the_processor(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints may ask for `cap_pixels_per_frame`, and versions of transformers to come for all."""
    processor, encoder = AutoProcessor.from_pretrained(folder), opened(folder)
    monkeypatch.setattr(processor.video_processor, "cap_pixels_per_frame", True)
    monkeypatch.setattr(processor.video_processor, "max_video_tokens", 3)
    own = encoder.video_processor
    limits = own._limits
    monkeypatch.setattr(own, "_limits", limits.__class__(**{**plain(limits), "share": True, "max_tokens": 3}))
    for count, rate, size in CLIPS:
        frames = np.stack([np.array(frame) for frame in drawn_frames(count, size)])
        metadata = [{"total_num_frames": count, "fps": rate}]
        theirs = processor.video_processor([frames], video_metadata=metadata, do_sample_frames=True, fps=2)
        patches, moments = own.read(video(drawn_frames(count, size), rate))
        assert moments.grid == tuple(np.asarray(theirs["video_grid_thw"])[0].tolist())
        assert torch.equal(own.normalised(patches, torch.float32), torch.as_tensor(theirs["pixel_values_videos"]))


def plain(limits: Any) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in limits.__dataclass_fields__}


def test_a_family_that_reads_no_videos_says_so(tmp_path: Path) -> None:
    TINY_MODELS["internvl"](tmp_path)
    with pytest.raises(DataError, match="videos are not supported for internvl; use some of their frames as images"):
        opened(str(tmp_path)).prompt((user(video(drawn_frames(4, (64, 48)), 2), "What?"),))
    with pytest.raises(ConfigError, match=r"model\.video is set, but videos are not supported for internvl"):
        opened(str(tmp_path), fps=3)

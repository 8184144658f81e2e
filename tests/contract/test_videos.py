"""Videos as every family that reads them sees them: ids, pixels and positions of its own processor and model."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import TINY, make_image, ref, user
from clips import drawn_frames, video
from tiny_models import TINY_MODELS
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmtune import registry
from vlmtune.modeling.loading import ModelConfig, VideoConfig, find_checkpoint
from vlmtune.processing.encoder import Encoder, collate

READ_VIDEOS = [name for name in registry.available("families") if registry.load("families", name).FAMILY.video]


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


CLIPS = [(9, 3.0, (64, 48)), (30, 10.0, (100, 70)), (2, 5.0, (64, 64)), (50, 25.0, (90, 160)), (7, 2.0, (40, 30))]
"""Frames, frames per second, and width and height."""


@pytest.mark.parametrize("settings", [{}, {"fps": 4, "min_frames": 3, "max_frames": 9}, {"max_pixels": 9000}])
def test_ids_and_pixels_equal_the_processor(folder: str, settings: dict[str, Any]) -> None:
    """With images between the videos."""
    encoder = opened(folder, **settings)
    processor = AutoProcessor.from_pretrained(folder)
    size = dict(processor.video_processor.size)
    if "max_pixels" in settings:
        size = {"shortest_edge": encoder.video_processor.limits.frame.min_pixels, "longest_edge": 9000}
    options = {"fps": settings.get("fps", 2), "size": size}
    options |= {key: settings[key] for key in ("min_frames", "max_frames") if key in settings}
    for key in ("min_frames", "max_frames"):
        setattr(processor.video_processor, key, settings.get(key, getattr(processor.video_processor, key)))
    still = make_image(70, 100, 5)
    parts: list[Any] = ["Look", ref(still, "still")]
    text = "Look<|vision_start|><|image_pad|><|vision_end|>"
    for n, (count, rate, shape) in enumerate(CLIPS):
        parts += [video(drawn_frames(count, shape, n), rate, f"clip {n}"), f"and {n}"]
        text += f"<|vision_start|><|video_pad|><|vision_end|>and {n}"
    ours = collate([encoder.prompt((user(*parts),))], encoder, "left", "cpu", torch.float32)
    rendered = encoder.renderer._text((user(*parts),), add_generation_prompt=True)
    assert text in rendered
    theirs = processor(
        text=[rendered],
        images=[still],
        videos=[np.stack([np.array(frame) for frame in drawn_frames(c, s, n)]) for n, (c, _, s) in enumerate(CLIPS)],
        video_metadata=[{"total_num_frames": count, "fps": rate} for count, rate, _ in CLIPS],
        do_sample_frames=True,
        return_tensors="pt",
        **options,
    )
    assert {"pixel_values_videos", "video_grid_thw"} <= set(ours)
    for name in ours:
        theirs_now = torch.as_tensor(theirs[name])
        assert torch.equal(ours[name].to(theirs_now.dtype), theirs_now), name
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    theirs = {name: torch.as_tensor(theirs[name]) for name in ours if not name.startswith("pixel")}
    places, _ = model.model.get_rope_index(**theirs)
    encoded = encoder.prompt((user(*parts),))
    merge = encoder.image_processor.limits.merge
    own = encoder.checkpoint.family.positions(encoded.rendered.ids, encoder.renderer.vision_ids, encoded.blocks, merge)
    assert torch.equal(torch.from_numpy(own), places[:, 0])

"""Pixels: bit-equal to the processor's torchvision backend; sizes equal to the processor's rule."""

from dataclasses import replace

import pytest
import torch
from builders import make_image
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

from vlmtune.errors import ConfigError, ImageError, IntegrityError
from vlmtune.families import ImageLimits
from vlmtune.families.qwen3_vl import FAMILY
from vlmtune.processing.image_processor import ImageProcessor, load_limits

LIMITS = {
    "qwen3": ImageLimits(16, 2, 2, 65_536, 16_777_216, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "small": ImageLimits(16, 2, 2, 4_096, 40_000, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "qwen2.5": ImageLimits(
        14, 2, 2, 3_136, 1_003_520, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
}
SIZES = [
    (500, 375), (375, 500), (333, 500), (640, 480), (128, 128), (96, 96), (31, 31), (33, 65), (1, 150), (1000, 20),
    (257, 255), (16, 16), (448, 448), (1024, 64), (100, 100), (511, 513), (64, 500), (300, 200), (77, 91), (500, 281),
    (224, 224),
]  # fmt: skip


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_patches_equal_the_processor(kind: str, size: tuple[int, int]) -> None:
    limits = LIMITS[kind]
    oracle = Qwen2VLImageProcessor(
        size={"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels},
        patch_size=limits.patch,
        merge_size=limits.merge,
        temporal_patch_size=limits.frames,
        image_mean=list(limits.mean),
        image_std=list(limits.std),
    )
    image, image_processor = make_image(*size), ImageProcessor(FAMILY, limits)
    expected = oracle([image], return_tensors="pt")
    assert image_processor.grid(image) == tuple(expected["image_grid_thw"][0].tolist())
    assert torch.equal(
        image_processor.normalised(image_processor.patches(image), torch.float32), expected["pixel_values"]
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(sorted(LIMITS)))
def test_sizes_equal_the_processor(height: int, width: int, kind: str) -> None:
    limits = LIMITS[kind]
    try:
        expected = smart_resize(height, width, limits.factor, limits.min_pixels, limits.max_pixels)
    except ValueError:
        with pytest.raises(ValueError, match="more than 200 times"):
            FAMILY.resized(height, width, limits)
        return
    assert FAMILY.resized(height, width, limits) == expected


def test_too_narrow_an_image_is_named() -> None:
    with pytest.raises(ImageError, match="2000x5: one side is more than 200 times the other"):
        ImageProcessor(FAMILY, LIMITS["qwen3"]).grid(make_image(2000, 5))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("preprocessor_config.json", '{"min_pixels": 3136, "max_pixels": 12845056, %s}'),
        ("preprocessor_config.json", '{"size": {"shortest_edge": 3136, "longest_edge": 12845056}, %s}'),
        (
            "processor_config.json",
            '{"image_processor": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, %s}}',
        ),
    ],
)
def test_both_spellings_of_sizes_are_read(tmp_path, name: str, content: str) -> None:  # type: ignore[no-untyped-def]
    shape = '"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2'
    shape += ', "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]'
    (tmp_path / name).write_text(content % shape)
    limits = load_limits(tmp_path, FAMILY)
    assert (limits.patch, limits.min_pixels, limits.max_pixels) == (14, 3136, 12845056)
    assert load_limits(tmp_path, FAMILY, max_pixels=50_000) == replace(limits, max_pixels=50_000)
    with pytest.raises(ConfigError, match=r"max_pixels: 783 is less than .* 28x28 pixels; set at least 784"):
        load_limits(tmp_path, FAMILY, max_pixels=783)


def test_a_folder_without_image_settings_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IntegrityError, match="no processor_config.json"):
        load_limits(tmp_path, FAMILY)

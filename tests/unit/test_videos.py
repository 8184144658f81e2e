"""Video files and rows with videos: what is decoded, what is refused, and what a row says."""

import numpy as np
import pytest
from clips import clip_file, drawn_frames
from PIL import Image

from vlmtune import videos

FRAMES = drawn_frames(12, (64, 48))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two images in grey levels."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


KINDS = {
    "mp4": ("libx264", {"crf": 1}),
    "matroska": ("ffv1", {}),
    "webm": ("libvpx", {"auto-alt-ref": 1, "lag-in-frames": 8, "b": 4_000_000}),
    "avi": ("mpeg4", {"qscale": 1, "bf": 2}),
    "gif": ("gif", {"pix_fmt": "rgb8"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_every_format(kind: str) -> None:
    codec, options = KINDS[kind]
    data = clip_file(FRAMES, 10, kind, codec, **options)
    clip = videos.probe(data, "clip")
    assert (clip.frames, clip.size, clip.even) == (12, (64, 48), True)
    assert clip.rate == pytest.approx(10, rel=0.01)
    found = list(videos.decode(data, [0, 3, 4, 11], clip.frames, "clip"))
    for index, frame in zip([0, 3, 4, 11], found, strict=True):
        differences = [difference(frame, drawn) for drawn in FRAMES]
        assert differences.index(min(differences)) == index
        assert min(differences) < 30

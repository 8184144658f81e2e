"""Near-duplicates: which dHashes become candidates, and how many comparisons they cost."""

from typing import Any

import numpy as np
import pytest
from builders import data_benchmark, encoded, planting, ref

from vlmtune.dataset_check import near_duplicates
from vlmtune.dataset_check.image_index import describe


def hashes_of(hashes: Any, thumbnails: Any) -> near_duplicates.ImageHashes:
    """Images of 320x240 pixels."""
    return near_duplicates.ImageHashes(hashes, np.arange(len(hashes)), np.full(len(hashes), 320 * 240), thumbnails)


def test_hashes_that_differ_in_at_most_seven_bits_are_candidates() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    near = values[:200].copy()
    for place in range(200):
        for bit in rng.choice(64, rng.integers(1, 11), replace=False):
            near[place] ^= np.uint64(1) << np.uint64(bit)

    def found(one: Any, other: Any) -> list[tuple[int, int]]:
        these, among = (hashes_of(some, np.empty) for some in (one, other))
        among = these if one is other else among
        pairs = near_duplicates.candidates(these, among, lambda: np.ones(len(one), bool))
        return [(int(a), int(b)) for asked, others in pairs for a, b in zip(asked, others, strict=True)]

    both = np.concatenate([values, near])
    for one, other in ((both, both), (values, near)):
        distances = np.bitwise_count(one[:, None] ^ other[None])
        expected = [
            (a, b)
            for a, b in np.argwhere(distances <= near_duplicates.MAX_BITS).tolist()
            if (one is other and b < a) or one is not other
        ]
        assert sorted(found(one, other)) == expected, "each pair once"


def test_comparisons_of_equal_hashes_are_bounded_and_skipped_images_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    asked: list[int] = []

    def small(places: Any) -> Any:
        asked.append(len(places))
        return rng.integers(0, 256, (len(places), near_duplicates.THUMBNAIL_BYTES), dtype=np.uint8)

    monkeypatch.setattr(near_duplicates, "MAX_COMPARISONS", 50)
    these = hashes_of(np.zeros(300, np.uint64), small)
    found = near_duplicates.find_matches(these, these)
    assert (found.partner < 0).all(), "noise resembles nothing"
    assert found.skipped == 300 - 50 - 1


@pytest.mark.parametrize("name", [*data_benchmark("alike").DRAWN, "handwritten digits"])
def test_copies_are_told_from_images_that_are_only_alike(name: str) -> None:
    """Digits, flags, icons, lines of text and receipts: the hash of most is that of another."""
    alike = data_benchmark("alike")
    images = list(alike.written_digits(60)) if name not in alike.DRAWN else alike.different(alike.DRAWN[name], 60, 3)
    found = data_benchmark("run").quality(alike.with_copies(name, images))
    assert found["copies"] == 12
    assert found["recall"] >= 0.9
    assert found["precision"] >= 0.9
    assert name == "photographs" or found["hash_precision"] < 0.5


@pytest.mark.parametrize("change", ["brighter", "smaller", "compressed"])
def test_hashes_survive_scaling_compression_and_brightening(change: str) -> None:
    noise = planting().noise
    for seed in range(20):
        image = noise(seed)
        made = {
            "brighter": encoded(image.point([min(255, v + 15) for v in range(256)] * 3)),
            "smaller": encoded(image.resize((120, 90))),
            "compressed": encoded(image, "JPEG", quality=20),
        }[change]
        one, other = (describe(ref(data), b"").dhash for data in (encoded(image), made))
        assert (one ^ other).bit_count() <= near_duplicates.MAX_BITS


def test_each_of_many_similar_images_gets_one_match_at_low_cost() -> None:
    rng = np.random.default_rng(1)
    hashes = np.full(1500, 0x0F0F_3C3C_55AA_9669, np.uint64)
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, 1500).astype(np.uint64)
    form = rng.integers(0, 256, near_duplicates.THUMBNAIL_BYTES)
    compared = 0

    def small(places: Any) -> Any:
        nonlocal compared
        compared += len(places)
        noise = rng.integers(-3, 4, (len(places), near_duplicates.THUMBNAIL_BYTES))
        return np.clip(form + noise, 0, 255).astype(np.uint8)

    these = hashes_of(hashes, small)
    near = near_duplicates.find_matches(these, these)
    assert (near.partner[1:] >= 0).all()
    assert (near.partner < np.arange(1500)).all()
    assert near.partner[0] == -1
    assert near.skipped == 0
    assert compared < 80_000

"""Near-duplicates: which dHashes become candidates, and how many comparisons they cost."""

from typing import Any

import numpy as np
import pytest
from builders import encoded, planting, ref

from vlmtune.dataset_check import image_index, near_duplicates
from vlmtune.dataset_check.image_index import describe


def test_hashes_that_differ_in_at_most_seven_bits_are_candidates() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    near = values[:200].copy()
    for place in range(200):
        for bit in rng.choice(64, rng.integers(1, 11), replace=False):
            near[place] ^= np.uint64(1) << np.uint64(bit)

    def found(one: Any, other: Any) -> list[tuple[int, int]]:
        these, among = (near_duplicates.ImageHashes(some, np.arange(len(some)), np.empty) for some in (one, other))
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


def test_comparisons_of_equal_hashes_are_bounded_and_skipped_images_counted() -> None:
    rng = np.random.default_rng(1)
    asked: list[int] = []

    def small(places: Any) -> Any:
        asked.append(len(places))
        return rng.integers(0, 256, (len(places), image_index.SIDE**2), dtype=np.uint8)

    these = near_duplicates.ImageHashes(np.zeros(1000, np.uint64), np.arange(1000), small)
    found = near_duplicates.find_matches(these, these)
    assert (found.partner < 0).all(), "noise resembles nothing"
    assert found.skipped == 1000 - near_duplicates.MAX_COMPARISONS - 1


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
    hashes = np.full(4000, 0x0F0F_3C3C_55AA_9669, np.uint64)
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, 4000).astype(np.uint64)
    form = rng.integers(0, 256, image_index.SIDE**2)
    compared = 0

    def small(places: Any) -> Any:
        nonlocal compared
        compared += len(places)
        return np.clip(form + rng.integers(-9, 10, (len(places), image_index.SIDE**2)), 0, 255).astype(np.uint8)

    these = near_duplicates.ImageHashes(hashes, np.arange(4000), small)
    near = near_duplicates.find_matches(these, these)
    assert (near.partner[1:] >= 0).all()
    assert (near.partner < np.arange(4000)).all()
    assert near.partner[0] == -1
    assert near.skipped == 0
    assert compared < 200_000

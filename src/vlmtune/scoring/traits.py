"""What stands beside a score: lengths, answers cut off, empty, unreadable or repeating themselves."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from vlmtune.predictions import Line

LONGEST_LOOP = 16
"""Words of the longest passage whose repetition is looked for."""


def lengths(texts: Sequence[str]) -> dict[str, float]:
    """Mean and median number of words; both 0 for no texts."""
    counts = [len(text.split()) for text in texts]
    return {"mean": round(fmean(counts), 2), "median": median(counts)} if counts else {"mean": 0.0, "median": 0}


def repeats_itself(text: str) -> bool:
    """Whether a passage of up to `LONGEST_LOOP` words stands three times in a row."""
    words = text.split()
    for period in range(1, min(LONGEST_LOOP, len(words) // 3) + 1):
        run = 0
        for word, later in zip(words, words[period:], strict=False):
            run = run + 1 if word == later else 0
            if run == 2 * period:
                return True
    return False


def shares(lines: Sequence[Line]) -> Mapping[str, float | None]:
    """Shares of answered lines: ended by themselves, cut off, empty, unparsed, repeating themselves.

    The first two are None where the file does not say how answers ended.
    """
    answered = [line for line in lines if line.prediction is not None]
    ends = [line.finish_reason for line in answered if line.finish_reason is not None]
    texts = [line.prediction or "" for line in answered]
    return {
        "ended": _share([end == "stop" for end in ends]),
        "cut_off": _share([end == "length" for end in ends]),
        "empty": _share([not text.strip() for text in texts]),
        "unparsed": _share([line.unparsed is not None for line in answered]),
        "repeating": _share([repeats_itself(text) for text in texts]),
    }


def _share(found: Sequence[bool]) -> float | None:
    return round(sum(found) / len(found), 4) if found else None

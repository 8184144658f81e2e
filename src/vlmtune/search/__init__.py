"""Searching for settings: what may vary, and how the trials of a study are chosen. Trains nothing itself."""

from vlmtune.search.config import Range, SearchConfig

__all__ = ["Range", "SearchConfig"]

"""Inspection and upkeep of run folders: their state, stale comparisons, damage and its repair, garbage."""

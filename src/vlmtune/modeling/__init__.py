"""Checkpoints and adapters loaded; the vision tower optimized."""

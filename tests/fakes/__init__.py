"""Plugins that stand in for real ones."""

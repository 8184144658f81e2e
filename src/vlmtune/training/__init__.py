"""Conversations in, an adapter folder out.

`trainer.train(...)` is the entry point; `config` holds the settings and imports no torch. Training never touches an
inference engine: an adapter reaches inference as a folder on disk.
"""

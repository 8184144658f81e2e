"""Conversations to an adapter folder.

`loop.train(...)` is the entrance; `settings` holds the configs and imports no torch. Training never sees an engine:
an adapter crosses to inference as a folder on disk.
"""

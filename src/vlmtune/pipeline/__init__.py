"""The steps: predict, train, compare, run. Joins what lower layers may not, and alone writes the run folder.

A step is a function of a `session.Session`; one whose artifact is already made from the same origin is skipped. `api`
is the Python interface; the command line calls the same steps.
"""

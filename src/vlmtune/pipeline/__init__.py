"""The steps: predict, train, compare, run. The only layer that combines all others and writes the run folder.

A step is a function of a `session.Session`; one whose artifact of the same provenance exists is skipped. `api`
is the Python interface; the command line calls the same steps.
"""

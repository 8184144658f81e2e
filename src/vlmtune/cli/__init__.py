"""The command line: `app` is the table of verbs; the other files parse, call and print, nothing else.

stdout carries the result alone; progress, notices and errors go to stderr. Everything heavy is imported inside the
commands, so that `--help` and the checks stay instant.
"""

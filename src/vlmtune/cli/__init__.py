"""The command line: `app` is the command table; the other files parse, call and print, nothing else.

Only results go to stdout; progress, notices and errors go to stderr. Everything heavy is imported inside the commands,
so that `--help` and config checks are instant.
"""

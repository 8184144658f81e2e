"""A first config for a dataset nobody has described yet: `vlmtune init`.

`places` finds the source and its splits, `columns` says what each column holds, `guessing` gives columns roles and
chooses the task, `writing` makes the file, with why beside every guess, and proves that it works before it is there.
"""

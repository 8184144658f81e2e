"""Every row looked at before GPU time is spent: `vlmtune data check`, `show` and `stats`, and the quarantine.

`checking` leads; `pictures` decodes and remembers, `reading` looks at one row, `copies` finds pictures that stand in
two places, `quarantine` says which rows are left out. What is found is plain values: `summary` and `page` show them.
"""

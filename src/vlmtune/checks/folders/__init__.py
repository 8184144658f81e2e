"""Looking after run folders: what is in them, what is damaged, what can go, and how to watch one at work.

`run` reads a folder and never writes; `listing` says it in words; `watching` reads the same again and again while
another process works. `damage` and `surplus` find first, and change only what they found, under the folder's lock.
"""

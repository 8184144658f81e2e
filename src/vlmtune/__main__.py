"""`python -m vlmtune`: what launchers call."""

from vlmtune.cli.app import main

if __name__ == "__main__":
    main()

"""The classic entry point: python main.py --mode baseline|train|eval --config flickr8k_captioning.yaml.

With USE_MOCK=True, all three modes run on a laptop's CPU, with the embedded tiny Qwen3-VL and drawn scenes.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

MOCK_BLOCKS: dict[str, Mapping[str, Any]] = {
    "model": {"name": "tiny", "device": "cpu"},
    "dataset": {
        "source": "scenes",
        "references": ["caption_0", "caption_1", "caption_2", "caption_3", "caption_4"],
        "target": "caption_0",
        "keywords": "keywords",
        "id": "id",
        "limit": {"train": 2000, "validation": 100, "test": 500},
    },
}
"""Blocks that replace those of the config under USE_MOCK."""

MOCK_KEYS: dict[str, Mapping[str, Any]] = {
    "training": {"precision": "fp32", "learning_rate": 2e-3, "epochs": 2},
    "inference": {"batch_size": 64},
}
"""Keys that override the config: at the classic 2e-4 the tiny model gets worse; the batch size only saves time."""


def use_mock() -> bool:
    """The value of USE_MOCK; False if unset."""
    value = os.environ.get("USE_MOCK", "False").strip().lower()
    if value not in ("true", "1", "yes", "false", "0", "no", ""):
        sys.exit(f"error: USE_MOCK must be True or False (got {value!r})")
    return value in ("true", "1", "yes")


def run(mode: str, name: str, sets: list[str], mock: bool, accept_failures: bool = False) -> None:
    """Run one mode of a config, printing what the vlmtune command prints."""
    from vlmtune.cli.options import print_comparison, print_score
    from vlmtune.config import load
    from vlmtune.pipeline import predict, train
    from vlmtune.pipeline import run as run_step
    from vlmtune.pipeline.session import open_session

    if mock:
        print("USE_MOCK=True: the embedded tiny model on drawn scenes, on the CPU; results are marked as mock")
    overrides: list[str | Mapping[str, Any]] = [*([MOCK_KEYS] if mock else []), *sets]
    config = load(name, overrides=overrides, replaced=MOCK_BLOCKS if mock else {}).config
    with open_session(config, mock=mock, distributed=mode == "train", accept_failures=accept_failures) as session:
        if mode == "baseline":
            print_score(predict.score(session, predict.predict(session)))
        elif mode == "train":
            for adapter in train.train(session):
                print(f"adapter: {adapter}")
        else:
            for seeded in session.seeds:
                print_score(predict.score(session, predict.predict(session, seeded.files.adapter)))
            if session.files.baseline.is_file():
                print_comparison(run_step.compare(session))
                print(f"next: open {session.files.report}", file=sys.stderr)


def main() -> None:
    """Parse the arguments, run the mode, and exit as the vlmtune command does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", required=True, choices=["baseline", "train", "eval"])
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key; repeatable")
    parser.add_argument(
        "--accept-failures", action="store_true", help="publish answers although the engine failed on some rows"
    )
    arguments = parser.parse_args()
    try:
        from vlmtune.cli.app import run_and_exit
    except ModuleNotFoundError as missing:
        sys.exit(
            f"error: {missing.name} is not installed in {sys.executable}. Run `make install` on a laptop or "
            "`bash setup_gpu_env.sh` on a GPU machine, then `source .venv/bin/activate` and this command again"
        )
    run_and_exit(lambda: run(arguments.mode, arguments.config, arguments.set, use_mock(), arguments.accept_failures))


if __name__ == "__main__":
    main()

"""The whole configuration: composed of every part's own Config, read from YAML, judged, shown.

`composed` says which blocks there are, `loading` finds, reads and lays over, `mistakes` says what is wrong and where,
`judging` finds values that contradict each other, `showing` prints. Called by the command line, main.py and the
pipeline.
"""

from vlmtune.config.loader import LoadedConfig, arguments, diff, load, load_config, show
from vlmtune.config.schema import Config, EvaluationSetConfig, config_json, json_schema

__all__ = [
    "Config",
    "EvaluationSetConfig",
    "LoadedConfig",
    "arguments",
    "config_json",
    "diff",
    "json_schema",
    "load",
    "load_config",
    "show",
]

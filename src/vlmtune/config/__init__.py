"""The whole configuration: composed of every part's own Config, read from YAML, judged, shown.

`composed` says which blocks there are, `loading` finds, reads and lays over, `mistakes` says what is wrong and where,
`judging` finds values that contradict each other, `showing` prints. Called by the command line, main.py and the
pipeline.
"""

from vlmtune.config.blocks import AlsoConfig
from vlmtune.config.composed import Config, config_json, json_schema
from vlmtune.config.loading import LoadedConfig, arguments, load, load_config
from vlmtune.config.showing import diff, show

__all__ = [
    "AlsoConfig",
    "Config",
    "LoadedConfig",
    "arguments",
    "config_json",
    "diff",
    "json_schema",
    "load",
    "load_config",
    "show",
]

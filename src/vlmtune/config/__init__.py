"""The configuration: composed of every module's Config class, read from YAML, validated as a whole.

`schema` defines the blocks, `yaml` parses files into `nodes` that know their source location, `loader` finds, merges
and prints configurations, `validators` checks values against each other, `errors` words what is wrong and where.
"""

from vlmtune.config.loader import LoadedConfig, load, load_config, parse_overrides, show, with_values
from vlmtune.config.schema import Config, EvaluationSetConfig, LabelConfig, config_json, json_schema
from vlmtune.config.validators import refuse_evaluated_training_rows

__all__ = [
    "Config",
    "EvaluationSetConfig",
    "LabelConfig",
    "LoadedConfig",
    "config_json",
    "json_schema",
    "load",
    "load_config",
    "parse_overrides",
    "refuse_evaluated_training_rows",
    "show",
    "with_values",
]

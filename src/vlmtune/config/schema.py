"""Config = every part's own Config.

Knows which blocks there are; what their keys mean is said where they are read. A block whose kind is the user's choice
(dataset, task, inference, tracking) takes its class from the plugin that it names.

Blocks of the configuration that stand in more than one place of it, and the one that holds them again.

A block whose class is the user's choice: `Config` of the plugin that one of its keys names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, SerializeAsAny, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from vlmtune import registry
from vlmtune.config import validators
from vlmtune.config.errors import Fields, judgement, one_of, refuse
from vlmtune.config.nodes import Steps
from vlmtune.data import DatasetConfig, SplitRole
from vlmtune.engines import InferenceConfig
from vlmtune.modeling.loading import TINY, ModelConfig
from vlmtune.registry import BaseConfig
from vlmtune.report import ReportConfig
from vlmtune.run_folder import OutputConfig
from vlmtune.scoring import EvaluationConfig
from vlmtune.tasks import TaskConfig
from vlmtune.tracking import TrackerConfig
from vlmtune.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Plugin:
    """A block whose class is the `Config` of the plugin that its `key` names; the plugin must also have `offers`."""

    folder: str
    key: str
    base: type[BaseConfig]
    offers: str

    def part(self, value: Any) -> type[BaseConfig] | str | None:
        """The class for a block; a sentence where there is none; None where the block names no plugin."""
        default = self.base.model_fields[self.key].get_default()
        name = value.get(self.key, default) if isinstance(value, dict) else None
        if not isinstance(name, str):
            return None
        try:
            found = vars(registry.load(self.folder, name))
        except registry.UnknownPlugin as unknown:
            custom = "" if "." not in name else ", or the dotted name of an importable module"
            return one_of(repr(name), unknown.available) + custom
        part = found.get("Config")
        if not (isinstance(part, type) and issubclass(part, self.base)):
            return f"names {name!r}, which has no class Config that extends {self.base.__name__}"
        return part if self.offers in found else f"names {name!r}, which has no {self.offers}"

    def read(self, value: Any) -> Any:
        """A block as its plugin's Config; anything else is left for pydantic to refuse."""
        if not isinstance(value, dict):
            return value
        part = self.part(value)
        if isinstance(part, type):
            return part.model_validate_json(json.dumps(value), strict=True)
        given = value.get(self.key)
        if isinstance(part, str):
            refuse(self.folder, [judgement(part, loc=(self.key,), value=given), *self._known_mistakes(value)])
        kind: Any = "string_type" if self.key in value else "missing"
        raise ValidationError.from_exception_data(self.folder, [{"type": kind, "loc": (self.key,), "input": given}])

    def _known_mistakes(self, value: dict[str, Any]) -> list[InitErrorDetails]:
        """What is wrong with a block of an unknown plugin all the same: values of keys that every plugin has."""
        try:
            self.base.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            found = [each for each in error.errors() if each["type"] not in ("extra_forbidden", "missing")]
            kept = ("type", "loc", "input", "ctx")
            details: Any = [{key: each[key] for key in kept if key in each} for each in found]  # type: ignore[literal-required]
            return list(details)
        return []

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One choice per shipped plugin, told apart by its name; last, anybody's own module, which has a dot in it."""
        default = self.base.model_fields[self.key].get_default()
        custom = {"type": "string", "pattern": r"\.", "description": "The dotted name of a custom module."}
        choices = []
        for name in registry.available(self.folder):
            part = registry.load(self.folder, name).Config
            choice = handler.resolve_ref_schema(handler(part.__pydantic_core_schema__))
            named = {"const": name, "description": (part.__doc__ or "").strip()}
            required = [key for key in choice.get("required", []) if key != self.key]
            required += [] if name == default else [self.key]
            choices.append({**choice, "properties": {**choice["properties"], self.key: named}, "required": required})
        mine = {"type": "object", "title": "Custom", "properties": {self.key: custom}, "required": [self.key]}
        return {"oneOf": [*choices, mine]}


DatasetBlock = Annotated[
    SerializeAsAny[DatasetConfig], Plugin("data", "source", DatasetConfig, "open"), AfterValidator(validators.dataset)
]
TrackerBlock = Annotated[SerializeAsAny[TrackerConfig], Plugin("tracking", "to", TrackerConfig, "open_tracker")]
TaskBlock = Annotated[SerializeAsAny[TaskConfig], Plugin("tasks", "name", TaskConfig, "TASK")]


class EvaluationSetConfig(BaseConfig):
    """Other rows, or another task, that both models answer: what training broke elsewhere."""

    name: str
    """Name of the set; its files have it in theirs."""

    dataset: DatasetBlock
    """Where its rows come from, and what their columns mean."""

    task: TaskBlock
    """What is asked there, and what counts."""

    split: SplitRole = "test"
    """Role of the rows both models answer."""

    metrics: list[str] | None = None
    """Names of that task's metrics to report; null reports all of them."""

    primary: str | None = None
    """The metric its verdict is about; null takes the task's first."""


class EvaluationBlock(EvaluationConfig):
    """What is measured, and on which rows; here or elsewhere."""

    additional: list[EvaluationSetConfig] = []
    """Further evaluation sets. Both models answer them, too, and each has a comparison of its own; the verdict says
    where the tuned model got worse."""


class Config(BaseConfig):
    """Everything that decides what a run does and where its results go."""

    schema_version: Literal[1] = 1
    """Version of this format."""

    extends: str | list[str] = Field(default=[], exclude=True)
    """Files that this one is laid over, relative to it: blocks are merged key by key, later files win, lists are
    replaced. Gone from the resolved configuration."""

    model: Annotated[ModelConfig, AfterValidator(validators.model)]
    """Which model is adapted."""

    dataset: DatasetBlock
    """Where rows come from, and what their columns mean."""

    task: TaskBlock
    """What is asked, and what counts."""

    training: Annotated[TrainingConfig, AfterValidator(validators.training)] = TrainingConfig()
    """How the adapter is trained."""

    inference: Annotated[
        SerializeAsAny[InferenceConfig],
        Plugin("engines", "engine", InferenceConfig, "open_engine"),
        AfterValidator(validators.inference),
    ] = Field(default_factory=dict)  # type: ignore[assignment]  # read as a block without keys: its class is the plugin's
    """How answers are decoded."""

    evaluation: Annotated[EvaluationBlock, AfterValidator(validators.evaluation)] = EvaluationBlock()
    """What is measured, on which rows, and how differences are judged."""

    report: ReportConfig = ReportConfig()
    """What the page shows."""

    tracking: list[TrackerBlock] = []
    """Experiment trackers that mirror the training curves; the local files are always written."""

    output: Annotated[OutputConfig, AfterValidator(validators.output)] = OutputConfig()
    """Where results are written."""

    @property
    def needs_hub(self) -> bool:
        """Whether the model or the dataset is named as on the Hub."""
        rows = [self.dataset, *(one.dataset for one in self.evaluation.additional)]
        named = [self.model.name, *(block.model_dump()["path"] for block in rows if block.source == "hub")]
        return any(name != TINY and not Path(name).exists() for name in named)


def config_json(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain values, every default written out; itself a valid config file."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    return plain


class _Untitled(GenerateJsonSchema):
    """Without pydantic's titles, which repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file over all shipped plugins, for editors."""
    schema = Config.model_json_schema(schema_generator=_Untitled)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vlmtune configuration", **schema}


def fields_at(path: Steps, plain: Any) -> Fields:
    """Keys that the block at a path may have, with the first sentence about each; none where no block can be.

    A list is no block; those in it stand behind their number.
    """
    part: type[BaseConfig] | None = Config
    field: FieldInfo | None = None
    for step in path:
        if isinstance(step, int):
            plain = plain[step] if isinstance(plain, list) else None
        else:
            plain = plain.get(step) if isinstance(plain, dict) else None
            field = part.model_fields.get(step) if part is not None else None
        is_list = field is not None and isinstance(step, str) and get_origin(field.annotation) is list
        part = _part(field, plain) if field is not None and not is_list else None
    fields = part.model_fields if part is not None else {}
    return {key: (field.description or "").split(". ")[0].rstrip(".") for key, field in fields.items()}


def _part(field: FieldInfo, plain: Any) -> type[BaseConfig] | None:
    """The class of a block, or of the blocks in a list; None where the field holds none."""
    if (plugin := plugin_of(field)) is not None:
        found = plugin.part(plain if isinstance(plain, dict) else {})
        return found if isinstance(found, type) else plugin.base
    inside = flat(field.annotation)
    return next((inner for inner in inside if isinstance(inner, type) and issubclass(inner, BaseConfig)), None)


def plugin_of(field: FieldInfo) -> Plugin | None:
    """How a block, or the blocks in a list, find their class; None where it is always the same."""
    inside = (*field.metadata, *flat(field.annotation))
    return next((inner for inner in inside if isinstance(inner, Plugin)), None)


def flat(annotation: Any) -> Iterator[Any]:
    """An annotation and everything in its brackets."""
    yield annotation
    for inner in get_args(annotation):
        yield from flat(inner)

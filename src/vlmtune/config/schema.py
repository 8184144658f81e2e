"""The top-level Config, composed of every module's Config class.

Defines which blocks there are; each key is documented in the module that reads it. A block that selects a plugin
(dataset, task, inference, tracking) has the class of the plugin that it names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeInt,
    PositiveFloat,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from vlmtune import registry
from vlmtune.config import validators
from vlmtune.config.errors import Fields, invalid, one_of, raise_invalid
from vlmtune.config.nodes import KeyPath
from vlmtune.data import DatasetConfig, SplitRole
from vlmtune.engines import InferenceConfig
from vlmtune.errors import ConfigError
from vlmtune.modeling.loading import TINY, ModelConfig
from vlmtune.registry import BaseConfig
from vlmtune.report import ReportConfig
from vlmtune.run_layout import OutputConfig
from vlmtune.scoring import EvaluationConfig
from vlmtune.search import SearchConfig
from vlmtune.tasks import TaskConfig
from vlmtune.tracking import TrackerConfig
from vlmtune.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Plugin:
    """A block whose class is the `Config` of the plugin that its `key` names; its module also defines `provides`."""

    folder: str
    key: str
    base: type[BaseConfig]
    provides: str

    def config_class(self, value: Any) -> type[BaseConfig] | str | None:
        """The class of a block; an error message if there is none; None if the block names no plugin."""
        default = self.base.model_fields[self.key].get_default()
        name = value.get(self.key, default) if isinstance(value, dict) else None
        if not isinstance(name, str):
            return None
        try:
            namespace = vars(registry.load(self.folder, name))
        except registry.UnknownPlugin as unknown:
            custom = "" if "." not in name else ", or the dotted name of an importable module"
            return one_of(repr(name), unknown.available) + custom
        config_class = namespace.get("Config")
        if not (isinstance(config_class, type) and issubclass(config_class, self.base)):
            return f"names {name!r}, which has no class Config that extends {self.base.__name__}"
        return config_class if self.provides in namespace else f"names {name!r}, which has no {self.provides}"

    def read(self, value: Any) -> Any:
        """Validate a block as its plugin's Config; anything but a block is left for pydantic to reject."""
        if not isinstance(value, dict):
            return value
        config_class = self.config_class(value)
        if isinstance(config_class, type):
            return config_class.model_validate_json(json.dumps(value), strict=True)
        given = value.get(self.key)
        if isinstance(config_class, str):
            unknown = invalid(config_class, loc=(self.key,), value=given)
            raise_invalid(self.folder, [unknown, *self._shared_key_errors(value)])
        kind: Any = "string_type" if self.key in value else "missing"
        raise ValidationError.from_exception_data(self.folder, [{"type": kind, "loc": (self.key,), "input": given}])

    def _shared_key_errors(self, value: dict[str, Any]) -> list[InitErrorDetails]:
        """Errors in the keys that all plugins share, for a block that names an unknown plugin."""
        try:
            self.base.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            errors = [each for each in error.errors() if each["type"] not in ("extra_forbidden", "missing")]
            kept = ("type", "loc", "input", "ctx")
            details: Any = [{key: each[key] for key in kept if key in each} for each in errors]  # type: ignore[literal-required]
            return list(details)
        return []

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One alternative per shipped plugin, discriminated by its name; then any custom module, named with a dot."""
        default = self.base.model_fields[self.key].get_default()
        dotted_name = {"type": "string", "pattern": r"\.", "description": "The dotted name of a custom module."}
        choices = []
        for name in registry.available(self.folder):
            config_class = registry.load(self.folder, name).Config
            choice = handler.resolve_ref_schema(handler(config_class.__pydantic_core_schema__))
            named = {"const": name, "description": (config_class.__doc__ or "").strip()}
            required = [key for key in choice.get("required", []) if key != self.key]
            required += [] if name == default else [self.key]
            choices.append({**choice, "properties": {**choice["properties"], self.key: named}, "required": required})
        custom = {"type": "object", "title": "Custom", "properties": {self.key: dotted_name}, "required": [self.key]}
        return {"oneOf": [*choices, custom]}


DatasetBlock = Annotated[
    SerializeAsAny[DatasetConfig], Plugin("data", "source", DatasetConfig, "open"), AfterValidator(validators.dataset)
]
TrackerBlock = Annotated[SerializeAsAny[TrackerConfig], Plugin("tracking", "to", TrackerConfig, "open_tracker")]
TaskBlock = Annotated[SerializeAsAny[TaskConfig], Plugin("tasks", "name", TaskConfig, "TASK")]


InferenceBlock = Annotated[
    SerializeAsAny[InferenceConfig],
    Plugin("engines", "engine", InferenceConfig, "open_engine"),
    AfterValidator(validators.inference),
]


class EvaluationSetConfig(BaseConfig):
    """An additional evaluation set: other rows, or another task, to see what training made worse."""

    name: str
    """Name of the set; it is part of the names of its files."""

    dataset: DatasetBlock
    """Where its rows come from, and what their columns mean."""

    task: TaskBlock
    """What the model is asked about them, and how answers are scored."""

    split: SplitRole = "test"
    """Role of the rows that both models answer."""

    metrics: list[str] | None = None
    """Metrics of that task to report; null reports all of them."""

    primary: str | None = None
    """The metric its verdict is about; null takes the first one of the task."""


class MixedDatasetConfig(EvaluationSetConfig):
    """A further dataset to train on, in a mixture with the main one. Rows of its train role are mixed in; those of
    `split` are an additional evaluation set. `dataset` and `task` are blocks like the main ones.
    """

    weight: float = Field(gt=0, lt=1)
    """Fraction of all training samples that are drawn from it; `dataset` gets what is left. Its rows are drawn in
    passes of their own, while `training.epochs` counts passes over the rows of `dataset`."""

    evaluate: bool = True
    """Whether both models answer the rows of its `split`, to give it a comparison of its own."""


class LabelConfig(BaseConfig):
    """A teacher that labels rows for training. `dataset`, `model` and `inference` are blocks like the main ones."""

    dataset: DatasetBlock
    """Rows without labels; those of its train role are labelled."""

    model: Annotated[ModelConfig, AfterValidator(validators.model)] | None = None
    """The teacher; null is the model that is fine-tuned."""

    inference: InferenceBlock | None = None
    """How the teacher answers, by a server for example; null is the config's `inference`."""

    adapter: str | None = None
    """Folder of an adapter with which the teacher answers."""

    samples: NonNegativeInt = 3
    """Further answers to each row, drawn at `temperature`; how much they agree with the label is its agreement."""

    temperature: PositiveFloat = 0.7
    """Temperature of those answers."""

    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """Rows whose answers agree less are left out: the mean chrF of the further answers with the label, from 0 to 1."""

    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Rows whose label has a lower geometric mean of token probabilities are left out."""


class EvaluationBlock(EvaluationConfig):
    """What is measured, and on which rows."""

    additional: list[EvaluationSetConfig] = []
    """Additional evaluation sets. Both models answer them as well, and each gets its own comparison; the verdict says
    on which of them the tuned model got worse."""


def _datasets(block: list[MixedDatasetConfig], info: ValidationInfo) -> list[MixedDatasetConfig]:
    validators.datasets(block, info)
    return block


def _evaluation(block: EvaluationBlock, info: ValidationInfo) -> EvaluationBlock:
    validators.evaluation(block, block.additional, info)
    return block


class Config(BaseConfig):
    """Everything that decides what a run does and where its results go."""

    schema_version: Literal[1] = 1
    """Version of this format."""

    extends: str | list[str] = Field(default=[], exclude=True)
    """Files to inherit from, relative to this one: blocks are merged key by key, later files take precedence, lists are
    replaced. Not part of the resolved configuration."""

    model: Annotated[ModelConfig, AfterValidator(validators.model)]
    """Which model is fine-tuned."""

    dataset: DatasetBlock
    """Where rows come from, and what their columns mean."""

    task: TaskBlock
    """What the model is asked, and how answers are scored."""

    datasets: Annotated[list[MixedDatasetConfig], AfterValidator(_datasets)] = []
    """Further datasets to train on together with `dataset`, each with its own task and prompt."""

    training: Annotated[TrainingConfig, AfterValidator(validators.training)] = TrainingConfig()
    """How the adapter is trained."""

    inference: InferenceBlock = Field(default_factory=dict)  # type: ignore[assignment]  # validated like an empty block: the plugin defines its class
    """How answers are generated."""

    evaluation: Annotated[EvaluationBlock, AfterValidator(_evaluation)] = EvaluationBlock()
    """What is measured, on which rows, and how differences are tested."""

    search: Annotated[SearchConfig | None, AfterValidator(validators.search)] = None
    """May be left out, as only `vlmtune search` looks at it."""

    label: LabelConfig | None = None
    """May be left out, as only `vlmtune label` looks at it."""

    report: ReportConfig = ReportConfig()
    """What the HTML report shows."""

    tracking: list[TrackerBlock] = []
    """Experiment trackers that receive the training curves, in addition to the local files."""

    output: Annotated[OutputConfig, AfterValidator(validators.output)] = OutputConfig()
    """Where results are written."""

    @property
    def evaluation_sets(self) -> list[EvaluationSetConfig]:
        """The additional evaluation sets, and those of the datasets of a mixture."""
        return [*self.evaluation.additional, *(one for one in self.datasets if one.evaluate)]

    def named_set(self, name: str) -> EvaluationSetConfig:
        """The dataset of a mixture or the additional evaluation set of some name.

        Raises:
            ConfigError: there is none.
        """
        sets = {one.name: one for one in (*self.datasets, *self.evaluation.additional)}
        if name not in sets:
            raise ConfigError(
                f"no dataset is named {name!r}; datasets and evaluation.additional have: {', '.join(sets) or 'none'}"
            )
        return sets[name]

    def for_set(self, one: EvaluationSetConfig) -> "Config":
        """The config of an additional evaluation set or of a dataset of a mixture, as if it were the main one."""
        own = {"split": one.split, "metrics": one.metrics, "primary": one.primary}
        none: dict[str, Any] = {"slices": [], "baselines": [], "judge": None, "additional": []}
        evaluation = self.evaluation.model_copy(update={**own, **none})
        update = {"dataset": one.dataset, "task": one.task, "evaluation": evaluation, "datasets": []}
        return self.model_copy(update=update)

    @property
    def needs_hub(self) -> bool:
        """Whether the model or a dataset is loaded from the Hub."""
        rows = [self.dataset, *(one.dataset for one in (*self.datasets, *self.evaluation.additional))]
        named = [self.model.name, *(block.model_dump()["path"] for block in rows if block.source == "hub")]
        return any(name != TINY and not Path(name).exists() for name in named)


def config_json(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain values, including all defaults; valid as a config file itself."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    return plain


class _Untitled(GenerateJsonSchema):
    """Omits pydantic's titles, which repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, with all shipped plugins, for editors."""
    schema = Config.model_json_schema(schema_generator=_Untitled)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vlmtune configuration", **schema}


def fields_at(path: KeyPath, plain: Any) -> Fields:
    """The keys of the block at a path, each with the first sentence of its documentation; empty if there is no block.

    A list is not a block; the blocks in it are found under their index.
    """
    block: type[BaseConfig] | None = Config
    field: FieldInfo | None = None
    for step in path:
        if isinstance(step, int):
            plain = plain[step] if isinstance(plain, list) else None
        else:
            plain = plain.get(step) if isinstance(plain, dict) else None
            field = block.model_fields.get(step) if block is not None else None
        is_list = field is not None and isinstance(step, str) and get_origin(field.annotation) is list
        block = _block_class(field, plain) if field is not None and not is_list else None
    fields = block.model_fields if block is not None else {}
    return {key: (field.description or "").split(". ")[0].rstrip(".") for key, field in fields.items()}


def _block_class(field: FieldInfo, plain: Any) -> type[BaseConfig] | None:
    """The class of a block, or of the blocks in a list; None if the field holds neither."""
    if (plugin := plugin_of(field)) is not None:
        config_class = plugin.config_class(plain if isinstance(plain, dict) else {})
        return config_class if isinstance(config_class, type) else plugin.base
    inside = flatten(field.annotation)
    return next((inner for inner in inside if isinstance(inner, type) and issubclass(inner, BaseConfig)), None)


def plugin_of(field: FieldInfo) -> Plugin | None:
    """The plugin marker of a block, or of the blocks in a list; None if the class is fixed."""
    inside = (*field.metadata, *flatten(field.annotation))
    return next((inner for inner in inside if isinstance(inner, Plugin)), None)


def flatten(annotation: Any) -> Iterator[Any]:
    """An annotation and all its type arguments, recursively."""
    yield annotation
    for inner in get_args(annotation):
        yield from flatten(inner)

"""Config = every part's own Config.

Knows which blocks there are; what their keys mean is said where they are read. A block whose kind is the user's choice
(dataset, task, inference, tracking) takes its class from the plug that it names.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, Field, SerializeAsAny
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from vlmtune.config import judging
from vlmtune.config.blocks import DatasetBlock, EvaluationBlock, TaskBlock
from vlmtune.config.mistakes import Fields
from vlmtune.config.plug import Plug, flat, plug_of
from vlmtune.config.tree import Steps
from vlmtune.engines import InferenceConfig
from vlmtune.models import TINY, ModelConfig
from vlmtune.plugs import Part
from vlmtune.report import ReportConfig
from vlmtune.runs import OutputConfig
from vlmtune.tracking import TrackerConfig
from vlmtune.training.settings import TrainingConfig


class Config(Part):
    """Everything that decides what a run does and where its results go."""

    schema_version: Literal[1] = 1
    """Version of this format."""

    extends: str | list[str] = Field(default=[], exclude=True)
    """Files that this one is laid over, relative to it: blocks are merged key by key, later files win, lists are
    replaced. Gone from the resolved configuration."""

    model: Annotated[ModelConfig, AfterValidator(judging.model)]
    """Which model is adapted."""

    dataset: DatasetBlock
    """Where rows come from, and what their columns mean."""

    task: TaskBlock
    """What is asked, and what counts."""

    training: Annotated[TrainingConfig, AfterValidator(judging.training)] = TrainingConfig()
    """How the adapter is trained."""

    inference: Annotated[
        SerializeAsAny[InferenceConfig],
        Plug("engines", "engine", InferenceConfig, "open_engine"),
        AfterValidator(judging.inference),
    ] = Field(default_factory=dict)  # type: ignore[assignment]  # read as a block without keys: its class is the plug's
    """How answers are decoded."""

    evaluation: Annotated[EvaluationBlock, AfterValidator(judging.evaluation)] = EvaluationBlock()
    """What is measured, on which rows, and how differences are judged."""

    report: ReportConfig = ReportConfig()
    """What the page shows."""

    tracking: list[Annotated[SerializeAsAny[TrackerConfig], Plug("tracking", "to", TrackerConfig, "open_tracker")]] = []
    """Experiment trackers that mirror the training curves; the local files are always written."""

    output: Annotated[OutputConfig, AfterValidator(judging.output)] = OutputConfig()
    """Where results are written."""

    @property
    def needs_hub(self) -> bool:
        """Whether the model or the dataset is named as on the Hub."""
        rows = [self.dataset, *(one.dataset for one in self.evaluation.also)]
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
    """JSON Schema of a config file over all shipped plugs, for editors."""
    schema = Config.model_json_schema(schema_generator=_Untitled)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vlmtune configuration", **schema}


def fields_at(path: Steps, plain: Any) -> Fields:
    """Keys that the block at a path may have, with the first sentence about each; none where no block can be.

    A list is no block; those in it stand behind their number.
    """
    part: type[Part] | None = Config
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


def _part(field: FieldInfo, plain: Any) -> type[Part] | None:
    """The class of a block, or of the blocks in a list; None where the field holds none."""
    if (plug := plug_of(field)) is not None:
        found = plug.part(plain if isinstance(plain, dict) else {})
        return found if isinstance(found, type) else plug.base
    inside = flat(field.annotation)
    return next((inner for inner in inside if isinstance(inner, type) and issubclass(inner, Part)), None)

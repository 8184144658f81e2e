"""A block whose class is the user's choice: `Config` of the plug that one of its keys names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from vlmtune import plugs
from vlmtune.config.mistakes import judgement, one_of, refuse
from vlmtune.plugs import Part


@dataclass(frozen=True, slots=True)
class Plug:
    """A block whose class is `Config` of the plug that its `key` names; `offers` is what else that plug must have."""

    folder: str
    key: str
    base: type[Part]
    offers: str

    def part(self, value: Any) -> type[Part] | str | None:
        """The class for a block; a sentence where there is none; None where the block names no plug."""
        default = self.base.model_fields[self.key].get_default()
        name = value.get(self.key, default) if isinstance(value, dict) else None
        if not isinstance(name, str):
            return None
        try:
            found = vars(plugs.load(self.folder, name))
        except plugs.UnknownPlug as unknown:
            own = "" if "." not in name else ", or the dotted name of a module of yours that can be imported"
            return one_of(repr(name), unknown.available) + own
        part = found.get("Config")
        if not (isinstance(part, type) and issubclass(part, self.base)):
            return f"names {name!r}, which has no class Config that extends {self.base.__name__}"
        return part if self.offers in found else f"names {name!r}, which has no {self.offers}"

    def read(self, value: Any) -> Any:
        """A block as its plug's Config; anything else is left for pydantic to refuse."""
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
        """What is wrong with a block of an unknown plug all the same: values of keys that every plug has."""
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
        """One choice per shipped plug, told apart by its name; last, anybody's own module, which has a dot in it."""
        default = self.base.model_fields[self.key].get_default()
        own = {"type": "string", "pattern": r"\.", "description": "The dotted name of your own module."}
        choices = []
        for name in plugs.available(self.folder):
            part = plugs.load(self.folder, name).Config
            choice = handler.resolve_ref_schema(handler(part.__pydantic_core_schema__))
            named = {"const": name, "description": (part.__doc__ or "").strip()}
            required = [key for key in choice.get("required", []) if key != self.key]
            required += [] if name == default else [self.key]
            choices.append({**choice, "properties": {**choice["properties"], self.key: named}, "required": required})
        mine = {"type": "object", "title": "Your own", "properties": {self.key: own}, "required": [self.key]}
        return {"oneOf": [*choices, mine]}


def plug_of(field: FieldInfo) -> Plug | None:
    """How a block, or the blocks in a list, find their class; None where it is always the same."""
    inside = (*field.metadata, *flat(field.annotation))
    return next((inner for inner in inside if isinstance(inner, Plug)), None)


def flat(annotation: Any) -> Iterator[Any]:
    """An annotation and everything in its brackets."""
    yield annotation
    for inner in get_args(annotation):
        yield from flat(inner)

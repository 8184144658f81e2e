"""Every plugin meets the contract of its folder. Plugins are loaded by name, so no type checker sees this."""

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sources import modules

from vlmtune import metrics, registry
from vlmtune.config import load
from vlmtune.config.loader import shipped_folder
from vlmtune.data import DatasetConfig, Rows
from vlmtune.engines import Engine, InferenceConfig
from vlmtune.families import Family
from vlmtune.metrics import Metric
from vlmtune.registry import BaseConfig
from vlmtune.tasks import Task, TaskConfig
from vlmtune.tracking import Tracker, TrackerConfig

CONFIGURED = {
    "data": (DatasetConfig, "source"),
    "tasks": (TaskConfig, "name"),
    "engines": (InferenceConfig, "engine"),
    "tracking": (TrackerConfig, "to"),
}
"""Folders whose plugins have a Config: its base class, and the key that names the plugin."""

OPENED = {
    "data": ("open", ["config", "split", "limit"], Rows),
    "engines": ("open_engine", ["config", "model", "encoder", "precision", "adapter"], Engine),
    "tracking": ("open_tracker", ["config", "run"], Tracker),
}
"""Folders whose plugins are opened: the function, its parameters, and the protocol of what it returns."""


def every(*folders: str) -> list[Any]:
    return [
        pytest.param(folder, name, id=f"{folder}/{name}") for folder in folders for name in registry.available(folder)
    ]


@pytest.mark.parametrize(("folder", "name"), every(*CONFIGURED))
def test_a_plugin_has_a_config_that_names_it(folder: str, name: str) -> None:
    base, key = CONFIGURED[folder]
    config = registry.load(folder, name).Config
    assert issubclass(config, base)
    assert config is not base
    assert config.model_fields[key].default == name


@pytest.mark.parametrize(("folder", "name"), every(*OPENED))
def test_a_plugin_opens_what_its_folder_promises(folder: str, name: str) -> None:
    opener, parameters, protocol = OPENED[folder]
    plugin = registry.load(folder, name)
    signature = inspect.signature(getattr(plugin, opener))
    assert list(signature.parameters) == parameters
    opened = returned(plugin, signature.return_annotation)
    promised = [name for name, _ in inspect.getmembers(protocol) if name in vars(protocol) and called(name)]
    assert promised
    for method in promised:
        assert hasattr(opened, method), method
        if callable(getattr(protocol, method)):
            theirs, ours = (list(inspect.signature(getattr(kind, method)).parameters) for kind in (protocol, opened))
            assert ours == theirs, method


def called(name: str) -> bool:
    return not name.startswith("_") or name in ("__len__", "__getitem__", "__iter__")


def returned(plugin: ModuleType, annotation: Any) -> Any:
    return getattr(plugin, annotation) if isinstance(annotation, str) else annotation


@pytest.mark.parametrize("name", registry.available("tasks"))
def test_a_task_is_a_value_with_metrics(name: str) -> None:
    task = registry.load("tasks", name).TASK
    assert isinstance(task, Task)
    assert task.metrics
    assert all(isinstance(metric, Metric) for metric in task.metrics)


@pytest.mark.parametrize("name", registry.available("families"))
def test_a_family_is_a_value_with_its_own_name(name: str) -> None:
    family = registry.load("families", name).FAMILY
    assert isinstance(family, Family)
    assert family.name == name


def defined() -> Iterator[tuple[str, str, Metric]]:
    """(file, name, metric) of every metric there is."""
    for file in registry.available("metrics"):
        for name, value in vars(registry.load("metrics", file)).items():
            if isinstance(value, Metric):
                yield file, name, value


def test_a_metric_is_found_by_its_name_wherever_it_stands() -> None:
    found = list(defined())
    assert {file for file, _, _ in found} == set(registry.available("metrics")), "a file without a metric"
    assert [metric.name for _, name, metric in found if name != metric.name] == []
    assert all(getattr(metrics, metric.name) is metric for _, _, metric in found), "two metrics of one name"


def parts() -> list[type[BaseConfig]]:
    """Every config class of the package."""
    for name in modules():
        if name != "vlmtune.__main__":
            importlib.import_module(name)
    known: dict[str, type[BaseConfig]] = {}
    waiting = BaseConfig.__subclasses__()
    while waiting:
        part = waiting.pop()
        waiting += part.__subclasses__()
        if part.__module__.startswith("vlmtune.") and "[" not in part.__name__:
            known[f"{part.__module__}.{part.__qualname__}"] = part
    return [known[name] for name in sorted(known)]


def test_every_field_of_every_config_is_documented() -> None:
    assert len(parts()) > 10
    assert [
        f"{part.__module__}.{part.__qualname__}.{name}"
        for part in parts()
        for name, field in part.model_fields.items()
        if not (field.description or "").strip()
    ] == []
    assert [part for part in parts() if not part.__doc__] == []


@pytest.mark.parametrize("file", sorted(shipped_folder().rglob("*.yaml")), ids=lambda file: file.name)
def test_every_shipped_config_loads(file: Any) -> None:
    assert load(str(file)).config

"""The search for settings: trials on the validation rows, then the best settings once on the evaluation rows.

A search chooses the best of many measurements, and so its score is too high. Therefore the adapter of the best trial is
thrown away: its settings are trained again with fresh seeds, and only those adapters meet the evaluation rows, which no
trial has seen. The p-value of that comparison keeps its level however many trials there were.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmtune.config import Config, with_values
from vlmtune.data import overlapping_roles
from vlmtune.errors import ConfigError, DataError, Diverged, DoesNotFit
from vlmtune.files import read_json, write_atomic
from vlmtune.pipeline import predict, run, train
from vlmtune.pipeline.session import Session, rows_facts, training_set
from vlmtune.planning.plan import flops_per_sample
from vlmtune.report import search_page
from vlmtune.run_folder import Provenance, read_manifest
from vlmtune.run_layout import search_page_path, search_path
from vlmtune.scoring.comparison import Comparison
from vlmtune.scoring.score import choose_primary
from vlmtune.search import Range, SearchConfig
from vlmtune.search.study import Failed, Report, Stopped, Study, Trial
from vlmtune.training.checkpoints import VALIDATION_LOSS
from vlmtune.training.dataset import ExampleLengths
from vlmtune.training.sampler import BatchSampler, sample_batches

PER_SETTINGS = (Diverged, DoesNotFit, ConfigError, DataError)
"""What makes a trial fail rather than the search: it is due to the trial's settings."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """What trials are compared by: the name in `training.best_metric`, its key in the curve, its direction."""

    name: str
    key: str
    higher_is_better: bool


def search(session: Session, unit: tuple[str, float] = search_page.TFLOP) -> tuple[dict[str, Any], Comparison]:
    """Try settings, train the best of them with fresh seeds, and compare those with the base model.

    Args:
        session: of the config.
        unit: of what trials cost on the page, and how much of it a TFLOP is.

    Returns:
        What was found, as in `search.json`, with the scores of the fresh seeds; and the comparison.

    Finished trials and steps are skipped, as in every command.

    Raises:
        ConfigError: no `search` block, a value that is invalid, evaluation on the rows that select, or no trial that
            could be trained to its end.
        EnvironmentProblem: Optuna is not installed.
    """
    settings = _checked(session.config)
    selection = _selection(session, settings)
    file, page = search_path(session.folder.root), search_page_path(session.folder.root)
    provenance = _provenance(session, settings)
    if session.folder.reconcile(file, provenance, derived=[page]) is None:
        train.refuse_a_single_shard(session)
        result = _Trials(session, settings, selection, session.folder.work(file, provenance)).run()
        session.folder.write(file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        session.folder.publish(file, provenance, {})
    found: dict[str, Any] = read_json(file)
    best = found["trials"][found["best"]]
    chosen = _with_settings(session, best["values"], {"training.seeds": settings.fresh_seeds})
    comparison = run.run(chosen)
    found["fresh"] = _fresh(chosen, selection)
    write_atomic(page, search_page.render(found, comparison.result, chosen.files.report.name, unit))
    return found, comparison


def _checked(config: Config) -> SearchConfig:
    """The search block, after every value of it was checked, before anything is trained."""
    settings = config.search
    if settings is None:
        raise ConfigError("the config has no search block; the default one is: --set search={}")
    if config.training.seeds:
        raise ConfigError("search trains with search.fresh_seeds; remove training.seeds")
    if "validation" in overlapping_roles(config.dataset, config.dataset, config.evaluation.split):
        raise ConfigError(
            "evaluation.split and the validation rows, which select the best trial, are the same rows; a comparison on "
            "them would prove nothing. Use other rows for one of them in dataset.splits"
        )
    for key, space in settings.space.items():
        for value in [space.low, space.high] if isinstance(space, Range) else space:
            try:
                with_values(config, {key: value})
            except ConfigError as error:
                raise ConfigError(f"search.space, {key} = {value!r}:\n{error}") from None
    return settings


def _selection(session: Session, settings: SearchConfig) -> _Selection:
    config = session.config
    if settings.metric == "loss":
        return _Selection("loss", VALIDATION_LOSS, False)
    lines = predict.truth_lines(session, list(session.rows("validation")))
    named = [settings.metric] if settings.metric else config.evaluation.metrics
    primary = settings.metric or config.evaluation.primary
    metric = choose_primary(session.task, config.task, lines, named, primary).metrics[0]
    return _Selection(metric.name, f"validation_{metric.name}", metric.higher_is_better)


def _provenance(session: Session, settings: SearchConfig) -> Provenance:
    training = session.config.training.model_dump(mode="json", exclude=train.NO_EFFECT_ON_ADAPTER)
    return session.provenance(
        dataset={role: rows_facts(session.rows(role)) for role in ("train", "validation")},
        target=session.config.dataset.target,
        training=training,
        search=settings.model_dump(mode="json", exclude={"fresh_seeds"}),
        inference=session.inference.model_dump(mode="json", exclude=predict.NO_EFFECT_ON_ANSWERS),
        metrics=session.config.evaluation.metrics,
        primary=session.config.evaluation.primary,
    )


def _with_settings(session: Session, values: Mapping[str, Any], more: Mapping[str, Any]) -> Session:
    """The session of the config with some settings; it shares the encoder unless the settings change it."""
    config = with_values(session.config, {**values, **more, "search": None})
    same = (config.model, config.training.thinking) == (session.config.model, session.config.training.thinking)
    return replace(session, config=config, parent=session if same else None)


class _Trials:
    """The trials of a search, each in a run folder of its own inside `work`, deleted when the trial has ended."""

    def __init__(self, session: Session, settings: SearchConfig, selection: _Selection, work: Path) -> None:
        self._session, self._selection, self._work = session, selection, work
        self._study = Study(settings, work, selection.higher_is_better)
        self._lengths: dict[str, ExampleLengths] = {}

    def run(self) -> dict[str, Any]:
        """Run the trials that are left; the content of `search.json`.

        Raises:
            ConfigError: none could be trained to its end.
        """
        session, selection, study = self._session, self._selection, self._study
        ended: list[Trial] = []
        for trial in study.run(self._train):
            shown = ", ".join(f"{key} = {value}" for key, value in trial.values.items())
            value = "-" if trial.value is None else f"{trial.value:.4f}"
            reason = f" ({trial.reason})" if trial.reason else ""
            session.progress.note(
                f"trial {trial.number + 1} of {study.trials}: {shown}: {selection.name} {value}, {trial.state}{reason}"
            )
            ended.append(trial)
        best = study.best(ended)
        if best is None:
            reasons = "\n".join(f"  trial {trial.number + 1}: {trial.reason or trial.state}" for trial in ended)
            raise ConfigError(f"no trial was trained to its end; change search.space:\n{reasons}")
        flops = _Flops()
        return {
            "schema_version": 1,
            "metric": selection.name,
            "higher_is_better": selection.higher_is_better,
            "validation_rows": len(session.rows("validation")),
            "best": best.number,
            "trials": [asdict(trial) | {"flops": flops.of(session, trial)} for trial in ended],
        }

    def _train(self, number: int, values: Mapping[str, Any], report: Report) -> None:
        folder, metric = self._work / f"trial-{number:03d}", self._selection.name
        try:
            steps = len(_batches(_with_settings(self._session, values, {})))
            own = {
                "output.dir": str(folder),
                "training.best_metric": metric,
                "training.evaluate_every_steps": math.ceil(steps / self._study.evaluations),
                "training.early_stopping": None,
            }
            trial = _with_settings(self._session, values, own)
            key = _reading(trial.config)
            if key not in self._lengths:
                self._lengths[key] = train.check_rows(trial)
            train.train(trial, self._lengths[key], self._watch(steps, report))
        except PER_SETTINGS as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise Failed(str(error)) from None
        except Stopped:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)

    def _watch(self, steps: int, report: Report) -> train.Watch:
        """Reports each evaluation in a training curve, by the share of the training that it came after."""

        def watch(step: int, values: Mapping[str, Any]) -> None:
            if values.get(self._selection.key) is not None:
                report(max(1, round(self._study.evaluations * step / steps)), values[self._selection.key])

        return watch


def _reading(config: Config) -> str:
    """What decides how rows become tokens, as a key."""
    training = config.training.model_dump_json(include={"max_tokens", "trained_turns", "thinking"})
    return "".join([config.model.model_dump_json(), config.task.model_dump_json(), training])


class _Flops:
    """FLOPs of a training to its end, planned once for settings that differ only in what does not change them."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def of(self, session: Session, trial: Trial) -> float | None:
        """None for a trial that was never evaluated."""
        if not trial.evaluations:
            return None
        tried = _with_settings(session, trial.values, {})
        config = tried.config
        key = _reading(config) + config.training.model_dump_json(include={"lora", "method", "neftune_alpha"})
        if key not in self._known:
            self._known[key] = flops_per_sample(config, tried.encoder.checkpoint)
        return self._known[key] * len(_batches(tried).rows)


def _batches(session: Session) -> BatchSampler:
    """The batches of a training to its end."""
    training, mixed = session.config.training, [one.rows("train") for one in session.mixed]
    chosen = training_set(session, session.rows("train"), mixed)
    lengths = training.passes, training.batch_size, training.seed, chosen.shares, training.max_steps
    return sample_batches(chosen.examples.rows, chosen.target, *lengths)


def _fresh(session: Session, selection: _Selection) -> dict[str, Any]:
    """The metric of the adapters with fresh seeds on the validation rows: what the best trial would score again."""
    scores = []
    for seeded in session.seeds:
        adapter = seeded.files.adapter
        if selection.name == "loss":
            scores.append((read_manifest(adapter) or {})[VALIDATION_LOSS])
        else:
            answers = predict.predict(session, adapter, "validation")
            scored = predict.score(seeded, answers)
            scores.append(scored.metrics[selection.name] if scored is not None else None)
    return {"seeds": [seeded.seed for seeded in session.seeds], "validation": scores}

"""The trials of a search: what is tried next, which of them go on, kept in a file that survives a kill.

Optuna suggests the values and decides which trials go on (successive halving). What it suggests for a trial depends on
the seed, the trial's number and the trials before it, so a search that was killed goes on as if it had not been.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import EnvironmentProblem, IntegrityError
from vlmtune.search.config import SearchConfig

if TYPE_CHECKING:
    import optuna

REDUCTION = 3
"""One of so many trials goes on to the next stage."""

JOURNAL = "trials.log"
"""Optuna's file of trials."""

State = Literal["complete", "stopped", "failed"]


class Stopped(Exception):
    """Raised inside a trial that successive halving ends."""


class Failed(Exception):
    """Raised by a trial that cannot be trained with its settings, such as one that diverges; its text says why."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: from 0.
        values: what was tried, by dotted key.
        state: trained to the end, stopped by successive halving, or failed.
        value: the metric at its last evaluation; None where it failed before.
        evaluations: (share of the training, metric) of each evaluation.
        reason: why it failed.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    value: float | None
    evaluations: tuple[tuple[float, float], ...]
    reason: str | None


Report = Callable[[int, float], None]
"""Told the number of evaluations so far and the metric after each; raises `Stopped`."""


class Study:
    """The trials of a search.

    Args:
        settings: of the search.
        folder: of the journal; created if needed.
        higher_is_better: whether a higher metric is better.

    Raises:
        EnvironmentProblem: Optuna is not installed.
        IntegrityError: the journal cannot be read.
    """

    def __init__(self, settings: SearchConfig, folder: Path, higher_is_better: bool) -> None:
        optuna = _optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._settings, self._better = settings, max if higher_is_better else min
        self._all = _combinations(settings)
        self._evaluations: int = REDUCTION ** (settings.stages - 1)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / JOURNAL
        try:
            backend = JournalFileBackend(str(file), lock_obj=_Unlocked())  # type: ignore[arg-type]  # has its methods
            storage = JournalStorage(backend)
            self._study = optuna.create_study(
                study_name="search",
                storage=storage,
                direction="maximize" if higher_is_better else "minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise IntegrityError(f"{file} cannot be read ({error}); move it away to search again") from None

    @property
    def evaluations(self) -> int:
        """How often a trial that trains to its end is evaluated."""
        return self._evaluations

    @property
    def trials(self) -> int:
        """How many settings are tried."""
        return len(self._all) if self._all else self._settings.trials

    def run(self, train: Callable[[int, Mapping[str, Any], Report], None]) -> Iterator[Trial]:
        """Run the trials that are left; yields all, those of before first.

        Args:
            train: trains trial `number` with `values` and calls the report after every evaluation; what it had
                reported before a kill, it may report again.
        """
        for number in range(self.trials):
            known = self._study.get_trials(deepcopy=False)
            if number >= len(known) or not known[number].state.is_finished():
                self._try(number, train)
            yield self._ended(number)

    def best(self, trials: list[Trial]) -> Trial | None:
        """The best of the trials that were trained to the end; the earlier one of equals; None without any."""
        complete = [(trial.value, trial) for trial in trials if trial.state == "complete" and trial.value is not None]
        return self._better(complete, key=lambda pair: pair[0])[1] if complete else None

    def _try(self, number: int, train: Callable[[int, Mapping[str, Any], Report], None]) -> None:
        from optuna.trial import Trial as Asked
        from optuna.trial import TrialState

        known = self._study.get_trials(deepcopy=False)
        if number < len(known):  # a kill interrupted it
            trial = Asked(self._study, known[number]._trial_id)  # noqa: SLF001  Optuna has no other way to go on
        else:
            self._study.sampler = self._sampler(number)
            trial = self._study.ask()
        values = {key: self._suggest(trial, number, key) for key in self._settings.space}
        trial.set_user_attr("values", values)
        last: list[float] = []

        def report(evaluations: int, value: float) -> None:
            if not math.isfinite(value):
                raise Failed(f"the metric became {value}")
            last.append(value)
            if evaluations not in self._study.get_trials(deepcopy=False)[number].intermediate_values:
                trial.report(value, evaluations)
            if evaluations < self._evaluations and trial.should_prune():
                raise Stopped

        try:
            train(number, values, report)
            if not last:
                raise Failed("the metric is not defined on the validation rows")
        except Stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        except Failed as failed:
            trial.set_user_attr("reason", str(failed))
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, last[-1])

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """A sampler whose suggestions depend on the seed, the number and the trials before."""
        import optuna

        seed = (self._settings.seed * 1_000_003 + number) % 2**32
        started = max(3, self.trials // 3)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=started, multivariate=True)

    def _suggest(self, trial: "optuna.Trial", number: int, key: str) -> Any:
        space = self._settings.space[key]
        if self._all:
            return self._all[number][key]
        if isinstance(space, list):
            return space[trial.suggest_categorical(key, list(range(len(space))))]
        if isinstance(space.low, int) and isinstance(space.high, int):
            return trial.suggest_int(key, space.low, space.high, log=space.log)
        return trial.suggest_float(key, space.low, space.high, log=space.log)

    def _ended(self, number: int) -> Trial:
        from optuna.trial import TrialState

        frozen = self._study.get_trials(deepcopy=False)[number]
        states: dict[Any, State] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped"}
        reported = sorted(frozen.intermediate_values.items())
        evaluations = tuple((count / self._evaluations, value) for count, value in reported)
        return Trial(
            number,
            frozen.user_attrs["values"],
            states.get(frozen.state, "failed"),
            reported[-1][1] if reported else None,
            evaluations,
            frozen.user_attrs.get("reason"),
        )


def _combinations(settings: SearchConfig) -> list[dict[str, Any]]:
    """Every combination of the lists, in a random order; none where there is a range, or more of them than trials."""
    lists = [space for space in settings.space.values() if isinstance(space, list)]
    if len(lists) < len(settings.space) or math.prod(map(len, lists)) > settings.trials:
        return []
    combinations = [dict(zip(settings.space, chosen, strict=True)) for chosen in itertools.product(*lists)]
    # In the order of a list, each might be better than all before it, and none would be stopped.
    random.Random(settings.seed).shuffle(combinations)
    return combinations


class _Unlocked:
    """No lock: the run folder has one already, and Optuna's would outlive a killed process."""

    def acquire(self) -> bool:
        """Always granted."""
        return True

    def release(self) -> None:
        """Nothing is held."""


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise EnvironmentProblem("vlmtune search needs Optuna: pip install 'vlmtune[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna

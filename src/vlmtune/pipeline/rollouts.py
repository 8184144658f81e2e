"""Draws answers from the model that is trained, and scores them by the task's metrics, for `training.objective: grpo`.

Answers that select a checkpoint come from the same engine.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlmtune import registry
from vlmtune.data import Rows
from vlmtune.engines import InferenceConfig
from vlmtune.errors import ConfigError
from vlmtune.modeling.loading import pick_device
from vlmtune.pipeline.predict import truth_lines
from vlmtune.pipeline.session import Session
from vlmtune.processing.encoder import Encoded
from vlmtune.scoring.rewards import Rewards

if TYPE_CHECKING:
    from vlmtune.training.grpo import Rollouts


def decoding(session: Session) -> Any:
    """Settings with which the model that is trained answers: those of the config, with the engine in this process."""
    shared = session.inference.model_dump(include=set(InferenceConfig.model_fields) - {"engine"})
    own = session.config.inference.model_dump(include={"batch_size", "batch_tokens"})
    hf = registry.load("engines", "hf")
    return hf.Config(**shared, **(own if session.config.inference.engine == "hf" else {}))


def attached_engine(session: Session) -> Callable[[Any], Any]:
    """Makes the engine over the model that is trained."""
    config, settings = session.config, decoding(session)
    attached = registry.load("engines", "hf").attached
    return lambda model: attached(
        model, settings, session.encoder, pick_device(config.model), config.training.precision
    )


def make_rollouts(session: Session, rows: Rows) -> "Rollouts | None":
    """How answers to the train rows are drawn and scored; None for another objective.

    Raises:
        ConfigError: the task has no such metric, or torchrun started several processes.
        DataError: a row lacks what a metric compares with.
    """
    from vlmtune.training.grpo import Rollouts

    config = session.config
    training = config.training
    if training.objective != "grpo":
        return None
    if session.processes.world_size > 1:
        raise ConfigError("training.objective: grpo trains in one process; start the command without torchrun")
    rewards = Rewards.of(session.task, config.task, training.grpo.rewards, truth_lines(session, list(rows)))
    decode = functools.cache(attached_engine(session))  # of the one model that is trained

    def sample(model: Any, prompts: Sequence[Encoded], step: int) -> list[list[int]]:
        key = f"{training.seed}/{step}"
        return [answer.ids for answer in decode(model).sample(prompts, training.grpo.answers, key)]

    return Rollouts(sample, rewards)

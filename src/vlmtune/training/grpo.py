"""GRPO: training on rewards, as a weighted step of the packed loop.

For every row of a global batch, a group of answers is drawn from the model and scored. The advantage A of an answer is
its reward minus the mean of its group, in standard deviations of the group. With one update for each sample, Group
Relative Policy Optimization (Shao et al. 2024, arXiv:2402.03300) with the penalty beta on the KL divergence from a
reference (estimator k3) has the gradient of the answers' token losses with the weights

    w = A - beta (1 - p_reference / p)

averaged over all tokens that were drawn in the step. The reference is the adapter that the run began with. Answers to
one image share its prefix, as several captions of it do.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt
from typing_extensions import TypedDict

from vlmtune.errors import ConfigError, Diverged
from vlmtune.processing.chat_template import Rendered
from vlmtune.processing.encoder import Encoded, Encoder
from vlmtune.scoring.rewards import Floats, Rewards
from vlmtune.text_units import units
from vlmtune.training.attention import plain_attention
from vlmtune.training.config import TrainingConfig
from vlmtune.training.forward_backward import ForwardBackward, balances_experts
from vlmtune.training.lora import trainable
from vlmtune.training.packing import PackedSequence

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

WINDOW = 3
"""Steps over which the length of answers is averaged, at the beginning and now."""

CONSTANT_STEPS = 5
"""Steps after which a reward that has been the same for all answers of every group is called constant."""

EVEN = 1e-9
"""Spread of the rewards of a group up to which they are equal."""

SMALLEST_DEVIATION = 1e-4
"""Added to the standard deviation of a group, as TRL does."""

DIGITS = 6
"""Decimals of rewards in the log."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """How answers are drawn and scored.

    `sample(model, prompts, step)` draws `training.grpo.answers` answers to each prompt, one after the other, with the
    model in evaluation mode and the attention that it was loaded with; each is its tokens, with the one that ended it.
    """

    sample: Callable[[Any, Sequence[Encoded], int], Sequence[Sequence[int]]]
    rewards: Rewards


class LoggedRow(TypedDict):
    """What is read again of a line of the log: of one row in one step, a number for each answer."""

    step: NonNegativeInt
    tokens: Annotated[list[NonNegativeInt], Field(min_length=1)]
    rewards: dict[str, Annotated[list[FiniteFloat], Field(min_length=1)]]


@dataclass(frozen=True, slots=True)
class _Past:
    """What is remembered of a step: the mean tokens of an answer, and the metrics that differed within a group."""

    tokens: float
    varied: frozenset[str]


@dataclass(frozen=True, slots=True)
class Groups:
    """The answers of a step, G groups of K, as they are trained on.

    `values` holds what each metric gave to the G x K answers, `advantages` are what follows from their sum.
    """

    examples: Sequence[Encoded]
    lengths: Sequence[int]
    words: Sequence[int]
    values: Mapping[str, Floats]
    rewards: Floats
    advantages: "torch.Tensor"


@dataclass
class GrpoStep:
    """Draws, scores and accumulates the gradient of one step after another.

    Args:
        rollouts: how answers are drawn and scored.
        settings: of the run.
        encoder: of the checkpoint.
        model: as the run begins, before a checkpoint is restored: that is the reference.
        forward_backward: computes packed sequences.
        steps: of the run.

    Raises:
        ConfigError: the model adds a loss of its own to the tokens' (a mixture of experts).
    """

    rollouts: Rollouts
    settings: TrainingConfig
    encoder: Encoder
    model: "PeftModel"
    forward_backward: ForwardBackward
    steps: int
    facts: dict[str, float] = field(default_factory=dict)
    """Of the last step, for the curve."""

    def __post_init__(self) -> None:
        self._base: Any = self.model.base_model.model
        if balances_experts(self._base):
            raise ConfigError(
                "training.objective: grpo cannot train this mixture of experts, whose config.json asks for a loss of "
                "unbalanced routing (output_router_logits); use sft"
            )
        self._weights = list(trainable(self.model).values())
        self._reference = [weight.detach().clone() for weight in self._weights]
        self._past: list[_Past] = []

    def resume(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Remember the steps of an interrupted run, from its log of samples."""
        for _, rows in itertools.groupby(samples, key=lambda line: line["step"]):
            self._past.append(_past(list(rows)))

    def accumulate(
        self, prompts: Sequence[Encoded], truths: Sequence[Mapping[str, Any]], step: int
    ) -> tuple[float, list[dict[str, Any]]]:
        """Draw answers to the prompts of a step, from 0, score them, and add the gradient of the objective.

        Returns:
            The objective, and for each row what is logged of it.

        Raises:
            ConfigError: the rewards are constant.
            Diverged: answers have grown beyond `training.grpo.max_growth`.
        """
        groups = self._groups(prompts, truths, step)
        logged = self._logged(groups)
        self._past.append(_past(logged))
        self._check(step)
        kl = np.zeros(len(groups.examples))

        def weigh(sequence: PackedSequence, losses: "torch.Tensor") -> "torch.Tensor":
            import torch

            owners = torch.tensor(sequence.example_indices)
            with torch.no_grad(), self._as_reference():
                ahead = losses - self.forward_backward.token_losses(sequence)  # log p_reference - log p
            owned = torch.zeros(len(kl), dtype=torch.float64)
            owned.index_add_(0, owners, (ahead.exp() - ahead - 1).double().cpu())
            for owner in set(sequence.example_indices):  # set, not added: a pass may be repeated
                kl[owner] = owned[owner].item()
            advantages = groups.advantages[owners].to(losses.device)
            return advantages - self.settings.grpo.kl * (1 - ahead.exp())

        tokens = sum(groups.lengths)
        self.model.train()
        self.forward_backward.accumulate(groups.examples, tokens, step, weigh)
        won = float(groups.advantages.double().numpy() @ np.array(groups.lengths))
        self.facts = self._summary(groups, kl.sum() / tokens)
        return (self.settings.grpo.kl * kl.sum() - won) / tokens, logged

    @property
    def has_gradient(self) -> bool:
        """Whether the answers of the last step differed in their rewards, so that there was something to learn."""
        return self.facts["even_groups"] < 1

    def _groups(self, prompts: Sequence[Encoded], truths: Sequence[Mapping[str, Any]], step: int) -> Groups:
        import torch

        size, rewards = self.settings.grpo.answers, self.rollouts.rewards
        self.model.eval()
        with plain_attention(self._base, self.encoder.checkpoint.family):
            answers = self.rollouts.sample(self.model, prompts, step)
        texts = [self.encoder.answer_text(ids) for ids in answers]
        values = rewards.score(texts, [truth for truth in truths for _ in range(size)])
        total = rewards.total(values)
        grouped = total.reshape(-1, size)
        advantages = grouped - grouped.mean(1, keepdims=True)
        advantages /= grouped.std(1, keepdims=True) + SMALLEST_DEVIATION
        owners = [prompt for prompt in prompts for _ in range(size)]
        return Groups(
            examples=[answered(prompt, ids) for prompt, ids in zip(owners, answers, strict=True)],
            lengths=[len(ids) for ids in answers],
            words=[len(units(text)) for text in texts],
            values=values,
            rewards=total,
            advantages=torch.from_numpy(advantages.ravel()).float(),
        )

    def _logged(self, groups: Groups) -> list[dict[str, Any]]:
        size = self.settings.grpo.answers
        return [
            {
                "tokens": groups.lengths[at : at + size],
                "words": groups.words[at : at + size],
                "rewards": {
                    name: [round(value, DIGITS) for value in values[at : at + size].tolist()]
                    for name, values in groups.values.items()
                },
            }
            for at in range(0, len(groups.lengths), size)
        ]

    def _summary(self, groups: Groups, kl: float) -> dict[str, float]:
        spread = np.ptp(groups.rewards.reshape(-1, self.settings.grpo.answers), axis=1)
        return {
            "reward": float(groups.rewards.mean()),
            **{f"reward_{name}": float(values.mean()) for name, values in groups.values.items()},
            "kl": float(kl),
            "words": fmean(groups.words),
            "even_groups": float((spread <= EVEN).mean()),
        }

    def _check(self, step: int) -> None:
        """Whether there is anything to learn, and whether it is learnt by writing more."""
        constant = self.constant()
        if constant and len(constant) == len(self.rollouts.rewards.metrics):
            named = " and ".join(constant)
            raise ConfigError(
                f"training.grpo.rewards: {named} gave all {self.settings.grpo.answers} answers to every row of the "
                f"first {len(self._past)} steps the same value: a constant reward teaches nothing. Choose metrics in "
                "which answers of this model differ (BLEU of single rows is mostly 0, sacrebleu's is not), draw more "
                "answers (training.grpo.answers), or train on the targets for less long before"
            )
        first, now = (fmean(past.tokens for past in some) for some in (self._past[:WINDOW], self._past[-WINDOW:]))
        if now > self.settings.grpo.max_growth * first:
            raise Diverged(
                f"step {step + 1}: answers have grown from {first:.1f} tokens to {now:.1f}, more than "
                f"training.grpo.max_growth ({self.settings.grpo.max_growth:g}) allows: the rewards are won by length. "
                "The step was not taken and the last checkpoint is untouched. Add a reward that long answers lose "
                "(sacrebleu, cider_d), or try --set training.grpo.kl="
                f"{max(0.1, 2 * self.settings.grpo.kl):g} or --set training.learning_rate="
                f"{self.settings.learning_rate / 4:g}"
            )

    def constant(self) -> list[str]:
        """Names of the metrics that gave all answers of each group the same value so far, once this can be told."""
        if len(self._past) != min(CONSTANT_STEPS, self.steps):
            return []
        varied = frozenset[str]().union(*(past.varied for past in self._past))
        return [metric.name for metric, _ in self.rollouts.rewards.metrics if metric.name not in varied]

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """Compute with the weights that the run began with inside this block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for number, weight in enumerate(self._weights):
            weight.data, self._reference[number] = self._reference[number], weight.data


def answered(prompt: Encoded, answer: Sequence[int]) -> Encoded:
    """A prompt with an answer to be trained on."""
    mask = (False,) * len(prompt) + (True,) * len(answer)
    return Encoded(Rendered((*prompt.rendered.ids, *answer), mask), prompt.images)


def _past(logged: Sequence[Mapping[str, Any]]) -> _Past:
    """What the log of a step's rows says."""
    spreads = [(name, max(values) - min(values)) for row in logged for name, values in row["rewards"].items()]
    tokens = fmean(itertools.chain.from_iterable(row["tokens"] for row in logged))
    return _Past(tokens, frozenset(name for name, spread in spreads if spread > EVEN))

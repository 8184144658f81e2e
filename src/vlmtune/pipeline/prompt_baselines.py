"""Prompt baselines: the base model with other prompts, because fine-tuning should beat the best of them.

A baseline changes only the conversation: another prompt, a sentence about the length of answers, few-shot examples from
the train rows. Everything is a function of the config and the rows, so every run sends the same prompts.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from vlmtune.data import Rows
from vlmtune.errors import DataError, ImageError
from vlmtune.images import identified
from vlmtune.pipeline.session import Session, rows_facts
from vlmtune.scoring import PromptBaselineConfig
from vlmtune.text_units import Unit, unit_of, units
from vlmtune.types import Conversation, Example, Message

BuildPrompt = Callable[[Example], Conversation]


@dataclass(frozen=True, slots=True)
class PromptBaseline:
    """One way of prompting; `facts` describe it in the provenance of its answers."""

    name: str
    facts: Mapping[str, Any]
    prompt: BuildPrompt


def prompt_baselines(session: Session) -> list[PromptBaseline]:
    """The baselines of `evaluation.baselines`, in order. Train rows are read only if a baseline needs them.

    Raises:
        DataError: no train row has a reference to take a length from, or there are fewer than a baseline shows.
    """
    configs = session.config.evaluation.baselines
    if not configs:
        return []
    train = session.rows("train")
    length = _median_length(train) if any(config.length_instruction for config in configs) else (0, "words")
    return [_prompt_baseline(session, config, train, length) for config in configs]


def length_instruction(count: int, unit: Unit) -> str:
    """The sentence appended to the prompt."""
    return f"Answer in about {count} {unit.removesuffix('s') if count == 1 else unit}."


def _prompt_baseline(
    session: Session, baseline: PromptBaselineConfig, train: Rows, length: tuple[int, Unit]
) -> PromptBaseline:
    task, config = session.task, session.config.task
    if baseline.prompt is not None:
        config = config.model_copy(update={"prompt": baseline.prompt})
    facts: dict[str, Any] = {"asked": baseline.model_dump(mode="json")}
    if baseline.length_instruction:
        facts[length[1]] = length[0]

    def zero_shot(example: Example) -> Conversation:
        conversation = task.prompt(config, example)
        return _append(conversation, length_instruction(*length)) if baseline.length_instruction else conversation

    if not baseline.examples:
        return PromptBaseline(baseline.name, facts, zero_shot)
    if len(train) < baseline.examples:
        raise DataError(
            f"evaluation.baselines: {baseline.name!r} shows {baseline.examples} train rows, and there are {len(train)}"
        )
    shots = FewShotExamples(baseline.name, train, baseline.examples)

    def few_shot(example: Example) -> Conversation:
        system, messages = _split_system(zero_shot(example))
        shown: list[Message] = []
        for row in shots.for_row(example):
            shown += [*_split_system(zero_shot(row))[1], Message("assistant", (task.target(config, row),))]
        return (*system, *shown, *messages)

    return PromptBaseline(baseline.name, {**facts, "train": rows_facts(train)}, few_shot)


class FewShotExamples:
    """Train rows shown as examples: the first, by a hash of their id, that share no image and no group with the row.

    Args:
        name: of the baseline, for messages.
        rows: the train rows.
        count: examples per prompt.
    """

    def __init__(self, name: str, rows: Rows, count: int) -> None:
        self._name, self._rows, self._count = name, rows, count
        self._order = sorted(range(len(rows)), key=lambda n: hashlib.sha256(rows.id(n).encode()).digest())
        self._candidate = functools.cache(self._read)

    def for_row(self, row: Example) -> list[Example]:
        """The examples for one row, no two of them with an image in common.

        Raises:
            DataError: too few train rows have other images, or one of them cannot be read.
        """
        try:
            used = _identities(row)
        except ImageError:
            # The engine reports it for this row; an image that cannot be read cannot be leaked either.
            used = frozenset()
        examples: list[Example] = []
        for number in self._order:
            if len(examples) == self._count:
                break
            candidate, images = self._candidate(number)
            same_group = candidate.cluster is not None and candidate.cluster == row.cluster
            if candidate.id != row.id and not same_group and not images & used:
                examples.append(candidate)
                used |= images
        if len(examples) < self._count:
            raise DataError(
                f"evaluation.baselines: {self._name!r} shows {self._count} train rows with other images than "
                f"{row.id}, and there are {len(examples)}; show fewer"
            )
        return examples

    def _read(self, number: int) -> tuple[Example, frozenset[str]]:
        example = self._rows.with_target(number, 0)
        return example, _identities(example)


def _identities(example: Example) -> frozenset[str]:
    return frozenset(identified(image)[1] for image in example.images)


def _median_length(train: Rows) -> tuple[int, Unit]:
    """Median length of all references of all train rows, at least 1, and what it counts."""
    texts = [text for row in train for text in row.truth["references"]]
    if not texts:
        raise DataError(
            "evaluation.baselines: length_instruction takes the length from the train rows' references, and there "
            "are none; see dataset.references"
        )
    return max(1, round(median(len(units(text)) for text in texts))), unit_of(texts)


def _append(conversation: Conversation, sentence: str) -> Conversation:
    """The conversation with a sentence at the end of its last message."""
    *before, last = conversation
    *content, end = last.content
    addition = (f"{end} {sentence}",) if isinstance(end, str) else (end, sentence)
    return (*before, replace(last, content=(*content, *addition)))


def _split_system(conversation: Conversation) -> tuple[Conversation, Conversation]:
    """(the system message if there is one, the others)."""
    start = 1 if conversation[0].role == "system" else 0
    return conversation[:start], conversation[start:]

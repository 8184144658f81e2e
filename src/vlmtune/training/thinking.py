"""Opens the encoder of a config, with `training.thinking` chosen by the data where the config leaves it open."""

import contextlib
from collections.abc import Callable, Iterator

from vlmtune.data import DatasetConfig, open_role
from vlmtune.errors import DataError
from vlmtune.modeling.loading import Checkpoint, ModelConfig
from vlmtune.processing.encoder import DecodedImages, Encoder, ImageSource
from vlmtune.processing.image_processor import ImageProcessor
from vlmtune.processing.video_processor import VideoProcessor
from vlmtune.thoughts import split_thought
from vlmtune.training.config import TrainingConfig
from vlmtune.types import Example


def open_encoder(
    checkpoint: Checkpoint,
    model: ModelConfig,
    training: TrainingConfig,
    dataset: DatasetConfig,
    images: Callable[[ImageProcessor, VideoProcessor], ImageSource] = DecodedImages,
) -> Encoder:
    """The encoder of a config.

    Args:
        checkpoint: of `model`.
        model: its limits, template and special tokens.
        training: says what becomes of thoughts, or leaves it to the train rows.
        dataset: has the train rows. Without any, the model thinks as its template has it.
        images: creates the image source.

    Raises:
        IntegrityError: the checkpoint lacks a part, or its chat template is broken.
        ConfigError: the template cannot do what `training.thinking` says.
    """
    encoder = Encoder(checkpoint, model, images, training.thinking or "keep")
    marks = [token for token in encoder.box_form.tokens if token in encoder.renderer.forbidden]
    if marks and _any_objects(dataset):
        model = model.model_copy(update={"special_tokens": [*model.special_tokens, *marks]})
        encoder = Encoder(checkpoint, model, images, training.thinking or "keep")
    if training.thinking is not None or not encoder.renderer.thinks or _any_thought(dataset):
        return encoder
    return Encoder(checkpoint, model, images, "off")


def thinking_note(encoder: Encoder, training: TrainingConfig) -> str | None:
    """What became of thoughts, where the data decided; None for a model that writes none."""
    if training.thinking is not None or not encoder.renderer.thinks:
        return None
    if encoder.renderer.may_think:
        return "the model thinks, and so do train rows: training.thinking is keep; their thoughts are trained on"
    return (
        "the model can think, but no train row has a thought: training.thinking is off, so prompts end behind an empty "
        "thought and both models answer at once. Set it to keep to let them think"
    )


def _any_thought(dataset: DatasetConfig) -> bool:
    return any(
        example is None or example.reasoning or any(split_thought(text)[0] for text in _answers(example))
        for example in _train_rows(dataset)
    )


def _any_objects(dataset: DatasetConfig) -> bool:
    if dataset.messages is None or dataset.objects is None:
        return False
    return any(example is not None and example.objects is not None for example in _train_rows(dataset))


def _train_rows(dataset: DatasetConfig) -> Iterator[Example | None]:
    """The train rows that can be read; None in their place if there are none at all."""
    try:
        rows = open_role(dataset.model_copy(update={"max_bad_fraction": 1.0}), "train")
    except DataError:
        yield None
        return
    for index in range(len(rows)):
        with contextlib.suppress(DataError):
            yield rows[index]


def _answers(example: Example) -> Iterator[str]:
    yield from (example.target or "", *example.truth["references"])
    for message in example.messages or ():
        if message.role == "assistant" and message.trained:
            yield from (f"<think>{message.reasoning}</think>",) if message.reasoning else ()
            yield from (part for part in message.content if isinstance(part, str))

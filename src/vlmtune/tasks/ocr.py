"""The text in an image, letter by letter."""

from vlmtune.metrics.transcripts import cer, wer
from vlmtune.tasks import Task
from vlmtune.tasks._texts import TextConfig, ask, read, teach


class Config(TextConfig):
    """Reading text."""

    name: str = "ocr"
    """The task."""

    prompt: str = "Read all the text in the image."
    """What the model is asked, behind the image."""


TASK = Task(ask=ask, teach=teach, read=read, metrics=(cer, wer))

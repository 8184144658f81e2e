"""Transcribing the text in an image, letter by letter."""

from vlmtune.metrics.transcripts import cer, wer
from vlmtune.tasks import Task
from vlmtune.tasks._prompts import PromptConfig, parse_text, prompt, target


class Config(PromptConfig):
    """OCR."""

    name: str = "ocr"
    """The task."""

    prompt: str = "Read all the text in the image."
    """What the model is asked, after the image."""


TASK = Task(prompt=prompt, target=target, parse=parse_text, metrics=(cer, wer), prose=True, reads_text=True)

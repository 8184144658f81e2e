"""Imports what a command needs to load a model, once, in the parent of forked children."""

import datasets  # noqa: F401
import peft  # noqa: F401
import torch
from transformers import AutoModelForImageTextToText  # noqa: F401
from transformers.models.qwen3_vl import modeling_qwen3_vl  # noqa: F401

torch.set_num_threads(1)

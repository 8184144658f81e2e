"""Conversations and their images as the tensors a model reads: the one road for training and inference.

Joins renderer, patcher and image decoding for one checkpoint, so that both sides see the same tokens and pixels by
construction. Torch is imported when pixels are first cut.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlmtune.errors import ExampleTooLong
from vlmtune.families import Grid
from vlmtune.files import read_json
from vlmtune.images import decode_rgb, size_of
from vlmtune.modeling.loading import Checkpoint, ModelConfig
from vlmtune.processing.chat_template import Rendered, Renderer, images_of
from vlmtune.processing.image_processor import Patcher, load_limits
from vlmtune.types import Conversation, ImageRef

if TYPE_CHECKING:
    import torch

MODEL_LIMIT = "the model has positions for"
CACHE_BYTES = 512 * 1024 * 1024
"""Patches kept in memory between epochs; a dataset larger than this is decoded again for each visit."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the model reads it: uint8 patches [n, 3, patch, patch], their grid, and the hash of both."""

    patches: "torch.Tensor"
    grid: Grid
    digest: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered conversation with its images."""

    rendered: Rendered
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.rendered)


class Inputs:
    """Encodes conversations for one checkpoint.

    Args:
        checkpoint: whose tokenizer, template and image settings are used.
        model: the user's own image area limits.
    """

    def __init__(self, checkpoint: Checkpoint, model: ModelConfig) -> None:
        limits = load_limits(checkpoint.folder, model.min_pixels, model.max_pixels)
        self.checkpoint = checkpoint
        self.patcher = Patcher(checkpoint.family, limits)
        self.renderer = Renderer.load(checkpoint.folder, checkpoint.family)
        self._cache: dict[str, Picture] = {}
        self._room = CACHE_BYTES
        self._changing = threading.Lock()
        self._being_made: dict[str, threading.Lock] = {}
        settings = read_json(checkpoint.folder / "config.json")
        # Checkpoints of Qwen2.5-VL keep the language model's settings at the top.
        self.longest: int = settings.get("text_config", settings)["max_position_embeddings"]

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: the end of turn, and what the checkpoint itself stops at."""
        file = self.checkpoint.folder / "generation_config.json"
        known = read_json(file).get("eos_token_id") if file.is_file() else None
        more = known if isinstance(known, list) else [known] if known is not None else []
        return list(dict.fromkeys([self.renderer.end_id, *more]))

    def prompt(self, conversation: Conversation) -> Encoded:
        """A conversation that waits for an answer.

        Raises:
            ImageError, DataError: an image or text of it cannot be used.
            ExampleTooLong: more tokens than the model has positions for.
        """
        pictures = self._pictures(conversation)
        encoded = Encoded(self.renderer.prompt(conversation, self._counts(pictures)), pictures)
        _refuse_longer(len(encoded), self.longest, MODEL_LIMIT)
        return encoded

    def prompt_length(self, conversation: Conversation) -> int:
        """Tokens of `prompt`, same errors as far as an image's header tells; decodes nothing."""
        counts = [self.patcher.tokens(self._grid(ref)) for ref in images_of(conversation)]
        length = len(self.renderer.prompt(conversation, counts))
        _refuse_longer(length, self.longest, MODEL_LIMIT)
        return length

    def lesson(self, conversation: Conversation, trained_turns: Literal["all", "last"], max_tokens: int) -> Encoded:
        """A conversation that ends with the answer to learn; same errors as `prompt`."""
        pictures = self._pictures(conversation)
        rendered = self.renderer.lesson(conversation, self._counts(pictures), trained_turns)
        _refuse_longer(len(rendered), min(max_tokens, self.longest), "training.max_tokens")
        return Encoded(rendered, pictures)

    def facts(self) -> dict[str, Any]:
        """What happens to an image and a text before the model sees them; stored with adapter and answers."""
        tokenizer = (self.checkpoint.folder / "tokenizer.json").read_bytes()
        return {
            "pixels": self.patcher.facts(),
            "template": hashlib.sha256(self.renderer.template_text.encode()).hexdigest()[:16],
            "tokenizer": hashlib.sha256(tokenizer).hexdigest()[:16],
        }

    def _counts(self, pictures: Sequence[Picture]) -> list[int]:
        return [self.patcher.tokens(picture.grid) for picture in pictures]

    def _pictures(self, conversation: Conversation) -> tuple[Picture, ...]:
        return tuple(self._picture(ref) for ref in images_of(conversation))

    def _grid(self, ref: ImageRef) -> Grid:
        kept = self._cache.get(ref.where)
        return self.patcher.grid_of(*size_of(ref)) if kept is None else kept.grid

    def _picture(self, ref: ImageRef) -> Picture:
        """From memory, or made and kept where there is room; threads that want the same one wait for the first."""
        with self._changing:
            making = self._being_made.setdefault(ref.where, threading.Lock())
        with making:
            try:
                return self._cache.get(ref.where) or self._made(ref)
            finally:
                with self._changing:
                    self._being_made.pop(ref.where, None)

    def _made(self, ref: ImageRef) -> Picture:
        image = decode_rgb(ref)
        patches, grid = self.patcher.patches(image), self.patcher.grid(image)
        digest = hashlib.blake2b(patches.numpy().data, digest_size=16, key=repr(grid).encode()).digest()
        made = Picture(patches, grid, digest)
        with self._changing:
            if ref.where not in self._cache:
                self._room -= patches.nbytes
                if self._room >= 0:
                    self._cache[ref.where] = made
        return made


def _refuse_longer(length: int, most: int, limit: str) -> None:
    if length > most:
        raise ExampleTooLong(
            f"{length} tokens, more than {limit} ({most}); nothing is ever cut: raise the limit, shorten the "
            "text, or make images smaller with model.max_pixels"
        )


def collate(
    batch: Sequence[Encoded], inputs: Inputs, side: Literal["left", "right"], device: str, dtype: "torch.dtype"
) -> "dict[str, torch.Tensor]":
    """One padded batch, as the model's forward takes it.

    Args:
        batch: B encoded conversations; some may have no image.
        inputs: what encoded them.
        side: where the padding stands: left to generate, right to train.
        device: where the tensors are made, and the pixels normalised.
        dtype: of the pixels.

    Returns:
        input_ids, attention_mask, mm_token_type_ids [B, T]; with any image also pixel_values [patches, values] and
        image_grid_thw [images, 3].
    """
    import torch

    longest = max(len(item) for item in batch)
    ids = torch.full((len(batch), longest), inputs.renderer.end_id)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        place = slice(longest - len(item), None) if side == "left" else slice(0, len(item))
        ids[row, place] = torch.tensor(item.rendered.ids)
        mask[row, place] = 1
    tensors = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": ((ids == inputs.renderer.image_id) & (mask == 1)).int(),
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    tensors |= picture_tensors([picture for item in batch for picture in item.pictures], inputs, device, dtype)
    return tensors


def picture_tensors(
    pictures: Sequence[Picture], inputs: Inputs, device: str, dtype: "torch.dtype"
) -> "dict[str, torch.Tensor]":
    """pixel_values [patches, values] and image_grid_thw [images, 3]; empty without images."""
    import torch

    if not pictures:
        return {}
    patches = torch.cat([picture.patches for picture in pictures]).to(device)
    return {
        "pixel_values": inputs.patcher.normalised(patches, dtype),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures], device=device),
    }

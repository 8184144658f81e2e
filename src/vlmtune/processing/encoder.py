"""Encodes conversations with their images and videos as the tensors a model reads, for training and inference alike.

An `Encoder` combines renderer, image processor and image source of one checkpoint, so training and inference see the
same tokens and pixels by construction. Torch is imported when the first image is decoded.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from vlmtune.boxes import BOX_FORMS, NORM1000, Scale
from vlmtune.errors import DataError, ExampleTooLong, IntegrityError
from vlmtune.families import Block, Grid
from vlmtune.files import read_json
from vlmtune.images import clip_of, decode_rgb, in_memory, size_of
from vlmtune.modeling.loading import Checkpoint, ModelConfig
from vlmtune.prefetch import KeyLocks
from vlmtune.processing.chat_template import Rendered, Renderer, ThinkingMode, images_of
from vlmtune.processing.image_processor import ImageProcessor, load_limits
from vlmtune.processing.objects import write_objects
from vlmtune.processing.video_processor import Moments, VideoProcessor
from vlmtune.types import Conversation, Example, ImageRef, VideoRef

if TYPE_CHECKING:
    import torch

MODEL_LIMIT = "the model has positions for"
CACHE_BYTES = 512 * 1024 * 1024
"""Bytes of patches kept in memory between epochs; images beyond it are decoded again in every epoch."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as the model reads it: uint8 patches [n, 3, patch, patch], their grid, and a hash of both.

    Of a video, they are [n, 3, frames, patch, patch], and `moments` says what is seen of it. `patches` is None if the
    source reads headers only.
    """

    patches: "torch.Tensor | None"
    grid: Grid
    digest: bytes
    moments: Moments | None = None

    @property
    def shape(self) -> Grid | Moments:
        """Grid of an image, or what is seen of a video."""
        return self.moments or self.grid

    @property
    def blocks(self) -> tuple[Block, ...]:
        """How its tokens are placed."""
        return (Block(*self.grid),) if self.moments is None else self.moments.blocks


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered conversation with its images and videos."""

    rendered: Rendered
    images: tuple[EncodedImage, ...]

    @property
    def blocks(self) -> list[Block]:
        """How the tokens of all of them are placed."""
        return [block for image in self.images for block in image.blocks]

    def __len__(self) -> int:
        return len(self.rendered)


class ImageSource(Protocol):
    """Where an encoder gets its images from; called from several threads."""

    def measure(self, ref: ImageRef) -> Grid | Moments:
        """Grid of an image's patches, or what is seen of a video, without decoding it."""

    def load(self, ref: ImageRef) -> EncodedImage:
        """The image or video as the model reads it."""


class DecodedImages:
    """Decodes images and keeps up to `CACHE_BYTES` of their patches, by `ImageRef.where`."""

    def __init__(self, processor: ImageProcessor, videos: VideoProcessor) -> None:
        self._processor, self._videos = processor, videos
        self._lock = threading.Lock()
        self._loading = KeyLocks()
        self.clear()

    def clear(self) -> None:
        """Empty the cache."""
        self._cache: dict[str, EncodedImage] = {}
        self._room = CACHE_BYTES

    def measure(self, ref: ImageRef) -> Grid | Moments:
        """From the cache, or else from the header."""
        if (cached := self._cache.get(ref.where)) is not None:
            return cached.shape
        if isinstance(ref, VideoRef):
            return self._videos.moments(ref, clip_of(ref))
        return self._processor.grid_of(*size_of(ref))

    def load(self, ref: ImageRef) -> EncodedImage:
        """From the cache, or else decoded; threads that need the same image wait for the first of them."""
        with self._loading.hold(ref.where):
            return self._cache.get(ref.where) or self._decode(ref)

    def _decode(self, ref: ImageRef) -> EncodedImage:
        moments = None
        if isinstance(ref, VideoRef):
            patches, moments = self._videos.read(ref)
            grid = moments.grid
        else:
            image = decode_rgb(ref)
            patches, grid = self._processor.patches(image), self._processor.grid(image)
        encoded = EncodedImage(patches, grid, _digest(patches.numpy().data, moments or grid), moments)
        with self._lock:
            if ref.cached and ref.where not in self._cache:
                self._room -= patches.nbytes
                if self._room >= 0:
                    self._cache[ref.where] = encoded
        return encoded


class ImageHeaders:
    """Reads image headers only: exact token counts, but no pixels. An image is identified by a hash of its file.

    Two files with the same pixels but different bytes therefore count as two images, where training sees one. The file
    of a reference with a known size is not read at all; it is identified by its location.
    """

    def __init__(self, processor: ImageProcessor, videos: VideoProcessor) -> None:
        self._processor, self._videos = processor, videos
        self._seen: dict[str, EncodedImage] = {}

    def measure(self, ref: ImageRef) -> Grid | Moments:
        """From the header."""
        return self.load(ref).shape

    def load(self, ref: ImageRef) -> EncodedImage:
        """Grid and digest, without patches."""
        if ref.size is not None and not isinstance(ref, VideoRef):
            grid = self._processor.grid_of(*ref.size)
            return EncodedImage(None, grid, _digest(ref.where.encode(), grid))
        if ref.where not in self._seen:
            ref = in_memory(ref)
            data, moments = ref.read(), None
            if isinstance(ref, VideoRef):
                moments = self._videos.moments(ref, clip_of(ref))
            grid = moments.grid if moments is not None else self._processor.grid_of(*size_of(ref))
            content = data if isinstance(data, bytes) else data.tobytes()
            self._seen[ref.where] = EncodedImage(None, grid, _digest(content, moments or grid), moments)
        return self._seen[ref.where]


def _digest(content: bytes | memoryview, shape: Grid | Moments) -> bytes:
    """Equal only for what the model cannot tell apart: two videos with the same frames may differ in their times."""
    key = hashlib.sha256(repr(shape).encode()).digest() if isinstance(shape, Moments) else repr(shape).encode()
    return hashlib.blake2b(content, digest_size=16, key=key).digest()


_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _GenerationConfig(TypedDict, total=False):
    """Types of what is read from `generation_config.json`."""

    eos_token_id: _TokenId | list[_TokenId] | None


class Encoder:
    """Encodes conversations for one checkpoint.

    Args:
        checkpoint: provides tokenizer, chat template and image settings.
        model: the user's limits on images and videos.
        images: creates the image source; `ImageHeaders` where only lengths matter.
        thinking: what becomes of thoughts (`Renderer`).

    Raises:
        IntegrityError: the checkpoint lacks a tokenizer, a chat template or image settings, or they contradict it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: ModelConfig,
        images: Callable[[ImageProcessor, VideoProcessor], ImageSource] = DecodedImages,
        thinking: ThinkingMode = "keep",
    ) -> None:
        limits = load_limits(checkpoint.folder, checkpoint.family, model.min_pixels, model.max_pixels)
        self.checkpoint = checkpoint
        self.image_processor = ImageProcessor(checkpoint.family, limits)
        self.video_processor = VideoProcessor(checkpoint.folder, checkpoint.family, model.video)
        self.images = images(self.image_processor, self.video_processor)
        self.box_form = BOX_FORMS[model.box_form or checkpoint.family.box_form]
        self.renderer = Renderer.load(
            checkpoint.folder, checkpoint.family, model.chat_template, model.special_tokens, thinking
        )
        self._text_facts: dict[str, Any] = {"special_tokens": model.special_tokens} if model.special_tokens else {}
        if self.renderer.thinks:
            self._text_facts["thinking"] = thinking
        settings = read_json(checkpoint.folder / "config.json")
        named = settings.get("image_token_id")
        # A plan reads headers alone: there, any tokenizer of the family stands in for the model's own.
        if images is DecodedImages and named not in (None, self.renderer.image_id):
            raise IntegrityError(
                f"{checkpoint.folder}: image_token_id in config.json is {named!r:.80}, but that of the tokenizer is "
                f"{self.renderer.image_id}; download the checkpoint again"
            )
        # Checkpoints of Qwen2.5-VL keep the language model's settings at the top.
        self.max_positions: int = settings.get("text_config", settings).get("max_position_embeddings", 0)
        if not self.max_positions:
            raise IntegrityError(f"{checkpoint.folder}: config.json names no max_position_embeddings")

    @property
    def generation_config(self) -> dict[str, Any]:
        """The checkpoint's own settings of generation."""
        file = self.checkpoint.folder / "generation_config.json"
        settings: dict[str, Any] = read_json(file, _GenerationConfig) if file.is_file() else {}
        return settings

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: the end of turn, and those in the checkpoint's generation_config."""
        eos = self.generation_config.get("eos_token_id")
        more = eos if isinstance(eos, list) else [eos] if eos is not None else []
        return list(dict.fromkeys([self.renderer.end_id, *more]))

    def prompt(self, conversation: Conversation) -> Encoded:
        """Encode a conversation that ends with a user turn.

        Raises:
            ImageError, DataError: one of its images or texts cannot be used.
            ExampleTooLong: more tokens than the model has positions for.
        """
        images = self._load(conversation)
        encoded = Encoded(self.renderer.prompt(conversation, [self._span(image) for image in images]), images)
        _check_length(len(encoded), self.max_positions, MODEL_LIMIT)
        return encoded

    def answer_text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens: with a thought that the prompt opened, without the token that ended it."""
        ended = ids[-1] in self.stop_ids
        return self.renderer.opened_thought + self.renderer.text(ids[:-1] if ended else ids)

    def answer_length(self, text: str) -> int:
        """Number of tokens a model generates to answer with a text, including the one that ends its turn."""
        return self.renderer.length(text) + 1

    def prompt_length(self, conversation: Conversation) -> int:
        """Number of tokens of `prompt`, without decoding images; raises the errors that their headers reveal."""
        spans = [self._span_of(self.images.measure(ref)) for ref in images_of(conversation)]
        length = len(self.renderer.prompt(conversation, spans))
        _check_length(length, self.max_positions, MODEL_LIMIT)
        return length

    def training_example(
        self, conversation: Conversation, trained_turns: Literal["all", "last"], max_tokens: int
    ) -> Encoded:
        """Encode a conversation that ends with the answer to train on; errors as in `prompt`."""
        images = self._load(conversation)
        rendered = self.renderer.training_example(conversation, [self._span(image) for image in images], trained_turns)
        _check_length(len(rendered), min(max_tokens, self.max_positions), "training.max_tokens")
        return Encoded(rendered, images)

    def image_tokens(self, encoded: Encoded) -> int:
        """Number of image and video tokens of a conversation."""
        return sum(block.tokens(self.image_processor.limits.merge) for block in encoded.blocks)

    def with_box_scale(self, example: Example) -> Example:
        """The example with the scale of the model's box coordinates for its first image.

        Raises:
            ImageError: the image's header cannot be read.
        """
        if self.checkpoint.family.boxes == "norm1000" or example.box_scale is not None or not example.images:
            return example
        return replace(example, box_scale=self._box_scale(example.images[0]))

    def with_objects(self, example: Example) -> Example:
        """The example with its objects written into its texts, as the model writes names and boxes.

        Raises:
            ImageError: an image's header cannot be read.
        """
        return write_objects(example, self.box_form, self._box_scale)

    def _box_scale(self, ref: ImageRef) -> Scale:
        if self.checkpoint.family.boxes == "norm1000":
            return NORM1000
        grid = self.images.measure(ref)
        if isinstance(grid, Moments):
            raise DataError("boxes on a video are not supported; use one of its frames as the image")
        _, rows, columns = grid
        patch = self.image_processor.limits.patch
        return columns * patch, rows * patch

    def facts(self) -> dict[str, Any]:
        """Fingerprints of image and text preprocessing; stored with adapters and predictions."""
        tokenizer = (self.checkpoint.folder / "tokenizer.json").read_bytes()
        own_video = self.video_processor.own_settings()
        return {
            "pixels": self.image_processor.facts() | ({"video": own_video} if own_video else {}),
            "template": hashlib.sha256(self.renderer.template_text.encode()).hexdigest()[:16],
            "tokenizer": hashlib.sha256(tokenizer).hexdigest()[:16],
            **self._text_facts,
        }

    def _load(self, conversation: Conversation) -> tuple[EncodedImage, ...]:
        return tuple(self.images.load(ref) for ref in images_of(conversation))

    def _span(self, image: EncodedImage) -> int | str:
        return self._span_of(image.shape)

    def _span_of(self, shape: Grid | Moments) -> int | str:
        """What the renderer writes for an image or video."""
        return self.video_processor.text(shape) if isinstance(shape, Moments) else self.image_processor.tokens(shape)


def _check_length(length: int, limit: int, name: str) -> None:
    if length > limit:
        raise ExampleTooLong(
            f"{length} tokens, more than {name} ({limit}); nothing is ever truncated: raise the limit, shorten the "
            "text, or shrink images with model.max_pixels and videos with model.video.max_pixels"
        )


def collate(
    batch: Sequence[Encoded], encoder: Encoder, side: Literal["left", "right"], device: str, dtype: "torch.dtype"
) -> "dict[str, torch.Tensor]":
    """A padded batch as keyword arguments of the model's forward.

    Args:
        batch: B encoded conversations; some may have no image.
        encoder: the one that encoded them.
        side: of the padding: left to generate, right to train.
        device: of the tensors; pixels are normalised there.
        dtype: of the pixels.

    Returns:
        input_ids and attention_mask [B, T]; for patches also mm_token_type_ids [B, T]; and those of `image_tensors`.
    """
    import torch

    longest = max(len(item) for item in batch)
    ids = torch.full((len(batch), longest), encoder.renderer.end_id)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        span = slice(longest - len(item), None) if side == "left" else slice(0, len(item))
        ids[row, span] = torch.tensor(item.rendered.ids)
        mask[row, span] = 1
    tensors = {"input_ids": ids, "attention_mask": mask}
    if encoder.image_processor.limits.tile is None:
        kinds = (ids == encoder.renderer.image_id) + 2 * (ids == encoder.renderer.video_id)
        tensors["mm_token_type_ids"] = (kinds * mask).int()
    tensors = {name: to_device(tensor, device) for name, tensor in tensors.items()}
    tensors |= image_tensors([image for item in batch for image in item.images], encoder, device, dtype)
    return tensors


def image_tensors(
    images: Sequence[EncodedImage], encoder: Encoder, device: str, dtype: "torch.dtype"
) -> "dict[str, torch.Tensor]":
    """Pixels of images and videos, and what the model must know of them.

    Returns:
        Of images pixel_values [patches, values] and image_grid_thw [images, 3], or tiles without a grid; of videos
        pixel_values_videos, video_grid_thw and what `VideoFacts.seconds_argument` names [videos]. Nothing of what there
        is none of.
    """
    import torch

    still, moving = [image for image in images if image.moments is None], [one for one in images if one.moments]

    def patches(of: Sequence[EncodedImage]) -> torch.Tensor:
        return to_device(torch.cat([image.patches for image in of if image.patches is not None]), device)

    def grids(of: Sequence[EncodedImage]) -> torch.Tensor:
        return to_device(torch.tensor([image.grid for image in of]), device)

    tensors = {}
    if still:
        tensors["pixel_values"] = encoder.image_processor.normalised(patches(still), dtype)
        if encoder.image_processor.limits.tile is None:
            tensors["image_grid_thw"] = grids(still)
    if moving:
        tensors["pixel_values_videos"] = encoder.video_processor.normalised(patches(moving), dtype)
        tensors["video_grid_thw"] = grids(moving)
        if (argument := encoder.video_processor.facts.seconds_argument) is not None:
            tensors[argument] = torch.tensor([video.moments.seconds for video in moving if video.moments])
    return tensors


def to_device(tensor: "torch.Tensor", device: "str | torch.device") -> "torch.Tensor":
    """A CPU tensor on a device. A GPU copies it in its own time, and the caller does not wait; a CPU has it already."""
    import torch

    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)

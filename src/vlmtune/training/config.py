"""Settings of a training run, and the learning rate schedule. No torch here, so that configs load quickly."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from vlmtune.families import Family, PartName
from vlmtune.processing.chat_template import ThinkingMode
from vlmtune.registry import BaseConfig

Method = Literal["lora", "full"]
"""How a part of the model is trained: by an adapter, or all of its own weights."""
Objective = Literal["sft", "grpo"]
FULL_LEARNING_RATE = 1e-5
"""Default peak learning rate of a part's own weights; that of an adapter is twenty times as large."""

ALL_LINEAR = "all-linear"
"""For `target_modules`: every linear layer."""

InitialWeights = Literal["gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4", "pissa_niter_16", "loftq"]


def _whole(number: float) -> float:
    """1 and not 1.0, as manifests of earlier versions have it."""
    return int(number) if number == int(number) else number


Passes = Annotated[PositiveFloat, AfterValidator(_whole), PlainSerializer(_whole, return_type=int | float)]


class LoraConfig(BaseConfig):
    """Which layers get a low-rank adapter, and how large it is."""

    rank: PositiveInt = 16
    """Adapter rank r. Trainable parameters grow linearly with it."""

    alpha: PositiveFloat = 32
    """Numerator of the adapter scale alpha / rank."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input during training."""

    target_modules: Annotated[list[str], Field(min_length=1)] | str | None = None
    """Linear layers that get an adapter, by the last component of their name, in all of `parts`. Null: those of the
    language model that the family lists. In Qwen3-VL they are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and
    down_proj; in Qwen3.5 also in_proj_qkv, in_proj_z, in_proj_b, in_proj_a and out_proj. The experts of a mixture are
    experts.gate_up_proj and experts.down_proj; they need `dropout: 0`, take as much memory again as their weights,
    and are never included by null. Text instead of a list: `all-linear` for every linear layer of `parts`, or a
    regular expression that matches the full names of layers, as in PEFT: `.*language_model.*(q_proj|v_proj)`."""

    parts: list[PartName] = ["language_model"]
    """Parts of the model that get an adapter; `training.method` may say it instead. In Qwen3-VL the layers of
    `vision_tower` are qkv, proj, linear_fc1 and linear_fc2, those of `merger` linear_fc1 and linear_fc2: name them in
    `target_modules`."""

    use_rslora: bool = False
    """Scale the adapter by alpha / sqrt(rank) instead (rsLoRA), so that a large rank learns as fast as a small one."""

    use_dora: bool = False
    """Learn each weight's direction and magnitude separately (DoRA). Slower, and takes more memory."""

    init_lora_weights: InitialWeights | None = None
    """How the weights begin. Null: A random, B zero. `gaussian`: the same with another A. `orthogonal`: both random,
    their product zero. `pissa` (`pissa_niter_4`, `pissa_niter_16`: faster, nearly the same) and `olora`: the main part
    of each matrix, which then leaves the frozen one; the saved adapter has twice the rank and fits the original model.
    `loftq`: what `model.quantization: nf4` rounds away; loads the model in 16 bits once."""

    def for_family(self, family: Family) -> "LoraConfig":
        """The same with the family's own layers where none are named."""
        named = list(family.lora_targets) if self.target_modules is None else self.target_modules
        return self.model_copy(update={"target_modules": named})

    @property
    def scale(self) -> float:
        """Factor of the product B·A."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LearningRates(BaseConfig):
    """Peak learning rates per part of the model; null uses `training.learning_rate`."""

    language_model: PositiveFloat | None = None
    """Of the language model."""

    merger: PositiveFloat | None = None
    """Of the merger, which turns the vision tower's patches into tokens."""

    vision_tower: PositiveFloat | None = None
    """Of the vision tower's blocks; often a tenth of the language model's."""


class AugmentationConfig(BaseConfig):
    """Random changes to training images, drawn anew in every step; off by default. Needs thought: what is changed must
    not change the answer.
    """

    crop: float = Field(default=0, ge=0, lt=1)
    """Largest fraction of the width and of the height that is cut away. What is left is scaled back to the size of the
    image, and contains every box."""

    flip: bool = False
    """Mirror half of the images. Refused for tasks that read text, and for rows that say left or right."""

    rotation: float = Field(default=0, ge=0, le=30)
    """Largest angle in degrees, in both directions; corners become grey. Left out where half of a box would be lost."""

    color: float = Field(default=0, ge=0, lt=1)
    """Largest relative change of the brightness, the contrast and the saturation."""

    jpeg: int | None = Field(default=None, ge=10, le=95)
    """Lowest quality of the JPEG compression that images go through; the highest is 95. Null leaves it out."""

    @property
    def active(self) -> bool:
        """Whether any of them is on."""
        return self != AugmentationConfig()


class GrpoConfig(BaseConfig):
    """Training on rewards (GRPO). For every row of a step, several answers are drawn from the model and scored by
    metrics of the task; answers become likelier the more they score above the others of their group. See
    docs/rewards.md.
    """

    rewards: dict[str, PositiveFloat] = {}
    """Metrics of the task that answers are scored by, or custom ones by dotted name, each with its weight:
    `{keyword_recall: 1, sacrebleu: 1}`. Each counts from 0 to 1, whatever its scale; error rates count down from 0."""

    allow_one_reward: bool = False
    """Whether one metric may be the only reward. A model can win a single one without getting better: recall by long
    answers, precision by short ones."""

    answers: int = Field(default=8, ge=2)
    """Answers drawn for each row: its group."""

    kl: NonNegativeFloat = 0.1
    """Weight of the KL divergence from the adapter of `continue_from`, which holds the model near it."""

    max_growth: float = Field(default=2, gt=1)
    """How many times as long as at first answers may get, in tokens; beyond it, training ends with an error."""


class TrainingConfig(BaseConfig):
    """One training run."""

    objective: Objective = "sft"
    """What is learnt. `sft`: the targets of the rows. `grpo`: to score high in the metrics of `grpo.rewards`, as a
    second stage from the finished adapter of `continue_from`. `batch_size` then counts rows, each with its group of
    answers; `learning_rate` is 1e-4, `save_every_steps` 10, `log_every_steps` 1 and `lora.dropout` 0 unless set."""

    method: Method | dict[PartName, Method] = "lora"
    """How the model is trained. `lora`: by adapters on `lora.parts`. `full`: the language model's own weights,
    embeddings and head included. A mapping says it for each part, and parts that it leaves out stay frozen:
    `{merger: full}`, `{language_model: lora, merger: full}`."""

    epochs: Passes | None = 1
    """Passes over the training rows; 0.5 takes the first half of the steps of one. Null if `max_steps` says how long to
    train."""

    max_steps: PositiveInt | None = None
    """Optimizer steps, in as many passes as they need, instead of `epochs`; the learning rate falls over them."""

    batch_size: PositiveInt = 8
    """Training samples per optimizer step (the global batch)."""

    pack_tokens: PositiveInt = 2048
    """Length of a packed sequence, in tokens. Examples are packed into sequences of this length; those about the same
    images share one prefix. Affects memory and speed, but not the result beyond rounding; halved automatically when out
    of memory."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW. Where neither this nor `learning_rates` says it, parts that are trained in full have
    1e-5."""

    learning_rates: LearningRates = LearningRates()
    """Learning rates per part of the model, where they differ."""

    lora_plus_ratio: float | None = Field(default=None, ge=1)
    """LoRA+: how many times the learning rate of A the one of B is, and of DoRA's magnitudes; often 16. Null: the
    same."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Fraction of all steps over which the learning rate rises from 0."""

    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decoupled weight decay. Of a part that is trained in full, norms, biases and all other vectors do not
    decay."""

    max_grad_norm: PositiveFloat = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision in which the model computes; adapters, and copies of what is trained in full, are always fp32. `fp16`
    is for GPUs without bf16 (V100, T4): the loss is scaled, and a step whose gradients exceed its range is skipped and
    counted."""

    neftune_alpha: PositiveFloat | None = None
    """NEFTune: uniform noise on the input embeddings in training, up to alpha / sqrt(tokens x hidden size); often 5.
    Every example has its own noise, so examples about one image share no prefix. Null adds none."""

    seed: int = 42
    """Seed of the data order, the adapter's initialization and dropout."""

    trained_turns: Literal["all", "last"] = "all"
    """In rows with several assistant turns: train on all of them, or only on the last."""

    thinking: ThinkingMode | None = None
    """What becomes of thoughts in models whose chat template writes them, in training and in answers alike. `keep`: the
    model thinks before it answers; thoughts in the rows (`reasoning_content`, or `<think>` in the text) are trained on,
    and the empty thought of a row without one is not. `empty`: the model is trained to think nothing; thoughts in the
    rows are left out. `off`: prompts end behind an empty thought, so that the model answers at once; thoughts in the
    rows are left out. Null is `keep` if a train row has a thought, else `off`, and is said aloud."""

    max_tokens: PositiveInt = 4096
    """Longest example in tokens, image tokens included. A longer one is an error: nothing is ever truncated."""

    log_every_steps: PositiveInt = 10
    """Steps between two points of the training curve."""

    evaluate_every_steps: PositiveInt | None = None
    """Steps between two evaluations on the validation rows; null evaluates once, at the end."""

    best_metric: str | None = None
    """What selects the step whose adapter is kept, among those evaluated: `loss` on the validation rows, or a metric of
    the task, for which those rows are answered, too. Null keeps the last step. A comparison excludes rows that were
    used for selection: they are not independent evidence."""

    early_stopping: PositiveInt | None = None
    """Evaluations without improvement after which training ends; null trains to the last epoch."""

    seeds: list[int] = []
    """Trains one adapter per seed; each is scored separately, and all are compared together as one side. Empty trains
    one, with `seed`."""

    workers: NonNegativeInt = 2
    """Threads that decode images and tokenize while the model computes; 0 does both in the main thread."""

    save_every_steps: PositiveInt = 50
    """Steps between two checkpoints; a crash loses at most this much work."""

    checkpoint_layers: Literal["auto"] | NonNegativeInt = "auto"
    """Activation checkpointing: this many layers of the language model, counted from the first, keep only their input
    for the backward pass, which recomputes the rest. Saves memory at the cost of up to a third more time; gradients do
    not change. `auto` tries the longest sequence before step 1 and checkpoints only as many layers as the GPU's memory
    requires; none on a CPU."""

    sharding: Literal["none", "fsdp"] = "none"
    """What several GPUs do with the model (torchrun). `none`: each has all of it. `fsdp`: the weights of the language
    model are divided among them, for models that do not fit onto one; slower, as every layer is gathered whenever it is
    computed. Needs weights of 16 or 32 bits. The result is the same."""

    attention: Literal["auto", "varlen", "flash", "loop"] = "auto"
    """Kernel for attention in packed sequences; the results are the same. `varlen` calls torch once per sequence (GPU,
    bf16), `flash` the package flash-attn (GPU, bf16), `loop` calls torch once per segment (anywhere). `auto` uses the
    first of them that works with this GPU and model, which is tried."""

    continue_from: str | None = None
    """Folder of an adapter to continue training; its rank, alpha, layers and kind must match `lora`, and what was
    trained in full must match `method`. Null starts a new one."""

    grpo: GrpoConfig = GrpoConfig()
    """Of the objective `grpo`."""

    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes to training images."""

    lora: LoraConfig = LoraConfig()
    """The adapter."""

    @model_validator(mode="before")
    @classmethod
    def _follow_method(cls, data: Any) -> Any:
        """Fill in what follows from `method` and `objective` where nothing is said, such as learning rates."""
        if isinstance(data, dict) and data.get("objective") == "grpo":
            data = _with_grpo_defaults(data)
        method = data.get("method", "lora") if isinstance(data, dict) else "lora"
        if method == "lora" or not (method == "full" or isinstance(method, dict)):
            return data
        adapted, full = (_parts(method, one) for one in ("lora", "full"))
        lora, rates, filled = data.get("lora", {}), data.get("learning_rates", {}), dict(data)
        if isinstance(rates, LearningRates):
            rates = rates.model_dump(exclude_none=True)
        if isinstance(lora, dict):
            filled["lora"] = {"parts": adapted, **lora}
        elif isinstance(lora, LoraConfig) and "parts" not in lora.model_fields_set:
            filled["lora"] = lora.model_copy(update={"parts": adapted})
        if "learning_rate" in data:
            return filled
        if not adapted:
            filled["learning_rate"] = FULL_LEARNING_RATE
        elif isinstance(rates, dict):
            filled["learning_rates"] = dict.fromkeys(full, FULL_LEARNING_RATE) | rates
        return filled

    @property
    def passes(self) -> float | None:
        """`epochs`, unless `max_steps` says how long to train."""
        return self.epochs if self.max_steps is None else None

    @property
    def shares_prefixes(self) -> bool:
        """Whether examples about the same images are computed with one prefix."""
        return self.neftune_alpha is None

    @property
    def adapted(self) -> list[PartName]:
        """Parts that get adapters."""
        return self.lora.parts if self.method == "lora" else _parts(self.method, "lora")

    @property
    def full(self) -> list[PartName]:
        """Parts whose own weights are trained."""
        return _parts(self.method, "full")

    def rate(self, part: PartName) -> float:
        """Peak learning rate of a part."""
        own: float | None = getattr(self.learning_rates, part)
        return own or self.learning_rate


def _with_grpo_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with defaults that suit few steps, each of which takes long; dropout is off, because the answers are
    drawn from the model that learns.
    """
    filled = {"learning_rate": 1e-4, "save_every_steps": 10, "log_every_steps": 1, **data}
    lora = data.get("lora", {})
    if isinstance(lora, dict):
        filled["lora"] = {"dropout": 0.0, **lora}
    elif isinstance(lora, LoraConfig) and "dropout" not in lora.model_fields_set:
        filled["lora"] = lora.model_copy(update={"dropout": 0.0})
    return filled


def _parts(method: str | Mapping[Any, Any], kind: Method) -> list[PartName]:
    """Parts that a method trains in one way; `lora` alone leaves it to `lora.parts`."""
    if isinstance(method, Mapping):
        return [part for part in get_args(PartName) if method.get(part) == kind]
    return ["language_model"] if method == kind == "full" else []


def learning_rate(step: int, steps: int, settings: TrainingConfig) -> float:
    """Learning rate of optimizer step `step` of `steps`, from 0: linear warm-up, then the shape of the schedule."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return settings.learning_rate * shape[settings.schedule]

"""One measurement on a GPU with a random-weight Qwen3-VL 2B, 4B or 8B and data shaped like Flickr8k.

    python benchmarks/training/gpu.py --model 8b --batch 32 --samples 2000
    python benchmarks/training/gpu.py --model 8b --batch 8 --cap-gb 24 --quantization nf4
    python benchmarks/training/gpu.py --what decode --model 8b
    python benchmarks/training/gpu.py --what probe
    python benchmarks/training/gpu.py --model tiny --samples 16          # on a CPU, as a smoke test

`stages.py` runs several of them. Prints one JSON object, the last line of stdout. Of training: samples and tokens per
second, model FLOP/s with and without the vision tower and as a fraction of the datasheet's bf16 rate, peak memory over
the model and in total, the fraction of time spent waiting for data, with `--profile` the operations that took longest
in two steps, and last, since they may not fit into a capped memory, how far the gradients of packed sequences, shared
prefixes and the kernel in use are from one example at a time. Of decoding: tokens per second, and `generate`'s.
Random weights train and answer as fast as real ones; what they say means nothing.
"""

import argparse
import functools
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

HERE = Path(__file__).parent
SHAPES = HERE.parents[1] / "tests" / "data" / "qwen3_vl"
sys.path.insert(0, str(HERE))

from workload import PROMPT, TINY, photos  # noqa: E402

from vlmtune.data import jsonl  # noqa: E402
from vlmtune.doctor import attention_kernels  # noqa: E402
from vlmtune.generation import decode, greedy  # noqa: E402
from vlmtune.modeling.loading import ModelConfig, find_checkpoint, load_model  # noqa: E402
from vlmtune.modeling.vision_tower import optimize_vision_tower  # noqa: E402
from vlmtune.planning.costs import flops  # noqa: E402
from vlmtune.planning.gpus import GPUS  # noqa: E402
from vlmtune.planning.lengths import total, work_of  # noqa: E402
from vlmtune.prefetch import Prefetch  # noqa: E402
from vlmtune.processing.encoder import Encoder, collate  # noqa: E402
from vlmtune.progress import Progress, Silent  # noqa: E402
from vlmtune.signals import StopRequest  # noqa: E402
from vlmtune.tasks import captioning  # noqa: E402
from vlmtune.training import forward_backward  # noqa: E402
from vlmtune.training.attention import enable_packed_attention, kernel_facts  # noqa: E402
from vlmtune.training.config import LoraConfig, TrainingConfig  # noqa: E402
from vlmtune.training.dataset import TrainingExamples  # noqa: E402
from vlmtune.training.lora import add_adapter  # noqa: E402
from vlmtune.training.trainer import Trainer, TrainingJob  # noqa: E402
from vlmtune.types import ImageRef, Message  # noqa: E402

WARM_STEPS = 3
"""Steps before the clock runs: kernels are chosen and memory is taken in them."""
PROFILED = 40
"""Operations in a profile."""


def checkpoint(name: str, folder: Path) -> Path:
    """The real model's sizes with the tiny model's tokenizer; no weights. `tiny` is the embedded checkpoint."""
    if name == "tiny":
        return Path(shutil.copytree(TINY, folder))
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    plain, real = (json.loads(file.read_text()) for file in (folder / "config.json", SHAPES / f"{name}.json"))
    plain |= {key: real[key] for key in ("text_config", "vision_config", "tie_word_embeddings") if key in real}
    (folder / "config.json").write_text(json.dumps(plain))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def random_model(folder: Path, device: str, precision: str, quantized: bool, encoder: Encoder) -> Any:
    """The model of a folder; where it has no weights, random ones, made on the device."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    if list(folder.glob("*.safetensors")):
        return load_model(encoder.checkpoint, device, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if quantized:
        model = random_nf4_model(folder, device, dtype, encoder)
    else:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    optimize_vision_tower(model, encoder.checkpoint.family)
    return model.requires_grad_(False).eval()


def random_nf4_model(folder: Path, device: str, dtype: torch.dtype, encoder: Encoder) -> Any:
    """A model in 4 bits as `load_model` makes it, matrix by matrix: never in half precision as a whole."""
    import bitsandbytes as bnb
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    language = f"{encoder.checkpoint.family.language_model}."
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or not name.startswith(language):
            continue
        small = bnb.nn.Linear4bit(1, 1, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
        small.in_features, small.out_features = module.in_features, module.out_features
        drawn = torch.empty(module.out_features, module.in_features, dtype=dtype, device=device).normal_(std=0.02)
        settings = {"quant_type": "nf4", "compress_statistics": True}
        small.weight = bnb.nn.Params4bit(drawn.cpu() if device == "cpu" else drawn, requires_grad=False, **settings)
        small.weight = small.weight.to(device)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, small)
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None and weight.is_meta:
                drawn = torch.empty(weight.shape, dtype=dtype, device=device).normal_(std=0.02)
                module._parameters[name] = torch.nn.Parameter(drawn, requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = None if buffer is None else buffer.to(device)
    model.is_loaded_in_4bit = True  # for PEFT
    return model


def make_trainer(given: argparse.Namespace, folder: Path, device: str) -> Any:
    """A trainer before its first step, its attention kernel, and the bytes of the loaded model."""
    source = checkpoint(given.model, folder / "model")
    model = ModelConfig(name=str(source), device=device, quantization=given.quantization)
    encoder = Encoder(find_checkpoint(model), model)
    precision = "bf16" if device == "cuda" else "fp32"
    settings = TrainingConfig(
        batch_size=given.batch,
        precision=precision,
        pack_tokens=given.pack_tokens,
        checkpoint_layers=given.checkpoint_layers,
        lora=LoraConfig(dropout=given.dropout),
        workers=given.workers,
    )
    data = photos(given.samples, folder / "photos")
    rows = jsonl.open(
        jsonl.Config(path=str(data), image="image", references=["captions"], target=given.target, id="id"),
        "train.jsonl",
        None,
    )
    examples = TrainingExamples(rows, captioning.TASK, captioning.Config(prompt=PROMPT), encoder, settings)
    base = random_model(source, device, precision, given.quantization is not None, encoder)
    loaded = torch.cuda.memory_allocated() if device == "cuda" else 0
    kernel = enable_packed_attention(base, encoder.checkpoint.family, settings.attention)
    adapted = add_adapter(base, settings.lora, encoder.checkpoint.family, 0)
    job = TrainingJob(
        settings=settings,
        model=model,
        encoder=encoder,
        train=examples,
        validation=examples,
        target=given.target,
        work=folder,
        adapter=folder / "adapter",
        log=lambda step, values: None,
    )
    lengths = examples.check("train", Progress(Silent()), StopRequest())
    return Trainer(job, adapted, device, lengths), kernel, loaded


def gradient_distances(trainer: Any) -> dict[str, float]:
    """Largest relative distance of an adapter gradient between packed and single examples, on this GPU."""
    examples = [trainer._job.train.encode(sample) for sample in trainer._batches[0][:8]]
    for name, weight in trainer._model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    layout = forward_backward.Layout.of(trainer._job.encoder)
    doubled = [*examples, *examples]  # every image twice: its second example shares the prefix of the first

    def gradient(length: int, share_prefixes: bool) -> list[torch.Tensor]:
        trainer.forward_backward.zero_grad()
        supervised = sum(example.rendered.supervised for example in doubled)
        for sequence in forward_backward.pack(doubled, layout, length, share_prefixes):
            (trainer.forward_backward.token_losses(sequence).sum() / supervised).backward()
        return [weight.grad.float().clone() for weight in trainer._weights]

    trainer._model.eval()
    single = gradient(1, share_prefixes=False)
    found = {"packed": gradient(2048, share_prefixes=False), "shared prefixes": gradient(2048, share_prefixes=True)}
    found["one example at a time, again"] = gradient(1, share_prefixes=False)
    trainer.forward_backward.zero_grad()
    for name, weight in trainer._model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)

    def distance(taken: list[torch.Tensor]) -> float:
        return max(((a - b).norm() / b.norm()).item() for a, b in zip(taken, single, strict=True))

    return {name: distance(taken) for name, taken in found.items()}


def train(given: argparse.Namespace, folder: Path, device: str) -> dict[str, Any]:
    """Speed and memory of training."""
    trainer, kernel, loaded = make_trainer(given, folder, device)
    trainer._try_longest_sequence()
    trainer._check_packing()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batches = trainer._batches
    warm = min(WARM_STEPS, len(batches) - 1)
    works = []
    with Prefetch(trainer._job.train.encode, batches, given.workers) as encoded:
        for number, samples in enumerate(batches):
            if number == warm:
                _wait(device)
                began, waited = time.perf_counter(), encoded.waited_s
            examples = next(encoded)
            works += (
                [work_of(sequence) for sequence in trainer.forward_backward.pack(examples)] if number >= warm else []
            )
            trainer._optimizer_step(samples, examples, StopRequest())
            trainer.step = 1
        _wait(device)
        took, idle = time.perf_counter() - began, encoded.waited_s - waited
    family = trainer._job.encoder.checkpoint.family
    shapes = family.shapes(json.loads((folder / "model" / "config.json").read_text()))
    work = total(works)
    terms = flops(
        shapes, trainer._job.settings.lora.for_family(family), work
    )  # what must be computed: recomputed layers do not count
    whole = sum(term.flops for term in terms)
    tower = sum(term.flops for term in terms if "tower" in term.name)
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rate = next((gpu.bf16_tflops for name, gpu in GPUS.items() if name in card.lower().replace(" ", "")), None)
    answers = len(list(itertools.chain(*batches[warm:])))
    return {
        **kernel_facts(trainer._base, trainer._job.encoder.checkpoint.family, kernel),
        "checkpointed_layers": trainer.checkpointing.checkpoint_layers,
        "packed_to": trainer.forward_backward.pack_tokens,
        "seconds": took,
        "samples_per_s": answers / took,
        "tokens_per_s": work.tokens / took,
        "tflop_per_s": {"tower counted": whole / took / 1e12, "tower left out": (whole - tower) / took / 1e12},
        "mfu_of_datasheet": None if rate is None else whole / took / 1e12 / rate,
        "waiting_for_data": idle / took,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
        "peak_gb_over_model": (torch.cuda.max_memory_allocated() - loaded) / 1e9 if device == "cuda" else None,
        "profile": profile(trainer, device) if given.profile else None,
        "gradients_apart": guarded(gradient_distances, trainer),
    }


def profile(trainer: Any, device: str) -> list[dict[str, Any]]:
    """The operations that took longest in two steps: their own time on the device, in ms, and how often they ran."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    prepared = [[trainer._job.train.encode(sample) for sample in samples] for samples in trainer._batches[:2]]
    with profiler(activities=kinds) as taken:
        for samples, examples in zip(trainer._batches, prepared, strict=False):
            trainer._optimizer_step(samples, examples, StopRequest())
        _wait(device)
    longest = sorted(taken.key_averages(), key=lambda event: -getattr(event, key))[:PROFILED]
    return [{"name": e.key, "ms": round(getattr(e, key) / 1e3, 3), "calls": e.count} for e in longest]


def guarded(measure: Callable[[Any], Any], *arguments: Any) -> Any:
    """A measurement, or why there is none: it must not take those that are done already with it."""
    try:
        return measure(*arguments)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}


def probe(given: argparse.Namespace, folder: Path, device: str) -> dict[str, Any]:
    """Which attention kernels work here, and if not, why."""
    return {"attention": attention_kernels(device)}


def decoding(given: argparse.Namespace, folder: Path, device: str) -> dict[str, Any]:
    """Tokens per second of greedy decoding at one batch, ours and `generate`'s."""
    source = checkpoint(given.model, folder / "model")
    encoder = Encoder(find_checkpoint(ModelConfig(name=str(source))), ModelConfig(name=str(source)))
    model = random_model(source, device, "bf16" if device == "cuda" else "fp32", False, encoder)
    files = sorted(photos(given.batch, folder / "photos").glob("*.jpg"))
    asked = [(Message("user", (ImageRef(file.name, functools.partial(Image.open, file)), PROMPT)),) for file in files]
    prompts = [encoder.prompt(conversation) for conversation in asked]
    tensors = collate(prompts, encoder, "left", device, model.dtype)

    def ours() -> int:
        return sum(len(answer.ids) for answer in decode(model, prompts, encoder, device, given.new_tokens, greedy))

    def plain() -> int:
        settings = {"max_new_tokens": given.new_tokens, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        return int((model.generate(**tensors, **settings).shape[1] - tensors["input_ids"].shape[1]) * len(prompts))

    def speed(measured: Callable[[], int]) -> float:
        with torch.inference_mode():
            measured()
            _wait(device)
            began = time.perf_counter()
            tokens = measured()
            _wait(device)
        return tokens / (time.perf_counter() - began)

    return {"tokens_per_s": speed(ours), "tokens_per_s_of_generate": guarded(speed, plain)}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One measurement, with what it was measured on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and given.cap_gb:
        memory = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(given.cap_gb * 1e9 / memory)
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    asked = {key: value for key, value in vars(given).items() if key != "output"}
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": card, **asked, **versions, **WHAT[given.what](given, folder, device)}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


WHAT: dict[str, Callable[[argparse.Namespace, Path, str], dict[str, Any]]] = {
    "train": train,
    "decode": decoding,
    "probe": probe,
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=list(WHAT), default="train")
    parser.add_argument("--model", choices=["tiny", "2b", "4b", "8b"], default="8b")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--target", choices=["caption", "each"], default="caption")
    parser.add_argument("--pack-tokens", type=int, default=2048)
    parser.add_argument("--checkpoint-layers", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--quantization", choices=["nf4"])
    parser.add_argument("--cap-gb", type=float, help="let the allocator have no more than this")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer, to decode")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--output", type=Path, help="append the JSON line to this file, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = json.dumps(run(given, Path(folder)))
    print(line)
    if given.output is not None:
        with given.output.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()

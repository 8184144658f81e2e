"""CPU seconds of answers about pictures: one picture at a time through plain transformers against our `hf` engine.

    OMP_NUM_THREADS=1 python benchmarks/inference/run.py                  # writes results.json and README.md
    OMP_NUM_THREADS=1 python benchmarks/inference/run.py --pairs 3

Pictures are scenes in JPEG files, the model is the embedded tiny one in fp32, answers have a fixed length: nothing ends
them. Every measurement is a process of its own, so that nothing is cached; both sides take turns, so that a busy
machine is busy for both. What counts is CPU time (user and system, all threads) from the first file read to the last
answer; loading the model is not in it, except where it says so.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
PROMPT = "Describe this image."


def write_pictures(folder: Path, count: int) -> None:
    """Scenes as JPEG files of several sizes."""
    from vlmtune.data import scenes

    config = scenes.Config(references=["caption_0"], id="id")
    for number, row in enumerate(scenes.open(config, "test", count)):
        image = row.images[0].read()
        image.resize((128 + 32 * (number % 3), 128)).save(folder / f"{number:04d}.jpg", quality=90)


def classic(folder: Path, tokens: int) -> dict[str, Any]:
    """As everybody writes it: the processor, then `generate`, picture by picture."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from vlmtune.models import TINY, ModelConfig, find_checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    source = str(find_checkpoint(ModelConfig(name=TINY)).folder)
    processor = AutoProcessor.from_pretrained(source)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()

    def answer(file: Path) -> str:
        content = [{"type": "image", "image": Image.open(file).convert("RGB")}, {"type": "text", "text": PROMPT}]
        made = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        with torch.inference_mode():
            # No token ends an answer: on our side none does either.
            ids = model.generate(**made, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        text: str = processor.decode(ids[0, made["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    files = sorted(folder.glob("*.jpg"))
    answer(files[0])
    begin = time.process_time()
    texts = [answer(file) for file in files]
    return {"cpu_s": time.process_time() - begin, "texts": texts}


def opened(folder: Path, tokens: int, adapter: Path | None) -> tuple[Any, Any, list[Any]]:
    """Our engine, its inputs, and the requests; nothing stops an answer."""
    from vlmtune.engines import hf
    from vlmtune.inputs import Inputs
    from vlmtune.models import TINY, ModelConfig, find_checkpoint
    from vlmtune.types import ImageRef, Request, Turn

    class Endless(Inputs):
        stop_ids = (-1,)

    model = ModelConfig(name=TINY, device="cpu")
    inputs = Endless(find_checkpoint(model), model)
    engine = hf.open_engine(hf.Config(max_new_tokens=tokens), model, inputs, "fp32", adapter)
    requests = [
        Request(file.stem, (Turn("user", (ImageRef(file.name, file.read_bytes), PROMPT)),))
        for file in sorted(folder.glob("*.jpg"))
    ]
    return engine, inputs, requests


def ours(folder: Path, tokens: int) -> dict[str, Any]:
    """The `hf` engine."""
    engine, _, requests = opened(folder, tokens, None)
    list(engine.answer([_warming(requests[0])]))
    begin = time.process_time()
    answers = {outcome.id: outcome for outcome in engine.answer(requests)}
    cpu = time.process_time() - begin
    assert {answer.tokens for answer in answers.values()} == {tokens}
    return {"cpu_s": cpu, "texts": [answers[request.id].text for request in requests]}


def columns(folder: Path, tokens: int, adapter: Path, kind: str) -> dict[str, Any]:
    """Base, tuned, or both from one load: CPU seconds with the load and without, and pictures decoded."""
    from vlmtune import inputs as inputs_module

    decoded: list[str] = []
    real = inputs_module.decode_rgb
    inputs_module.decode_rgb = lambda ref: (decoded.append(ref.where), real(ref))[1]  # type: ignore[assignment]
    load = time.process_time()
    engine, _, requests = opened(folder, tokens, adapter if kind != "base" else None)
    begin = time.process_time()
    marks = []
    if kind == "both":
        with engine.untuned():
            list(engine.answer(requests))
        marks.append(time.process_time() - begin)
    list(engine.answer(requests))
    end = time.process_time()
    return {"cpu_s": end - begin, "with_load_s": end - load, "first_s": marks, "decoded": len(decoded)}


def _warming(request: Any) -> Any:
    from vlmtune.types import ImageRef, Request, Turn

    image = request.conversation[0].content[0]
    return Request("warming", (Turn("user", (ImageRef("warming", image.read), PROMPT)),))


def make_adapter(folder: Path) -> None:
    """A rank 16 adapter that changes answers."""
    import torch

    from vlmtune.models import TINY, ModelConfig, find_checkpoint, load_model
    from vlmtune.training.lora import add_adapter, save_adapter, trainable
    from vlmtune.training.settings import LoraConfig

    checkpoint = find_checkpoint(ModelConfig(name=TINY))
    model = add_adapter(load_model(checkpoint, "cpu", "fp32"), LoraConfig(), checkpoint.family, 0)
    torch.manual_seed(0)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    save_adapter(model, folder, TINY, None)


def child(kind: str, folder: Path, tokens: int) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder), "--tokens", str(tokens)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET})
    if ended.returncode:
        raise SystemExit(ended.stderr)
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios with its 95 % interval (Student's t on their logarithms)."""
    from vlmtune.scoring.exact import student_quantile

    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), math.nan, math.nan
    half = student_quantile(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def measure(pairs: int, images: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything the page shows."""
    results: dict[str, Any] = {"lengths": {}, "columns": {}}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_pictures(folder, images)
        make_adapter(folder / "adapter")
        for tokens in (16, 64):
            runs: dict[str, list[float]] = {"classic": [], "ours": []}
            same = 0
            for pair in range(pairs):
                # Who begins changes with every pair.
                found = {kind: child(kind, folder, tokens) for kind in sorted(runs, reverse=bool(pair % 2))}
                for kind, seconds in runs.items():
                    seconds.append(round(found[kind]["cpu_s"], 3))
                same = sum(a == b for a, b in zip(found["classic"]["texts"], found["ours"]["texts"], strict=True))
                say(f"{tokens} tokens: {runs['classic'][-1] / runs['ours'][-1]:.2f} times")
            ratio = interval([a / b for a, b in zip(runs["classic"], runs["ours"], strict=True)])
            results["lengths"][str(tokens)] = {"cpu_s": runs, "times_faster": ratio, "same_texts": same}
        results["columns"] = measure_columns(pairs, folder, say)
    return results


def measure_columns(pairs: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Base and tuned from one load against one after the other."""
    runs: dict[str, list[dict[str, Any]]] = {"base": [], "tuned": [], "both": []}
    for _ in range(pairs):
        for kind, seconds in runs.items():
            seconds.append(child(kind, folder, 16))
    shares, decoding = [], []
    for base, tuned, both in zip(*runs.values(), strict=True):
        apart = base["with_load_s"] + tuned["with_load_s"]
        shares.append(both["with_load_s"] / apart)
        decoding.append(both["cpu_s"] / (base["cpu_s"] + 1.1 * tuned["cpu_s"]))
    say(f"together: {statistics.median(shares):.2f} of apart")
    return {
        "runs": runs,
        "together_over_apart": interval(shares),
        "together_over_base_and_1.1_tuned": interval(decoding),
        "decoded": {kind: [run["decoded"] for run in made] for kind, made in runs.items()},
    }


def readme(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def between(values: Any, digits: int = 2) -> str:
        middle, low, high = values
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    images, columns_ = results["images"], results["columns"]
    lines = [
        "# How fast are answers?",
        "",
        "<!-- Written by run.py. -->",
        "",
        f"{images} pictures, the tiny model in fp32, one thread, answers of a fixed length; CPU seconds, median of",
        f"{results['pairs']} interleaved pairs. Classic: one picture at a time, processor and `generate` of",
        "transformers. The factor is the geometric mean over pairs with its 95 % interval.",
        "",
        "| tokens per answer | classic | `hf` engine | times faster | same texts |",
        "|---|---|---|---|---|",
    ]
    for tokens, entry in results["lengths"].items():
        cpu = {kind: statistics.median(values) for kind, values in entry["cpu_s"].items()}
        lines.append(
            f"| {tokens} | {cpu['classic']:.2f} s | {cpu['ours']:.2f} s | {between(entry['times_faster'])} | "
            f"{entry['same_texts']} of {images} |"
        )
    lines += [
        "",
        f"Untouched and tuned answers from one load, 16 tokens, take {between(columns_['together_over_apart'])} of the",
        "CPU time of two runs, loads included; without loads, "
        f"{between(columns_['together_over_base_and_1.1_tuned'])} of base + 1.1 x tuned. Pictures decoded: "
        f"{columns_['decoded']['both'][0]} together,",
        f"{columns_['decoded']['base'][0] + columns_['decoded']['tuned'][0]} apart.",
        "",
        f"Command: `{results['command']}`; {results['machine']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write; or be one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    for internal in ("--child", "--folder", "--tokens"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        folder, tokens = Path(asked.folder), int(asked.tokens)
        alone = {"classic": classic, "ours": ours}
        if asked.child in alone:
            result = alone[asked.child](folder, tokens)
        else:
            result = columns(folder, tokens, folder / "adapter", asked.child)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    results = measure(asked.pairs, asked.images, lambda text: sys.stderr.write(text + "\n") and None)
    results |= {"pairs": asked.pairs, "images": asked.images}
    results["command"] = "OMP_NUM_THREADS=1 python benchmarks/inference/run.py" + (
        f" --pairs {asked.pairs}" if asked.pairs != 7 else ""
    )
    results["machine"] = f"{platform.machine()}, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "peft")
    )
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")


if __name__ == "__main__":
    main()

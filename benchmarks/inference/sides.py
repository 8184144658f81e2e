"""What run.py measures: `generate` of transformers, our engines, both columns from one load; functions of a folder."""

import os
import time
from pathlib import Path
from typing import Any

PROMPT = "Describe this image."
LENGTHS = (16, 64)
BATCHES = (8, 16, 48)
VLLM = Path(".venv-vllm/bin/python")


def write_pictures(folder: Path, count: int) -> None:
    """Scenes as JPEG files of several sizes."""
    from vlmtune.data import scenes

    config = scenes.Config(references=["caption_0"], id="id")
    for number, row in enumerate(scenes.open(config, "test", count)):
        image = row.images[0].read()
        image.resize((128 + 32 * (number % 3), 128)).save(folder / f"{number:04d}.jpg", quality=90)


def transformers_model() -> tuple[Any, Any]:
    """Processor and model as transformers loads them, on one thread."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from vlmtune.modeling.loading import TINY, ModelConfig, find_checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    source = str(find_checkpoint(ModelConfig(name=TINY)).folder)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(source), model


def generated(processor: Any, model: Any, files: list[Path], tokens: int) -> list[str]:
    """The answers to one batch; several rows are padded on the left."""
    import torch
    from PIL import Image

    chats = []
    for file in files:
        content = [{"type": "image", "image": Image.open(file).convert("RGB")}, {"type": "text", "text": PROMPT}]
        chats.append([{"role": "user", "content": content}])
    batch = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    with torch.inference_mode():
        # No token ends an answer: on our side none does either.
        ids = model.generate(**batch, max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    texts: list[str] = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def classic(folder: Path) -> dict[int, dict[str, Any]]:
    """As many scripts do it: the processor, then `generate`, image by image."""
    processor, model = transformers_model()
    files = sorted(folder.glob("*.jpg"))
    generated(processor, model, files[:1], LENGTHS[0])
    found = {}
    for tokens in LENGTHS:
        begin = time.process_time()
        texts = [generated(processor, model, [file], tokens)[0] for file in files]
        found[tokens] = {"cpu_s": time.process_time() - begin, "texts": texts}
    return found


def against_batches(folder: Path, rounds: int) -> list[dict[str, dict[int, dict[str, Any]]]]:
    """Our engine and plain batches of each size in turn, per round; all in one process, which loads the model once."""
    processor, model = transformers_model()
    files, requests = sorted(folder.glob("*.jpg")), read_requests(folder)
    generated(processor, model, files[:1], LENGTHS[0])
    made = []
    for number in range(rounds):
        sides: list[int] = [0, *BATCHES]  # 0 is our engine
        sides = sides[number % len(sides) :] + sides[: number % len(sides)]
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for tokens in LENGTHS:
            for size in sides:
                if size:
                    begin = time.process_time()
                    parts = [files[start : start + size] for start in range(0, len(files), size)]
                    texts = [text for part in parts for text in generated(processor, model, part, tokens)]
                    one = {"cpu_s": time.process_time() - begin, "texts": texts}
                else:
                    engine = opened(tokens, None)
                    list(engine.answer([_warming(requests[0])]))
                    one = answered(engine, requests, tokens)
                found.setdefault(f"batch-{size}" if size else "ours", {})[tokens] = one
        made.append(found)
    return made


def read_requests(folder: Path) -> list[Any]:
    """One per picture."""
    from vlmtune.types import ImageRef, Message, Request

    return [
        Request(file.stem, (Message("user", (ImageRef(file.name, file.read_bytes), PROMPT)),))
        for file in sorted(folder.glob("*.jpg"))
    ]


def endless() -> tuple[Any, Any]:
    """The tiny model and its encoder; nothing stops an answer."""
    from vlmtune.modeling.loading import TINY, ModelConfig, find_checkpoint
    from vlmtune.processing.encoder import Encoder

    class Endless(Encoder):
        stop_ids = (-1,)

    model = ModelConfig(name=TINY, device="cpu")
    return model, Endless(find_checkpoint(model), model)


def opened(tokens: int, adapter: Path | None) -> Any:
    """Our engine, with nothing in its memory."""
    from vlmtune.engines import hf

    model, encoder = endless()
    return hf.open_engine(hf.Config(max_new_tokens=tokens), model, encoder, "fp32", adapter)


def ours(folder: Path) -> dict[int, dict[str, Any]]:
    """The `hf` engine."""
    requests, found = read_requests(folder), {}
    for tokens in LENGTHS:
        engine = opened(tokens, None)
        list(engine.answer([_warming(requests[0])]))
        found[tokens] = answered(engine, requests, tokens)
    return found


def answered(engine: Any, requests: list[Any], tokens: int) -> dict[str, Any]:
    """CPU and wall seconds of all answers, of this process and of all that it started."""
    begin, clock = cpu_s(), time.perf_counter()
    answers = {outcome.id: outcome for outcome in engine.answer(requests)}
    spent = {"cpu_s": cpu_s() - begin, "wall_s": time.perf_counter() - clock}
    assert {answer.tokens for answer in answers.values()} == {tokens}
    return {**spent, "texts": [answers[request.id].text for request in requests]}


def cpu_s() -> float:
    """CPU time of this process and of those it started, as far as they run."""
    parents, spent = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    mine, found = {os.getpid()}, time.process_time()
    for process in sorted(parents):
        if parents[process] in mine:
            mine.add(process)
            found += spent[process]
    return found


def vllm(folder: Path) -> dict[int, dict[str, Any]]:
    """A vLLM server of our `vllm` engine; both lengths by the same server, each with an engine of its own."""
    from vlmtune.engines import _client as client
    from vlmtune.engines import vllm as engine_file

    model, encoder = endless()
    # Pictures that one length was asked about must not wait in a cache for the next.
    caches = ["--no-enable-prefix-caching", "--mm-processor-cache-gb", "0"]
    limits = {"python": str(VLLM), "cache_gb": 1.0, "concurrency": 64, "arguments": caches}
    start = cpu_s()
    served = engine_file.open_engine(engine_file.Config(**limits), model, encoder, "fp32")
    started = cpu_s() - start
    requests, found = read_requests(folder), {}
    try:
        asker = served._base  # its server is asked for answers of another length, too
        for tokens in LENGTHS:
            config = engine_file.Config(**limits, max_new_tokens=tokens)

            class Fixed(client.Client):
                def _post(self, body: Any) -> Any:
                    return super()._post({**body, "ignore_eos": True, "stop_token_ids": []})

            # A server compiles for the batch sizes it meets: it meets them all before. Our side starts afresh.
            warming, fixed = (Fixed(config, asker._server, endless()[1]) for _ in range(2))
            list(warming.answer(requests))
            found[tokens] = {**answered(fixed, requests, tokens), "start_cpu_s": started}
    finally:
        served.close()
    return found


def columns(folder: Path, tokens: int, adapter: Path, kind: str) -> dict[str, Any]:
    """Base, tuned, or both from one load: CPU seconds with the load and without, and pictures decoded."""
    from vlmtune.processing import encoder as encoder_module

    decoded: list[str] = []
    real = encoder_module.decode_rgb
    encoder_module.decode_rgb = lambda ref: (decoded.append(ref.where), real(ref))[1]  # type: ignore[assignment]
    load = time.process_time()
    requests, engine = read_requests(folder), opened(tokens, adapter if kind != "base" else None)
    begin = time.process_time()
    marks = []
    if kind == "both":
        with engine.adapter_disabled():
            list(engine.answer(requests))
        marks.append(time.process_time() - begin)
    list(engine.answer(requests))
    end = time.process_time()
    return {"cpu_s": end - begin, "with_load_s": end - load, "first_s": marks, "decoded": len(decoded)}


def _warming(request: Any) -> Any:
    from vlmtune.types import ImageRef, Message, Request

    image = request.conversation[0].content[0]
    return Request("warming", (Message("user", (ImageRef("warming", image.read), PROMPT)),))


def make_adapter(folder: Path) -> None:
    """A rank 16 adapter that changes answers."""
    import torch

    from vlmtune.modeling.loading import TINY, ModelConfig, find_checkpoint, load_model
    from vlmtune.training.config import LoraConfig
    from vlmtune.training.lora import add_adapter, save_adapter, trainable

    checkpoint = find_checkpoint(ModelConfig(name=TINY))
    model = add_adapter(load_model(checkpoint, "cpu", "fp32"), LoraConfig(), checkpoint.family, 0)
    torch.manual_seed(0)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    save_adapter(model, folder, TINY, None)

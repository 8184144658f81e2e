"""The model card of an adapter: its comparison, how to load it and how it was trained.

The metadata is written with `huggingface_hub`, so that the Hub shows the results. No rows of the dataset are quoted,
because readers of the card may not be allowed to see them.
"""

from collections.abc import Mapping
from typing import Any

from vlmtune.report import markdown
from vlmtune.scoring.results import ComparisonResult

HUB_TASKS = {
    "captioning": "image-to-text",
    "vqa": "visual-question-answering",
    "docvqa": "document-question-answering",
    "chartqa": "visual-question-answering",
    "classification": "image-classification",
    "grounding": "object-detection",
}
"""The Hub's names of tasks; for other tasks it is the model's, image-text-to-text."""


def render(
    name: str, comparison: ComparisonResult, manifest: Mapping[str, Any], dataset: str | None, split: str
) -> str:
    """The card as Markdown, with its metadata in front.

    Args:
        name: the repository, `org/name`.
        comparison: of the base model and the adapter; examples are not needed.
        manifest: of the adapter; names the base model.
        dataset: the evaluated dataset's name on the Hub; None if it is not there.
        split: the evaluated split.
    """
    provenance = manifest["origin"]
    task, base, title = str(provenance["task"]["name"]), str(provenance["model"]["name"]), name.rpartition("/")[2]
    training = provenance["training"]
    kinds = ["A LoRA adapter"] if _has_lora(training) else []
    kinds += [f"all weights of the {part}" for part in _in_full(training)]
    kind, there = " and ".join(kinds), f"[{markdown.escaped(base)}](https://huggingface.co/{base})"
    compared = comparison["rows"]["compared"]
    lines = [
        "---",
        _metadata(title, base, task, comparison, dataset, split if dataset else None, _has_lora(training)),
        "---",
        "",
        f"# {markdown.escaped(title)}",
        "",
        f"{kind[0].upper()}{kind[1:]} for {there}, trained for {markdown.escaped(task)}.",
        "",
        "## Evaluation",
        "",
        f"A is the base model and B the model with this adapter, on the same {compared} rows.",
        "",
        markdown.results(comparison),
        "## Use",
        "",
        *_use(name, base),
        "",
        "## Training",
        "",
        *_settings(provenance),
        "",
    ]
    return "\n".join(lines)


def _metadata(  # noqa: PLR0913, PLR0917 - independent facts
    title: str, base: str, task: str, comparison: ComparisonResult, dataset: str | None, split: str | None, lora: bool
) -> str:
    """The card's YAML header."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=HUB_TASKS.get(task, "image-text-to-text"),
            dataset_type=dataset or "private",
            dataset_name=dataset or "a private dataset",
            dataset_split=split,
            metric_type=entry["name"],
            metric_name=entry["name"],
            metric_value=round(entry["b"], 6),
        )
        for entry in comparison["metrics"]
    ]
    data = ModelCardData(
        base_model=base,
        library_name="peft",
        model_name=title,
        pipeline_tag="image-text-to-text",
        tags=["lora", "vlmtune"] if lora else ["vlmtune"],
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _in_full(training: Mapping[str, Any]) -> list[str]:
    """Parts of the model that were trained in full, in words."""
    method = training.get("method", "lora")
    parts = method if isinstance(method, dict) else {"language_model": method}
    return [part.replace("_", " ") for part, how in parts.items() if how == "full"]


def _has_lora(training: Mapping[str, Any]) -> bool:
    return bool(training["lora"].get("parts", True))


def _use(name: str, base: str) -> list[str]:
    return [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'model = AutoModelForImageTextToText.from_pretrained("{base}", dtype="auto", device_map="auto")',
        f'model = PeftModel.from_pretrained(model, "{name}")',
        f'processor = AutoProcessor.from_pretrained("{base}")',
        "```",
    ]


def _settings(provenance: Mapping[str, Any]) -> list[str]:
    """The settings needed to reproduce the answers."""
    model, training = provenance["model"], provenance["training"]
    pixels, whole = provenance["preprocessing"]["pixels"], _in_full(training)
    prompt = markdown.code(str(provenance["task"].get("prompt", "from the rows")))
    lines = [
        ("base commit", model.get("commit") or "a local folder"),
        ("base config", model.get("config_hash")),
        ("image area in pixels", f"{pixels['min_pixels']} to {pixels['max_pixels']}"),
        ("chat template", provenance["preprocessing"]["template"]),
        ("tokenizer", provenance["preprocessing"]["tokenizer"]),
        ("learning rate", training["learning_rate"]),
        ("steps", training["max_steps"]) if training.get("max_steps") else ("epochs", training["epochs"]),
        ("batch size", training["batch_size"]),
        ("trained in full", ", ".join(whole) or None),
        ("LoRA rank", training["lora"]["rank"] if _has_lora(training) else None),
        ("seed", training["seed"]),
    ]
    shown = [f"- {what}: {markdown.escaped(str(value))}" for what, value in lines if value is not None]
    return [f"- prompt: {prompt}", *shown]

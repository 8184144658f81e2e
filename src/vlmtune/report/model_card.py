"""The model card of an adapter: what it is, the comparison that speaks for it, how to load it.

Metadata is written by the Hub's own library, so that its page shows the results; the text is the comparison's Markdown.
Rows of the dataset are not quoted: a card is read by people who may not see them.
"""

from collections.abc import Mapping
from typing import Any

from vlmtune.report import markdown

TYPES = {
    "captioning": "image-to-text",
    "vqa": "visual-question-answering",
    "docvqa": "document-question-answering",
    "chartqa": "visual-question-answering",
    "classification": "image-classification",
    "grounding": "object-detection",
}
"""The Hub's names of tasks, where it has one; the others are what the model is: image-text-to-text."""


def render(name: str, plain: Mapping[str, Any], made: Mapping[str, Any], dataset: str | None, split: str) -> str:
    """The card as Markdown with its metadata in front.

    Args:
        name: of the repository, `org/name`.
        plain: the comparison, examples not needed.
        made: what the adapter was made from; names the model that it belongs on.
        dataset: name of the evaluated dataset on the Hub; None where it is nobody else's.
        split: which of its splits was evaluated.
    """
    from huggingface_hub import EvalResult, ModelCardData

    task, base = str(made["origin"]["task"]["name"]), str(made["origin"]["model"]["name"])
    results = [
        EvalResult(
            task_type=TYPES.get(task, "image-text-to-text"),
            dataset_type=dataset or "private",
            dataset_name=dataset or "a dataset of our own",
            dataset_split=split if dataset else None,
            metric_type=entry["name"],
            metric_name=entry["name"],
            metric_value=round(entry["b"], 6),
        )
        for entry in plain["metrics"]
    ]
    data = ModelCardData(
        base_model=base,
        library_name="peft",
        model_name=name.rpartition("/")[2],
        pipeline_tag="image-text-to-text",
        tags=["lora", "vlmtune"],
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
    )
    return "\n".join(
        [
            "---",
            data.to_yaml(),
            "---",
            "",
            f"# {markdown.escaped(name.rpartition('/')[2])}",
            "",
            f"A LoRA adapter for [{markdown.escaped(base)}](https://huggingface.co/{base}), task {task}.",
            "",
            "## What it changes",
            "",
            f"A is the untouched model, B the one with this adapter, on the same {plain['rows']['compared']} rows.",
            "",
            markdown.results(plain),
            "## Use",
            "",
            *_use(name, base),
            "",
            "## How it was made",
            "",
            *_facts(made),
            "",
        ]
    )


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


def _facts(made: Mapping[str, Any]) -> list[str]:
    """What decides whether somebody else sees the same answers."""
    origin = made["origin"]
    model, pixels = origin["model"], origin["preprocessing"]["pixels"]
    training = origin["training"]
    lines = [
        ("prompt", markdown.code(str(origin["task"].get("prompt", "from the rows")))),
        ("base commit", model.get("commit") or "a local folder"),
        ("base config", model.get("config_hash")),
        ("picture area in pixels", f"{pixels['min_pixels']} to {pixels['max_pixels']}"),
        ("chat template", origin["preprocessing"]["template"]),
        ("tokenizer", origin["preprocessing"]["tokenizer"]),
        ("learning rate", training["learning_rate"]),
        ("epochs", training["epochs"]),
        ("batch size", training["batch_size"]),
        ("LoRA rank", training["lora"]["rank"]),
        ("seed", training["seed"]),
    ]
    return [f"- {what}: {value}" for what, value in lines]

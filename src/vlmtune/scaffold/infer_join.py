"""Infers whether several records are one row: captions or boxes on lines of their own."""

from vlmtune.data import Records
from vlmtune.scaffold.draft import Draft

MOST_ROWS, MOST_BYTES_ROWS = 200_000, 2_000
"""Rows that are looked at, and where they hold the images themselves."""

REPEATED = 0.05
"""Fraction of the rows that share an image with an earlier one, from which they are joined."""


def infer_join(draft: Draft, records: Records) -> None:
    """Infer `dataset.join`, and what follows from it, where rows about the same image hold an answer each."""
    keys = _keys(draft)
    if not keys or "join" in draft.dataset:
        return
    read = records.read if records.select is None else records.select(keys)
    holds_images = not isinstance(read(0).get(keys[0]), str | int)
    count = min(records.count, MOST_BYTES_ROWS if holds_images else MOST_ROWS)
    distinct = {str([read(index).get(key) for key in keys]) for index in range(count)}
    repeated = count - len(distinct)
    if repeated < REPEATED * count or len(distinct) < 2:
        return
    name = " and ".join(keys)
    draft.infer("dataset", "join", keys, f"{count:,} rows have {len(distinct):,} different values of {name}")
    if draft.task["name"] == "captioning":
        draft.infer("dataset", "target", "sample", "a random one of the references in every epoch")
    if ("dataset", "id") in draft.reasons:  # it tells the records apart, not the rows
        del draft.dataset["id"], draft.reasons["dataset", "id"]


def _keys(draft: Draft) -> list[str]:
    """Columns that say what a row is about; none where every record is a row."""
    dataset, task = draft.dataset, draft.task["name"]
    image = dataset.get("video") or dataset.get("image", "image")
    if not isinstance(image, str) or "images" in dataset or "messages" in dataset:
        return []
    if task in ("grounding", "vqa", "docvqa", "chartqa"):
        return [image, dataset["question"]] if "question" in dataset else []
    is_caption = task == "captioning" and "question" not in dataset
    return [image] if is_caption and len(dataset.get("references", [])) == 1 else []

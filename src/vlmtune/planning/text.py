"""A plan as text: every figure with the numbers it is computed from, so that it can be checked by hand."""

from collections.abc import Iterator
from typing import Any

from vlmtune.planning.costs import CARDS

SHOWN_COUNTS = 5
"""How many numbers of checkpointed layers are shown, from none to all."""


def render(plan: dict[str, Any]) -> str:
    """The plan that `plan.make_plan` returns."""
    parts = [_head(plan), _epoch(plan["epoch"]), _flops(plan), _memory(plan), _gpus(plan)]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(plan: dict[str, Any]) -> Iterator[str]:
    kind = plan["quantization"] or plan["precision"]
    count, active = plan["parameters"], plan["active_parameters"]
    used = f" ({active:,} per token)" if active != count else ""
    yield f"{plan['model']}: {count:,} weights{used} in {kind}, {plan['trained_weights']:,} trained in fp32"
    yield from (f"  note: {note}" for note in plan["notes"])


def _epoch(epoch: dict[str, Any]) -> Iterator[str]:
    tokens, length = epoch["tokens"], epoch["tokens_per_sample"]
    yield (
        f"epoch: {epoch['rows']:,} rows, {epoch['samples']:,} samples, {epoch['steps']:,} steps, "
        f"{epoch['packed_sequences']:,} packed sequences"
    )
    yield (
        f"  tokens of a sample     mean {length['mean']:.1f}, p50 {length['p50']:.0f}, p95 {length['p95']:.0f}, "
        f"max {length['max']}; "
        f"{epoch['image_share']:.1%} of images, {epoch['supervised_share']:.1%} supervised"
    )
    yield f"  padded in pairs        {tokens['padded']:>14,} tokens  (the classic loop, micro-batch 2)"
    yield f"  packed                 {tokens['packed']:>14,} tokens  {_saved(tokens['padded'], tokens['packed'])}"
    shared = tokens["packed_and_shared"]
    yield f"  with shared prefixes   {shared:>14,} tokens  {_saved(tokens['packed'], shared)}"
    work = epoch["work"]
    yield (
        f"  pairs in attention {work['pairs']:,}, supervised tokens {work['supervised']:,}, "
        f"patches {work['patches']:,}, pairs of patches {work['patch_pairs']:,}"
    )


def _saved(before: int, after: int) -> str:
    return f"saves {1 - after / before:.1%}"


def _flops(plan: dict[str, Any]) -> Iterator[str]:
    yield f"TFLOP of an epoch: {_tera(plan['flops']['total'])}"
    yield f"  {'':<20}{'forward':>12}{'backward':>12}"
    for term in plan["flops"]["terms"]:
        formula = f"  {term['formula']}"
        yield f"  {term['name']:<20}{_tera(term['forward']):>12}{_tera(term['backward']):>12}{formula}"


def _memory(plan: dict[str, Any]) -> Iterator[str]:
    memory = plan["memory"]
    layers = len(memory["precisions"][0]["over_base"]) - 1
    counts = sorted({round(layers * n / (SHOWN_COUNTS - 1)) for n in range(SHOWN_COUNTS)})
    per_layer = memory["activation_bytes_per_token_and_layer"]
    yield "peak memory in GB (10^9 bytes), by the number of checkpointed layers"
    yield (
        f"  activations            {per_layer:,} bytes per token and layer x {layers} layers = "
        f"{per_layer * layers / 1e6:.2f} MB per token"
    )
    configured = (plan["precision"], plan["quantization"])
    selected = next(each for each in memory["precisions"] if (each["precision"], each["quantization"]) == configured)
    none = selected["over_base"][0]
    sequence = none["sequence"]
    yield (
        f"  costliest sequence     {sequence['tokens']:,} tokens, {sequence['supervised']:,} supervised, "
        f"{sequence['patches']:,} patches: trained, gradients, AdamW {_gb(none['states'])},"
    )
    yield (
        f"                         and the largest of vision tower {_gb(none['vision_tower'])}, "
        f"forward {_gb(none['forward'])}, loss {_gb(none['loss'])}, backward {_gb(none['backward'])}"
    )
    yield f"  {'':<12}{'weights':>9}" + "".join(f"{f'{count} of {layers}':>11}" for count in counts)
    for each in memory["precisions"]:
        peaks = [each["base_bytes"] + each["over_base"][count]["peak"] for count in counts]
        name = each["quantization"] or each["precision"]
        mark = "*" if each is selected else " "
        yield f"{mark} {name:<12}{_gb(each['base_bytes']):>9}" + "".join(f"{_gb(peak):>11}" for peak in peaks)
    yield "  (* as configured)"


def _gpus(plan: dict[str, Any]) -> Iterator[str]:
    yield (
        f"on a GPU, at {plan['efficiency']:.0%} of its datasheet's bf16 rate (an assumption: --efficiency); "
        "training steps on one card, and the whole run" + (f" on {plan['cards']} cards" if plan["cards"] > 1 else "")
    )
    for gpu in plan["gpus"]:
        title = f"  {gpu['name']:<10} {gpu['memory_gb']:>4} GB {gpu['bf16_tflops']:>6,g} TFLOP/s"
        if not gpu["fits"]:
            yield f"{title}  does not fit: needs {_gb(gpu['peak_bytes'])} GB"
            yield from _changes(gpu)
            yield from _sharded(gpu, plan)
            continue
        yield (
            f"{title}  fits with checkpoint_layers={gpu['checkpoint_layers']} in {_gb(gpu['peak_bytes'])} GB"
            + _time(gpu, plan["epochs"])
        )
        if (whole := gpu["whole_run"]) is not None:
            yield f"  {'':<10} {_whole(whole)}"
            if len(plan["gpus"]) == 1:
                yield f"  {'':<10} {_phases(whole)}"
    if len(plan["gpus"]) == 1:
        yield from _answers(plan["answers"])


def _time(gpu: dict[str, Any], epochs: float) -> str:
    seconds = gpu["seconds_per_epoch"]
    if seconds is None:
        return "; fp32: no time, the rate is bf16's"
    money = f", {gpu['usd_per_epoch']:.2f} USD" if gpu["usd_per_epoch"] is not None else ""
    whole = f"; {epochs:g} epochs {_clock(seconds * epochs)}" if epochs != 1 else ""
    return f"; {_tera(gpu['flops_per_epoch'])} TFLOP in {_clock(seconds)} an epoch{money}{whole}"


def _whole(whole: dict[str, Any]) -> str:
    money = f", {whole['usd']:.2f} USD" if whole["usd"] is not None else ""
    return f"the whole run {_clock(whole['seconds'])}{money}"


def _phases(whole: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_clock(seconds)}" for name, seconds in whole["phases"].items())


def _answers(answers: dict[str, Any]) -> Iterator[str]:
    for name, side in (("baseline", answers["base"]), ("evaluation", answers["tuned"])):
        times = f", {answers['adapters']} adapters" if name == "evaluation" and answers["adapters"] > 1 else ""
        yield (
            f"  {name:<10} {side['requests']:,} answers of {side['generated']:.1f} tokens, {side['batch']} at a time, "
            f"prompts of {side['prompts']['tokens']:,} tokens{times}"
        )
    if answers["remote"]:
        yield "  answers come from a server elsewhere, whose time and money are not counted"
    if answers["asked"]:
        yield f"  judge      {answers['asked']:,} requests, whose time and money are not counted"
    yield (
        f"  {answers['loads']} starts, at half the datasheet's bandwidth while generating, 1 GB/s from the disk, "
        "0.1 GB/s from the Hub: assumptions"
    )


def _changes(gpu: dict[str, Any]) -> Iterator[str]:
    for change in gpu["changes"]:
        words = " ".join(f"--set {word}" for word in change["set"])
        outcome, count = "fits" if change["fits"] else "still too large", change["checkpoint_layers"]
        yield f"    {words}: {outcome}, {_gb(change['peak_bytes'])} GB ({count} layers checkpointed)"
    if not any(change["fits"] for change in gpu["changes"]):
        yield "    then use smaller images (--set model.max_pixels=401408) or a smaller model"


def _sharded(gpu: dict[str, Any], plan: dict[str, Any]) -> Iterator[str]:
    """How many cards it would take, if weights can be divided."""
    if plan["quantization"] is not None:
        return
    words, found = "--set training.sharding=fsdp", gpu["sharded"]
    if found is None:
        yield f"    {words}: still too large on {CARDS[-1]} cards"
        return
    yield (
        f"    {words} on {found['cards']} cards: fits, {_gb(found['peak_bytes'])} GB on each "
        f"({found['checkpoint_layers']} layers checkpointed)"
    )


def _gb(count: int) -> str:
    return _number(count / 1e9)


def _tera(count: int) -> str:
    return _number(count / 1e12)


def _number(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"

"""Exporting a model in 8 or 4 bits: merged, calibrated on train rows, quantized by llm-compressor, loaded again.

llm-compressor pins its own torch and transformers. So it lives in an environment of its own, and runs as a script that
knows nothing of vlmtune. What quantizing costs is then measured like everything else: with the same test rows.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from vlmtune import environments
from vlmtune.errors import ConfigError, EnvironmentProblem, IntegrityError
from vlmtune.files import translate_os_errors, write_json
from vlmtune.modeling.loading import pick_device
from vlmtune.pipeline.export import building_of, copy_processor, merge_into
from vlmtune.pipeline.session import Session, nested_part, training_examples
from vlmtune.planning.plan import shapes_of
from vlmtune.processing.encoder import Encoded, collate
from vlmtune.run_layout import folder_manifest_path
from vlmtune.types import QuantizationScheme

CALIBRATED: tuple[QuantizationScheme, ...] = ("awq", "gptq")
"""Schemes that need samples; the 8-bit ones scale activations as they come."""

PYTHON = Path(".venv-llmcompressor/bin/python")
INSTALL = (
    "uv venv --python 3.11 .venv-llmcompressor && uv pip install --python .venv-llmcompressor llmcompressor torchvision"
)
SCRIPT = Path(__file__).with_name("_llm_compressor.py")
CALIBRATION_ROWS, PROBE_ROWS = 256, 8
FEWEST_SAME = 0.5
"""Share of the probes' tokens below which the quantized model is broken rather than less exact."""
LOG_LINES = 12
NO_TARGET = -100
"""In a sample's targets: a position that is not compared."""


def find_python(configured: Path | None) -> Path:
    """The Python of llm-compressor's environment.

    Raises:
        EnvironmentProblem: llm-compressor is not installed there; says how to install it.
    """
    return environments.find_python(configured or PYTHON, "llm-compressor", "llmcompressor", INSTALL)


def export_quantized(
    session: Session, target: Path, adapter: Path | None, scheme: QuantizationScheme, python: Path
) -> Path:
    """Write a quantized checkpoint, in the format that vLLM and transformers read (compressed-tensors).

    Args:
        session: of the config.
        target: folder that must not exist.
        adapter: merged first; None quantizes the base model.
        scheme: fp8 and int8 are 8 bits for weights and activations, awq and gptq 4 bits for weights.
        python: of llm-compressor's environment.

    Raises:
        ConfigError: the folder exists, or the model has experts or is quantized already.
        EnvironmentProblem: llm-compressor failed; shows its last lines.
        IntegrityError: the adapter does not fit, or the quantized model says something else. Nothing is left behind.
    """
    _refuse(session, scheme)
    checkpoint, calibrates = session.encoder.checkpoint, scheme in CALIBRATED
    with building_of(target) as building:
        source, merged = checkpoint.source, building / "merged"
        if adapter is not None:
            merged.mkdir()
            merge_into(session, merged, adapter)
            source = str(merged)
        samples = _write_samples(session, building / "samples", CALIBRATION_ROWS if calibrates else PROBE_ROWS)
        with translate_os_errors(building):
            copy_processor(session.encoder, building)
        job = {
            "source": source,
            "revision": checkpoint.commit if adapter is None else None,
            "target": str(building),
            "scheme": scheme,
            "ignore": _left_alone(session),
            "precision": session.config.training.precision,
            "samples": [str(file) for file in samples],
            "probes": PROBE_ROWS,
            "calibrates": calibrates,
            "device": pick_device(session.config.model),
        }
        same = _run(session, python, building / "job.json", job)
        with translate_os_errors(building):
            for leftover in (merged, building / "samples"):
                shutil.rmtree(leftover, ignore_errors=True)
            (building / "job.json").unlink()
        provenance = session.provenance(
            adapter=session.verify_adapter(adapter) if adapter is not None else None,
            quantized={"scheme": scheme, "calibration_rows": len(samples) if calibrates else 0},
        )
        write_json(folder_manifest_path(building), provenance.manifest(same_tokens=same))
        building.rename(target)
    return target


def _refuse(session: Session, scheme: QuantizationScheme) -> None:
    """Refuse what cannot be quantized, before anything is loaded."""
    checkpoint, model = session.encoder.checkpoint, session.config.model
    if checkpoint.stored is not None or model.quantization is not None:
        raise ConfigError("the base model is quantized already; export from its 16-bit checkpoint")
    if (shapes := shapes_of(checkpoint)).active_parameters != shapes.parameters:
        raise ConfigError("models with stacked experts are not quantized here; serve the merged 16-bit checkpoint")
    if scheme == "awq" and pick_device(model) == "cpu":
        raise ConfigError("llm-compressor's AWQ needs a GPU; --quantize gptq gives 4 bits, too")


def _left_alone(session: Session) -> list[str]:
    """Modules that stay as they are: everything that sees pixels, linear attention, the head."""
    family = session.encoder.checkpoint.family
    ignored = [f"re:{re.escape(name)}.*" for name in (family.vision_tower, *family.mergers)]
    linear = [f"re:.*{re.escape(family.linear_attention)}.*"] if family.linear_attention else []
    return ["re:.*lm_head", *ignored, *linear]


def _write_samples(session: Session, folder: Path, count: int) -> list[Path]:
    """Train rows with their answers as the model's inputs; with `targets`, where there is one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    rows = nested_part(session.rows("train"), count)
    examples, files = training_examples(session, rows), []
    for number, row in enumerate(rows):
        encoded: Encoded = examples.encode_example(row)
        tensors = collate([encoded], session.encoder, "right", "cpu", torch.float32)
        trained = torch.tensor(encoded.rendered.loss_mask[1:])
        targets = torch.full_like(tensors["input_ids"], NO_TARGET)
        targets[0, :-1][trained] = tensors["input_ids"][0, 1:][trained]
        files.append(folder / f"{number}.safetensors")
        save_file({name: value.contiguous() for name, value in {**tensors, "targets": targets}.items()}, files[-1])
    return files


def _run(session: Session, python: Path, file: Path, job: dict[str, Any]) -> float:
    """Run the script; the share of the probes' tokens that are still the most likely ones."""
    write_json(file, job)
    scheme = job["scheme"]
    session.progress.note(f"quantizing to {scheme} with {python}")
    ended = subprocess.run([str(python), "-I", str(SCRIPT), str(file)], capture_output=True, text=True, check=False)
    lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    if ended.returncode != 0:
        shown = "\n".join(f"  {line}" for line in lines[-LOG_LINES:])
        raise EnvironmentProblem(f"llm-compressor failed (exit {ended.returncode}):\n{shown}")
    result = json.loads(ended.stdout.strip().splitlines()[-1])
    if not result["finite"]:
        raise IntegrityError(f"the logits of the {scheme} model are not finite numbers: it is broken")
    same: float = result["same"] / max(1, result["tokens"])
    session.progress.note(
        f"{scheme}: the most likely token is the same at {same:.1%} of {result['tokens']:,} positions"
    )
    if same < FEWEST_SAME:
        raise IntegrityError(
            f"the {scheme} model has the same most likely token as before at only {same:.0%} of the answers' "
            "positions: it is broken. Try fp8 or int8, or serve the merged checkpoint"
        )
    return same

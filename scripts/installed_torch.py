"""What torch does this interpreter have, and wheels that stand for it: setup_gpu_env.sh runs this with the machine's
own Python. Standard library only, and old Pythons too: nothing is installed yet.

    python scripts/installed_torch.py show           # one line: Python, torch, CUDA or "cpu", folder of torch
    python scripts/installed_torch.py stand-ins DIR  # writes DIR/torch-….whl and DIR/torchvision-….whl
"""

import ast
import importlib.util
import re
import sys
import zipfile
from pathlib import Path


def version_file(package):
    """The package's version.py, None where it is not installed. Found without importing: that would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    return file if file.is_file() else None


def facts(file):
    """The constants of a version.py. Read, not run: torchvision's imports torch."""
    found = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[target.id] = node.value.value
    return found


def show():
    """Print what is there; end with 1 where there is no torch."""
    file = version_file("torch")
    if file is None:
        return 1
    found = facts(file)
    python = "{}.{}".format(*sys.version_info)
    print(python, found["__version__"], found.get("cuda") or "cpu", file.parent.parent, sep="\t")
    return 0


def write_stand_in(folder, package, version):
    """A wheel with a name, a version and no contents: uv counts it as the package, Python imports the machine's."""
    info = f"{package}-{version}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nSummary: The machine's own.\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: installed_torch.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["RECORD"] = "".join(f"{info}/{name},,\n" for name in (*files, "RECORD"))
    with zipfile.ZipFile(str(Path(folder) / f"{package}-{version}-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(f"{info}/{name}", text)


def lowest_torchvision():
    """The oldest version that pyproject.toml allows."""
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    return re.search(r'"torchvision>=([0-9.]+)"', project.read_text(encoding="utf-8")).group(1)


def write_stand_ins(folder):
    """Of torch; and of torchvision, even where it is missing: a torchvision of another build breaks transformers,
    while transformers without any is fine. vlmtune needs it in its tests alone.
    """
    write_stand_in(folder, "torch", facts(version_file("torch"))["__version__"])
    vision = version_file("torchvision")
    version = facts(vision)["__version__"] if vision else lowest_torchvision() + "+absent"
    write_stand_in(folder, "torchvision", version)
    return 0


if __name__ == "__main__":
    sys.exit(show() if sys.argv[1:] == ["show"] else write_stand_ins(sys.argv[2]))

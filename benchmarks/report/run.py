"""Size of a report's page, seconds until it is ready, milliseconds from a filter to the repaint; 5,000 rows.

    OMP_NUM_THREADS=1 python benchmarks/report/run.py          # writes results.json and README.md

Texts and pictures are made from a seed: captions of a photo data set's size, thumbnails that compress like photos.
The browser is the headless Chromium of this machine, without GPU. "Ready" is from the request to the first frame after
the script has drawn the first 50 cards; "repaint" from the click to the second frame after it.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from vlmtune.images import thumbnail
from vlmtune.predictions import Line
from vlmtune.report import ReportConfig
from vlmtune.report import html as page
from vlmtune.report.rows import images_shown
from vlmtune.scoring import EvaluationConfig, StatisticsConfig
from vlmtune.scoring.comparison import compare
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import captioning

HERE = Path(__file__).parent
LIMITS = {"page, MB": 25, "ready, s": 3, "repaint, ms": 300}
CHOOSE = "s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('{}'))"
ACTIONS = {
    "chip Losses": "document.querySelector('[data-kind=losses]').click()",
    "chip All": "document.querySelector('[data-kind=all]').click()",
    "sort by length": CHOOSE.format("sort", "long", "change"),
    "sort by change": CHOOSE.format("sort", "size", "change"),
    "search, first letter": CHOOSE.format("search", "b", "input"),
    "search, a word": CHOOSE.format("search", "bab", "input"),
    "search cleared": CHOOSE.format("search", "", "input"),
    "another metric": CHOOSE.format("metric", "sacrebleu", "change"),
    "next page": "document.getElementById('after').click()",
}
TIMED = """action => new Promise(done => {
  const start = performance.now();
  (0, eval)(`(() => { let s; ${action} })()`);
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""


def lines(rows: int, noise: float, seed: int) -> list[Line]:
    """Captions of 11 words with 5 references; the answer is the first one with a share of other words."""
    rng, own = random.Random(seed), random.Random(0)
    words = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgklmnprst"]
    made = []
    for n in range(rows):
        references = [" ".join(own.choice(words) for _ in range(11)) for _ in range(5)]
        said = " ".join(word if rng.random() > noise else rng.choice(words) for word in references[0].split())
        made.append(Line(f"row-{n:05d}", said, {"references": references}, finish_reason="stop", image=f"{n:064x}"))
    return made


def photo(seed: int) -> bytes:
    """A thumbnail with detail at every scale, as photos have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((192, 256, 3))
    for size in (4, 8, 16, 32, 64, 128, 256):
        noise = rng.integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((256, 192), Image.Resampling.BICUBIC)) / size**0.6
    total = 255 * (total - total.min()) / (total.max() - total.min())
    return thumbnail(Image.fromarray(total.astype(np.uint8)))


def measure(file: Path, browser: Any, repeats: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds until ready, and milliseconds to the repaint of each action, one of each per fresh page."""
    ready: list[float] = []
    repaints: dict[str, list[float]] = {name: [] for name in ACTIONS}
    for _ in range(repeats):
        shown: Page = browser.new_context(viewport={"width": 1200, "height": 900}, bypass_csp=True).new_page()
        start = time.perf_counter()
        shown.goto(file.as_uri(), wait_until="commit")
        shown.wait_for_selector("html[data-ready]", state="attached")
        shown.evaluate("() => new Promise(done => requestAnimationFrame(done))")
        ready.append(time.perf_counter() - start)
        for name, action in ACTIONS.items():
            repaints[name].append(shown.evaluate(TIMED, action))
        shown.context.close()
    return ready, repaints


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def main() -> None:
    """Make, render, open, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    sides = PredictionFile("base", lines(asked.rows, 0.6, 1)), PredictionFile("tuned", lines(asked.rows, 0.3, 2))
    evaluation = EvaluationConfig(statistics=StatisticsConfig(resamples=1000))
    start = time.process_time()
    plain = compare(*sides, captioning.TASK, captioning.Config(), evaluation).to_json()
    compared = time.process_time() - start
    pictures = {image: photo(n) for n, image in enumerate(images_shown(plain, ReportConfig().examples))}
    start = time.process_time()
    html = page.render(plain, pictures, ReportConfig()).text
    rendered = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        ready, repaints = measure(file, browser, asked.repeats)
        browser_version = browser.version
    results = {
        "rows": asked.rows,
        "repeats": asked.repeats,
        "pictures": len(pictures),
        "picture, KB": round(statistics.fmean(map(len, pictures.values())) / 1000, 2),
        "compare, CPU s": round(compared, 2),
        "render, CPU s": round(rendered, 2),
        "page, MB": round(len(html.encode()) / 1e6, 2),
        "ready, s": spread(ready),
        "repaint, ms": {name: spread(values) for name, values in repaints.items()},
        "limits": LIMITS,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Chromium {browser_version}, "
        f"Python {platform.python_version()}, jinja2 {version('jinja2')}",
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(readme(results), encoding="utf-8")


def readme(results: dict[str, Any]) -> str:
    """The results for people."""

    def said(value: dict[str, float], digits: int) -> str:
        return f"{value['median']:.{digits}f} ({value['least']:.{digits}f}-{value['most']:.{digits}f})"

    repaints = "".join(
        f"| {name} to repaint, ms | {said(v, 0)} | 300 |\n" for name, v in results["repaint, ms"].items()
    )
    return f"""# The report's page with {results["rows"]:,} rows

<!-- Written by run.py. -->

{results["rows"]:,} captions with 5 references, {results["pictures"]} thumbnails of {results["picture, KB"]} KB.
Median (minimum-maximum) of {results["repeats"]} fresh pages in headless Chromium, from a file, without GPU.

| what | measured | at most |
|---|---|---|
| page, MB | {results["page, MB"]} | 25 |
| ready, s | {said(results["ready, s"], 2)} | 3 |
{repaints}| rendering in Python, CPU s | {results["render, CPU s"]} | |
| the comparison itself, CPU s | {results["compare, CPU s"]} | |

Command: `OMP_NUM_THREADS=1 python benchmarks/report/run.py`; {results["machine"]}.
"Ready" is from the request to the first frame with cards, "repaint" from the click to the second frame after it. Times
are wall-clock times and include other work of the machine.
"""


if __name__ == "__main__":
    main()

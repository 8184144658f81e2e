"""Write docs/images/report*.png from a report: its top, the gallery in dark mode, its top on a phone.

    uv run python -m vlmtune demo
    uv run python scripts/make_report_images.py outputs/demo/report.html

Needs Chromium on the PATH. Images have 256 colours, so that each stays well under 120 KB.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SCREENSHOTS = {
    "report": ("light", 1200, 1105, "body"),
    "report-dark": ("dark", 1200, 1620, "section:has(#changes)"),
    "report-phone": ("light", 390, 1480, "body"),
}
"""Name: (colour scheme, width, height, selector of the element at the top)."""


def quantized(image: Image.Image) -> Image.Image:
    """Reduce to 256 colours: the most frequent exactly, so that no surface changes tint; the rest are approximated."""
    counts = sorted(image.getcolors(1 << 24) or [], reverse=True)
    spread = image.quantize(96, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    exact = [channel for _, colour in counts[:160] for channel in colour]
    palette = Image.new("P", (1, 1))
    palette.putpalette((exact + spread)[:768])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    report = Path(sys.argv[1]).resolve()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name, (scheme, width, height, top) in SCREENSHOTS.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
            )
            page = context.new_page()
            page.goto(report.as_uri())
            page.locator(top).evaluate("element => scrollTo(0, element.getBoundingClientRect().top - 16)")
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            quantized(image).save(IMAGES / f"{name}.png", optimize=True)
            context.close()


if __name__ == "__main__":
    main()

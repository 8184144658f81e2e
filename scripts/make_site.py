"""Build the documentation site into site/.

    uv run --isolated --only-group docs python scripts/make_site.py

The pages are docs/ and, from the root, README, CONTRIBUTING and CHANGELOG. They are assembled in build/docs, and their
links point at pages of the site. A link to any other file of the repository becomes that file's path, because the site
does not know where the repository is hosted. llms.txt is copied to the site with the Markdown files it names.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSEMBLED, SITE = ROOT / "build" / "docs", ROOT / "site"
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/ that become pages, and their names in the site."""

LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""A relative link or image: text, path and anchor. One with a scheme does not match, nor an anchor alone."""


def main() -> None:
    """Assemble the pages, build the site, and end with the builder's exit code."""
    for folder in (ASSEMBLED, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    for source, page in pages().items():
        target = ASSEMBLED / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            target.write_text(relinked((ROOT / source).read_text(encoding="utf-8"), source, page), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, target)
    for page in re.findall(r'= "([^"]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")):
        if not (ASSEMBLED / page).is_file():  # the builder leaves such an entry out without a word
            sys.exit(f"zensical.toml: the navigation names {page}, which does not exist")
    built = subprocess.run(["zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    for source in ("llms.txt", *(source for source in pages() if source.endswith(".md"))):
        (SITE / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, SITE / source)


def pages() -> dict[str, str]:
    """Every file of the site, by its path in the repository: its path in the site."""
    files = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*") if file.is_file())
    return FROM_ROOT | {file: file.removeprefix("docs/").replace("README.md", "index.md") for file in files}


def relinked(text: str, source: str, page: str) -> str:
    """The text of `source`, its links rewritten for the place of `page` in the site."""
    known = pages()

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        if target not in known:
            return f"{found[1]} (`{target}`)"
        relative = posixpath.relpath(known[target], posixpath.dirname(page) or ".")
        return f"[{found[1]}]({relative}{found[3] or ''})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    main()

"""The page and the text say what the comparison says, and text of rows stays text."""

import base64
import hashlib
import re
from html import unescape

import pytest
from pieces import QUICK, judged, lines

from vlmtune.predictions import Line
from vlmtune.report import ReportConfig, page, text

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "</style><b>",
    "&lt;b&gt;",
    "\u202ertl",
]


def test_numbers_on_page_and_in_text_are_the_comparison_s() -> None:
    plain = judged(lines(60, 0.6), lines(50, 0.2)).to_json()
    html, plain_text = page.render(plain, {}, ReportConfig()), text.render(plain)
    assert plain["verdict"] in unescape(html)
    for metric in plain["metrics"]:
        digits = 4 if metric["scale"] == 1 else 2
        for value in (metric["a"], metric["b"]):
            assert f">{value:.{digits}f}<" in html
            assert f" {value:.{digits}f} " in plain_text
    for warning in plain["warnings"]:
        assert warning in unescape(html)
        assert f"! {warning}" in plain_text


def test_the_same_comparison_gives_the_same_bytes() -> None:
    plain = judged(lines(40, 0.6), lines(40, 0.2)).to_json()
    picture = {"ff": b"webp"}
    assert page.render(plain, picture, ReportConfig()) == page.render(plain, picture, ReportConfig())


def test_the_style_s_hash_is_the_one_the_policy_allows() -> None:
    html = page.render(judged(lines(40, 0.6), lines(40, 0.2)).to_json(), {}, ReportConfig())
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in unescape(html)
    assert "default-src 'none'" in unescape(html)


@pytest.mark.parametrize("nasty", HOSTILE)
def test_hostile_text_is_only_text(nasty: str) -> None:
    rows = [Line(f"{nasty}{n}", nasty, {"references": [nasty]}, image=nasty) for n in range(25)]
    html = page.render(judged(rows, rows).to_json(), {}, ReportConfig())
    assert nasty in unescape(html)
    harmless = page.render(judged(plain_rows := lines(25, 0.5), plain_rows).to_json(), {}, ReportConfig())
    for tag in ("<script", "<img", "<b>", "onerror=alert(1)>"):
        assert html.count(tag) == harmless.count(tag)


def test_every_ending_gives_a_page() -> None:
    good = lines(30, 0.1)
    failed = [Line(line.id, None, line.truth, {"stage": "engine", "reason": "x"}) for line in good]
    for b in (good, failed, good[:1]):
        plain = judged(good, b, QUICK).to_json()
        assert plain["verdict"] in unescape(page.render(plain, {}, ReportConfig()))
        assert plain["verdict"] in text.render(plain)


def test_gains_losses_and_the_rest_are_shown_once() -> None:
    plain = judged(lines(90, 0.5), lines(90, 0.5, seed=9)).to_json()
    html = page.render(plain, {}, ReportConfig(examples=30))
    shown = re.findall(r'<p class="row">(row \d+) ·', html)
    assert len(shown) == len(set(shown)) == 30
    gains = {example["id"]: example["gain"] for example in plain["examples"]}
    assert gains[shown[0]] == max(gains.values())
    assert gains[shown[10]] == min(gains.values())

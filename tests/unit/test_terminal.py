"""What is printed moves no cursor and holds no secret, however either is spelled."""

import io
import json
import re
from html import unescape
from typing import Any

import pytest
from pages import hostile

from vlmtune.report import ReportConfig, html, markdown, model_card, table
from vlmtune.terminal import cleaner, echo, hide, printable, safe

HOSTILE = "\x1b]52;c;cm0=\x07\x1b[2K\rAll rows can be used.\x9b31m\u202e\u2028\x7f\ud800"


def test_control_characters_are_escaped_and_text_is_not() -> None:
    safe = printable(HOSTILE)
    assert safe.isprintable()
    assert safe.startswith("\\u001b]52;c;cm0=\\u0007\\u001b[2K\\u000dAll rows")
    text = "Zürich\t日本語 👩‍👧 naïve 'quoted' \\ \n next"
    assert printable(text) == text


def test_json_keeps_its_value() -> None:
    plain = {"id": HOSTILE, "text": "a\tb\nc"}
    assert json.loads(printable(json.dumps(plain, ensure_ascii=False))) == plain


def test_styles_may_choose_colors_and_nothing_else() -> None:
    assert printable("\x1b[1;32mred\x1b[0m\x1b[2J", styled=True) == "\x1b[1;32mred\x1b[0m\\u001b[2J"


KEY = 'sk-"\\/.1'


@pytest.mark.parametrize(
    "said",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY)[1:-1])[1:-1],
        "".join(f"\\u{ord(char):04x}" for char in KEY),
        "".join(f"\\u{ord(char):04X}" for char in KEY),
        "".join(f"\\\\u{ord(char):04x}" for char in KEY),
        KEY.replace("s", "\\u0073").replace("/", "\\/"),
    ],
)
def test_a_secret_is_hidden_in_every_spelling(said: str) -> None:
    assert hide(KEY, "KEY", f"bad key {said}!") == "bad key [KEY]!"


def test_what_is_no_secret_stays() -> None:
    assert hide("sk-12345", "KEY", "sk-12346 SK-12345 sk_12345") == "sk-12346 SK-12345 sk_12345"


def test_echo_hides_the_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-123")
    echo("said canary-123 and \\u0063anary-123\x1b[2J", err=True)
    echo("a flag", end="")
    assert capsys.readouterr() == ("a flag", "said [MY_API_KEY] and [MY_API_KEY]\\u001b[2J\n")


def test_a_cleaner_of_many_texts_hides_what_safe_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-123")
    monkeypatch.setenv("MY_LONGER_TOKEN", "canary-123-456")
    texts = [HOSTILE, "canary-123-456 canary-123", "\\u0063anary-123", "a caption"]
    assert [*map(cleaner(), texts)] == [*map(safe, texts)]
    assert cleaner()("canary-123-456 canary-123\x07") == "[MY_LONGER_TOKEN] [MY_API_KEY]\\u0007"


CANARY = 'sk-canary-"<0123'


def poisoned(value: Any) -> Any:
    """Values of a comparison, every text of which holds a key in two spellings and moves the cursor; names of keys
    and fixed words stay.
    """
    if isinstance(value, dict):
        fixed = ("status", "paired_by", "image", "primary", "unit", "name", "higher_is_better")
        return {key: item if key in fixed else poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return f"{value} {HOSTILE} {CANARY} {CANARY.replace('s', chr(92) + 'u0073')}" if isinstance(value, str) else value


def texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_pages_cards_and_tables_hold_no_control_character_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", CANARY)
    plain = poisoned(hostile())
    page = html.render(plain, {}, ReportConfig()).text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    origin: dict[str, Any] = {
        "task": {"name": f"vqa{HOSTILE}", "prompt": f"{HOSTILE}{CANARY}"},
        "model": {"name": "org/base", "commit": f"{HOSTILE}{CANARY}", "config_hash": HOSTILE},
        "preprocessing": {"pixels": {"min_pixels": 1, "max_pixels": HOSTILE}, "template": CANARY, "tokenizer": HOSTILE},
        "training": {"learning_rate": 1, "epochs": HOSTILE, "batch_size": 1, "lora": {"rank": 8}, "seed": CANARY},
    }
    card = model_card.render("team/name", plain, {"origin": origin}, None, "test")
    table.write(plain, rows := io.BytesIO())
    written = rows.getvalue().decode()
    shown = [unescape(page), *texts(json.loads(data[1])), markdown.render(plain), written, unescape(card)]
    for text in shown:
        without = text.replace("\r\n", "\n").replace("\ufeff", "")
        assert printable(without) == without
        assert "canary" not in text
    assert sum("[SOME_API_KEY]" in text for text in shown) > 20


def test_a_text_without_end_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    echo("x" * 100_000 + "\nnext", err=True)
    assert capsys.readouterr().err == f"{'x' * 5000}… [95,000 more characters]\nnext\n"
    assert len(markdown.escaped("x" * 100_000)) < 2100

"""What is printed moves no cursor and holds no secret, however either is spelled."""

import json

import pytest

from vlmtune.terminal import echo, hide, printable

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

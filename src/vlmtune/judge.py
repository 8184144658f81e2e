"""Asks a server with OpenAI's chat completions API which of two answers is better, and keeps its verdicts on disk.

Every verdict is appended to a file as it arrives, under a hash of everything that could change it: server, model,
temperature and the whole prompt. A rerun asks only for what is not there: a finished one asks nothing, one after a
failure asks about the rows without a verdict. Replies without a verdict are never kept.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from typing_extensions import TypedDict

from vlmtune import registry
from vlmtune.files import append_lines, cut_torn_line, whole_lines
from vlmtune.json_values import mismatch, parse_json
from vlmtune.progress import Progress, Silent
from vlmtune.run_layout import thumbnail_path
from vlmtune.scoring import JudgeConfig
from vlmtune.scoring.judge import IDENTICAL, Judgement, Pair, Preference
from vlmtune.signals import StopRequest
from vlmtune.thoughts import without_thinking
from vlmtune.types import Failure, ImageRef, Message, Outcome, Request, Unparsed

ENDING = """\
Explain your decision in at most three sentences. Then end with exactly one line:
"Verdict: 1" if answer 1 is better, "Verdict: 2" if answer 2 is better, or "Verdict: tie"."""

_VERDICT = re.compile(r"verdict\W{1,6}(?:answer\W{1,3})?(1|2|tie)\b", re.IGNORECASE)

_PLACES: Mapping[str, tuple[Preference, Preference]] = {"1": ("a", "b"), "2": ("b", "a"), "tie": ("tie", "tie")}
"""What a verdict means with A in front, and with B in front."""


def prompt(rubric: str, pair: Pair, b_first: bool) -> str:
    """What the judge is asked about a pair."""
    first, second = (pair.b, pair.a) if b_first else (pair.a, pair.b)
    parts = [rubric.strip()]
    parts += [f"<question>\n{pair.question}\n</question>"] if pair.question else []
    parts += [f"<reference>\n{text}\n</reference>" for text in pair.references]
    parts += [f"<answer_1>\n{first}\n</answer_1>", f"<answer_2>\n{second}\n</answer_2>", ENDING]
    return "\n\n".join(parts)


def read_verdict(reply: str) -> str | None:
    """The last verdict in a judge's reply, as "1", "2" or "tie"; None where it has none.

    What a model thinks before it answers does not count.
    """
    text = without_thinking(reply)
    if isinstance(text, Unparsed):
        return None
    bare = text.strip().strip("*.\"'").lower()
    if bare in _PLACES:
        return bare
    found = _VERDICT.findall(text)
    return found[-1].lower() if found else None


class _Verdict(TypedDict):
    """A line of the file of verdicts."""

    key: str
    verdict: str


class ServerJudge:
    """The judge of a config.

    Args:
        config: server, model and rubric.
        cache: file of the verdicts so far; need not exist.
        thumbnails: folder of the images' thumbnails, for `evaluation.judge.image`.
        progress: shows how many verdicts are there.
        stop: checked between replies.
    """

    def __init__(
        self,
        config: JudgeConfig,
        cache: Path,
        progress: Progress | None = None,
        stop: StopRequest | None = None,
        thumbnails: Path = Path(),
    ) -> None:
        self.config = config
        self._cache, self._thumbnails = cache, thumbnails
        self._progress, self._stop = progress or Progress(Silent()), stop or StopRequest()

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """One judgement per pair, in order. Equal answers are a tie, and nobody is asked.

        Raises:
            RemoteError: the server is down, hangs, or refuses everything; the verdicts so far are kept.
            EnvironmentProblem: it refuses the key, or the variable that holds it is not set.
            IntegrityError: another model answers.
            Interrupted, Terminated: after a signal.
        """
        prompts = [
            None if pair.a == pair.b else [prompt(self.config.rubric, pair, b_first) for b_first in (False, True)]
            for pair in pairs
        ]
        images = [pair.image if self.config.image else None for pair in pairs]
        keys = [
            None if both is None else [self._key(text, image) for text in both]
            for both, image in zip(prompts, images, strict=True)
        ]
        messages: dict[str, tuple[str | ImageRef, ...]] = {}
        failures: dict[str, tuple[str, bool]] = {}
        for both, hashes, image in zip(prompts, keys, images, strict=True):
            shown = self._shown(image) if self.config.image else ()
            for text, key in zip(both or (), hashes or (), strict=True):
                if shown is None:
                    failures[key] = "there is no thumbnail of its image", False
                else:
                    messages[key] = (*shown, text)
        verdicts = self._saved()
        failures |= self._ask({key: parts for key, parts in messages.items() if key not in verdicts}, verdicts)
        return [_judgement(hashes, verdicts, failures) for hashes in keys]

    def _shown(self, image: str | None) -> tuple[ImageRef, ...] | None:
        """The thumbnail of an image; None where there is none."""
        file = thumbnail_path(self._thumbnails, image) if image is not None else None
        return (ImageRef(str(file), file.read_bytes),) if file is not None and file.is_file() else None

    def _key(self, text: str, image: str | None) -> str:
        parts = [self.config.base_url, self.config.model, self.config.temperature, text, *([image] if image else [])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _saved(self) -> dict[str, str]:
        """Verdicts by key; lines that are not verdicts are asked again."""
        saved: dict[str, str] = {}
        for line in whole_lines(self._cache):
            with suppress(ValueError):
                record = parse_json(line)
                if mismatch(record, _Verdict) is None and record["verdict"] in _PLACES:
                    saved[record["key"]] = record["verdict"]
        return saved

    def _ask(
        self, texts: Mapping[str, tuple[str | ImageRef, ...]], verdicts: dict[str, str]
    ) -> dict[str, tuple[str, bool]]:
        """Ask for all verdicts, add them to `verdicts` and the file; returns (reason, refused) of those that failed."""
        failures: dict[str, tuple[str, bool]] = {}
        if not texts:
            return failures
        cut_torn_line(self._cache)
        openai, config = registry.load("engines", "openai"), self.config
        client = openai.open_client(
            openai.Config(
                base_url=config.base_url,
                api_key=config.api_key,
                temperature=config.temperature,
                max_new_tokens=config.max_tokens,
                concurrency=config.concurrency,
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                watchdog_s=config.watchdog_s,
                logprobs=False,
            ),
            config.model,
            "evaluation.judge.model",
        )
        requests = (Request(key, (Message("user", parts),)) for key, parts in texts.items())
        outcomes = client.answer(requests)
        with self._progress.step("judge", len(texts)) as step:
            for outcome in outcomes:
                verdict, reason, refused = self._read(outcome)
                if verdict is None:
                    failures[outcome.id] = reason, refused
                else:
                    verdicts[outcome.id] = verdict
                    line = {"key": outcome.id, "verdict": verdict, "reply": reason}
                    append_lines(self._cache, [json.dumps(line, ensure_ascii=False)])
                step.advance()
                self._stop.raise_if_requested(f"{len(verdicts)} verdicts are saved")
        return failures

    def _read(self, outcome: Outcome) -> tuple[str | None, str, bool]:
        """(verdict, the reply, whether the judge refused); without a verdict, the reason in place of the reply."""
        if isinstance(outcome, Failure):
            return None, outcome.reason, outcome.refused or outcome.stage == "prompt"
        if outcome.finish_reason == "length":
            limit = f"cut off at {self.config.max_tokens} tokens; raise evaluation.judge.max_tokens"
            return None, f"the judge's reply was {limit}", True
        verdict = read_verdict(outcome.text)
        said = " ".join(outcome.text.split())[:200]
        if verdict is None:
            return None, f"the judge gave no verdict: {said!r}", True
        return verdict, outcome.text, False


def _judgement(
    keys: Sequence[str] | None, verdicts: Mapping[str, str], failures: Mapping[str, tuple[str, bool]]
) -> Judgement:
    if keys is None:
        return IDENTICAL
    first, second = (verdicts.get(key) for key in keys)
    reason, refused = next((failures[key] for key in keys if key in failures), (None, False))
    return Judgement(
        None if first is None else _PLACES[first][0], None if second is None else _PLACES[second][1], reason, refused
    )

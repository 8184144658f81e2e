"""A language model as judge, against a scripted server of known quality, bias and noise: the preference for a place
cancels, the interval covers, nothing is asked twice, and whatever goes wrong is named."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_server
import pytest
from builders import QUICK
from commands import vlmtune_in_process
from fake_server import Body, Script, Step, Stub, always, asked, completion, status
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from vlmtune.config import load
from vlmtune.engines import _client as client
from vlmtune.errors import ConfigError, DataError, EnvironmentProblem, IntegrityError, RemoteError
from vlmtune.judge import ServerJudge, prompt, read_verdict
from vlmtune.pipeline import predict, run
from vlmtune.pipeline.session import Session
from vlmtune.predictions import Line
from vlmtune.report import ReportConfig, html, markdown, text
from vlmtune.run_layout import thumbnail_path
from vlmtune.scoring import JudgeConfig, StatisticsConfig
from vlmtune.scoring.comparison import Comparison, compare
from vlmtune.scoring.judge import Judgement, Pair
from vlmtune.scoring.pairing import PredictionFile
from vlmtune.tasks import captioning


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)


def says(reply: str) -> Step:
    return lambda exchange: exchange.reply(200, completion(exchange.body, reply, None))


def qualities(body: Body) -> list[float]:
    """Those of the first and of the second answer in a prompt."""
    return [float(number) for number in re.findall(r"<answer_\d>\nquality (\S+)", asked(body))]


def judging(bias: float = 0.0, noise: float = 0.0) -> Script:
    """Prefers the higher quality; `bias` is added to the first answer, `noise` is random but the same for a prompt."""

    def script(number: int, body: Body) -> Step:
        first, second = qualities(body)
        lead = first - second + bias + random.Random(asked(body)).gauss(0, noise)
        return says(f"Let me see.\n**Verdict: {'1' if lead > 0 else '2' if lead < 0 else 'tie'}**")

    return script


def side(name: str, values: Sequence[float], **more: Any) -> PredictionFile:
    return PredictionFile(
        name,
        [
            Line(
                f"row {n}",
                f"quality {value} of {n}",
                {"references": [f"reference {n}"]},
                meta=more.get("meta", {}).get(n, {}),
            )
            for n, value in enumerate(values)
        ],
    )


def config(stub: Stub | str, **more: Any) -> JudgeConfig:
    url = stub if isinstance(stub, str) else stub.base_url
    return JudgeConfig(base_url=url, model="judge-1", **{"max_retries": 1, "concurrency": 4, "timeout_s": 10, **more})


def judge(stub: Stub | str, a: PredictionFile, b: PredictionFile, folder: Path, **more: Any) -> Comparison:
    asker = ServerJudge(config(stub, **more), folder / "verdicts.jsonl")
    return compare(a, b, captioning.TASK, captioning.Config(), QUICK, judge=asker)


def result(comparison: Comparison) -> Any:
    return comparison.result["judge"]


BETTER = ([0.0] * 40, [1.0] * 24 + [-1.0] * 12 + [0.0] * 4)
"""B is better on 24 rows, worse on 12, and equal on 4."""


@pytest.mark.parametrize("bias", [0.0, 0.5, -0.5])
def test_a_preference_for_a_place_cancels(bias: float, tmp_path: Path) -> None:
    with fake_server.serving(judging(bias)) as stub:
        comparison = judge(stub, side("a", BETTER[0]), side("b", BETTER[1]), tmp_path)
    found, metric = result(comparison), comparison.metrics[-1]
    assert (found["a_better"], found["b_better"], found["ties"]) == (12, 24, 4)
    assert found["win_rate"] == metric["b"] == pytest.approx((24 + 2) / 40)
    assert (metric["name"], metric["delta"]) == ("judge", pytest.approx(12 / 40))
    assert metric["ci"] is not None
    assert found["win_rate_ci"] == pytest.approx([(1 + end) / 2 for end in metric["ci"]])
    assert found["identical"] == 4, "nobody is asked about equal answers"


def test_a_judge_that_only_looks_at_the_place_finds_nothing(tmp_path: Path) -> None:
    with fake_server.serving(judging(bias=9.0)) as stub:
        comparison = judge(stub, side("a", BETTER[0]), side("b", BETTER[1][:36] + [0.5] * 4), tmp_path)
    found = result(comparison)
    assert (found["ties"], found["contradictions"], found["win_rate"]) == (40, 40, 0.5)
    assert (found["position_bias"], found["consistency"]) == (1.0, 0.0)
    assert any("agrees with itself on 0% of the rows" in warning for warning in comparison.result["warnings"])
    assert comparison.result["primary"] != "judge", "the judge never decides the verdict"


class Simulated:
    """A judge without a server: true preferences of rows, a bias and noise."""

    def __init__(self, seed: int, bias: float, noise: float, lead: float) -> None:
        self.config = JudgeConfig(model="simulated")
        self._rng, self._bias, self._noise, self._lead = random.Random(seed), bias, noise, lead

    def verdict(self, lead: float) -> float:
        """1 if the first answer is preferred, -1 if the second is."""
        total = lead + self._bias + self._rng.gauss(0, self._noise)
        return 0 if abs(total) < 0.2 else 1 if total > 0 else -1

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        made = []
        for _ in pairs:
            lead = self._rng.gauss(self._lead, 1)
            a_first, b_first = self.verdict(-lead), self.verdict(lead)
            named = {1: ("a", "b"), -1: ("b", "a"), 0: ("tie", "tie")}
            made.append(Judgement(named[a_first][0], named[b_first][1]))  # type: ignore[arg-type]
        return made


def test_the_interval_covers_with_the_judges_noise() -> None:
    """160 comparisons of 60 rows by a biased, noisy judge; the truth is its mean over 60,000 rows."""
    world = {"bias": 0.6, "noise": 0.8, "lead": 0.3}
    many = Simulated(-1, **world)([Pair("a", "b", ())] * 60_000)
    truth = sum(one.value or 0.0 for one in many) / len(many)
    a, b = side("a", [0.0] * 60), side("b", [1.0] * 60)
    fast = QUICK.model_copy(update={"metrics": ["bleu_1"], "statistics": StatisticsConfig(resamples=400)})
    covered, noise = 0, []
    for seed in range(160):
        comparison = compare(a, b, captioning.TASK, captioning.Config(), fast, judge=Simulated(seed, **world))
        low, high = comparison.metrics[-1]["ci"] or (0.0, 0.0)
        covered += low <= truth <= high
        noise.append(result(comparison)["noise_share"])
    assert 0.90 <= covered / 160 <= 0.99
    assert 0.1 < sum(noise) / len(noise) < 0.6


def seeds_of(name: str, leads: Sequence[float], count: int = 40) -> tuple[PredictionFile, ...]:
    """A side of several training seeds; a seed's answers are better than 0 by its lead on half of the rows."""
    return tuple(
        side(f"{name}{k}", [lead if n % 2 else -lead / 4 for n in range(count)]) for k, lead in enumerate(leads)
    )


def test_every_training_seed_is_judged(tmp_path: Path) -> None:
    """Against A's only file, or the seeds of A in turn; the score is the mean over the pairs."""
    a, b = side("a", [0.0] * 40), seeds_of("b", [1.0, -1.0, 2.0])
    with fake_server.serving(judging(bias=0.05)) as stub:
        asker = ServerJudge(config(stub), tmp_path / "verdicts.jsonl")
        comparison = compare(a, b, captioning.TASK, captioning.Config(), QUICK, judge=asker)
        assert len(stub.seen) == 3 * 2 * 40
        alone = [result(judge(stub, a, one, tmp_path))["win_rate"] for one in b]
        assert len(stub.seen) == 3 * 2 * 40, "the same pairs, so nothing is asked again"
    found, metric = result(comparison), comparison.metrics[-1]
    assert metric["seeds"] == {"a": [pytest.approx(1 - sum(alone) / 3)], "b": pytest.approx(alone)}
    assert found["win_rate"] == metric["b"] == pytest.approx(sum(alone) / 3)
    assert metric["delta"] == pytest.approx(metric["b"] - metric["a"])
    assert metric["interval_method"] == "seeds_t"
    assert (found["rows"], found["refused"]) == (120, 0)
    assert len(comparison.examples) == 40


def test_seeds_of_both_sides_are_judged_in_pairs(tmp_path: Path) -> None:
    a, b = seeds_of("a", [0.0, 0.5]), seeds_of("b", [1.0, 1.0])
    with fake_server.serving(judging()) as stub:
        asker = ServerJudge(config(stub), tmp_path / "verdicts.jsonl")
        comparison = compare(a, b, captioning.TASK, captioning.Config(), QUICK, judge=asker)
        assert len(stub.seen) == 2 * 2 * 40
    assert comparison.metrics[-1]["seeds"] is not None
    assert comparison.metrics[-1]["seeds"]["b"] == [0.5, 0.5]


def test_the_interval_covers_over_training_seeds() -> None:
    """100 comparisons of 3 seeds: a seed's own lead varies, and the truth is the mean over all seeds."""

    class OfSeeds(Simulated):
        def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
            judgements: list[Judgement] = []
            for _ in range(3):
                self._lead = self._rng.gauss(0.3, 0.4)
                judgements += super().__call__(pairs[: len(pairs) // 3])
            return judgements

    world = {"bias": 0.3, "noise": 0.5, "lead": 0.0}
    many = OfSeeds(-1, **world)
    truth = sum(sum(one.value or 0.0 for one in many([Pair("a", "b", ())] * 60)) / 60 for _ in range(1500)) / 1500
    a, b = side("a", [0.0] * 60), seeds_of("b", [1.0] * 3, 60)
    fast = QUICK.model_copy(update={"metrics": ["bleu_1"], "statistics": StatisticsConfig(resamples=400)})
    covered = 0
    for seed in range(100):
        comparison = compare(a, b, captioning.TASK, captioning.Config(), fast, judge=OfSeeds(seed, **world))
        low, high = comparison.metrics[-1]["ci"] or (0.0, 0.0)
        covered += low <= truth <= high
    assert covered >= 88


def test_a_noiseless_judge_has_no_noise(tmp_path: Path) -> None:
    with fake_server.serving(judging()) as stub:
        assert result(judge(stub, side("a", BETTER[0]), side("b", BETTER[1]), tmp_path))["noise_share"] == 0


def test_nothing_is_asked_twice_and_what_changed_is_asked_anew(tmp_path: Path) -> None:
    a, b = side("a", BETTER[0]), side("b", BETTER[1])
    with fake_server.serving(judging()) as stub:
        first = judge(stub, a, b, tmp_path)
        assert len(stub.seen) == 2 * 36, "both orders of every row whose answers differ"
        again = judge(stub, a, b, tmp_path)
        assert (len(stub.seen), again.to_json()) == (72, first.to_json())
        with (tmp_path / "verdicts.jsonl").open("a") as stream:
            stream.write('{"key": "torn')
        changed = replace(b, lines=[replace(b.lines[0], prediction="quality -5 new"), *b.lines[1:]])
        assert result(judge(stub, a, changed, tmp_path))["b_better"] == 23
        assert len(stub.seen) == 74, "the two orders of the changed answer"
        judge(stub, a, b, tmp_path, rubric="Prefer the longer one.")
        assert len(stub.seen) == 74 + 72
        judge(stub, a, b, tmp_path, concurrency=2, max_tokens=50)
        assert len(stub.seen) == 74 + 72, "neither speed nor the limit of a complete reply matters"
        renamed = config(stub).model_copy(update={"model": "judge-2"})
        compare(
            a, b, captioning.TASK, captioning.Config(), QUICK, judge=ServerJudge(renamed, tmp_path / "verdicts.jsonl")
        )
        assert len(stub.seen) == 74 + 72 + 72


def only_row(number: int, step: Step, otherwise: Script) -> Script:
    """`step` for one row of the files; the others go on."""

    def script(count: int, body: Body) -> Step:
        return step if f"reference {number}\n" in asked(body) else otherwise(count, body)

    return script


def filtered(exchange: Any) -> None:
    body = completion(exchange.body, "", None)
    body["choices"][0]["finish_reason"] = "content_filter"
    exchange.reply(200, body)


def cut_off(exchange: Any) -> None:
    body = completion(exchange.body, "I would say that", None)
    body["choices"][0]["finish_reason"] = "length"
    exchange.reply(200, body)


@pytest.mark.parametrize(
    ("step", "reason", "refused"),
    [
        (says("I'm sorry, I cannot compare these."), "gave no verdict: .*cannot compare", True),
        (says("Verdict: 3"), "gave no verdict", True),
        (says(""), "gave no verdict: ''", True),
        (filtered, "content_filter", True),
        (cut_off, r"cut off at 1024 tokens; raise evaluation\.judge\.max_tokens", True),
        (status(400, "flagged by the content policy"), "content policy", True),
        (status(503, "overloaded"), "overloaded", False),
        (fake_server.dropped, "closed the connection", False),
        (fake_server.hang, "gave no answer in 1 s", False),
        (lambda exchange: exchange.reply(200, {"choices": 3}), "not a chat completion", False),
    ],
)  # fmt: skip
def test_a_row_without_a_verdict_is_named_and_asked_again(
    step: Step, reason: str, refused: bool, tmp_path: Path
) -> None:
    a, b = side("a", BETTER[0]), side("b", BETTER[1])
    with fake_server.serving(only_row(3, step, judging())) as stub:
        limit = 1.0 if step is fake_server.hang else 10.0
        found = result(comparison := judge(stub, a, b, tmp_path, timeout_s=limit))
        assert (found["rows"], found["b_better"]) == (39, 23)
        assert (found["refused"], found["failed"]) == ((1, 0) if refused else (0, 1))
        (failure,) = found["failures"]
        assert failure["id"] == "row 3"
        assert re.search(reason, failure["reason"])
        assert "row 3: " in text.render(comparison.result)
        example = comparison.examples[3]
        assert example["judge"]["failure"] == failure["reason"]
        assert example["deltas"] is not None
        assert example["deltas"]["judge"] is None
        stub.script = judging()
        before = len(stub.seen)
        assert result(judge(stub, a, b, tmp_path))["b_better"] == 24
        assert len(stub.seen) == before + 2


def test_many_rows_without_a_verdict_are_no_evidence(tmp_path: Path) -> None:
    def script(number: int, body: Body) -> Step:
        return says("No.") if re.search(r"reference \d\n", asked(body)) else judging()(number, body)

    with fake_server.serving(script) as stub:
        comparison = judge(stub, side("a", BETTER[0]), side("b", BETTER[1]), tmp_path)
    assert any("gave no verdict on 10 of 40 rows" in warning for warning in comparison.result["warnings"])


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (status(503), RemoteError, "run the same command again"),
        (status(404, "no such model"), RemoteError, r"Check evaluation\.judge\.base_url"),
        (status(401, "bad key"), EnvironmentProblem, r"evaluation\.judge\.api_key"),
        (fake_server.as_another, IntegrityError, r"set evaluation\.judge\.model: another"),
    ],
)
def test_what_is_wrong_for_all_rows_ends_the_command(
    step: Step, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """And the verdicts that came before are kept."""
    a, b = side("a", BETTER[0]), side("b", BETTER[1])
    late = lambda number, body: judging()(number, body) if number < 8 else step  # noqa: E731
    with fake_server.serving(late) as stub, pytest.raises(error, match=message):
        judge(stub, a, b, tmp_path, concurrency=1)
    kept = len((tmp_path / "verdicts.jsonl").read_text().splitlines())
    assert kept == 8
    with fake_server.serving(judging()) as other:
        asker = config(other).model_copy(update={"base_url": stub.base_url})
        assert ServerJudge(asker, tmp_path / "verdicts.jsonl")._saved().keys()


def test_a_judge_that_says_something_else_on_every_row(tmp_path: Path) -> None:
    with fake_server.serving(always(says("I like both."))) as stub, pytest.raises(RemoteError) as error:
        judge(stub, side("a", BETTER[0][:30]), side("b", BETTER[1][:30]), tmp_path)
    assert "judge-1 gave no verdict on any of 30 rows: the judge gave no verdict: 'I like both.'" in str(error.value)


def test_a_judge_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="cannot be reached"):
        judge("http://127.0.0.1:9/v1", side("a", BETTER[0]), side("b", BETTER[1]), tmp_path)


def test_human_labels_show_how_far_it_can_be_trusted(tmp_path: Path) -> None:
    labels = ["B"] * 14 + ["a"] * 5 + ["tie"] * 5 + [""] * 2 + ["A"] * 8
    b = side("b", BETTER[1], meta={n: {"human_preference": label} for n, label in enumerate(labels)})
    with fake_server.serving(judging()) as stub:
        comparison = judge(stub, side("a", BETTER[0]), b, tmp_path)
        found = result(comparison)["agreement"]
        said = ["b" if value > 0 else "a" if value < 0 else "tie" for value in BETTER[1]]
        both = [(label.lower(), said[n]) for n, label in enumerate(labels) if label]
        assert (found["rows"], found["agree"]) == (32, sum(x == y for x, y in both))
        assert found["kappa"] == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))
        assert found["ci"][0] < found["share"] < found["ci"][1]
        assert f"agrees with people on {found['agree']} of 32 labeled rows" in text.render(comparison.result)
        b.lines[0].meta["human_preference"] = "left"  # type: ignore[index]
        with pytest.raises(DataError, match="row 0: 'human_preference' must be A, B or tie"):
            judge(stub, side("a", BETTER[0]), b, tmp_path)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: 1", "1"),
        ("reasons\n**Verdict:** 2", "2"),
        ("verdict: TIE.", "tie"),
        ("2", "2"),
        ("*tie*", "tie"),
        ("Verdict: answer 2", "2"),
        ("At first Verdict: 1, but no.\nVerdict: 2", "2"),
        ("<think>Verdict: 1</think>\nVerdict: 2", "2"),
        ("<think>Verdict: 1", None),
        ("[THINK]Verdict: 1[/THINK]\nVerdict: 2", "2"),
        ("Verdict: 12", None),
        ("Answer 1 is better", None),
        ("Verdict: neither", None),
    ],
)
def test_reading_a_verdict(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


def test_the_prompt_has_everything_in_both_orders() -> None:
    pair = Pair("one", "two", ("first", "second"), "What is it?")
    plain, swapped = prompt("Be fair.", pair, False), prompt("Be fair.", pair, True)
    for part in ("Be fair.", "What is it?", "first", "second", "Verdict: tie"):
        assert part in plain
    assert "<answer_1>\none\n</answer_1>\n\n<answer_2>\ntwo\n</answer_2>" in plain
    assert swapped == plain.replace("one\n", "\0").replace("two\n", "one\n").replace("\0", "two\n")


def test_the_judge_is_shown_the_thumbnail_where_the_config_asks_for_it(tmp_path: Path) -> None:
    """A row without one is a named failure, and the image is part of what a verdict is kept for."""
    hashes = [f"{n:016x}" * 4 for n in range(30)]
    a, b = (
        replace(one, lines=[replace(line, image=image) for line, image in zip(one.lines, hashes, strict=True)])
        for one in (side("a", [0.0] * 30), side("b", [1.0] * 30))
    )
    folder = tmp_path / "thumbnails"
    for image in hashes[1:]:
        file = thumbnail_path(folder, image)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(file)
    with fake_server.serving(judging()) as stub:
        asker = ServerJudge(config(stub, image=True), tmp_path / "verdicts.jsonl", thumbnails=folder)
        found = compare(a, b, captioning.TASK, captioning.Config(), QUICK, judge=asker)
        assert len(stub.seen) == 2 * 29
        assert all(len(fake_server.pictures(body)) == 1 for _, _, body in stub.seen)
        assert result(found)["failures"] == [{"id": "row 0", "reason": "there is no thumbnail of its image"}]
        assert result(judge(stub, a, b, tmp_path))["rows"] == 30
        assert len(stub.seen) == 2 * 29 + 2 * 30, "without the image it is another question"
        assert not any(fake_server.pictures(body) for _, _, body in stub.seen[58:])


def written(folder: Path, name: str, values: Sequence[float]) -> str:
    """A prediction file whose last rows, equal on both sides, are right: no gate passes where all score 0."""
    rows = [
        replace(row, truth={"references": [row.prediction]}) if n >= 36 else row
        for n, row in enumerate(side(name, values).lines)
    ]
    (folder / f"{name}.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    return f"{name}.jsonl"


def test_on_the_command_line(tmp_path: Path) -> None:
    a, b = (written(tmp_path, name, values) for name, values in zip("ab", BETTER, strict=True))
    with fake_server.serving(judging(0.5)) as stub:
        words = ("compare", a, b, "--judge", f"judge-1@{stub.base_url}")
        ended = vlmtune_in_process(*words, "--json", "--fail-on", "judge.ci_low<-0.5", "-o", "r.html", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        plain = json.loads(ended.stdout)
        assert plain["judge"]["win_rate"] == pytest.approx(0.65)
        page = (tmp_path / "r.html").read_text()
        assert "The judge" in page
        assert "judge-1 prefers B on 24 rows and A on 12, 4 ties" in page
        seen = len(stub.seen)
        said = vlmtune_in_process(*words, cwd=tmp_path)
        assert len(stub.seen) == seen
        assert "judge-1 prefers B on 24 rows and A on 12" in said.stdout
        assert (tmp_path / ".vlmtune" / "verdicts.jsonl").is_file()
    wrong = vlmtune_in_process("compare", a, b, "--judge", "judge-1@http://127.0.0.1:9/v1", cwd=tmp_path)
    assert wrong.returncode == 5, wrong.stderr


def test_every_report_has_it(tmp_path: Path) -> None:
    with fake_server.serving(judging(noise=0.3)) as stub:
        comparison = judge(stub, side("a", BETTER[0]), side("b", BETTER[1]), tmp_path)
        plain = comparison.to_json()
    line = text.judge_lines(comparison.result)[0].partition(": ")[2]
    assert line in html.render(plain, {}, ReportConfig()).text
    assert "judge-1 prefers B on" in markdown.render(plain)


def test_several_systems_are_judged_against_a(tmp_path: Path) -> None:
    a, b, c = side("a", BETTER[0]), side("b", BETTER[1]), side("c", [2.0] * 40)
    with fake_server.serving(judging()) as stub:
        asker = ServerJudge(config(stub), tmp_path / "verdicts.jsonl")
        comparison = compare(a, b, captioning.TASK, captioning.Config(), QUICK, [c], judge=asker)
    (other,) = comparison.result["others"]
    assert other["judge"] is not None
    assert other["judge"]["win_rate"] == 1.0
    assert all(metric["p_adjusted"] is not None for metric in (comparison.metrics[-1], other["metrics"][-1]))


CONFIG = """\
model: {name: tiny, device: cpu}
dataset: {source: scenes, references: [caption_0, caption_1], id: id, limit: {train: 8, validation: 4, test: 24}}
task: {name: captioning}
inference: {engine: fakes.engine}
evaluation:
  image_control_rows: 0
  statistics: {resamples: 100}
  judge: {model: judge-1, base_url: "%s", max_retries: 0}
output: {dir: out}
"""


def adapter(session: Session) -> Path:
    folder = session.files.adapter
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = {"schema_version": 1, "mock": False, "origin": session.provenance().parts, "selection_ids": []}
    (folder / "vlmtune.json").write_text(json.dumps(manifest))
    return folder


def test_in_a_run_the_comparison_is_written_before_the_judge_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with fake_server.serving(always(status(503))) as stub:
        Path("c.yaml").write_text(CONFIG % stub.base_url)
        session = Session(load("c.yaml").config)
        predict.predict(session)
        predict.predict(session, adapter(session))
        with pytest.raises(RemoteError):
            run.compare(session)
        written = json.loads(session.files.comparison.read_text())
        assert written["judge"] is None
        assert written["metrics"]
        stub.script = always(says("Verdict: 2"))
        comparison = run.compare(session)
        assert result(comparison)["rows"] == 24
        assert json.loads(session.files.comparison.read_text())["judge"]["model"] == "judge-1"
        stub.script = always(status(401))
        again = run.compare(session)
        assert again.to_json() == comparison.to_json(), "a finished run asks nothing again"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluation.judge.api_key=sk-canary-123", "must name an environment variable"),
        ("evaluation.judge.base_url=http://me:secret@host/v1", "must hold no name or password"),
        ("evaluation.judge.rubrik=x", "rubric"),
        ("evaluation.primary=judge", "judge"),
    ],
)
def test_a_wrong_config_is_an_error(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load("demo", ["evaluation.judge.model=m", setting])
    assert "canary" not in str(error.value)
    assert "me:secret" not in str(error.value)

"""The results of scoring, as in `compare.json`, `metrics_*.json` and the output of `--json`.

Every type here is a plain dictionary with known keys, so a result needs no conversion for a file, a page or a tracker,
and has the same type when read back. `schemas/comparison.schema.json` is generated from this file, with the strings
under the fields as descriptions.

Side A is the reference, usually the base model; side B is compared with it.
"""

from collections.abc import Sequence
from typing import Any, Generic, Literal, NotRequired, TypeVar, final

from typing_extensions import TypedDict

from vlmtune.predictions import AdapterDelta, FailureRecord
from vlmtune.text_units import Unit

Status = Literal["improved", "worse", "no_difference", "inconclusive"]
PairedBy = Literal["id", "order", "keys", "references"]
IntervalMethod = Literal["jackknife_t", "jackknife_t_and_bootstrap_t", "pseudo_groups_t", "tango", "seeds_t"]

Interval = list[float]
"""A confidence interval: its lower and its upper end."""

T = TypeVar("T")


class Sides(TypedDict, Generic[T]):
    """One value for each side."""

    a: T
    """Of side A."""
    b: T
    """Of side B."""


class Difference(TypedDict):
    """Two scores and the interval of their difference. With several seeds a score is the mean over them."""

    a: float
    """Score of side A."""
    b: float
    """Score of side B."""
    delta: float
    """B - A."""
    ci: Interval | None
    """Confidence interval of `delta`; null where no method keeps its level, as with fewer than 20 groups."""


class McNemar(TypedDict):
    """McNemar's test of a metric that is 0 or 1 per row."""

    only_a: int
    """Rows on which only A is right."""
    only_b: int
    """Rows on which only B is right."""
    p: float
    """Two-sided binomial mid-p value."""


class MetricResult(Difference):
    """One metric of both sides on the compared rows."""

    name: str
    """Name of the metric."""
    status: Status
    """What interval and p-value together show about this metric."""
    interval_method: IntervalMethod | None
    """How `ci` was computed; null where there is none."""
    no_interval: str | None
    """Why there is no interval; null where there is one."""
    bound: float | None
    """Where hardly any row differs: differences up to this size are not excluded; null where an interval says more, or
    where nothing can be said."""
    rows_needed: int | None
    """Where there is no interval: independent rows that one would take, as far as known."""
    p: float | None
    """Two-sided p-value: that of `mcnemar` where given, else of the paired randomization test; null with fewer than 20
    groups or with several seeds."""
    p_adjusted: float | None
    """`p` after Holm's correction; null where there is no `p`, and for prompt baselines."""
    detectable: float | None
    """True difference that this comparison detects with 80 % power; null where there is no interval."""
    higher_is_better: bool
    """False for error rates."""
    scale: float
    """Upper end of the metric's scale: 1, 10 or 100."""
    signature: str
    """Exact definition and version of the metric."""
    seeds: Sides[list[float]] | None
    """Score of every training seed; null with one file a side."""
    failures_as_worst: Difference | None
    """The same with every failed row scored as the worst answer; null where nothing failed, and for the judge."""
    mcnemar: McNemar | None
    """Null unless the metric is 0 or 1 per row, rows are independent, and there is one file a side."""
    rate_ci: Sides[Interval] | None
    """Wilson's interval of each side's score alone; null where `mcnemar` is."""


class JudgeFailure(TypedDict):
    """A row on which the judge gave no verdict."""

    id: str | None
    """Id of the row."""
    reason: str
    """What went wrong."""


class JudgeAgreement(TypedDict):
    """How often the judge and a person prefer the same answer."""

    rows: int
    """Judged rows with a human label."""
    agree: int
    """Rows on which both say A, B or tie."""
    share: float
    """`agree` / `rows`."""
    ci: Interval
    """Wilson's interval of `share`, as if each group were one row."""
    kappa: float | None
    """Cohen's kappa: agreement beyond chance; null where both always say the same one thing."""


class JudgeCounts(TypedDict):
    """Rows by what the judge said about them; of several training seeds, a row counts once for each pair of them."""

    rows: int
    """Rows with a verdict in both orders; equal answers are among them."""
    a_better: int
    """Rows that A wins."""
    b_better: int
    """Rows that B wins."""
    ties: int
    """Rows that nobody wins."""
    contradictions: int
    """Ties in which the judge prefers A in one order and B in the other."""
    identical: int
    """Ties of two equal answers, about which nobody was asked."""
    refused: int
    """Rows on which the judge declined, or replied without a verdict; they are left out."""
    failed: int
    """Rows on which no reply came; they are left out."""


class JudgeRates(TypedDict):
    """What the verdicts amount to."""

    win_rate: float
    """Share of rows that B wins, ties counted as half."""
    win_rate_ci: Interval | None
    """Confidence interval of `win_rate`; null with fewer than 20 groups."""
    consistency: float
    """Share of rows with the same verdict in both orders."""
    position_bias: float
    """How much more often the first answer is preferred than the second, from -1 to 1; it cancels in `win_rate`."""
    noise_share: float
    """Share of the variance of the rows' values that is the judge's disagreement with itself; it is in the interval."""


class JudgeResult(JudgeCounts, JudgeRates):
    """The preference of a language model; its score and interval are also those of the metric `judge`."""

    model: str
    """The judge."""
    rubric: str
    """What it was told to prefer."""
    agreement: JudgeAgreement | None
    """Null without human labels."""
    failures: list[JudgeFailure]
    """The rows without a verdict."""


class JudgeVerdict(TypedDict):
    """The judge's verdicts on one row: a, b or tie; null where it gave none."""

    a_first: str | None
    """With A's answer in front."""
    b_first: str | None
    """With B's answer in front."""
    failure: str | None
    """Why a verdict is missing."""


class RowCounts(TypedDict):
    """Row counts of a comparison."""

    a: int
    """Rows of side A; of several seeds, of the longest file."""
    b: int
    """Rows of side B; of several seeds, of the longest file."""
    paired: int
    """Rows that every file has."""
    only_a: int
    """Rows of A without a partner."""
    only_b: int
    """Rows of B without a partner."""
    failed_a: int
    """Paired rows that a file of A does not answer."""
    failed_b: int
    """Paired rows that a file of B does not answer."""
    selection: int
    """Paired rows that were used to choose a checkpoint or a setting; they are no evidence."""
    compared: int
    """Rows that are scored: paired, answered by every file, and not used for selection."""
    groups: int
    """Independent groups among the compared rows."""


class SliceResult(Difference):
    """The primary metric on the rows with one value of a metadata column."""

    column: str
    """Name of the metadata column."""
    value: str
    """Value of the column, as text."""
    rows: int
    """Compared rows with that value."""
    p: float | None
    """As in a metric's result."""
    p_adjusted: float | None
    """`p` after Holm's correction over all slices."""
    worse: bool
    """Whether B is worse here, by the interval and by `p_adjusted`."""


class Lengths(TypedDict):
    """Words per text; in scripts without spaces, every character counts as a word."""

    mean: float
    """Mean number of words."""
    median: float
    """Median number of words."""


class ResponseLengths(Sides[Lengths]):
    """Lengths of the answers and of the references."""

    references: Lengths
    """Of the reference answers."""
    unit: Unit
    """What the references mostly consist of: `words`, or `characters` of scripts without spaces."""


class ResponseShares(TypedDict):
    """Shares of the answered rows; null where nothing is known."""

    ended: float | None
    """Answers that the model ended itself."""
    cut_off: float | None
    """Answers that reached the longest length allowed."""
    empty: float | None
    """Answers without any text."""
    unparsed: float | None
    """Answers that the task could not read."""
    repeating: float | None
    """Answers that repeat a passage three times in a row."""


class ContradictoryRow(TypedDict):
    """A row that asks the same about the same image as another."""

    id: str | None
    """Id of the row."""
    expected: list[str]
    """The answers it expects."""


class Contradiction(TypedDict):
    """Rows that ask the same about the same image and have no expected answer in common."""

    image: str
    """SHA-256 of the image's pixels."""
    question: Any
    """The question, where rows have one."""
    rows: list[ContradictoryRow]
    """The rows."""


class LengthControl(TypedDict):
    """What remains of the gain when A's answers are truncated to the lengths of B's."""

    a_truncated: float
    """Score of A's truncated answers."""
    delta: float
    """Score of B minus `a_truncated`."""
    ci: Interval | None
    """Confidence interval of `delta`; null where hardly any row differs from its truncated counterpart."""
    explains: bool
    """Whether length alone explains the gain."""
    can_tell: bool
    """False where B already has the worst score, so that there is no gain to explain."""


class ImageControl(TypedDict):
    """Shuffled-image control: what a side loses when every row is asked with the image of another."""

    rows: int
    """Rows that every seed answered both ways."""
    original: float
    """Score with the rows' own images."""
    shuffled: float
    """Score with the images of other rows."""
    drop: float
    """`original` - `shuffled`."""
    ci: Interval | None
    """Confidence interval of `drop`; null where no method keeps its level."""
    kept: float | None
    """`shuffled` / `original`; null where `original` is 0."""
    can_tell: bool
    """False where `original` already is the worst score, which wrong images cannot lower."""
    uses_image: bool | None
    """Whether a drop is shown, by its interval; null where that cannot be told."""


class ControlResults(TypedDict):
    """Other explanations of a gain; null where a control was not run or has too few rows."""

    length: LengthControl | None
    """Answer lengths."""
    image: Sides[ImageControl | None] | None
    """Shuffled images."""
    adapter_delta: AdapterDelta | None
    """Whether the adapter has any effect; of the first training seed."""


class ConfidencePoint(TypedDict):
    """Score of the most confident answers."""

    coverage: float
    """Share of the rows that is kept."""
    score: float
    """Score of those rows."""
    confidence: float
    """Confidence of the least confident answer that is kept: the geometric mean of its tokens' probabilities."""


class ConfidenceCurve(TypedDict):
    """Risk-coverage curve of a side: score over the share of the most confident answers that is kept."""

    points: list[ConfidencePoint]
    """By ascending coverage; the last point is all rows."""
    half: float
    """Score of the more confident half."""
    all: float
    """Score of all rows."""
    gain: float
    """`half` - `all`."""
    ci: Interval | None
    """Confidence interval of `gain`; null where the half has fewer than 20 groups, or all score the same."""
    area: float
    """Mean score over all shares, from one row to all."""


class TrainingSummary(TypedDict, total=False):
    """How B was trained, from its manifest; nothing that depends on the speed of a machine."""

    seed_shown: str
    """The training seed shown, if there are several."""
    steps: int
    """Optimizer steps."""
    chosen_step: int
    """Step whose checkpoint became the adapter."""
    stopped_early: bool
    """Whether it ended because validation no longer improved."""
    trainable_parameters: int
    """Number of parameters of the adapter."""
    teachers: dict[str, float]
    """Share of the training samples whose labels a teacher wrote, by the teacher's name."""
    rewards: dict[str, float]
    """The metrics that it was trained to score high in, by name, with their weights."""
    curve: list[dict[str, Any]]
    """Per logged step: `step`, `loss` and what else was measured."""


class StatisticsSettings(TypedDict):
    """The config's `evaluation.statistics`."""

    resamples: int
    """Random swaps of the sides, and bootstrap resamples where an interval needs them."""
    confidence: float
    """Level of the intervals."""
    seed: int
    """Seed of the resampling."""


class _PromptBaseline(TypedDict):
    prompt_baseline: str
    """Name of the prompt baseline."""
    rows: RowCounts
    """Rows of the prompt baseline (A) and of side B."""
    why_not: list[str]
    """Why the comparison with it is inconclusive; empty if it is not."""


@final
class PromptBaselineResult(_PromptBaseline, MetricResult):
    """B against the base model with another prompt, in the primary metric; `a` is the prompt baseline's score."""


@final
class UnscoredPromptBaseline(_PromptBaseline):
    """A prompt baseline that shares no answered row with B."""

    status: Literal["inconclusive"]
    """Nothing can be said."""


class ComparisonResult(TypedDict):
    """Side B against side A, without per-row results."""

    schema_version: Literal[1]
    """Version of this format."""
    status: Status
    """The conclusion in one word."""
    verdict: str
    """The conclusion in a few sentences."""
    warnings: list[str]
    """Reasons to doubt the verdict, the most important first."""
    primary: str
    """The metric that decides the status; the first of `metrics`."""
    primary_reason: str | None
    """Why it is another metric than usual; null where it is the usual one, or the config names it."""
    names: Sides[str]
    """Name of each side."""
    seeds: Sides[list[str]]
    """The files of each side, by name: one, or one per training seed."""
    rows: RowCounts
    """Row counts."""
    paired_by: PairedBy
    """How rows were paired."""
    metrics: list[MetricResult]
    """The primary metric first; empty where no row was answered on both sides."""
    prompt_baselines: list[PromptBaselineResult | UnscoredPromptBaseline]
    """The prompt baselines, in the order of `evaluation.baselines`."""
    best_prompt_baseline: str | None
    """The prompt baseline that the status is against; null where side A itself scores best."""
    slices: list[SliceResult]
    """The primary metric by values of metadata columns."""
    others: list["ComparisonResult"]
    """Further systems, each compared with side A."""
    additional: NotRequired[list["AdditionalResult"]]
    """The same models on the sets of `evaluation.additional`."""
    lengths: ResponseLengths | None
    """Lengths of the compared answers and of their references; null where answers are boxes."""
    shares: Sides[ResponseShares]
    """Shares of the compared answers."""
    contradictions: list[Contradiction]
    """Rows that ask the same about the same image and expect different answers."""
    controls: ControlResults
    """Other explanations of a gain."""
    confidence: Sides[ConfidenceCurve | None] | None
    """Null where no engine gave log-probabilities."""
    judge: NotRequired[JudgeResult | None]
    """The language model that compared the answers; null without `evaluation.judge`."""
    settings: Sides[dict[str, Any]]
    """What the answers were made from: the manifest's `origin`; empty for files without a manifest."""
    training: TrainingSummary | None
    """How B was trained; null where its manifest is missing."""
    statistics: StatisticsSettings
    """How intervals and p-values were computed."""
    evaluation_set: NotRequired[str | None]
    """In a run folder: name of the additional evaluation set, null for the config's own rows."""
    mock: NotRequired[bool]
    """In a run folder: whether the tiny stand-in model answered."""


class AdditionalResult(ComparisonResult):
    """The comparison on an additional evaluation set."""

    name: str
    """Name of the set."""


class ExampleBoxLabels(TypedDict):
    """Labels of a row's boxes, in the order of the boxes; null for a box without one."""

    references: list[str | None]
    """Of the true boxes."""
    a: list[str | None]
    """Of A's boxes."""
    b: list[str | None]
    """Of B's boxes."""


class ExampleBoxes(TypedDict):
    """Boxes of a row as [x1, y1, x2, y2], from 0 to 1000 of the image's sides."""

    references: list[list[float]]
    """The true boxes."""
    a: list[list[float]]
    """Those of A's answer."""
    b: list[list[float]]
    """Those of B's answer."""
    labels: NotRequired[ExampleBoxLabels]
    """What is in the boxes, where the row's objects have classes."""


class ExampleResult(TypedDict):
    """One paired row; of several seeds, of the first file of each side."""

    id: str | None
    """Id of the row."""
    image: str | None
    """SHA-256 of the first image's pixels."""
    references: list[str]
    """The reference answers."""
    a: str | None
    """Answer of side A; null where the row failed."""
    b: str | None
    """Answer of side B; null where the row failed."""
    cut_off: Sides[bool]
    """Whether an answer reached the length limit."""
    flags: Sides[list[str]]
    """Flags of each answer: failed, cut_off, empty, unparsed, repeating."""
    changed: bool
    """Whether the two answers differ."""
    failure: Sides[FailureRecord | None] | None
    """Null where both sides answered."""
    meta: dict[str, Any]
    """Metadata of the row."""
    gain: float | None
    """Change of A's primary score when this row's answer is replaced by B's; null where a side failed."""
    deltas: dict[str, float | None] | None
    """By metric: that change times the number of rows; for a mean over rows, B's score minus A's."""
    scores: Sides[dict[str, float | None]] | None
    """By metric: the score of this row alone; null where it is undefined."""
    judge: NotRequired[JudgeVerdict]
    """What the judge said about the row, where it was asked."""
    boxes: NotRequired[ExampleBoxes]
    """True and answered boxes, where the row has some."""
    question: NotRequired[Any]
    """The question, where it differs between rows."""
    image_size: NotRequired[Any]
    """Width and height in pixels."""
    truth: NotRequired[dict[str, Any]]
    """Further ground truth that metrics used, by name."""


class ComparisonFile(ComparisonResult):
    """The content of `compare.json`."""

    examples: Sequence[ExampleResult]
    """Every paired row."""


class ScoredRows(TypedDict):
    """Rows of one prediction file."""

    asked: int
    """Rows of the file."""
    answered: int
    """Rows with an answer."""
    failed: int
    """Rows without an answer; they are left out of the score."""
    unparsed: int
    """Answered, but the task could not read the answer; scored as wrong."""
    cut_off: int
    """Answers that reached the length limit."""
    without_reference: NotRequired[int]
    """Rows without a reference, which are left out of the score; only where there are some."""


class ScoreLengths(TypedDict):
    """Lengths of the answers and of the references."""

    answers: Lengths
    """Of the answers."""
    references: Lengths
    """Of the reference answers."""
    unit: Unit
    """As in a comparison."""


class ScoreResult(TypedDict):
    """Metrics of one prediction file."""

    schema_version: Literal[1]
    """Version of this format."""
    metrics: dict[str, float | None]
    """By name, the primary one first; null where nothing was answered."""
    primary: str
    """The metric that would decide a comparison."""
    primary_reason: str | None
    """As in a comparison."""
    warnings: list[str]
    """Metrics that do not give the references themselves their best score."""
    intervals: dict[str, Interval]
    """Wilson's 95 % interval of every metric that is 0 or 1 per row, where rows are independent."""
    signatures: dict[str, str]
    """By metric: its exact definition and version."""
    rows: ScoredRows
    """How many rows there are."""
    lengths: ScoreLengths | None
    """Lengths of answers and references; null where answers are boxes."""
    shares: ResponseShares
    """Shares of the answers."""
    notes: list[str]
    """What a reader of the scores has to know: caveats of metrics, how a file was read, rows that were left out."""

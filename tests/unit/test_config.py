"""Configs: YAML 1.2, every mistake with its place, layers and their origins, names, and nothing but ConfigError."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import vlmtune_in_process
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlmtune import registry
from vlmtune.config import Config, config_json, load, load_config, show, with_values
from vlmtune.config.loader import find_config, shipped_folder
from vlmtune.config.yaml import core_scalar, parse
from vlmtune.errors import ConfigError
from vlmtune.run_layout import RunFiles
from vlmtune.tasks import captioning

ROOT = Path(__file__).parents[2]


def among(names: list[str]) -> str:
    """How a message lists what there is; plugins and metrics come and go."""
    return f"one of {', '.join(names)}" if len(names) > 1 else names[0]


METRICS = among([metric.name for metric in captioning.TASK.metrics])
SOURCES, ENGINES, TASKS = (among(registry.available(folder)) for folder in ("data", "engines", "tasks"))
CLASSIC = "flickr8k_captioning"
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))

BASE = """\
model: {name: tiny, device: cpu}
dataset:
  source: scenes
  references: [caption_0, caption_1]
task:
  name: captioning
"""

SIX = """\
schema_version: 1
model:
  name: tiny
dataset:
  source: scenes
  references: [caption_0]
  limits: {train: 10}
task:
  name: captionin
training:
  epochs: one
  precision: bf61
  warmup_ratio: 1.5
tracking:
  - project: mine
"""
SIX_SAID = [
    "six.yaml:7:3: unknown key 'dataset.limits'; did you mean 'limit'?",
    f"six.yaml:9:9: task.name must be {TASKS} (got 'captionin'); did you mean 'captioning'?",
    "six.yaml:11:11: training.epochs must be a number (got 'one')",
    "six.yaml:12:14: training.precision must be one of bf16, fp16, fp32 (got 'bf61'); did you mean 'bf16'?",
    "six.yaml:13:17: training.warmup_ratio must be less than 1 (got 1.5)",
    "six.yaml:15:5: key 'tracking[0].to' is missing: The tracker: a file in `vlmtune/tracking`, or the dotted name of "
    "a custom module",
]

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named relative to the folder in which a test writes them."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "c.yaml") -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return Path(name)

    return write


def said(name: object, *arguments: Any) -> list[str]:
    """The lines that begin with a place, without the quoted lines of the file."""
    with pytest.raises(ConfigError) as caught:
        load(str(name), arguments)
    return [line for line in str(caught.value).splitlines() if not line.startswith("    ")]


def mistakes(name: object, *arguments: Any) -> list[str]:
    """What was said, after the count at the end was checked."""
    *lines, count = said(name, *arguments)
    assert count == f"{len(lines)} error{'s' if len(lines) > 1 else ''}; nothing was started"
    return lines


# YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-1", -1), ("+3", 3), ("012", 12), ("0o14", 12),
        ("0x1F", 31), ("1_000", "1_000"), ("1:30", "1:30"), ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"),
        ("y", "y"), ("true", True), ("False", False), ("tRUE", "tRUE"), ("null", None), ("~", None), ("", None),
        ("None", "None"), ("2024-01-01", "2024-01-01"), ("=", "="), ("0b1", "0b1"), ("e5", "e5"), ("1e", "1e"),
        ("-.inf", float("-inf")), (".INF", float("inf")), ("inf", "inf"), ("nan", "nan"), ("9" * 41, "9" * 41),
    ],
)  # fmt: skip
def test_unquoted_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert core_scalar(text) == value
    assert type(core_scalar(text)) is type(value)
    assert parse(f"a: {text}", "x")[0].plain() == {"a": value}
    assert parse(f"a: '{text}'", "x")[0].plain() == {"a": text}


def test_the_four_traps_of_pyyaml(write: Write) -> None:
    file = write(BASE + "training: {learning_rate: 2e-4, seed: 012}\noutput: {dir: on}\n")
    config = load(str(file)).config
    assert (config.training.learning_rate, config.training.seed, config.output.dir) == (2e-4, 12, "on")
    file = write(BASE + "training:\n  seed: 1\n  epochs: 2\n  seed: 3\n")
    assert mistakes(file) == ["c.yaml:10:3: key 'seed' is given twice; the first time at c.yaml:8:3"]


def test_anchors_aliases_and_merge_keys(write: Write) -> None:
    text = "training: &t {seed: 1, epochs: 2}\ntrained: *t\nmerged:\n  seed: 5\n  <<: [*t, {epochs: 9, lora: x}]\n"
    tree = parse(text, "x")[0]
    assert tree.plain()["trained"] == {"seed": 1, "epochs": 2}
    assert tree.plain()["merged"] == {"seed": 5, "epochs": 2, "lora": "x"}
    file = write(BASE + "report: &r {examples: 0}\ninference: {<<: *r}\n")
    assert "c.yaml:7:13: unknown key 'inference.examples'; did you mean 'report.examples'?" in mistakes(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml:1:1: the file is empty"),
        ("# only a comment\n", "c.yaml:1:1: the file is empty"),
        ("- a\n- b\n", "c.yaml:1:1: a config is a block of keys, not a list"),
        ("hello", "c.yaml:1:1: a config is a block of keys, not 'hello'"),
        ("model:\n\tname: tiny\n", "c.yaml:2:1: not YAML: a tab cannot indent; use spaces"),
        ("model: [1\ntask: x\n", "c.yaml:2:5: not YAML: "),
        ("a: b: c\n", "c.yaml:1:5: not YAML: "),
        ('a: "\\UFFFFFFFF"\n', "c.yaml:1:1: not YAML: "),
        ("a: *gone\n", "c.yaml:1:4: no anchor &gone"),
        ("a: &x [*x]\n", "c.yaml:1:8: no anchor &x"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document begins"),
        ("a: \x07\n", "c.yaml:1:4: character U+0007 is not allowed"),
        ("a: " + "[" * 60 + "]" * 60, "c.yaml:1:44: blocks and lists nested more than 40 deep"),
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{n}: &{n} [{','.join(['*' + m] * 9)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)
        ), "more than 10,000 values"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config(write: Write, text: str, message: str) -> None:
    assert message in said(write(text))[0]


def test_tags_and_odd_keys_are_mistakes(write: Write) -> None:
    lines = mistakes(
        write(BASE + 'report: {examples: !!int "3"}\n? [a]\n: 1\noutput: {dir: !!python/name:os.system x}\n')
    )
    assert lines[0].startswith("c.yaml:7:20: tags such as 'tag:yaml.org,2002:int' are not supported")
    assert "c.yaml:8:3: a key must be plain text" in lines
    assert any(line.startswith("c.yaml:10:15: tags such as") and "os.system" in line for line in lines)
    assert "half a surrogate pair" in mistakes(write(BASE + 'output: {dir: "\\ud800"}\n'))[0]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"model:\n  name: caf\xe9\n")
    assert said("c.yaml") == ["c.yaml:2:12: not UTF-8 (byte 0xe9); save the file as UTF-8"]
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load("c.yaml").config.model.name == "tiny"


# Mistakes


def test_six_mistakes_at_once(write: Write) -> None:
    file = write(SIX, "six.yaml")
    assert mistakes(file) == SIX_SAID
    with pytest.raises(ConfigError, match=r"bf61'\); did you mean 'bf16'\?\n    precision: bf61\n"):
        load(file)


def test_the_command_names_all_six_and_exits_with_2(write: Write) -> None:
    done = vlmtune_in_process("config", "check", str(write(SIX, "six.yaml")), cwd=Path.cwd())
    assert (done.returncode, done.stdout) == (2, "")
    assert all(line in done.stderr for line in SIX_SAID)
    assert done.stderr.endswith("6 errors; nothing was started\n")


@pytest.mark.parametrize(
    "code",
    [
        f"show(load({str(ROOT / 'configs' / f'{CLASSIC}.yaml')!r})); json_schema()",
        "load('six.yaml')",
    ],
    ids=["a valid config", "six mistakes"],
)
def test_a_config_loads_without_anything_heavy(code: str, write: Write) -> None:
    write(SIX, "six.yaml")
    code = f"""
import sys
from vlmtune.config import json_schema, load, show
from vlmtune.errors import ConfigError
try:
    {code}
except ConfigError:
    pass
print([m for m in ("torch", "transformers", "datasets", "sacrebleu", "tokenizers", "wandb") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("training:\n  lorra: {}", "k|unknown key 'training.lorra'; did you mean 'lora'?"),
        ("training:\n  row_tokens: 1", "k|unknown key 'training.row_tokens'; it is called 'training.pack_tokens' now"),
        ("inference:\n  engine: vllm\n  retry_s: 1", "k|unknown key 'inference.retry_s', which was removed: the first "
         "retry waits about half a second, later ones longer"),
        ("evaluation:\n  also: []", "k|unknown key 'evaluation.also'; it is called 'evaluation.additional' now"),
        ("evaluation:\n  split: select", "v|evaluation.split must be one of train, validation, test (got 'select'); "
         "did you mean 'validation'?"),
        ("training:\n  top_p: 1", "k|unknown key 'training.top_p'; did you mean 'inference.top_p'?"),
        ("report:\n  zzz: 1", "k|unknown key 'report.zzz'; there are: examples"),
        ("epochs: 1", "k|unknown key 'epochs'; did you mean 'training.epochs'?"),
        ("training:\n  schedule: cosin", "v|training.schedule must be one of cosine, linear, constant (got 'cosin'); "
         "did you mean 'cosine'?"),
        ("schema_version: 2", "v|schema_version must be 1 (got 2)"),
        ("training:\n  seed: two", "v|training.seed must be a whole number (got 'two')"),
        ("training:\n  seed: '2'", "v|training.seed must be a whole number (got '2'); leave the quotes out"),
        ("training:\n  seed: 1.5", "v|training.seed must be a whole number (got 1.5)"),
        ("training:\n  seed: true", "v|training.seed must be a whole number (got true)"),
        ("training:\n  epochs: 0", "v|training.epochs must be greater than 0 (got 0)"),
        ("training:\n  weight_decay: -1", "v|training.weight_decay must be at least 0 (got -1)"),
        ("evaluation:\n  statistics: {confidence: 1}", "v|evaluation.statistics.confidence must be less than 1 "
         "(got 1)"),
        ("training:\n  max_grad_norm: .inf", "v|training.max_grad_norm must be a finite number (got Infinity)"),
        ("training:\n  learning_rate: fast", "v|training.learning_rate must be a number (got 'fast')"),
        ("training:\n  learning_rate:", "k|training.learning_rate must be a number (got null)"),
        ("output:\n  dir: 012", "v|output.dir must be text (got 12); put it in quotes"),
        ("output:\n  dir: [a]", "v|output.dir must be text (got a list)"),
        ("evaluation:\n  metrics: bleu", "v|evaluation.metrics must be a list (got 'bleu'); write [bleu]"),
        ("training:\n  lora: 16", "v|training.lora must be a block of keys (got 16)"),
        ("tracking:\n  - to: wandb\n    projct: x", "k|unknown key 'tracking[0].projct'; did you mean 'project'?"),
        ("tracking: wandb", "v|tracking must be a list (got 'wandb')"),
        ("tracking: [wandb]", "v+1|tracking[0] must be a block of keys (got 'wandb')"),
        ("inference:\n  engine: zzz", f"v|inference.engine must be {ENGINES} (got 'zzz')"),
        ("inference:\n  max_new_tokens: '5'", "v|inference.max_new_tokens must be a whole number (got '5'); leave the "
         "quotes out"),
        ("inference:\n  engine: 5", "v|inference.engine must be text (got 5); put it in quotes"),
        ("inference: hf", "v|inference must be a block of keys (got 'hf')"),
    ],
)  # fmt: skip
def test_every_kind_of_mistake_in_a_sentence(write: Write, block: str, message: str) -> None:
    """`k` expects the place of the last key, `v` that of the last value, a digit one further left than it counts."""
    file = write(BASE + block + "\nextends: []\n")
    last = block.splitlines()[-1]
    where, sentence = message.split("|", 1)
    key = re.search(r"\w+(?=:[^:]*$)", last)
    assert key is not None
    columns = {"v": last.rfind(": ") + 3, "v+1": last.rfind(": ") + 4}
    column = columns.get(where, key.start() + 1)
    assert mistakes(file) == [f"c.yaml:{6 + len(block.splitlines())}:{column}: {sentence}"]


def test_what_may_be_text_or_a_list(write: Write) -> None:
    file = write(BASE.replace("references:", "image: 5\n  references:"))
    assert mistakes(file) == ["c.yaml:4:10: dataset.image must be text or a list (got 5)"]
    file = write(BASE.replace("references:", "image: [a, 5]\n  references:"))
    assert mistakes(file) == ["c.yaml:4:14: dataset.image[1] must be text (got 5); put it in quotes"]


def test_missing_keys_stand_at_their_block(write: Write) -> None:
    assert mistakes(write("model: {device: cpu}\ndataset:\n  source: hub\n")) == [
        "c.yaml:1:1: key 'model.name' is missing: A name on the Hub, a local folder, or `tiny`: the small Qwen3-VL "
        "that ships with vlmtune",
        "c.yaml:1:1: key 'task' is missing: What the model is asked, and how answers are scored",
        "c.yaml:2:1: key 'dataset.path' is missing: Name on the Hub (`org/name`), or a local folder of data files",
    ]
    file = write(BASE.replace("  source: scenes\n", ""))
    assert mistakes(file)[0].startswith("c.yaml:2:1: key 'dataset.source' is missing: Source plugin")


OWN = "from {folder} import {base}\n\nclass Config({base}):\n    size: int = 1\n    '''How many.'''\n"


def test_a_dotted_name_is_a_module_of_yours(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    own = OWN.format(folder="vlmtune.engines", base="InferenceConfig")
    write(own + "\ndef open_engine(): ...\n", "mine_a/engine.py")
    write(own, "mine_a/half.py")
    write("import not_there_at_all\n", "mine_a/broken.py")
    config = load(write(BASE + "inference: {engine: mine_a.engine, size: 3}\n")).config
    assert config_json(config)["inference"]["size"] == 3
    assert mistakes("c.yaml", "inference.sizes=4")[0].endswith("unknown key 'inference.sizes'; did you mean 'size'?")
    assert mistakes("c.yaml", "inference.engine=mine_a.half")[0].endswith(
        "names 'mine_a.half', which has no open_engine"
    )
    assert (
        "which has no class Config that extends DatasetConfig" in mistakes("c.yaml", "dataset.source=mine_a.engine")[0]
    )
    assert "dotted name of an importable module" in mistakes("c.yaml", "inference.engine=mine_a.gone")[0]
    assert "inference.engine must be one of" in mistakes("c.yaml", "inference.engine=..mine")[0]
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load("c.yaml", ["inference.engine=mine_a.broken"])


# Contradictions


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        ("inference:\n  temperature: 0\n  top_p: 0.9",
         ["9:10: inference.top_p has no effect while inference.temperature is 0; set a temperature, or leave top_p out "
          "(inference.temperature: line 8)"]),
        ("inference: {engine: openai, json_schema: s.json, json_object: true}",
         ["7:42: inference.json_schema says more than inference.json_object; set one of them (inference.json_object: "
          "line 7)"]),
        ("inference: {json_schema: auto}",
         ["7:13: unknown key 'inference.json_schema'; the engine here has none, but openai and vllm do "
          "(inference.engine)"]),
        ("inference: {engine: openai, json_schema: auto}",
         ["7:42: inference.json_schema is auto, which needs rows that are objects (the task extraction), not "
          "captioning; name a file"]),
        ("inference: {top_p: 0.9}",
         ["7:20: inference.top_p has no effect while inference.temperature is 0; set a temperature, or leave top_p out "
          "(inference.temperature is the default)"]),
        ("training:\n  learning_rates: {vision_tower: 1e-5, language_model: 1e-4}",
         ["8:34: training.learning_rates.vision_tower is set, but training.lora.parts leaves that part frozen "
          "(training.lora.parts is the default)"]),
        ("training:\n  method: {merger: full}\n  lora: {parts: [language_model]}",
         ["9:17: training.lora.parts and training.method give adapters to different parts; leave lora.parts out "
          "(training.method: line 8)"]),
        ("training:\n  method: full\n  lora: {rank: 8}",
         ["9:16: training.lora.rank has no effect: training.method trains no adapter; leave it out "
          "(training.method: line 8)"]),
        ("training:\n  method: full\n  lora_plus_ratio: 16",
         ["9:20: training.lora_plus_ratio has no effect: training.method trains no adapter; leave it out "
          "(training.method: line 8)"]),
        ("training:\n  method: {}",
         ["8:11: training.method names no part, so nothing would be trained"]),
        ("training:\n  sharding: fsdp\n  best_metric: bleu\n  evaluate_every_steps: 5",
         ["9:16: training.best_metric needs answers, which a model that training.sharding divides does not give in "
          "training; use loss (training.sharding: line 8)"]),
        ("training:\n  sharding: fsdp\n  precision: fp16\n  method: full",
         ["9:14: training.precision fp16 cannot train weights in full that training.sharding divides; use bf16 or fp32 "
          "(training.sharding: line 8)"]),
        ("training:\n  method: full\n  learning_rates: {vision_tower: 1e-5}",
         ["9:34: training.learning_rates.vision_tower is set, but training.method leaves that part frozen "
          "(training.method: line 8)"]),
        ("training:\n  lora: {target_modules: [experts.down_proj]}",
         ["8:26: training.lora.dropout must be 0, false or null for adapters on stacked experts, which "
          "training.lora.target_modules names (training.lora.dropout is the default)"]),
        ("training:\n  epochs: 2\n  max_steps: 5",
         ["8:11: training.epochs and training.max_steps both say how long to train; set one of them to null "
          "(training.max_steps: line 9)"]),
        ("training:\n  epochs: null",
         ["8:11: training.epochs and training.max_steps are null; one must say how long to train "
          "(training.max_steps is the default)"]),
        ("training:\n  continue_from: a\n  lora: {init_lora_weights: pissa}",
         ["9:29: training.lora.init_lora_weights has no effect on an adapter that training.continue_from names "
          "(training.continue_from: line 8)"]),
        ("training:\n  grpo: {kl: 0}",
         ["8:9: training.grpo has no effect while training.objective is sft (training.objective is the default)"]),
        ("training:\n  objective: grpo\n  continue_from: a\n  lora: {dropout: 0.1}\n"
         "  grpo: {rewards: {sacrebleu: 1, cider_d: 1}}",
         ["10:19: training.lora.dropout would change the model or the image between drawing answers and learning them; "
          "leave it out with training.objective grpo (training.objective: line 8)"]),
        ("training:\n  objective: grpo\n  grpo: {rewards: {sacrebleu: 1}}",
         ["8:14: training.objective grpo is a second stage: name a finished adapter in training.continue_from "
          "(training.continue_from is the default)",
          "9:19: training.grpo.rewards names too few metrics: a single one can be won without getting better (recall "
          "by long answers); name at least two, or set grpo.allow_one_reward"]),
        ("training:\n  objective: grpo\n  continue_from: a\n  method: {language_model: full}\n  neftune_alpha: 5\n"
         "  sharding: fsdp\n  grpo: {rewards: {sacrebleu: 1}, allow_one_reward: true}",
         ["10:11: training.method trains weights in full, and training.objective grpo only adapters "
          "(training.objective: line 8)",
          "11:18: training.neftune_alpha would change the model or the image between drawing answers and learning "
          "them; leave it out with training.objective grpo (training.objective: line 8)",
          "12:13: training.sharding divides the model, and training.objective grpo draws answers from a whole one "
          "(training.objective: line 8)"]),
        ("training:\n  objective: grpo\n  continue_from: a\n  grpo: {rewards: {keyword_recall: 1, blue: 1}}",
         ["10:36: training.grpo.rewards.keyword_recall is 'keyword_recall', which compares with dataset.keywords, but "
          "that is not set",
          f"10:45: training.grpo.rewards.blue must be {METRICS} (got 'blue'); did you mean 'bleu'?"]),
        ("training:\n  lora: {init_lora_weights: orthogonal, rank: 3}",
         ["8:29: training.lora.init_lora_weights orthogonal needs an even training.lora.rank "
          "(training.lora.rank: line 8)"]),
        ("training:\n  lora: {init_lora_weights: loftq}",
         ["8:29: training.lora.init_lora_weights loftq makes up for what quantization rounds away; set "
          "model.quantization"]),
        ("training:\n  lora: {target_modules: '*q_proj'}",
         ["8:26: training.lora.target_modules is neither names nor all-linear nor a regular expression (nothing to "
          "repeat at position 0)"]),
        ("evaluation:\n  metrics: [bleu, sacreblue]\n  primary: blue",
         [f"8:19: evaluation.metrics[1] must be {METRICS} (got 'sacreblue'); did you mean 'sacrebleu'?",
          f"9:12: evaluation.primary must be {METRICS} (got 'blue'); did you mean 'bleu'?"]),
        ("evaluation:\n  metrics: [bleu]\n  primary: sacrebleu",
         ["9:12: evaluation.primary 'sacrebleu' is not among evaluation.metrics (evaluation.metrics: line 8)"]),
        ("evaluation: {primary: keyword_recall}",
         ["7:23: evaluation.primary is 'keyword_recall', which compares with dataset.keywords, but that is not set"]),
        ("evaluation: {slices: [light]}",
         ["7:23: evaluation.slices[0] is 'light', which is not in dataset.meta; add it there"]),
        ("output: {dir: out, adapter: .}",
         ["7:29: output.adapter must be a plain name of something in output.dir (got '.')"]),
        ("output: {adapter: ../lora}",
         ["7:19: output.adapter must be a plain name of something in output.dir (got '../lora')"]),
        ("output: {adapter: report.html}",
         ["7:19: output.adapter is the name of another result of the run; choose another one (got 'report.html')"]),
        ("output: {tuned: a.jsonl}",
         ["7:10: unknown key 'output.tuned', which was removed: the files of a run have fixed names; "
          "output.dir chooses their folder"]),
    ],
)  # fmt: skip
def test_contradictions_name_both_places(write: Write, block: str, lines: list[str]) -> None:
    assert mistakes(write(BASE + block)) == [f"c.yaml:{line}" for line in lines]


def test_contradictions_in_model_and_dataset(write: Write) -> None:
    text = BASE.replace("device: cpu", "max_pixels: 5").replace("references: [caption_0, caption_1]", "target: each")
    assert mistakes(write(text), "model.min_pixels=9") == [
        "c.yaml:4:11: dataset.target 'each' trains on references, but dataset.references names no column "
        "(dataset.references is the default)",
        "--set model.min_pixels=9: model.min_pixels is larger than model.max_pixels (model.max_pixels: c.yaml:1:33)",
    ]


def test_what_looks_like_a_contradiction_and_is_none(write: Write) -> None:
    load(
        write(
            BASE + "inference: {temperature: 0.7, top_p: 0.9}\nevaluation: {metrics: [sacrebleu], primary: sacrebleu}"
        )
    )
    load("c.yaml", ["dataset.keywords=keywords", "evaluation={metrics: null, primary: keyword_recall}"])
    load("c.yaml", ["dataset.references=[]", "dataset.messages=talk"])


# Layers


def test_extends_merges_blocks_and_replaces_lists(write: Write) -> None:
    write(BASE + "training:\n  epochs: 3\n  lora: {rank: 4, target_modules: [a, b]}\n", "sub/base.yaml")
    write("training: {epochs: 5, seed: 1}\nreport: {examples: 7}\n", "sub/more.yaml")
    file = write(
        "extends: [base.yaml, more.yaml]\ntraining:\n  seed: 2\n  lora: {target_modules: [c]}\n", "sub/top.yaml"
    )
    loaded = load(file, ["training.lora.alpha=9", {"report": {"examples": 8}}])
    training = loaded.config.training
    assert (training.epochs, training.seed, training.lora.rank, training.lora.alpha) == (5, 2, 4, 9.0)
    assert (training.lora.target_modules, loaded.config.report.examples) == (["c"], 8)
    shown = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in show(loaded).splitlines()}
    origins = ("rank", "epochs", "seed", "target_modules", "alpha", "examples", "batch_size")
    assert [shown[key] for key in origins if key != "seed"] == [
        "sub/base.yaml:9", "sub/more.yaml:1", "sub/top.yaml:4", "--set training.lora.alpha=9", "override", "default"
    ]  # fmt: skip
    assert "extends" not in config_json(loaded.config)


def test_mistakes_in_extended_files_name_that_file(write: Write) -> None:
    write(BASE + "training:\n  epochs: x\n", "base.yaml")
    file = write("extends: base.yaml\nreport: {example: 1}\ntraining: {seed: y}\n")
    assert [line.split(" ")[0] for line in mistakes(file)] == ["base.yaml:8:11:", "c.yaml:2:10:", "c.yaml:3:18:"]
    assert mistakes(file, "training.epochs=1", "training.seed=1") == [
        "c.yaml:2:10: unknown key 'report.example'; did you mean 'examples'?"
    ]


def test_extends_that_leads_nowhere(write: Write) -> None:
    write("extends: a.yaml\n", "b.yaml")
    write(BASE + "extends: [b.yaml, gone.yaml, 5]\n", "a.yaml")
    assert mistakes("a.yaml") == [
        "a.yaml:7:19: extends: there is no file gone.yaml",
        "a.yaml:7:30: extends takes the name of a file, or a list of them",
        "b.yaml:1:10: extends is circular: a.yaml -> b.yaml -> a.yaml",
    ]
    assert mistakes(write(BASE + "extends: c.yaml\n")) == ["c.yaml:7:10: extends is circular: c.yaml -> c.yaml"]


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["output.dir=x"], ("output", "dir"), "x"),
        (["training.learning_rate=1e-4"], ("training", "learning_rate"), 1e-4),
        (["dataset.limit.train=10"], ("dataset", "limit"), {"train": 10, "validation": None, "test": None}),
        (["dataset.limit={train: 3, validation: 1}", "dataset.limit.test=4"], ("dataset", "limit"),
         {"train": 3, "validation": 1, "test": 4}),
        (["evaluation.metrics=[bleu]"], ("evaluation", "metrics"), ["bleu"]),
        (["task.system=a=b"], ("task", "system"), "a=b"),
        (["task.system=x", "task.system="], ("task", "system"), None),
        (["task.system='1'"], ("task", "system"), "1"),
        (["training.seed=1", "training.seed=2"], ("training", "seed"), 2),
        (["tracking=[{to: wandb, mode: offline}]"], ("tracking", 0, "mode"), "offline"),
    ],
)  # fmt: skip
def test_set(write: Write, arguments: list[str], path: tuple[str | int, ...], value: object) -> None:
    found: Any = config_json(load(write(BASE), arguments).config)
    for step in path:
        found = found[step]
    assert found == value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.seed", "write --set key=value"),
        ("=1", "write --set key=value"),
        ("training..seed=1", "write --set key=value"),
        ("trainig.seed=1", "unknown key 'trainig'; did you mean 'training'?"),
        ("training.sed=1", "unknown key 'training.sed'; did you mean 'seed'?"),
        ("training.lora.rank=r", "training.lora.rank must be a whole number (got 'r')"),
        ("tracking.0.project=x", "tracking is a list; set it as a whole: --set 'tracking=[…]'"),
        ("dataset.references.0=x", "dataset.references is a list; set it as a whole"),
        ("model.name.x=1", "model.name is a value and has no keys"),
        ("training.seed=[1", "not YAML: "),
        ("training.seed=!!int 3", "tags such as"),
        ("extends=x.yaml", "extends is only read from files"),
        ("dataset.source=jsonk", f"dataset.source must be {SOURCES} (got 'jsonk'); did you mean 'jsonl'?"),
    ],
)  # fmt: skip
def test_set_says_what_is_wrong_with_it(write: Write, argument: str, message: str) -> None:
    write(BASE + "tracking:\n  - to: wandb\n")
    (line,) = mistakes("c.yaml", argument)
    assert line.startswith(f"--set {argument}: {message}")


def test_set_switches_the_source(write: Write) -> None:
    assert mistakes(write(BASE), "dataset.source=jsonl")[0].startswith(
        "c.yaml:2:1: key 'dataset.path' is missing: Folder"
    )
    dataset = load("c.yaml", ["dataset.source=jsonl", "dataset.path=rows"]).config.dataset
    assert (type(dataset).__module__, dataset.splits.train) == ("vlmtune.data.jsonl", "train.jsonl")


def test_replaced_blocks_replace_the_whole_block(write: Write) -> None:
    file = write(BASE.replace("scenes", "hub\n  path: x"))
    loaded = load(file, replaced={"dataset": {"source": "scenes"}, "report": {"examples": 2}})
    assert (loaded.config.dataset.references, loaded.config.report.examples) == ([], 2)
    assert "# override" in show(loaded)


def test_the_mock_of_main_py_fits_the_classic_config() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from main import MOCK_BLOCKS, MOCK_KEYS
    finally:
        sys.path.remove(str(ROOT))
    config = load(CLASSIC, [MOCK_KEYS], MOCK_BLOCKS).config
    assert (config.model.name, config.training.precision, config.output.adapter) == (
        "tiny",
        "fp32",
        "flickr8k_qwen3vl_lora",
    )


# What comes out


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_configs(file: Path, write: Write) -> None:
    loaded = load(file)
    assert load(write(json.dumps(config_json(loaded.config)))).config == loaded.config
    assert load(write(show(loaded))).config == loaded.config
    depth = "../" * (len(file.relative_to(ROOT).parts) - 1)
    assert file.read_text().startswith(f"# yaml-language-server: $schema={depth}schemas/config.schema.json\n")


def test_the_classic_values() -> None:
    config = load(CLASSIC).config
    training, output = config.training, config.output
    assert (training.batch_size, training.epochs) == (8, 1)
    assert (training.learning_rate, training.warmup_ratio, training.weight_decay) == (2e-4, 0.03, 0.01)
    assert (training.max_grad_norm, training.seed) == (1.0, 42)
    assert config_json(config)["task"]["prompt"] == "Describe this image in one concise, informative sentence."
    assert config.dataset.splits.model_dump() == {"train": "train", "validation": "validation", "test": "validation"}
    assert config.dataset.limit.model_dump() == {"train": 2000, "validation": 500, "test": 500}
    assert config.dataset.references == [f"caption_{n}" for n in range(5)]
    files = RunFiles.of(output)
    names = (files.baseline, files.tuned, files.metrics(files.baseline), files.metrics(files.tuned), files.adapter)
    assert [str(name) for name in names] == [
        "outputs/baseline_predictions.jsonl", "outputs/lora_predictions.jsonl", "outputs/metrics_baseline.json",
        "outputs/metrics_lora.json", "outputs/flickr8k_qwen3vl_lora",
    ]  # fmt: skip


def test_names(write: Write, tmp_path: Path) -> None:
    assert find_config("demo") == shipped_folder() / "demo.yaml" == ROOT / "configs" / "demo.yaml"
    assert find_config("demo.yaml") == shipped_folder() / "demo.yaml"
    write(BASE, "configs/demo.yaml")
    write(BASE, "configs/deep/mine.yaml")
    assert find_config("demo") == Path("configs/demo.yaml")
    assert find_config("deep/mine") == Path("configs/deep/mine.yaml")
    write(BASE, "demo")
    assert find_config("demo") == Path("demo")
    (line,) = said("flikr8k_captioning.yaml")
    assert all(file.stem in line for file in (ROOT / "configs").glob("*.yaml"))
    assert line.endswith("; did you mean 'flickr8k_captioning'?")
    assert "neither a file nor" in said("x" * 5000)[0]
    assert "there is no file" in mistakes(write(BASE + f"extends: {'y' * 5000}\n"))[0]
    assert said("configs") == ["configs is a folder; name one of its files"]
    outside = tmp_path.parent / "outside.yaml"
    outside.write_text("model: 1\n")
    assert said("../outside.yaml")[0].startswith(f"{outside}:1:1: ")


def test_a_config_is_frozen_and_refuses_what_a_file_may_not_say() -> None:
    config = load("demo").config
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 1  # type: ignore[misc]
    assert Config.model_validate(config_json(config)) == config


# Anything at all

ALPHABET = "\n\n  :-[]{},#&*!|>'\"%@`?~<.0123456789abtrue\t\r\\\x00\u2028\ufeff\U0001f600é"
TEXTS = [file.read_text() for file in SHIPPED] + [SIX]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.sampled_from(TEXTS),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.text(ALPHABET, max_size=6)), min_size=1, max_size=4
    ),
)
@example(text="a: |\n", edits=[(1.0, 0, "%YAML 9")])
def test_a_damaged_config_raises_config_errors_only(
    tmp_path: Path, text: str, edits: list[tuple[float, int, str]]
) -> None:
    for place, length, new in edits:
        start = int(place * len(text))
        text = text[:start] + new + text[start + length :]
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8", newline="")
    with suppress(ConfigError):
        load("c.yaml")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(ALPHABET + "trainingdatasetoutput.=", max_size=30))
def test_any_argument_raises_config_errors_only(argument: str) -> None:
    with suppress(ConfigError):
        load(CLASSIC, [argument])


def test_an_unknown_plugin_hides_no_other_mistake(tmp_path: Path) -> None:
    """Keys that every source has are judged although nobody knows which source was meant."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: {name: tiny}\ndataset:\n  source: scenez\n  limit: {train: many}\n  path: x\n"
        "task: {name: captioning}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as error:
        load(file)
    said = str(error.value)
    assert "c.yaml:3:11: dataset.source must be one of" in said
    assert "c.yaml:4:18: dataset.limit.train must be a whole number" in said
    assert "'path'" not in said, "another source may well have it"
    assert said.endswith("2 errors; nothing was started")


@pytest.mark.parametrize("name", ["demo", "flickr8k_captioning", "demo_replay", "demo_additional_sets", "grounding"])
def test_with_no_values_a_config_is_the_same(name: str) -> None:
    config = load_config(name)
    assert config_json(with_values(config, {})) == config_json(config)


def test_defaults_follow_what_is_replaced() -> None:
    config = load_config("demo")
    full = with_values(config, {"training.method": "full", "output.dir": "elsewhere"})
    assert (full.training.method, full.output.dir) == ("full", "elsewhere")
    assert full.training.lora.rank == config.training.lora.rank


def test_a_quantized_model_is_not_divided() -> None:
    with pytest.raises(
        ConfigError, match=r"sharding fsdp divides weights of 16 or 32 bits, but model\.quantization is nf4"
    ):
        with_values(load_config("demo"), {"training.sharding": "fsdp", "model.quantization": "nf4"})


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"training\.lora\.rank must be greater than 0"):
        with_values(load_config("demo"), {"training.lora.rank": 0})


def test_rewards_are_scores_of_single_rows_and_have_defaults_of_their_own(write: Write) -> None:
    block = "training:\n  objective: grpo\n  continue_from: a\n  grpo: {rewards: {accuracy: 1, macro_f1: 1}}\n"
    classes = BASE.replace("name: captioning", "name: classification\n  labels: [a, b]")
    (told,) = mistakes(write(classes + block))
    assert told.endswith("macro_f1 'macro_f1' is a score of the whole set; single answers have none")
    config = load_config(write(BASE + block.replace("accuracy", "sacrebleu").replace("macro_f1", "cider_d"))).training
    assert (config.learning_rate, config.save_every_steps, config.log_every_steps) == (1e-4, 10, 1)
    assert config.lora.dropout == 0
    assert type(config).model_validate(config.model_dump()) == config, "what a run folder keeps of it is valid"

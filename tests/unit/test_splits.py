"""One split parted among the roles: every row has one role, and rows that belong together have the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image
from commands import vlmtune_in_process

from vlmtune.config import load
from vlmtune.data import (
    DatasetConfig,
    Rows,
    Shares,
    Splits,
    have_common_rows,
    imagefolder,
    jsonl,
    open_role,
    overlapping_roles,
)
from vlmtune.errors import ConfigError, DataError

ONE = Splits(train="all.jsonl", validation="all.jsonl", test="all.jsonl")
ROLES = ("train", "validation", "test")


@pytest.fixture
def parts(write_jsonl: Callable[..., Path]) -> Callable[..., dict[str, Rows]]:
    """The three roles of 300 rows, five of which share an image."""
    rows = [{"n": n, "image": f"shared{n // 5}.png", "c": f"text {n}", "patient": n // 10} for n in range(300)]

    def parts(lines: list[dict[str, Any]] = rows, **keys: Any) -> dict[str, Rows]:
        file = write_jsonl("all.jsonl", *lines)
        settings = {"path": str(file.parent), "references": ["c"], "id": "n", "splits": ONE, "shares": Shares(), **keys}
        config = jsonl.Config(**settings)
        return {role: open_role(config, role) for role in ROLES}  # type: ignore[arg-type]

    return parts


def ids(rows: Rows) -> list[str]:
    return [rows.id(n) for n in range(len(rows))]


def test_every_row_has_exactly_one_role_in_dataset_order(parts: Callable[..., dict[str, Rows]]) -> None:
    made = parts()
    every = [name for rows in made.values() for name in ids(rows)]
    assert sorted(map(int, every)) == list(range(300))
    for rows in made.values():
        assert ids(rows) == sorted(ids(rows), key=int)
        assert [row.id for row in rows] == ids(rows)
        assert rows[len(rows) - 1].truth["references"] == [f"text {ids(rows)[-1]}"]
    assert 200 <= len(made["train"]) <= 270
    assert len({rows.fingerprint for rows in made.values()}) == 3


def test_rows_of_one_image_or_group_are_not_parted(parts: Callable[..., dict[str, Rows]]) -> None:
    for keys, size in (({}, 5), ({"group": "patient"}, 10), ({"image": None}, 1)):
        seen: dict[int, str] = {}
        for role, rows in parts(**keys).items():
            for name in ids(rows):
                assert seen.setdefault(int(name) // size, role) == role
        assert len(set(seen.values())) == 3


def test_a_rows_role_does_not_depend_on_the_others(parts: Callable[..., dict[str, Rows]]) -> None:
    """Rows that are added later, or another order, move nothing from test to train."""
    whole = parts()
    lines = [{"n": n, "image": f"shared{n // 5}.png", "c": f"text {n}"} for n in (*range(299, 149, -1), 1000, 1001)]
    fewer = parts(lines)
    for role in ROLES:
        assert {name for name in ids(fewer[role]) if int(name) < 300} == set(ids(whole[role])) & {
            str(n) for n in range(150, 300)
        }


def images_and_patients(folder: Path, kind: str) -> list[dict[str, Any]]:
    """60 rows, of which some have to do with each other, and nothing in one column says so."""
    if kind == "a second image":  # the second one of a row is the first one of another
        return [{"n": n, "image": f"of{n}.png", "other": f"of{n + 30}.png", "c": "a"} for n in range(60)]
    if kind == "two patients":  # an image of each pair of patients
        return [{"n": n, "image": f"of{n % 30}.png", "patient": n, "c": "a"} for n in range(60)]
    for n in range(60):
        (folder / f"copied{n}.png").write_bytes(encoded(make_image(40, 40, n % 30)))
    return [{"n": n, "image": f"copied{n}.png", "c": "a"} for n in range(60)]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("a second image", {"image": ["image", "other"]}),
        ("two patients", {"group": "patient"}),
        ("other names", {}),
    ],
)
def test_rows_that_others_join_are_not_parted(
    kind: str, keys: dict[str, Any], parts: Callable[..., dict[str, Rows]], tmp_path: Path
) -> None:
    lines = images_and_patients(tmp_path, kind)
    made = parts(lines, **keys)
    seen: dict[int, str] = {}
    for role, rows in made.items():
        for name in ids(rows):
            assert seen.setdefault(int(name) % 30, role) == role
    assert len(seen) == 30
    assert [ids(rows) for rows in parts(lines[::-1], **keys).values()] == [ids(rows)[::-1] for rows in made.values()]


def test_a_new_row_of_a_group_moves_nothing(parts: Callable[..., dict[str, Rows]]) -> None:
    """Its images do not matter: the group comes first."""
    lines = [{"n": n, "image": f"of{n}.png", "patient": n // 4, "c": "a"} for n in range(120)]
    added = [{"n": 1000 + n, "image": f"new{n}.png", "patient": n // 4, "c": "a"} for n in range(120)]
    before, after = parts(lines, group="patient"), parts([*added, *lines], group="patient")
    for role in ROLES:
        assert ids(before[role]) == [name for name in ids(after[role]) if int(name) < 1000]


def test_another_seed_parts_otherwise_and_a_limit_takes_the_first(parts: Callable[..., dict[str, Rows]]) -> None:
    usual, other = parts(), parts(shares=Shares(seed=1))
    assert ids(usual["test"]) != ids(other["test"])
    from vlmtune.data import Limits

    limited = parts(limit=Limits(train=7))
    assert ids(limited["train"]) == ids(usual["train"])[:7]
    assert limited["train"].fingerprint != usual["train"].fingerprint


def test_only_roles_of_the_same_split_share_it(parts: Callable[..., dict[str, Rows]], write_jsonl: Any) -> None:
    write_jsonl("test.jsonl", {"n": 0, "image": "shared0.png", "c": "a"})
    made = parts(splits=Splits(train="all.jsonl", validation="all.jsonl", test="test.jsonl"))
    assert len(made["train"]) + len(made["validation"]) == 300
    assert len(made["test"]) == 1


def test_too_few_rows_and_three_splits_are_refused(parts: Callable[..., dict[str, Rows]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few to divide among train, validation, test: none is left for"):
        parts([{"n": 0, "image": "shared0.png", "c": "a"}])
    dataset = "{source: jsonl, path: ., references: [c], shares: {}}"
    (tmp_path / "c.yaml").write_text(f"model: {{name: tiny}}\ndataset: {dataset}\ntask: {{name: captioning}}\n")
    with pytest.raises(ConfigError, match="divides a split among the roles that use it"):
        load(str(tmp_path / "c.yaml"))


def test_init_parts_the_only_file_there_is(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    for n in range(60):
        (tmp_path / f"only{n}.png").write_bytes(encoded(make_image(40, 40, n)))
    write_jsonl("animals.jsonl", *({"photo": f"only{n}.png", "caption": f"An animal of kind {n}."} for n in range(60)))
    made = vlmtune_in_process("init", "animals.jsonl", "--set", "model.name=tiny", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "dataset.shares divides its rows among the roles" in made.stderr
    config = load(str(tmp_path / "animals.yaml")).config
    assert config.dataset.shares == Shares()
    stats = vlmtune_in_process("data", "stats", "animals.yaml", "--json", cwd=tmp_path)
    assert stats.returncode == 0, stats.stderr
    counted = json.loads(stats.stdout)
    assert sum(role["rows"] for role in counted["roles"]) == 60


SAME = {
    "one name": ("all.jsonl", "all.jsonl", "null", True),
    "another spelling": ("all.jsonl", "./all.jsonl", "null", True),
    "another spelling, with shares": ("all.jsonl", "x/../all.jsonl", "{seed: 1}", True),
    "a pattern": ("all*.jsonl", "all.jsonl", "null", True),
    "a link": ("all.jsonl", "link.jsonl", "null", True),
    "a copy": ("all.jsonl", "copy.jsonl", "null", True),
    "a copy, with shares": ("all.jsonl", "copy.jsonl", "{seed: 1}", True),
    "a copy among others": ("all.jsonl", "co*.jsonl", "null", True),
    "divided": ("all.jsonl", "all.jsonl", "{seed: 1}", False),
    "another file": ("all.jsonl", "other.jsonl", "null", False),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("command", ["config check", "run", "train"])
def test_training_on_the_evaluated_rows_is_refused_from_the_config(name: str, command: str, tmp_path: Path) -> None:
    train, test, shares, refused = SAME[name]
    (tmp_path / "x").mkdir()
    (tmp_path / "all.jsonl").write_text("not a row\n")
    (tmp_path / "other.jsonl").write_text("one row\n")
    (tmp_path / "link.jsonl").symlink_to("all.jsonl")
    (tmp_path / "copy.jsonl").write_text("not a row\n")
    (tmp_path / "c.yaml").write_text(
        "model: {name: tiny}\ntask: {name: captioning}\ndataset: {source: jsonl, path: ., image: null, "
        f"references: [c], splits: {{train: {train}, validation: {test}, test: {test}}}, shares: {shares}}}\n"
    )
    done = vlmtune_in_process(*command.split(), "c.yaml", cwd=tmp_path)
    assert ("the model would be tested on rows it was trained on" in done.stderr) == refused
    if refused:
        assert done.returncode == 2
        assert "dataset.shares={train: 0.8" in done.stderr
    elif command == "config check":
        assert done.returncode == 0


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("train", "train[:50%]", True),
        ("train[:50%]", "train[50%:]", False),
        ("train", "test", False),
        ("train[:60%]", "train[ 40% : ]", True),
        ("train[:-10%]", "train[-20%:]", True),
        ("train[:-10%]", "train[-10%:]", False),
        ("train[:100]", "train[50:150]", True),
        ("train[:100]", "train[100:]", False),
        ("train[:100]", "train[50%:]", False),
        ("train+validation", "validation", True),
        ("train+validation", "test", False),
    ],
)
def test_a_split_of_the_hub_contains_its_slices(one: str, other: str, common: bool) -> None:
    assert have_common_rows(DatasetConfig(source="hub"), one, other) is common
    folders = imagefolder.Config(path="nowhere")
    assert have_common_rows(folders, ".", "train")
    assert not have_common_rows(folders, "train", "train2")


def test_a_copied_folder_has_the_same_rows(tmp_path: Path) -> None:
    """Files of the same names and sizes are not copies yet: pictures without compression have those."""
    for split, seed in (("train", 0), ("test", 0), ("other", 50)):
        for n in range(3):
            file = tmp_path / split / f"class{n % 2}" / f"{n}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(make_image(16, 16, seed + n), "BMP"))
    config = imagefolder.Config(path=str(tmp_path))
    assert have_common_rows(config, "train", "test")
    assert not have_common_rows(config, "train", "other")


def test_additional_rows_of_another_spelling_are_found(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text("rows\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "again.jsonl").write_text("rows\n")
    main = jsonl.Config(path=str(tmp_path), splits=Splits(train="all.jsonl", validation="v.jsonl", test="t.jsonl"))
    for path, test in ((f"{tmp_path}/more/..", "all.jsonl"), (f"{tmp_path}/more", "again.jsonl")):
        other = jsonl.Config(path=path, splits=Splits(train="x.jsonl", validation="y.jsonl", test=test))
        assert overlapping_roles(main, other, "test") == {"train"}
        assert overlapping_roles(main, other, "validation") == set()


@pytest.mark.parametrize("count", [3, 10, 30, 49])
def test_a_small_split_is_divided_exactly(count: int, parts: Callable[..., dict[str, Rows]]) -> None:
    lines = [{"n": n, "c": "yes" if n % 2 else "no"} for n in range(count)]
    made = parts(lines, image=None)
    sizes = {role: len(rows) for role, rows in made.items()}
    tenth = max(1, round(count / 10))
    assert sizes == {"train": count - 2 * tenth, "validation": tenth, "test": tenth}
    assert sorted(int(name) for rows in made.values() for name in ids(rows)) == list(range(count))
    for rows in made.values():
        yes = sum(row.truth["references"] == ["yes"] for row in rows)
        assert abs(yes - len(rows) / 2) <= 1
    other = parts(lines, image=None, shares=Shares(seed=7))
    assert {role: len(rows) for role, rows in other.items()} == sizes
    assert count == 3 or ids(other["test"]) != ids(made["test"])


def test_groups_of_a_small_split_stay_whole(parts: Callable[..., dict[str, Rows]]) -> None:
    made = parts([{"n": n, "image": f"shared{n // 4}.png", "c": f"{n}"} for n in range(40)])
    assert {role: len(rows) for role, rows in made.items()} == {"train": 32, "validation": 4, "test": 4}
    for rows in made.values():
        assert len({int(name) // 4 for name in ids(rows)}) == len(rows) / 4

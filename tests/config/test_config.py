"""The merged tree, overrides and typed sections."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from core.config import Config, Section, load_config
from core.errors import UserError


class Inner(Section):
    width: int
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    turn: bool | tuple[float, float] | None = None


class Outer(Section):
    name: str = "x"
    inner: Inner | None = None
    sizes: list[int] = Field(default_factory=list)
    table: dict[str, Inner] = Field(default_factory=dict)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a ``configs`` folder two deep: each has a default.yaml, as has the folder above."""
    work = tmp_path / "work"
    leaf = work / "configs" / "town"
    leaf.mkdir(parents=True)
    (work / "default.yaml").write_text("above: true\n")
    (work / "configs" / "default.yaml").write_text(
        "b: configs\nc: configs\nd: configs\nm: {x: 1, y: {z: 1}}\nl: [1, 2, 3]\n"
    )
    (leaf / "default.yaml").write_text("c: town\nd: town\nm: {y: {w: 2}}\n")
    (leaf / "run.yaml").write_text("d: run\nm: {x: 7}\nl: [9]\n")
    monkeypatch.chdir(work)
    return work


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


# --- the merged tree ------------------------------------------------------------------------------------------------
def test_mappings_merge_deeply_and_lists_are_replaced(tree: Path) -> None:
    config = load_config("configs/town/run.yaml")
    assert config.tree["m"] == {"x": 7, "y": {"z": 1, "w": 2}}
    assert config.tree["l"] == [9]
    assert config.origin("m.y.z") == "configs/default.yaml"
    assert config.origin("m.y.w") == "configs/town/default.yaml"


def test_mapping_replaces_scalar_and_scalar_replaces_mapping() -> None:
    config = Config()
    config.merge({"a": 1, "b": {"c": 2}}, "first")
    config.merge({"a": {"x": 3}, "b": None}, "second")
    assert config.tree == {"a": {"x": 3}, "b": None}


def test_the_sources_are_not_shared_between_loads(tree: Path) -> None:
    load_config("configs/town/run.yaml", ["m.x=100"])
    assert load_config("configs/town/run.yaml").tree["m"]["x"] == 7


def test_the_value_at_a_dotted_key() -> None:
    config = Config(tree={"a": {"b": None, "c": 0}, "d": 1})
    assert [config.get(key) for key in ("a.c", "d", "a.b", "a.x", "d.x")] == [
        0,
        1,
        None,
        None,
        None,
    ]
    assert config.get("") == config.tree


# --- overrides ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [["--m.x", "5"], ["--m.x=5"], ["m.x=5"]])
def test_three_spellings_of_an_override(tree: Path, options: list[str]) -> None:
    config = load_config("configs/town/run.yaml", options)
    assert config.tree["m"] == {"x": 5, "y": {"z": 1, "w": 2}}
    assert config.origin("m.x") == "command line"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        ("-2", -2),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("{p: 1}", {"p": 1}),
        ("word", "word"),
        ("a=b", "a=b"),
        ("2.5E+4", 2.5e4),
        ("'1e3'", "1e3"),
        ("08", "08"),
        ("nan", "nan"),
        ("[unclosed", "[unclosed"),
        ("", None),
    ],
)
def test_override_values_are_yaml(text: str, value: object) -> None:
    config = Config()
    config.override([f"key={text}"])
    assert config.tree["key"] == value and type(config.tree["key"]) is type(value)


def test_override_makes_the_sections_it_needs_also_in_place_of_null_or_a_number() -> None:
    config = Config(tree={"model": None, "data": 3})
    config.override(["new.deep.key=1", "model.cr=0.5", "data.augment.flip=false"])
    assert config.tree == {
        "new": {"deep": {"key": 1}},
        "model": {"cr": 0.5},
        "data": {"augment": {"flip": False}},
    }


@pytest.mark.parametrize("options", [["--m.x"], ["stray"], ["m.x=1", "--m.y"]])
def test_override_without_value(options: list[str]) -> None:
    with pytest.raises(UserError, match=rf"command line: cannot read '{options[-1]}'"):
        Config().override(options)


def test_scientific_numbers_in_files_are_floats(tree: Path) -> None:
    (tree / "default.yaml").unlink()
    path = write(tree, "inner: {width: 1, rate: 1e-3}\n", "numbers.yaml")
    assert load_config(path).parse(Outer).inner.rate == 1e-3


# --- environment variables ------------------------------------------------------------------------------------------
def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIDISTILL_TEST_A", "alpha")
    monkeypatch.delenv("LIDISTILL_TEST_B", raising=False)
    config = Config(
        tree={"name": "${LIDISTILL_TEST_A}/${LIDISTILL_TEST_B:-beta}/${LIDISTILL_TEST_B:-}."}
    )
    assert config.parse(Outer).name == "alpha/beta/."
    assert config.tree["name"].startswith("${"), (
        "the tree keeps the variable, so that config.yaml stays portable"
    )


def test_unset_variable_names_key_file_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIDISTILL_TEST_B", raising=False)
    config = load_config(write(tmp_path, "inner: {width: 1, kind: '${LIDISTILL_TEST_B}'}\n"))
    with pytest.raises(UserError) as caught:
        config.parse(Outer)
    assert "run.yaml: key 'inner.kind' uses the environment variable LIDISTILL_TEST_B" in str(
        caught.value
    )
    assert "export LIDISTILL_TEST_B=" in caught.value.cure


# --- errors ---------------------------------------------------------------------------------------------------------
def explain(
    tmp_path: Path, text: str, overrides: tuple[str, ...] = (), schema: type[Section] = Outer
) -> str:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text), overrides).parse(schema)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("nmae: y\n", "nmae", "name"),
        ("inner: {widht: 1, width: 1}\n", "inner.widht", "width"),
        ("table: {one: {width: 1, raet: 2}}\n", "table.one.raet", "rate"),
    ],
)
def test_misspelt_key_names_the_nearest_and_the_file(
    tmp_path: Path, text: str, key: str, near: str
) -> None:
    message = explain(tmp_path, text)
    assert f"run.yaml: unknown key '{key}'; did you mean '{near}'?" in message


def test_misspelt_key_in_a_default_names_that_default(tree: Path) -> None:
    (tree / "configs" / "default.yaml").write_text("inner: {knid: b}\n")
    (tree / "configs" / "town" / "default.yaml").write_text("inner: {width: 1}\n")
    (tree / "configs" / "town" / "run.yaml").write_text("name: y\n")
    with pytest.raises(
        UserError, match=r"configs/default\.yaml: unknown key 'inner\.knid'; did you mean 'kind'\?"
    ):
        load_config("configs/town/run.yaml").parse(Outer)


def test_misspelt_override_names_the_command_line(tmp_path: Path) -> None:
    message = explain(tmp_path, "inner: {width: 1}\n", ("--inner.rat", "3"))
    assert "command line: unknown key 'inner.rat'; did you mean 'rate'?" in message


def test_key_like_no_other_lists_what_there_is(tmp_path: Path) -> None:
    message = explain(tmp_path, "inner: {width: 1, zzz: 1}\n")
    assert "unknown key 'inner.zzz'; known keys: kind, rate, turn, width" in message


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    message = explain(tmp_path, "nmae: y\nsizse: [1]\n")
    assert "'nmae'" in message and "'sizse'" in message


def test_missing_key(tmp_path: Path) -> None:
    message = explain(tmp_path, "inner: {rate: 1}\n")
    assert "run.yaml: key 'inner.width' is missing" in message and "--inner.width VALUE" in message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("inner: {width: wide}\n", "inner.width", "'wide'"),
        ("inner: {width: 1, kind: c}\n", "inner.kind", "'c'"),
        ("inner: {width: 1, turn: left}\n", "inner.turn", "'left'"),
        ("sizes: [1, two]\n", "sizes.1", "'two'"),
        ("inner: 3\n", "inner", "3"),
    ],
)
def test_wrong_type(tmp_path: Path, text: str, key: str, value: str) -> None:
    assert f"run.yaml: key '{key}' has the value {value}" in explain(tmp_path, text)


def test_prefix_of_a_section_leads_every_key(tmp_path: Path) -> None:
    config = Config(tree={"part": {"inner": {"width": "x"}}})
    assert Config(tree={"part": {"name": "p"}}).parse(Outer, "part").name == "p"
    assert Config().parse(Outer, "part").name == "x"
    with pytest.raises(UserError, match=r"key 'part\.inner\.width'"):
        config.parse(Outer, "part")


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "y"


def test_dump_reads_back(tree: Path) -> None:
    config = load_config("configs/town/run.yaml", ["--rate", "1e-5", "--word", "Größe"])
    config.dump(tree / "saved" / "copy.yaml")
    assert load_config("saved/copy.yaml").tree == config.tree

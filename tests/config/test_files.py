"""Which files make a configuration: the chain of default.yaml, ``base:``, and keys that are written twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from core.config import load_config, read_yaml
from core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


CHAIN = {
    "default.yaml": "above: true\n",
    "configs/default.yaml": "b: configs\nc: configs\nd: configs\n",
    "configs/town/default.yaml": "c: town\nd: town\n",
    "configs/town/run.yaml": "d: run\n",
}


# --- the chain ------------------------------------------------------------------------------------------------------
def test_the_chain_begins_at_the_folder_called_configs(work: Path) -> None:
    write(work, CHAIN)
    config = load_config("configs/town/run.yaml")
    assert config.tree == {"b": "configs", "c": "town", "d": "run"}
    assert [config.origin(key) for key in "bcd"] == [
        "configs/default.yaml",
        "configs/town/default.yaml",
        "configs/town/run.yaml",
    ]


@pytest.mark.parametrize("folder", [".", "configs", "configs/town", "elsewhere", "/"])
def test_the_working_directory_plays_no_part(
    work: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    write(work, CHAIN | {"elsewhere/default.yaml": "stray: true\n"})
    monkeypatch.chdir(work / folder)
    expected = {"b": "configs", "c": "town", "d": "run"}
    assert load_config(work / "configs/town/run.yaml").tree == expected


def test_a_relative_path_from_inside_the_chain_reads_all_of_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(work, CHAIN)
    monkeypatch.chdir(work / "configs/town")
    assert load_config("run.yaml").tree == {"b": "configs", "c": "town", "d": "run"}


def test_of_two_folders_called_configs_the_nearer_begins_the_chain(work: Path) -> None:
    inner = {f"configs/project/{name}": text for name, text in CHAIN.items()}
    write(work, {"configs/default.yaml": "stray: true\n"} | inner)
    tree = load_config("configs/project/configs/town/run.yaml").tree
    assert tree == {"b": "configs", "c": "town", "d": "run"}


def test_a_file_below_no_configs_reads_the_default_beside_it_alone(work: Path) -> None:
    files = {"default.yaml": "a: 1\n", "my/default.yaml": "b: 2\n", "my/run.yaml": "c: 3\n"}
    write(work, files)
    assert load_config("my/run.yaml").tree == {"b": 2, "c": 3}


def test_a_default_is_no_default_of_itself(work: Path) -> None:
    write(work, CHAIN)
    config = load_config("configs/town/default.yaml")
    assert config.tree == {"b": "configs", "c": "town", "d": "town"}
    assert config.origin("d") == "configs/town/default.yaml"


# --- bases ----------------------------------------------------------------------------------------------------------
def test_a_base_comes_before_the_file_and_after_its_defaults(work: Path) -> None:
    files = {
        "configs/default.yaml": "a: default\nb: default\nc: default\nm: {x: 0}\n",
        "configs/recipes/r.yaml": "b: recipe\nc: recipe\nm: {y: 1}\n",
        "configs/town/run.yaml": "base: ../recipes/r.yaml\nc: run\nm: {z: 2}\n",
    }
    write(work, files)
    config = load_config("configs/town/run.yaml")
    m = {"x": 0, "y": 1, "z": 2}
    assert config.tree == {"a": "default", "b": "recipe", "c": "run", "m": m}
    assert config.origin("m.y") == "configs/recipes/r.yaml"
    assert config.origin("m.z") == config.origin("c") == "configs/town/run.yaml"


def test_of_several_bases_the_later_wins(work: Path) -> None:
    files = {
        "one.yaml": "a: 1\nb: 1\n",
        "two.yaml": "base: deep/three.yaml\nb: 2\n",
        "deep/three.yaml": "b: 3\nc: 3\n",
        "run.yaml": "base: [one.yaml, two.yaml]\n",
    }
    write(work, files)
    assert load_config("run.yaml").tree == {"a": 1, "b": 2, "c": 3}


def test_a_default_may_have_a_base(work: Path) -> None:
    files = {
        "configs/recipes/r.yaml": "a: recipe\nb: recipe\n",
        "configs/town/default.yaml": "base: ../recipes/r.yaml\nb: town\n",
        "configs/town/run.yaml": "c: run\n",
    }
    write(work, files)
    assert load_config("configs/town/run.yaml").tree == {"a": "recipe", "b": "town", "c": "run"}


def test_a_base_is_what_it_is_by_itself_with_its_own_defaults(work: Path) -> None:
    write(work, CHAIN | {"mine/run.yaml": "base: ../configs/town/run.yaml\ne: mine\n"})
    expected = {"b": "configs", "c": "town", "d": "run", "e": "mine"}
    assert load_config("mine/run.yaml").tree == expected


def test_a_file_counts_once_where_it_is_first_asked_for(work: Path) -> None:
    """So a base brings no folder's defaults back over what came after them."""
    files = {
        "configs/default.yaml": "a: configs\n",
        "configs/town/default.yaml": "a: town\n",
        "configs/recipes/r.yaml": "b: recipe\n",
        "configs/town/run.yaml": "base: ../recipes/r.yaml\n",
    }
    write(work, files)
    assert load_config("configs/town/run.yaml").tree == {"a": "town", "b": "recipe"}


def test_a_missing_base_names_the_file_that_asks(work: Path) -> None:
    write(work, {"run.yaml": "base: [lost.yaml]\n"})
    with pytest.raises(UserError, match=r"^run\.yaml, key 'base': the file 'lost\.yaml'"):
        load_config("run.yaml")


def test_files_that_build_on_each_other_in_a_circle(work: Path) -> None:
    files = {
        "a.yaml": "base: b.yaml\n",
        "b.yaml": "base: c.yaml\n",
        "c.yaml": "base: b.yaml\n",
    }
    write(work, files)
    with pytest.raises(UserError, match=r"^c\.yaml, key 'base'.*b\.yaml -> c\.yaml -> b\.yaml"):
        load_config("a.yaml")


def test_a_default_cannot_build_on_a_file_below_it(work: Path) -> None:
    write(work, {"default.yaml": "base: run.yaml\n", "run.yaml": "a: 1\n"})
    with pytest.raises(UserError, match=r"default\.yaml -> default\.yaml"):
        load_config("run.yaml")


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[1, 2]", "null"])
def test_a_base_that_is_no_path(work: Path, value: str) -> None:
    write(work, {"run.yaml": f"base: {value}\n"})
    with pytest.raises(UserError, match=r"run\.yaml, key 'base': expected a path or a list"):
        load_config("run.yaml")


# --- one key, one value ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", "1 and 3"),
        ("data:\n  mix: 1\nmodel: {}\ndata:\n  sweeps: true\n", "data", "1 and 4"),
        ("m:\n  x: {y: 1, y: 2}\n", "m.x.y", "2 and 2"),
        ("l:\n- {p: 1}\n- {q: 1,\n   q: 2}\n", "l.1.q", "3 and 4"),
    ],
)
def test_a_key_written_twice(work: Path, text: str, key: str, lines: str) -> None:
    write(work, {"run.yaml": text})
    with pytest.raises(
        UserError, match=rf"run\.yaml: key '{key}' is written twice, in lines {lines}"
    ):
        load_config("run.yaml")


def test_a_key_written_twice_on_the_command_line(work: Path) -> None:
    write(work, {"run.yaml": "a: 1\n"})
    with pytest.raises(UserError, match=r"command line: key 'x' is written twice"):
        load_config("run.yaml", ["m={x: 1, x: 2}"])


def test_strict_yaml_reads_what_yaml_reads(work: Path) -> None:
    text = "a: &n {x: 1}\nb: {<<: *n, y: [1, {x: 2}]}\nc: *n\n1: one\n'1': text\n"
    write(work, {"run.yaml": text, "empty.yaml": "# nothing\n"})
    assert read_yaml(work / "run.yaml") == yaml.safe_load(text)
    assert read_yaml(work / "empty.yaml") is None
    assert load_config("empty.yaml").tree == {}


@pytest.mark.parametrize(
    "content", [b"a: [1, 2", b"a: b: c", b"- 1\n- 2\n", b"just text", b"\x80\x02PK\x03\x04\xff"]
)
def test_a_file_that_is_no_yaml_mapping(work: Path, content: bytes) -> None:
    (work / "broken.yaml").write_bytes(content)
    message = (
        r"broken\.yaml: (this is not valid YAML|this file is not UTF-8|expected 'key: value' lines)"
    )
    with pytest.raises(UserError, match=message):
        load_config(work / "broken.yaml")


# --- paths that lead nowhere ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("configs/semantickiti/minkunet.yaml", "configs/semantickitti/minkunet.yaml"),
        ("configs/minkunet_dmo.yaml", "configs/synthetic/minkunet_demo.yaml"),
        ("x/configs/nuscenes/spvcn.yaml", "configs/nuscenes/spvcnn.yaml"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_mistyped_path_is_answered_with_a_whole_path(
    work: Path, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str, inside: bool
) -> None:
    if inside:
        monkeypatch.chdir(ROOT)
    shown = meant if inside else str(ROOT / meant)
    with pytest.raises(UserError) as caught:
        load_config(typed)
    assert str(caught.value).startswith(f"{typed}: this configuration file does not exist")
    assert caught.value.cure == f"Did you mean {shown}?"


def test_a_path_like_no_other_names_the_folder_of_configurations(work: Path) -> None:
    with pytest.raises(UserError, match=r"See .*configs for what exists"):
        load_config("9.json")

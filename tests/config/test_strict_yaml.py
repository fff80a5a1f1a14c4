"""YAML that means what it looks like. Expected values: YAML 1.2.2, section 10.3; leading zeros stay text."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import yaml

from core.config import Config, Section, dump_yaml, load_config, parse_yaml, read_yaml
from core.errors import UserError

SCALARS = [
    ("", None),
    ("~", None),
    ("null", None),
    ("true", True),
    ("FALSE", False),
    ("0", 0),
    ("-12", -12),
    ("0o17", 15),
    ("0x1F", 31),
    ("1.", 1.0),
    ("-.5e-3", -0.0005),
    ("1e5", 1e5),
    ("1E+05", 1e5),
    ("-.inf", -math.inf),
    ("!!int 12", 12),
    ("!!str 12", "12"),
    ("'12'", "12"),
    # what YAML 1.1 makes numbers, dates and truth values of
    ("011", "011"),
    ("009", "009"),
    ("-07", "-07"),
    ("0b11", "0b11"),
    ("0b_", "0b_"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("190:20:30.15", "190:20:30.15"),
    ("2001-01-01", "2001-01-01"),
    ("2001-13-45", "2001-13-45"),
    ("yes", "yes"),
    ("NO", "NO"),
    ("on", "on"),
    ("=", "="),
    ("nan", "nan"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_is_what_it_looks_like(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"key: {text}\n")
    config = Config()
    config.override(["--other", text])
    for read in (read_yaml(tmp_path / "a.yaml")["key"], config.tree["other"]):
        assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_what_is_written_reads_back_in_either_version_of_yaml(text: str, value: object) -> None:
    tree = {"a": [value, text, {text: value}]}
    assert parse_yaml(dump_yaml(tree), "dump") == tree
    assert yaml.safe_load(dump_yaml(tree)) == tree


@pytest.mark.parametrize("name", ["011", "009", "08", "000"])
def test_names_of_sequences_keep_their_zeros(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(f"split: [{name}]\n")
    assert load_config(tmp_path / "a.yaml").tree == {"split": [name]}
    assert load_config(tmp_path / "a.yaml", ["--split", f"[{name}]"]).tree == {"split": [name]}


class Numbers(Section):
    count: int = 0
    on: bool = False
    rate: float = 0.0
    sizes: tuple[int, int] = (0, 0)


def test_typed_keys_still_take_old_spellings_of_numbers_and_truth() -> None:
    numbers = Config(tree=parse_yaml("{count: 010, 'on': yes, rate: 1_0.5}", "a")).parse(Numbers)
    assert numbers == Numbers(count=10, on=True, rate=10.5)


@pytest.mark.parametrize("text", ["0,2", "0, 2", "7"])
def test_a_list_without_brackets_is_shown_with_them(text: str) -> None:
    config = Config()
    config.override(["--sizes", text])
    shown = {"7": "[7]"}.get(text, "[0, 2]")
    with pytest.raises(UserError, match=rf"'sizes'.*write \{shown[:-1]}\]"):
        config.parse(Numbers)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "1e999"])
def test_numbers_of_the_configuration_are_finite(value: object) -> None:
    with pytest.raises(UserError, match=r"'rate'.*finite"):
        Config(tree={"rate": value}).parse(Numbers)


# --- what is refused, and soon ----------------------------------------------------------------------------------------
def bomb(link: str) -> str:
    lines = ["a0: &a0 {x: [1, 2]}"]
    for i in range(1, 30):
        uses = ", ".join([f"*a{i - 1}"] * 10)
        lines.append(f"a{i}: &a{i} " + link.format(uses))
    return "\n".join(lines)


def ladder() -> str:
    steps = [f"a{i}: &a{i} {'[' * 40}*a{i - 1}{']' * 40}" for i in range(1, 100)]
    return "\n".join(["a0: &a0 [x]", *steps])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: &a [*a]", r"'\*a' in line 1 holds itself"),
        ("a: &a\n  b: {c: *a}", r"'\*a' in line 2 holds itself"),
        (bomb("[{}]"), "aliases repeat more than"),
        (bomb("{{<<: [{}]}}"), "aliases repeat more than"),
        ("a: " + "[" * 5000, "lie inside each other"),
        ("{a: " * 5000, "lie inside each other"),
        ("- " * 5000, "lie inside each other"),
        (ladder(), "lie inside each other"),
        ("a: " + "9" * 5000, "number '9999.*' in line 1 is too large"),
        ("a:\n- -9223372036854775809", "in line 2 is too large"),
        ("a: 1e999", "'1e999' in line 1 is too large"),
        ("a: 0x" + "f" * 5000, "too large"),
        ("{1: a, 0x1: b}", "key '0x1' is written twice"),
        ("{true: a, True: b}", "key 'True' is written twice"),
        ("{<<: {a: 1}, <<: {b: 1}}", "key '<<' is written twice"),
        ("<<: 5", "'<<' in line 1 takes mappings"),
        ("? [a]\n: 1", "no key"),
        ("a: !!python/object:os.system x", "'!!python/object:os.system' in line 1 is not read"),
        ("a: !!timestamp 2001-01-01", "!!timestamp"),
        ("a: !!set {b}", "!!set"),
        ("a: !!int x", "!!int"),
        ("!!binary aGk=", "!!binary"),
        ('a: "\\0"', "NUL"),
        ("a: *b", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_what_no_configuration_needs_is_refused_at_once(
    tmp_path: Path, text: str, match: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=match) as caught:
        read_yaml(path)
    assert time.process_time() - start < 1.0
    assert caught.value.where == str(path)


def test_numbers_of_the_command_line_are_bounded_too() -> None:
    with pytest.raises(UserError, match="command line: the number '9999"):
        Config().override(["--a.b", "9" * 5000])


@pytest.mark.parametrize("text", ["*.bin", "{stem}.label", "@home", "a: b: c", "[unclosed"])
def test_patterns_on_the_command_line_are_text(text: str) -> None:
    config = Config()
    config.override(["--a", text])
    assert config.tree == {"a": text}


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("a: 1\nb: Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 text: byte 0xf6 in line 2"):
        read_yaml(tmp_path / "a.yaml")


def test_aliases_and_merges_are_written_out() -> None:
    text = "a: &n {x: [1]}\nb: {<<: [*n, {x: 2, y: 3}], z: 4}\nc: {z: 5, <<: *n}\n"
    tree = parse_yaml(text, "a")
    assert tree == {"a": {"x": [1]}, "b": {"x": [1], "y": 3, "z": 4}, "c": {"x": [1], "z": 5}}
    tree["a"]["x"].append(2)
    assert tree["b"]["x"] == [1]


def test_no_other_module_reads_yaml() -> None:
    root = Path(__file__).resolve().parents[2]
    found = []
    for folder in ("core", "benchmarks", "third_party/SparseTransformer/sptr"):
        for path in (root / folder).rglob("*.py"):
            if "yaml.safe_load" in path.read_text() or "yaml.load" in path.read_text():
                found.append(path.name)
    assert found == []

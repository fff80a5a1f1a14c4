"""What the documentation quotes exists: commands and their options, configurations, files, figures."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from core.api import Prediction, Segmenter
from core.config import load_config
from core.engine.run.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(
    str(ROOT / "benchmarks")
)  # where the benchmarks, which are scripts, find one another

from benchmarks import results  # noqa: E402

SPTR = ROOT / "third_party" / "SparseTransformer"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "runs" / "README.md", SPTR / "README.md"]
    + list((ROOT / "docs").rglob("*.md"))
)
SOURCES = sorted(
    [ROOT / "Makefile", *ROOT.glob("*.py")]
    + [path for folder in ("core", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    + list(SPTR.rglob("*.py"))
)
EVERYTHING = PAGES + SOURCES
WORDS = 700
COMMAND = re.compile(r"python (-m )?((?:[\w-]+[./])*[\w-]+)([^`#|\n\"]*)")
CONFIG = re.compile(r"(?<![\w/])configs/[\w./*-]*(?:\{[\w,]+\}[\w./*-]*)*\.yaml")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
NO_OPTIONS = {
    "core.sparse.build",
    "sptr.build",
    "setup.py",
}  # build at once, whatever follows


def name(path: Path) -> str:
    """For the names of tests."""
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    """A file with the lines of a command that goes on behind a backslash joined."""
    return re.sub(r"\\\n\s*", "", path.read_text())


@cache
def help_of(target: str, *arguments: str) -> str:
    """What ``python TARGET [arguments] --help`` prints; TARGET is a script or a module."""
    printed = io.StringIO()
    argv, paths = sys.argv, list(sys.path)
    sys.argv = [target, *arguments, "--help"]
    try:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as left:
            if target.endswith(".py"):
                runpy.run_path(str(ROOT / target), run_name="__main__")
            else:
                runpy.run_module(target, run_name="__main__", alter_sys=False)
    finally:
        sys.argv, sys.path[:] = argv, paths
    assert left.value.code == 0, f"{target} {' '.join(arguments)} --help left with an error"
    return printed.getvalue()


def quoted_commands() -> dict[tuple[str, str], str]:
    """Every command of the project that some text quotes: (script or module, rest of the line) -> the text."""
    found: dict[tuple[str, str], str] = {}
    for path in EVERYTHING:
        text = results.PLACE.sub("", text_of(path))  # records hold commands as they were given then
        for match in COMMAND.finditer(text):
            module, target, rest = match.groups()
            ours = target.startswith(("core.", "sptr.")) if module else target.endswith(".py")
            if ours and target not in NO_OPTIONS:
                found.setdefault((target, rest.strip()), name(path))
    return found


COMMANDS = quoted_commands()


@pytest.mark.parametrize("target", sorted({target for target, _ in COMMANDS}))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # runpy: the module was imported before
def test_quoted_commands_know_the_quoted_options(target: str) -> None:
    wrong = []
    for (quoted, rest), where in COMMANDS.items():
        if quoted == target:
            wrong += [f"{where}: {fault}" for fault in faults_of(target, rest)]
    assert not wrong


def faults_of(target: str, rest: str) -> list[str]:
    """The options of one quoted command that neither its help nor the configuration knows."""
    known = help_of(target)
    jobs = re.findall(r"^    (\w[\w-]*) ", known, flags=re.MULTILINE)
    word = rest.split(" ")[0]
    for job in [word] if word in jobs else jobs:  # evaluate.py's earlier form names no job
        known += help_of(target, job)
    faults = []
    for option in re.findall(r"(?<![\w-])--([A-Za-z][\w.-]*)", rest.split(" -- ")[0]):
        is_key = option.split(".")[0] in Experiment.model_fields and "[--section.key" not in rest
        if not is_key and f"--{option}" not in known and option != "section.key":
            faults.append(f"{target} does not know --{option}")
    return faults


def test_commands_are_found() -> None:
    targets = {target for target, _ in COMMANDS}
    assert {
        "train_teacher.py",
        "evaluate.py",
        "core.check_data",
        "benchmarks/network.py",
    } <= targets
    assert faults_of("train_teacher.py", "x.yaml --no-such-option")
    assert not faults_of("train_teacher.py", "x.yaml --run-dir D --model.cr 0.5 --num_epochs 3")


def quoted_configs() -> dict[str, str]:
    """Every configuration that some text quotes -> the text; ``{a,b}`` counts as both."""
    found: dict[str, str] = {}
    for path in EVERYTHING:
        for match in CONFIG.finditer(text_of(path)):
            for single in spelt_out(match[0]):
                found.setdefault(single, name(path))
    return found


def spelt_out(pattern: str) -> list[str]:
    """``a/{b,c}`` -> ``a/b``, ``a/c``."""
    braces = re.search(r"\{([^}]*)\}", pattern)
    if braces is None:
        return [pattern]
    rest = pattern[braces.end() :]
    return [
        one
        for choice in braces[1].split(",")
        for one in spelt_out(pattern[: braces.start()] + choice + rest)
    ]


@pytest.mark.parametrize("quoted", sorted(quoted_configs()))
def test_quoted_configs_open(quoted: str) -> None:
    files = sorted(ROOT.glob(quoted))
    assert files, f"{quoted_configs()[quoted]} quotes {quoted}, which does not exist"
    for path in files:
        assert load_config(str(path)).tree


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, heading = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists() or (heading and heading not in headings(linked)):
            broken.append(target)
    assert not broken


def headings(page: Path) -> set[str]:
    """The anchors a page's headings get."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def quoted_python() -> list[str]:
    """Blocks of Python in the pages that use the project's interface."""
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [block for block in blocks if "core.api" in block]


def test_quoted_python_uses_what_there_is() -> None:
    quoted = {"Segmenter": Segmenter, "model": Segmenter, "result": Prediction}
    assert quoted_python()
    for node in ast.walk(ast.parse("\n".join(quoted_python()))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            kind = quoted[node.value.id]
            assert node.attr in set(dir(kind)) | set(kind.__annotations__)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.keywords:
            parameters = inspect.signature(getattr(Segmenter, node.func.attr)).parameters
            assert {keyword.arg for keyword in node.keywords} <= parameters.keys()


def test_every_picture_and_page_is_linked() -> None:
    linked = set()
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            linked.add((page.parent / target.partition("#")[0]).resolve())
    pages = set((ROOT / "docs").rglob("*.md")) | set((ROOT / "docs" / "images").iterdir())
    assert not sorted(name(path) for path in pages - linked)


def test_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= WORDS


# --- figures ------------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page without the tables that records write, and without code."""
    text = results.PLACE.sub("", page.read_text())
    return re.sub(r"```.*?```|`[^`\n]*`|Python \d\.\d+(?: or \d\.\d+)?", "", text, flags=re.DOTALL)


def figures(text: str) -> set[str]:
    """Numbers that were measured: with a decimal point, or with a unit behind them."""
    return set(FIGURE.findall(text))


def recorded() -> set[str]:
    """The figures of all tables of docs/results."""
    tables = []
    for page in sorted(results.RESULTS.glob("*.md")):
        tables += [match[0] for match in results.PLACE.finditer(page.read_text())]
    return figures("\n".join(tables))


def test_tables_are_what_the_records_give() -> None:
    for page in sorted(results.RESULTS.glob("*.md")):
        assert page.read_text() == results.written_page(page), "python benchmarks/results.py write"


def test_every_table_has_its_place() -> None:
    placed = set()
    for page in results.RESULTS.glob("*.md"):
        placed |= {match[2] for match in results.PLACE.finditer(page.read_text())}
    assert placed == {path.stem for path in (results.RESULTS / "data").glob("*.json")}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(results.RESULTS.glob("*.md"))], ids=name
)
def test_figures_of_the_prose_are_recorded(page: Path) -> None:
    assert figures(prose(page)) <= recorded()


def test_the_printed_example_is_the_file() -> None:
    example = (ROOT / "configs" / "folder" / "example.yaml").read_text()
    assert f"```yaml\n{example}```" in (ROOT / "docs" / "data.md").read_text()

"""The tables of docs/results, from records: each row with its command, seed, commit and processor.

    python benchmarks/results.py write                    # renew the tables in docs/results/*.md
    python benchmarks/results.py add scores.json --table teachers --row "MinkUNet" --seeds 0
    python benchmarks/results.py add times.json --table network --row inference --scale 0.001 \
        --value "fp32=times_ms.inference.ours fp32.clock" "bf16=times_ms.inference.ours bf16.clock"

``docs/results/data/TABLE.json`` holds a table's records. A page names a table's place with ``<!-- table: TABLE -->``
and ``<!-- end -->``; only what is between the two is written. ``add`` takes scores written by evaluate.py or what a
benchmark wrote with ``--json``; several files are runs of one row, one per seed. Of a list of repeats the
median counts. A row of that name is replaced.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.decode import read_json
from core.engine.run.cli import run_command
from core.errors import UserError
from core.io import write_json, write_text

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
NOT_RECORDED = "not recorded"
ABSOLUTE = re.compile(
    r"(?<![^\s'\"=])/(?:[^\s'\"/]+/)*([^\s'\"/]+)"
)  # of a path only the last part is kept
HASH = re.compile(r"\b([0-9a-f]{7})[0-9a-f]{33}\b")
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spread(_Strict):
    """A mean whose single runs were not kept."""

    mean: float
    spread: float


Value = int | float | list[float] | Spread | None  # a list holds one value per seed


class Record(_Strict):
    """One row of a table.

    Attributes:
        row: what was measured. values: by the table's columns, in its unit; None or absent = not measured.
        command, commit, processor, date: who made it; "not recorded" where that is unknown.
        seeds: of the runs, in the order of a list of values; None where nothing is drawn or it is not recorded.
        note: what else a reader has to know.
    """

    row: str
    values: dict[str, Value]
    command: str
    seeds: list[int] | None = None
    commit: str = NOT_RECORDED
    processor: str = NOT_RECORDED
    date: str = NOT_RECORDED
    note: str = ""

    @property
    def made(self) -> str:
        """Who made it, as one line of Markdown."""
        parts = [f"`{self.command}`" if self.command != NOT_RECORDED else "command not recorded"]
        if self.seeds:
            seeds = ", ".join(str(seed) for seed in self.seeds)
            parts.append(f"seed{'s' if len(self.seeds) > 1 else ''} {seeds}")
        parts.append(_named("commit", self.commit))
        parts.append(_named("processor", self.processor))
        parts.append(_named("date", self.date))
        if self.note:
            parts.append(self.note)
        return "; ".join(parts)


class ResultTable(_Strict):
    """One file of docs/results/data.

    Attributes:
        title: with the unit of its values. rows: heading of the first column. columns: headings of the others.
        digits: after the point, of means and of what ``add`` takes in.
    """

    title: str
    rows: str
    columns: list[str]
    digits: int = 1
    records: list[Record] = Field(default_factory=list)

    def markdown(self) -> str:
        """The table, and below it the numbered list of who made each row."""
        made: list[str] = []
        lines = [
            f"**{self.title}**",
            "",
            _row([self.rows, *self.columns, "run"]),
            _row(["---"] * (len(self.columns) + 2)),
        ]
        for record in self.records:
            if record.made not in made:
                made.append(record.made)
            cells = [self._cell(record.values.get(column)) for column in self.columns]
            lines.append(_row([record.row, *cells, f"({made.index(record.made) + 1})"]))
        lines.append("")
        lines += [f"{number}. {line}" for number, line in enumerate(made, 1)]
        return "\n".join(lines) + "\n"

    def _cell(self, value: Value) -> str:
        if value is None:
            return "–"
        if isinstance(value, Spread):
            return f"{self._number(value.mean)} ± {self._number(value.spread)}"
        if not isinstance(value, list):
            return self._number(value)
        single = ", ".join(self._number(run) for run in value)
        if len(value) == 1:
            return single
        mean, spread = statistics.mean(value), statistics.stdev(value)
        return f"{self._number(mean)} ± {self._number(spread)} ({single})"

    def _number(self, value: float) -> str:
        if isinstance(value, int):
            return str(value)
        return f"{value:.{self.digits}f}"


def _named(name: str, value: str) -> str:
    if value == NOT_RECORDED:
        return f"{name} not recorded"
    if name == "commit":
        return "commit " + HASH.sub(r"\1", value)
    return value


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_table(path: Path) -> ResultTable:
    """A table's records.

    Raises:
        UserError: the file is missing or is no table, or a record fills a column that the table lacks.
    """
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.json"))
        raise UserError(
            f"there is no table '{path.stem}'",
            where=str(path),
            cure=f"Known tables: {', '.join(known)}. A new one begins as a file with title, rows and columns",
        )
    try:
        table = ResultTable.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{first['msg']} at '{key}'", where=str(path), cure="Compare it with the others"
        ) from None
    for record in table.records:
        _check_columns(table, record, path)
    return table


def _check_columns(table: ResultTable, record: Record, path: Path) -> None:
    unknown = record.values.keys() - set(table.columns)
    if unknown:
        raise UserError(
            f"row '{record.row}' fills {', '.join(sorted(unknown))}, which is no column",
            where=str(path),
            cure=f"The columns are {', '.join(table.columns)}",
        )


def written_page(page: Path) -> str:
    """A page's text with its tables as the records have them now.

    Raises:
        UserError: it names a table without a file.
    """

    def renew(match: re.Match[str]) -> str:
        table = read_table(page.parent / "data" / f"{match[2]}.json")
        return match[1] + table.markdown() + match[3]

    return PLACE.sub(renew, page.read_text(encoding="utf-8"))


def write_pages(folder: Path) -> list[Path]:
    """Renew the tables of all pages of ``folder``; the pages that changed."""
    changed = []
    for page in sorted(folder.glob("*.md")):
        text = written_page(page)
        if text != page.read_text():
            write_text(page, text)
            changed.append(page)
    return changed


def record_of(
    row: str,
    files: Sequence[Path],
    values: Mapping[str, str],
    seeds: list[int] | None = None,
    note: str = "",
    scale: float | None = None,
) -> Record:
    """The record of one or several JSON files.

    Args:
        files: one, or one per seed. values: dotted key in the files, by the column it fills.
        scale: factor from the files' unit to the table's; None = the same unit.

    Raises:
        UserError: a file lacks a key, the value is no number, or the files are not one per seed.
    """
    if len(files) > 1 and len(seeds or []) != len(files):
        raise UserError(
            f"{len(files)} files are one row's runs, but {len(seeds or [])} seeds are named",
            where="--seeds",
            cure="Name one seed per file, in the same order",
        )
    measured: dict[str, Value] = {}
    for column, key in values.items():
        runs = [_number(path, key) for path in files]
        if scale is not None:
            runs = [run * scale for run in runs]
        measured[column] = runs if len(runs) > 1 else runs[0]
    first = read_json(files[0])
    made = {
        key: first.get(key) or NOT_RECORDED for key in ("command", "commit", "processor", "date")
    }
    made["command"] = ABSOLUTE.sub(r"\1", made["command"])
    return Record(row=row, values=measured, seeds=seeds, note=note, **made)


def _number(path: Path, key: str) -> float:
    value = read_json(path)
    for part in key.split("."):
        value = _below(value, part, key, path)
    if isinstance(value, list) and value and all(_is_number(repeat) for repeat in value):
        value = statistics.median(value)
    if not _is_number(value):
        raise UserError(
            f"'{key}' is no number in this file", where=str(path), cure="Name one of its values"
        )
    return value


def _below(value: object, part: str, key: str, path: Path) -> object:
    """What a mapping or list holds under one part of a dotted key."""
    if isinstance(value, list):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict):
        raise UserError(
            f"there is nothing to look '{part}' up in",
            where=f"{path}, key '{key}'",
            cure="End the key before it",
        )
    if part not in value:
        raise UserError(
            f"there is no '{part}'",
            where=f"{path}, key '{key}'",
            cure=f"There are {', '.join(sorted(value)[:12])}",
        )
    return value[part]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_record(path: Path, record: Record) -> None:
    """Put a record into the table's file, in place of the row of that name, else as its last row.

    Raises:
        UserError: the file is no table, or lacks a column of the record.
    """
    table = read_table(path)
    _check_columns(table, record, path)
    for column, value in record.values.items():
        record.values[column] = _rounded(value, table.digits)
    rows = [known.row for known in table.records]
    if record.row in rows:
        table.records[rows.index(record.row)] = record
    else:
        table.records.append(record)
    write_json(path, table.model_dump(exclude_defaults=True))


def _rounded(value: Value, digits: int) -> Value:
    if isinstance(value, list):
        return [round(run, digits) for run in value]
    if isinstance(value, float):
        return round(value, digits)
    return value


def _assignment(text: str) -> tuple[str, str]:
    column, equals, key = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected COLUMN=dotted.key")
    return column, key


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (docs/results)")
    jobs = parser.add_subparsers(dest="job", required=True)
    jobs.add_parser("write", help="renew the tables of all pages")
    add = jobs.add_parser("add", help="take a result into a table, and write")
    add.add_argument("files", type=Path, nargs="+", help="JSON of evaluate.py or a benchmark")
    add.add_argument("--table", required=True, help="name of a file in docs/results/data")
    add.add_argument("--row", required=True, help="what was measured")
    add.add_argument(
        "--value",
        type=_assignment,
        nargs="+",
        default=[("mIoU", "miou")],
        metavar="COLUMN=KEY",
        help="which number fills which column (mIoU=miou)",
    )
    add.add_argument("--scale", type=float, help="factor from the files' unit to the table's")
    add.add_argument("--seeds", type=int, nargs="+", help="of the runs, in the files' order")
    add.add_argument("--note", default="", help="what else a reader has to know")
    return parser.parse_args()


def main() -> None:
    """Add a record if asked to, and renew the pages."""
    args = arguments()
    if args.job == "add":
        record = record_of(
            args.row, args.files, dict(args.value), args.seeds, args.note, args.scale
        )
        add_record(args.results / "data" / f"{args.table}.json", record)
    changed = write_pages(args.results)
    for page in changed:
        print(f"written: {page}")


if __name__ == "__main__":
    run_command(main)

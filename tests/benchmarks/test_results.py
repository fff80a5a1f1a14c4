"""Tables of docs/results come from records, and say who made each row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import Record, ResultTable, add_record, record_of, write_pages, written_page
from benchmarks.timing import write_measurement
from core.decode import read_json
from core.errors import UserError
from core.io import write_json

PAGE = "# Speed\n\nBefore.\n\n<!-- table: layers -->\nstale\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """docs/results with one page and one empty table."""
    table = ResultTable(title="Layers, ms", rows="layer", columns=["fp32", "bf16"])
    write_json(tmp_path / "data" / "layers.json", table.model_dump(exclude_defaults=True))
    (tmp_path / "speed.md").write_text(PAGE)
    return tmp_path


def scores(path: Path, miou: float) -> Path:
    """What evaluate.py writes, as far as a record needs it."""
    made = {"command": "python evaluate.py x.yaml", "commit": "abc", "processor": "P", "date": "D"}
    write_json(path, {"miou": miou} | made)
    return path


def test_a_page_keeps_its_text_and_gets_its_table(folder: Path) -> None:
    row = Record(row="64", values={"fp32": 19.84}, command="python b.py", seeds=[3])
    row.commit = 8 * "abcde" + " with local changes"
    add_record(folder / "data" / "layers.json", row)
    assert write_pages(folder) == [folder / "speed.md"]
    text = (folder / "speed.md").read_text()
    assert text.startswith("# Speed\n\nBefore.\n") and text.endswith("<!-- end -->\n\nAfter.\n")
    assert "| 64 | 19.8 | – | (1) |" in text
    made = "1. `python b.py`; seed 3; commit abcdeab with local changes; processor not recorded; date not recorded"
    assert made in text
    assert "stale" not in text
    assert write_pages(folder) == []


def test_rows_made_alike_share_a_line_and_a_row_is_replaced(folder: Path) -> None:
    path = folder / "data" / "layers.json"
    for row, value in (("32", 1.0), ("64", 2.0), ("32", 3.0)):
        add_record(path, Record(row=row, values={"fp32": value}, command="c"))
    markdown = results.read_table(path).markdown()
    assert [line for line in markdown.splitlines() if line.startswith(("| 3", "| 6"))] == [
        "| 32 | 3.0 | – | (1) |",
        "| 64 | 2.0 | – | (1) |",
    ]
    assert markdown.count("`c`") == 1


def test_scores_of_several_seeds_are_one_row_with_mean_and_spread(tmp_path: Path) -> None:
    files = [scores(tmp_path / f"{n}.json", miou) for n, miou in enumerate((50.0, 54.0))]
    record = record_of("net", files, {"mIoU": "miou"}, [0, 1])
    assert (record.values, record.commit, record.processor) == ({"mIoU": [50.0, 54.0]}, "abc", "P")
    table = ResultTable(title="t", rows="r", columns=["mIoU"], records=[record])
    assert "| net | 52.0 ± 2.8 (50.0, 54.0) | (1) |" in table.markdown()
    assert "seeds 0, 1" in table.markdown()


def test_a_benchmark_file_says_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    write_measurement(path, {"times": [{"fp32": 1250.0, "bf16": [3e3, 1e3, 2e3]}]})
    values = {"fp32": "times.0.fp32", "bf16": "times.0.bf16"}
    record = record_of("layer", [path], values, note="quiet", scale=1e-3)
    assert record.values == {"fp32": 1.25, "bf16": 2.0}  # of repeats, the median
    assert record.command.startswith("python ")
    assert record.processor and record.processor != results.NOT_RECORDED
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record.date)


def test_an_old_file_is_not_given_a_maker(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", {"miou": 1.0})
    record = record_of("net", [tmp_path / "old.json"], {"mIoU": "miou"})
    assert (record.command, record.commit, record.date) == (results.NOT_RECORDED,) * 3


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("mioU", "there is no 'mioU'. There are iou, miou"),
        ("iou", "'iou' is no number"),
        ("iou.car", "'iou.car' is no number"),
        ("miou.car", "nothing to look 'car' up in"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, key: str, fault: str) -> None:
    write_json(tmp_path / "s.json", {"miou": 1.0, "iou": {"car": None}})
    with pytest.raises(UserError, match=re.escape(fault)):
        record_of("net", [tmp_path / "s.json"], {"mIoU": key})


def test_absolute_paths_stay_at_home(tmp_path: Path) -> None:
    command = (
        "python evaluate.py configs/a.yaml --checkpoint /data/me/runs/a --out=/data/x '/b c/d'"
    )
    write_json(tmp_path / "s.json", {"miou": 1.0, "command": command})
    record = record_of("net", [tmp_path / "s.json"], {"mIoU": "miou"})
    assert "python evaluate.py configs/a.yaml --checkpoint a --out=x '" in record.command
    assert "/home" not in record.command and "/data" not in record.command


def test_one_seed_per_file(tmp_path: Path) -> None:
    files = [scores(tmp_path / "a.json", 1.0), scores(tmp_path / "b.json", 2.0)]
    with pytest.raises(UserError, match="2 files are one row's runs, but 1 seeds"):
        record_of("net", files, {"mIoU": "miou"}, [0])


def test_faults_of_a_table_name_it(folder: Path) -> None:
    path = folder / "data" / "layers.json"
    with pytest.raises(UserError, match="'64' fills fp8, which is no column"):
        add_record(path, Record(row="64", values={"fp8": 1.0}, command="c"))
    with pytest.raises(UserError, match=r"no table .nets..* Known tables: layers"):
        results.read_table(folder / "data" / "nets.json")
    write_json(path, read_json(path) | {"colour": "red"})
    with pytest.raises(UserError, match="at 'colour'"):
        written_page(folder / "speed.md")

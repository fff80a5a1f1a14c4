"""Every configuration key has its unit and meaning, and ``python -m core.config`` says them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from core.config import Section
from core.data.partitions import PARTITIONS
from core.data.paste_config import PASTES
from core.datasets import DATASETS
from core.datasets.motion_config import MOTION_KINDS
from core.distill import METHODS
from core.engine.run.experiment import Experiment
from core.engine.run.keys import Table, keys_of, main, tables
from core.errors import UserError
from core.models import MODELS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


class Inner(Section):
    width: int = Field(1, ge=1, description="m, of a thing")
    rates: tuple[float, ...] = Field((0.5,), description="numbers")


class Outer(Section):
    kind: Literal["a", "b"] | None = Field(None, description="which")
    share: float = Field(0.0, ge=0, lt=1, description="part")
    inner: Inner = Field(Inner(width=3), description="its inside")
    table: dict[str, Inner] = Field(default_factory=dict, description="by name")
    flag: bool = Field(description="must be said")


def test_a_section_in_words() -> None:
    found = [(key.name, key.type, key.default, key.meaning) for key in keys_of(Outer)]
    assert found == [
        ("kind", "a | b | null", "null", "which"),
        ("share", "number in [0, 1)", "0.0", "part"),
        ("inner", "section", "as below", "its inside"),
        ("inner.width", "integer >= 1", "3", "m, of a thing"),
        ("inner.rates", "[number, ...]", "[0.5]", "numbers"),
        ("table", "{text: section}", "{}", "by name"),
        ("table.NAME.width", "integer >= 1", "1", "m, of a thing"),
        ("table.NAME.rates", "[number, ...]", "[0.5]", "numbers"),
        ("flag", "true | false", "required", "must be said"),
    ]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.title)
def test_every_key_has_its_meaning(table: Table) -> None:
    assert table.meaning and table.keys
    assert [key.name for key in table.keys if not key.meaning.strip(" .")] == []


def test_every_section_and_every_component_has_its_table() -> None:
    found = {(table.section, table.choice) for table in tables()}
    registries = {
        "dataset": DATASETS,
        "data.partition": PARTITIONS,
        "data.paste": PASTES,
        "dataset.columns.NAME.motion": MOTION_KINDS,
        "model": MODELS,
        "distill": METHODS,
    }
    for section, registry in registries.items():
        assert {choice for name, choice in found if name == section} == set(registry)
    top = {key.name for table in tables() if table.section == "top level" for key in table.keys}
    chosen = {name for name in registries if "." in name}
    sections = {name for name, _ in found} - {"top level"} - chosen
    assert sections == set(Experiment.model_fields) - top


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--markdown"])
    assert PAGE.read_text() == capsys.readouterr().out, (
        "python -m core.config --markdown > docs/configuration.md"
    )


@pytest.mark.parametrize(
    ("section", "there", "elsewhere"),
    [
        ("optimizer", "weight_decay", "voxel_size"),
        ("data.paste", "max_points", "voxel_size"),
        ("minkunet", "in_channel", "window_size"),
        ("model", "window_size", "w_kl"),
    ],
)
def test_a_part_of_the_table(
    capsys: pytest.CaptureFixture[str], section: str, there: str, elsewhere: str
) -> None:
    main([section])
    printed = capsys.readouterr().out
    assert there in printed and elsewhere not in printed


@pytest.mark.parametrize(("section", "near"), [("optimiser", "optimizer"), ("paste", "data.paste")])
def test_an_unknown_section(section: str, near: str) -> None:
    with pytest.raises(UserError, match=f"no section '{section}'. Did you mean '{near}'"):
        main([section])

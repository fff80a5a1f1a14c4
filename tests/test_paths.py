"""Names that come out of files stay below their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.datasets.columns import Column, column_file
from core.engine.score.prediction import PredictionFolder
from core.errors import UserError
from core.labels import SEMANTICKITTI
from core.paths import check_name, inside

BAD = {
    "": "is empty",
    "/etc/passwd": "root of the file system",
    "../x": "'..'",
    "a/../../x": "'..'",
    "a//b": "empty part",
    "./a": "'.'",
    "a/": "empty part",
    "a\0b": "not printable",
    "a\nb": "not printable",
    "..\\x": "backslash",
    "a" * 201: "longer than 200 bytes",
    "ä" * 101: "longer than 200 bytes",
    "/".join(["abc"] * 300): "1024 in all",
    "\udcff": "not printable",
}


@pytest.mark.parametrize("name", BAD, ids=range(len(BAD)))
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^table.json: the name ") as refused:
        check_name(name, "table.json")
    assert BAD[name] in refused.value.what and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "name", ["08/000123", "a b.c", "..a", "1566279795.5", "Straße 1/é", "a" * 200]
)
def test_names_below_the_folder_are_taken_as_they_are(name: str) -> None:
    assert inside(Path("folder"), name) == Path("folder") / name


def test_a_token_may_be_one_part_alone() -> None:
    assert check_name("0af3", "table", folders=False) == "0af3"
    with pytest.raises(UserError, match="holds a '/'"):
        check_name("08/0af3", "table", folders=False)


@pytest.mark.parametrize("kind", ["nuscenes", "semantickitti", "npy"])
def test_predictions_stay_in_their_folder(tmp_path: Path, kind: str) -> None:
    folder = PredictionFolder(tmp_path / "out", kind, SEMANTICKITTI)
    for token in ("../../x", "a/../../../../x"):
        with pytest.raises(UserError, match="the name"):
            folder.path(token)
    assert folder.path("a").is_relative_to(tmp_path / "out")


def test_columns_stay_below_the_root() -> None:
    with pytest.raises(UserError, match="the name"):
        column_file(Column(file="maps/{token}.npy"), Path("root"), "../../x")

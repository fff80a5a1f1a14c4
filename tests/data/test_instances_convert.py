"""Old instance databases: one file per instance and a pickled index that may come from anywhere."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.data.instances.build import build_database, training_scans
from core.data.instances.convert import _named, convert_database, read_old_index
from core.data.instances.database import Database
from core.datasets import build_dataset
from core.errors import UserError


@pytest.fixture(scope="module")
def config(tiny_nuscenes, tmp_path_factory) -> Config:
    root = shutil.copytree(tiny_nuscenes, tmp_path_factory.mktemp("convert") / "root")
    return Config({"dataset": {"name": "nuscenes", "root": str(root), "version": "v1.0-mini"}})


@pytest.fixture(scope="module")
def built(config, tmp_path_factory) -> Database:
    return build_database(config, tmp_path_factory.mktemp("built") / "db")


def old_layout(folder: Path, built: Database, val_token: str) -> Path:
    """The same instances as the old scripts wrote them, one of the validation split, one too small; another machine's
    paths."""
    names = {entry["id"]: entry["name"] for entry in built.meta["classes"]}
    index: dict[str, list[str]] = {name: [] for name in names.values()}
    records = [(names[int(e["cls"])], e["token"].decode(), int(e["instance"]), built.points(row))
               for row, e in reversed(list(enumerate(built.index)))]  # fmt: skip
    car = next(points for name, _, _, points in records if name == "car")
    records += [("car", val_token, 17001, car), ("car", records[0][1], 17999, car[:5])]
    for name, token, instance, points in records:
        path = folder / "inst_database_train" / name / f"{token}_{name}_{instance}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.column_stack([points, np.full(len(points), 31)]).astype(np.float32).tofile(path)
        index[name].append(f"/data2/someone/nuscenes/{path.relative_to(folder)}")
    old = folder / "inst_database_train_info.pkl"
    old.write_bytes(pickle.dumps(index, protocol=2))
    return old


@pytest.fixture
def old(config, built, tmp_path) -> Path:
    return old_layout(tmp_path / "old", built, build_dataset(config, "val").token(0))


@pytest.mark.parametrize("workers", [1, 2])
def test_conversion_gives_the_same_points_and_index(config, built, old, tmp_path, workers):
    converted = convert_database(config, old, tmp_path / "db", workers)
    names = [entry["file"] for entry in built.meta["classes"]] + ["index.npy"]
    for name in names:
        assert (converted.folder / name).read_bytes() == (built.folder / name).read_bytes(), name
    assert converted.meta["classes"] == built.meta["classes"]
    assert converted.meta["left_out"] == {"too_few_points": 1, "not_in_train_split": 1}
    assert converted.meta["identity"]["source"] == "converted"


class Evil:
    """Pickles as a call."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_names_code_is_refused(tmp_path, protocol):
    path, marker = tmp_path / "evil.pkl", tmp_path / "was here"
    path.write_bytes(pickle.dumps({"car": [Evil(f"'{marker}'")]}, protocol=protocol))
    with pytest.raises(UserError, match=r"evil\.pkl: refused: it asks for \w+\.system"):
        read_old_index(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps({"car": [Path("a.bin")]}, protocol=protocol))
    with pytest.raises(UserError, match="refused: it asks for"):
        read_old_index(path)


@pytest.mark.parametrize("content", [["car"], {"car": "x.bin"}, {"car": [3]}, {1: []}])
def test_an_index_of_another_shape_is_refused(tmp_path, content):
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="not a dict from class names to lists of paths"):
        read_old_index(path)


def test_a_damaged_index_is_refused(tmp_path):
    path = tmp_path / "old.pkl"
    with pytest.raises(UserError, match="does not exist"):
        read_old_index(path)
    for data in (b"", b"PK\x03\x04 no pickle", pickle.dumps({"car": ["a"]})[:-3]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"old\.pkl: (this is no pickled index|refused)"):
            read_old_index(path)


def test_faults_of_records_are_named(config, built, old, tmp_path):
    def rewrite(change) -> None:
        index = pickle.loads(old.read_bytes())
        change(index)
        old.write_bytes(pickle.dumps(index))

    first = next((old.parent / "inst_database_train" / "car").iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="not a multiple of 20"):
        convert_database(config, old, tmp_path / "db")
    first.unlink()
    with pytest.raises(
        UserError, match=r"this file of the old database does not exist.*the whole folder"
    ):
        convert_database(config, old, tmp_path / "db")
    first.write_bytes(whole)
    rewrite(lambda index: index["car"].append("/a/../car/x_car_1.bin"))
    with pytest.raises(UserError, match="holds an empty part"):
        convert_database(config, old, tmp_path / "db2")
    rewrite(lambda index: index["car"].__setitem__(-1, "/a/b/car/car7.bin"))
    with pytest.raises(UserError, match="'car7' is not named <scan>_car_<number>"):
        convert_database(config, old, tmp_path / "db3")
    rewrite(lambda index: (index["car"].pop(), index.update(moon=[])))
    with pytest.raises(UserError, match="class 'moon'"):
        convert_database(config, old, tmp_path / "db4")


def test_names_of_semantickitti(tiny_kitti):
    kitti = Config({"dataset": {"name": "semantickitti", "root": str(tiny_kitti)}})
    known = {training_scans(kitti).token(1): 1}
    assert known == {"00/000001": 1}
    assert _named("00_000001_other-vehicle_12", "other-vehicle", known, Path("x")) == (
        "00/000001",
        12,
    )
    assert _named("08_000001_car_3", "car", known, Path("x")) == ("08_000001", 3)

"""Instance databases: what is cut out, the same bytes whatever the processes, restarts, refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from data_fakes import make_scan
from instance_fakes import CAR, PEDESTRIAN, toy_database
from PIL import Image

import prepare_inst_database
from core.config import Config
from core.data.instances.build import _Cutter, build_database, extract, training_scans
from core.data.instances.database import Database, class_file
from core.data.instances.sheet import facing, sampled, write_sheet
from core.data.instances.writer import write_database
from core.data.paste_config import ThingRule
from core.datasets import build_dataset
from core.errors import UserError
from core.labels import NUSCENES

REPO = Path(__file__).resolve().parents[2]
RULES = {
    CAR: ThingRule(min_points=2, ground=("sidewalk",)),
    PEDESTRIAN: ThingRule(min_points=3, ground=("sidewalk",)),
}


@pytest.fixture(scope="module")
def root(tiny_nuscenes, tmp_path_factory) -> Path:
    """A copy, so that the reader's index is not written into the shared world."""
    return Path(shutil.copytree(tiny_nuscenes, tmp_path_factory.mktemp("instances") / "root"))


def config_of(root: Path, **dataset) -> Config:
    return Config(
        {"dataset": {"name": "nuscenes", "root": str(root), "version": "v1.0-mini", **dataset}}
    )


def digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_extract_exactly():
    """Pairs of (class, number); the keyframe only; too small ones counted; points keep their order."""
    xyz = np.arange(30).reshape(10, 3)
    labels = [CAR, CAR, PEDESTRIAN, CAR, PEDESTRIAN, CAR, 11, PEDESTRIAN, CAR, CAR]
    numbers = [5, 7, 5, 5, 5, 0, 5, 5, 5, 7]
    scan = make_scan(xyz, labels=labels, time_lag=[0] * 8 + [0.1] * 2, token="a/b")
    part = extract(scan.having(instance=np.array(numbers, np.int32)), RULES)
    assert part.small == 1  # car 7 has one point in the keyframe
    assert part.points[:, 3].tolist() == [0, 3, 2, 4, 7]
    np.testing.assert_array_equal(part.points[:, :3], xyz[[0, 3, 2, 4, 7]])
    assert part.points.dtype == np.float32
    car, pedestrian = part.index
    assert (car["cls"], car["instance"], car["count"], car["token"]) == (CAR, 5, 2, b"a/b")
    assert (pedestrian["cls"], pedestrian["instance"], pedestrian["count"]) == (PEDESTRIAN, 5, 3)
    assert car["anchor"].tolist() == [4.5, 5.5, 2] and pedestrian["anchor"].tolist() == [13, 14, 8]
    assert car["azimuth"] == pytest.approx(np.arctan2(5.5, 4.5)) and car["range"] == pytest.approx(
        np.hypot(5.5, 4.5)
    )


def test_extract_needs_instance_numbers():
    with pytest.raises(UserError, match="scan scan has no instance numbers"):
        extract(make_scan(np.zeros((2, 3)), labels=[CAR, CAR]), RULES)


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> Database:
    return build_database(config_of(root), tmp_path_factory.mktemp("built") / "db")


def test_a_label_budget_holds_for_the_database(root, built, tmp_path):
    """Under unlabelled: rest, too: objects of scans without labels are nobody's to paste."""
    config = config_of(root, labelled={"fraction": 0.5}, unlabelled="rest")
    dataset = build_dataset(config, "train")
    few = build_database(config, tmp_path / "few")
    tokens = {token.decode() for token in few.index["token"]}
    assert tokens and tokens <= set(dataset.labelled_tokens)
    assert len(few.index) < len(built.index)


def test_world_s_instances_are_all_there(root, built):
    """Each row against the scan it names, by brute force."""
    scans = training_scans(config_of(root))
    wanted = {}
    for i in range(len(scans)):
        scan = scans.load(i, cameras=False)
        for cls in range(1, 11):
            for number in np.unique(scan.instances[(scan.labels == cls) & (scan.instances > 0)]):
                own = (scan.labels == cls) & (scan.instances == number)
                if own.sum() >= 10:
                    wanted[scan.token, cls, int(number)] = np.column_stack(
                        [scan.xyz, scan.intensity]
                    )[own]
    index = built.index
    assert len(index) == len(wanted) > 20
    for row in range(len(index)):
        entry, points = index[row], built.points(row)
        np.testing.assert_array_equal(
            points, wanted[entry["token"].decode(), entry["cls"], entry["instance"]]
        )
        mean = points[:, :2].astype(np.float64).mean(0)
        np.testing.assert_allclose(entry["anchor"], [*mean, points[:, 2].min()], rtol=1e-6)
    assert np.all(np.diff(index["cls"].astype(int)) >= 0)
    files = {entry["name"]: entry for entry in built.meta["classes"]}
    assert files["car"]["file"] == "car.bin" and files["car"]["id"] == CAR
    assert files["car"]["points"] == index["count"][index["cls"] == CAR].sum()
    assert f"{files['car']['instances']:,}" in built.summary() and "median" in built.summary()


def test_only_the_training_split(root, built):
    tokens = set(np.unique(built.index["token"]).astype(str))
    from core.datasets import build_dataset

    val = build_dataset(config_of(root), "val")
    assert not tokens & {val.token(i) for i in range(len(val))}


def test_sweeps_of_the_job_do_not_enter(root, built, tmp_path):
    with_sweeps = build_database(config_of(root, multisweeps={"num_sweeps": 2}), tmp_path / "db")
    assert digest(with_sweeps.folder) == digest(built.folder)


def test_a_class_s_smallest_instance_can_be_chosen(root, tmp_path):
    config = config_of(root)
    rule = {"min_points": 60, "ground": ["sidewalk"]}
    config.merge(
        {"database": str(tmp_path / "db"), "things": {"car": rule, "bus": rule}},
        "test",
        "data.paste",
    )
    database = build_database(config)
    assert database.folder == tmp_path / "db"
    assert set(database.index["cls"]) <= {3, 4} and database.index["count"].min() >= 60
    assert database.meta["left_out"]["too_few_points"] > 0


class ManyScans:
    """40 scans with two instances each; logs what is read, and dies or fails at ``deadly``."""

    labels, title = NUSCENES, "many"

    def __init__(self, log: Path, deadly: int | None = None, killed: bool = False) -> None:
        self.log, self.deadly, self.killed = log, deadly, killed

    def __len__(self) -> int:
        return 40

    def load(self, index: int, *, cameras: bool = True):
        if index == self.deadly:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("the file is cut short", where=f"{index}.bin")
        with open(self.log, "a") as stream:
            stream.write(f"{index}\n")
        rng = np.random.default_rng(index)
        count = 20 + index
        scan = make_scan(
            rng.normal(size=(count, 3)),
            labels=[CAR] * 12 + [PEDESTRIAN] * (count - 12),
            token=f"{index}",
        )
        return scan.having(instance=np.full(count, 1 + index, np.int32))

    @property
    def seen(self) -> list[int]:
        return (
            sorted(int(line) for line in self.log.read_text().split()) if self.log.exists() else []
        )


def write(folder: Path, dataset: ManyScans, workers: int = 1, name: str = "many") -> Database:
    tasks = [range(k, k + 8) for k in range(0, 40, 8)]
    return write_database(
        folder, {"of": name}, NUSCENES, tuple(RULES), _Cutter(dataset, RULES), tasks, workers
    )


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    return digest(write(tmp_path / "whole", ManyScans(tmp_path / "whole.log")).folder)


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, whole, workers):
    assert set(whole) == {"car.bin", "pedestrian.bin", "index.npy", "meta.json"}
    assert digest(write(tmp_path / "db", ManyScans(tmp_path / "log"), workers).folder) == whole


def test_goes_on_after_an_error_and_reads_no_finished_part_again(tmp_path, whole):
    log = tmp_path / "log"
    with pytest.raises(UserError, match=r"^19\.bin: the file is cut short"):
        write(tmp_path / "db", ManyScans(log, deadly=19))
    with pytest.raises(UserError, match="no finished instance database"):
        Database(tmp_path / "db")
    log.unlink()
    again = ManyScans(log)
    assert digest(write(tmp_path / "db", again).folder) == whole
    assert again.seen == list(range(16, 40))
    log.unlink()
    write(tmp_path / "db", again)
    assert again.seen == []


def test_survives_being_killed(tmp_path, whole):
    fork = multiprocessing.get_context("fork")
    process = fork.Process(
        target=write, args=(tmp_path / "db", ManyScans(tmp_path / "log", deadly=30, killed=True))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (tmp_path / "log").unlink()
    again = ManyScans(tmp_path / "log")
    assert digest(write(tmp_path / "db", again).folder) == whole
    assert again.seen == list(range(24, 40))


def test_parts_of_another_database_are_not_used(tmp_path, whole):
    with pytest.raises(UserError):
        write(tmp_path / "db", ManyScans(tmp_path / "log", deadly=39), name="other")
    assert digest(write(tmp_path / "db", ManyScans(tmp_path / "log")).folder) == whole


def test_finished_and_foreign_folders_are_left_alone(tmp_path, whole):
    with pytest.raises(UserError, match="holds another instance database"):
        write(tmp_path / "whole", ManyScans(tmp_path / "log"), name="other")
    assert digest(tmp_path / "whole") == whole
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no instance database"):
        write(tmp_path / "mine", ManyScans(tmp_path / "log"))


def test_damaged_database_is_named(tmp_path):
    folder = toy_database(tmp_path / "db", [(CAR, np.ones((5, 4)))]).folder
    assert Database(folder).points(0).tolist() == np.ones((5, 4)).tolist()
    (folder / "car.bin").write_bytes(bytes(64))
    with pytest.raises(UserError, match=r"car\.bin: 64 bytes, expected 80 bytes"):
        Database(folder)
    (folder / "car.bin").unlink()
    with pytest.raises(UserError, match=r"car\.bin: missing, expected 80 bytes"):
        Database(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(UserError, match="format 99, this version reads 1"):
        Database(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes": None}, r"meta\.json: key 'classes'"),
        ({"classes": []}, r"meta\.json: key 'classes'"),
        ({"classes": [{"id": 1}]}, r"key 'classes\.0\.name' is missing"),
        ({"labels": {"name": "x", "fingerprint": 5}}, r"key 'labels\.fingerprint'"),
        ({"absent": "car"}, "key 'absent'"),
    ],
)
def test_a_description_of_wrong_types_names_the_key(tmp_path, change, match):
    folder = toy_database(tmp_path / "db", [(CAR, np.ones((5, 4)))]).folder
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(UserError, match=match):
        Database(folder)


@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", 1), ("count", 6), ("count", -5), ("cls", 0), ("offset", -(2**62))],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, column, value):
    folder = toy_database(tmp_path / "db", [(CAR, np.ones((5, 4)))]).folder
    index = np.load(folder / "index.npy")
    index[column] = value
    np.save(folder / "index.npy", index)
    with pytest.raises(UserError, match="does not belong to this database"):
        Database(folder)


def test_an_index_of_other_columns_is_refused(tmp_path):
    folder = toy_database(tmp_path / "db", [(CAR, np.ones((5, 4)))]).folder
    index = np.load(folder / "index.npy")
    index.dtype.names = ["tokem" if name == "token" else name for name in index.dtype.names]
    np.save(folder / "index.npy", index)
    with pytest.raises(UserError, match="does not belong to this database"):
        Database(folder)


def test_nothing_found_is_an_error(tmp_path):
    rules = {CAR: ThingRule(min_points=1000, ground=("sidewalk",))}
    work = _Cutter(ManyScans(tmp_path / "log"), rules)
    with pytest.raises(UserError, match=r"not one instance is large enough \(40 are too small"):
        write_database(tmp_path / "db", {}, NUSCENES, (CAR,), work, [range(40)], 1)


def test_database_travels_as_a_path(tmp_path):
    database = toy_database(tmp_path / "db", [(CAR, np.ones((500, 4)))])
    database.points(0)
    data = pickle.dumps(database)
    assert len(data) < 500
    assert pickle.loads(data).points(0).shape == (500, 4)


def test_class_files_have_safe_names():
    assert (
        class_file("other-vehicle") == "other-vehicle.bin" and class_file("../a b") == "___a_b.bin"
    )


def test_sheet_shows_the_sensor_s_view(tmp_path):
    """An object to the left (+y): away is +y, right is +x."""
    view = facing(np.array([[0, 10, 0], [1, 12, 0.5]]), np.array([0.0, 10, 0]))
    np.testing.assert_allclose(view, [[0, 0, 0], [1, 2, 0.5]], atol=1e-12)
    clouds = [(CAR, np.full((size, 4), 5.0)) for size in (3, 9, 1, 7, 5, 4, 2, 8, 6)]
    database = toy_database(tmp_path / "db", [*clouds, (PEDESTRIAN, np.ones((2, 4)))])
    assert database.index["count"][sampled(database, CAR, 5)].tolist() == [1, 3, 5, 7, 9]
    assert sampled(database, PEDESTRIAN, 5).tolist() == [9]
    write_sheet(database, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 1000 and np.asarray(image.convert("L")).std() > 5


def test_command(root, built, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    command = ["prepare_inst_database.py", "configs/synthetic/default.yaml", "--workers", "1"]
    monkeypatch.setattr(
        sys, "argv", [*command, "--dataset.root", str(root), "--out", str(tmp_path / "db")]
    )
    prepare_inst_database.main()
    printed = capsys.readouterr().out
    assert (
        printed.endswith(f"{len(built)} instances in {tmp_path / 'db'}\n") and "smallest" in printed
    )
    assert (tmp_path / "db" / "sheet.png").is_file()
    assert digest(tmp_path / "db").items() >= digest(built.folder).items()

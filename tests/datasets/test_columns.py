"""Columns from disk: in every reader, row by row, from the file to the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config import Config
from core.contracts import Points, Scan
from core.data import DataConfig
from core.data.collate import collate
from core.data.corruptions import PROFILES, Scanner
from core.data.corruptions.apply import corrupt
from core.data.mix import mix_scans
from core.data.sample import make_sample
from core.datasets import build_dataset
from core.datasets.columns import Column, read_column
from core.errors import UserError
from core.models import build_model

COUNTS = {"a": 50, "b": 70}


def numbers(stem: str, channels: int = 2) -> np.ndarray:
    """Row i holds i + 0.5, i + 100.5, ...: a row says which point it belongs to."""
    rows = np.arange(COUNTS[stem], dtype=np.float64)[:, None]
    return rows + 0.5 + 100 * np.arange(channels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scans whose intensities number the points, and their motion maps."""
    (tmp_path / "maps").mkdir()
    for stem, count in COUNTS.items():
        points = np.random.default_rng(count).uniform(-5, 5, (count, 4)).astype(np.float32)
        points[:, 3] = np.arange(count)
        points.tofile(tmp_path / f"{stem}.bin")
        (np.arange(count) % 2 * 30 + 10 + (1 << 16)).astype(np.uint32).tofile(
            tmp_path / f"{stem}.label"
        )
        np.savez(tmp_path / "maps" / f"{stem}.npz", maps=numbers(stem), other=np.zeros(3))
    return tmp_path


MOTION = {"file": "maps/{token}.npz", "key": "maps", "channels": 2}


def tree(root: Path, **columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": {
            "name": "folder",
            "root": str(root),
            "label_files": "{stem}.label",
            "columns": columns or {"motion": MOTION},
        }
    }


def scan_of(root: Path, index: int = 0, **columns: dict[str, Any]) -> Scan:
    return build_dataset(Config(tree(root, **columns)), "train").load(index)


def rows_agree(scan: Scan) -> bool:
    """Whether the motion of every point is that of the point its intensity names."""
    expected = scan.intensity[:, None] + 0.5 + 100 * np.arange(2)
    return bool((scan.points["motion"] == expected.astype(np.float32)).all())


def test_a_column_is_read_with_its_scan(root):
    scan = scan_of(root, 1)
    assert scan.points["motion"].dtype == np.float32 and scan.points["motion"].shape == (70, 2)
    assert rows_agree(scan)


def test_npy_without_key_and_other_types(root):
    np.save(root / "a.npy", np.arange(50, dtype=np.int16)[:, None])
    column = scan_of(root, pseudo={"file": "{stem}.npy"}).points["pseudo"]
    assert column.dtype == np.int64 and column.tolist() == list(range(50))
    np.save(root / "a.npy", np.ones(50, np.bool_))
    assert scan_of(root, pseudo={"file": "{stem}.npy"}).points["pseudo"].dtype == np.bool_


def test_files_may_be_named_as_the_published_writer_of_logits_does(tiny_kitti, tmp_path):
    """KDMOS: SS_FFFFFF.npy, all sequences in one folder, raw logits f32 [points, 4]."""
    column = {"file": f"{tmp_path}/{{flat}}.npy", "channels": 4}
    section = {"name": "semantickitti", "root": str(tiny_kitti), "cameras": []}
    section["columns"] = {"teacher": column}
    dataset = build_dataset(Config({"dataset": section}), "train")
    sequence, frame = dataset.token(1).split("/")
    logits = np.zeros((len(dataset.read(1).points), 4), np.float32)
    logits[:, 3] = np.arange(len(logits))
    np.save(tmp_path / f"{sequence}_{frame}.npy", logits)
    assert np.array_equal(dataset.load(1).points["teacher"], logits)


@pytest.mark.parametrize("form", ["kitti", "nuscenes"])
def test_sweeps_get_zeros(form, request, tmp_path):
    world = request.getfixturevalue(f"tiny_{form}")
    section: dict[str, Any] = {
        "name": "semantickitti" if form == "kitti" else form,
        "root": str(world),
        "cameras": [],
        "multisweeps": {"num_sweeps": 1, "only_past": True},
    }
    if form == "nuscenes":
        section["version"] = "v1.0-mini"
    dataset = build_dataset(Config({"dataset": section}), "train")
    token = dataset.token(1)
    plain = dataset.load(1)
    own = int(plain.keyframe.sum())
    assert own < len(plain.points)
    path = tmp_path / f"{token}.npy"  # a token may hold a folder
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.arange(1, own + 1, dtype=np.float32))
    section["columns"] = {"weight": {"file": f"{tmp_path}/{{token}}.npy"}}
    dataset = build_dataset(Config({"dataset": section}), "train")
    scan = dataset.load(1)
    assert list(dataset.column_files(1).values()) == [path]
    assert scan.points["weight"][:own].tolist() == list(range(1, own + 1))
    assert not scan.points["weight"][own:].any()
    np.testing.assert_array_equal(scan.xyz, plain.xyz)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((49, 2)), r"has 49 rows; expected numbers \[50, 2\]"),
        (np.zeros((50, 3)), r"float64 \[50, 3\]; expected numbers \[50, 2\]"),
        (np.zeros(50), r"float64 \[50\]; expected"),
        (np.full((50, 2), np.nan), "NaN"),
        (np.full((50, 2), 1e300), "float32 cannot hold"),
        (np.full((50, 2), 1 << 63, np.uint64), "holds numbers above 9223372036854775807"),
        (np.full((50, 2), "x"), "expected numbers"),
        (np.full((50, 2), None, object), "never loaded"),
    ],
)
def test_what_does_not_fit_is_named(root, array, message):
    np.savez(root / "maps" / "a.npz", maps=array)
    with pytest.raises(UserError, match=message) as error:
        scan_of(root)
    assert "a.npz" in str(error.value) and "'motion'" in str(error.value)


def test_missing_file_and_key(root):
    with pytest.raises(UserError, match=r"b\.npz.*does not exist.*dataset\.columns\.motion\.file"):
        (root / "maps" / "b.npz").unlink()
        scan_of(root, 1)
    with pytest.raises(UserError, match=r"needs an array 'map'; the file has maps, other"):
        scan_of(root, motion=MOTION | {"key": "map"})
    with pytest.raises(UserError, match="needs one array only"):
        scan_of(root, motion=MOTION | {"key": None})
    (root / "maps" / "a.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"a\.npz: cannot decode this file of the column 'motion'"):
        scan_of(root)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"motion": {"file": "maps.npz"}}, r"must contain \{token\}, \{flat\} or \{stem\}"),
        ({"motion": {"file": "{stem}.bin"}}, r"must end in \.npy or \.npz"),
        ({"label": {"file": "{stem}.npy"}}, "'label' is a column that every scan has"),
        ({"motion": {"file": "{stem}.npy", "chanels": 2}}, "channels"),
        ({"motion": {"file": "{stem}.npy", "channels": 0}}, "channels"),
    ],
)
def test_wrong_settings(root, columns, message):
    with pytest.raises(UserError, match=message):
        scan_of(root, **columns)


def test_rows_follow_mix_and_corruption(root):
    first, second = scan_of(root, 0), scan_of(root, 1)
    mixed = mix_scans(first, second)
    assert len(mixed.points) == 120 and rows_agree(mixed)
    scanner = Scanner(beams=64, scale=1.0, vehicles=np.zeros(256, bool))
    lost = [
        c for c in PROFILES["semantickitti-c"] if c.kind.startswith(("global_outliers", "beam"))
    ]
    lost += [c for c in PROFILES["robo3d"] if c.kind == "beam_missing"]
    assert lost
    for corruption in lost:
        scan = corrupt(first, corruption, scanner)
        old = scan.labels != 0 if len(scan.points) > len(first.points) else slice(None)
        kept = replace(scan, points=scan.points.take(old))
        assert rows_agree(kept), corruption.name


def test_pasted_points_have_zeros(root):
    scan = scan_of(root)
    added = Points(np.ones((3, 3), np.float32), intensity=np.ones(3, np.float32))
    joined = Points.join(scan.points, added)
    assert not joined["motion"][50:].any() and joined["motion"].shape == (53, 2)


def test_a_network_reads_a_column(root):
    data = {"voxel_size": 0.1, "features": ["xyz", "intensity", "motion"]}
    augment = {"dropout": 0.3, "flip": True}
    model = {"name": "minkunet", "cr": 0.25}
    config = Config(tree(root) | {"data": data | {"augment": augment}, "model": model})
    parsed = config.parse(DataConfig, "data")
    dataset = build_dataset(config, "train")
    samples = []
    for index in range(2):
        rng = np.random.default_rng(index)
        samples.append(make_sample(dataset.load(index), index, parsed, training=True, rng=rng))
    batch = collate(samples)
    expected = batch.points["intensity"][:, None] + 0.5 + 100 * torch.arange(2)
    assert torch.equal(batch.points["motion"], expected)
    assert batch.feats.shape[1] == 6
    assert torch.equal(batch.feats[:, 4:], batch.points["motion"][batch.cells.point])
    torch.manual_seed(0)
    network = build_model(config, 5)  # in training mode: normalised, so that no unit is dead
    first = network(batch).logits
    changed = replace(batch, points={**batch.points, "motion": batch.points["motion"] * 0})
    assert not torch.equal(first, network(changed).logits)


def test_reading_is_safe(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="never loaded"):
        read_column(tmp_path / "a.npy", Column(file="{stem}.npy"), "x", 1)

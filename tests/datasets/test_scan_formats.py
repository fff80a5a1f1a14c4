"""Scans as people have them: every format, names of columns, points without return, coordinates of a map, labels."""

from __future__ import annotations

import importlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from core.config import Config
from core.contracts import IGNORE
from core.data import DataConfig, make_sample
from core.datasets import build_dataset, scan_formats
from core.datasets.scan_formats import SCAN_FORMATS, read_table, stem_of
from core.errors import UserError

pypcd4 = pytest.importorskip("pypcd4")
laspy = pytest.importorskip("laspy")
RNG = np.random.default_rng(0)
SCAN = np.c_[RNG.normal(0, 5, (50, 3)).round(3), RNG.integers(0, 200, 50)].astype(np.float32)
RINGS = np.arange(50) % 4
IDS = (np.arange(50) % 3 + 16).astype(np.uint8)  # nuScenes: bus, car, construction vehicle
TRAIN_IDS = (np.arange(50) % 3 + 3).tolist()


def folder(root: Path, **keys):
    """All scans of ``root`` with nuScenes' classes."""
    section = {"name": "folder", "root": str(root), "labels": "nuscenes", "label_dtype": "uint8"}
    return build_dataset(Config({"dataset": section | keys}), "train")


def write_pcd(path: Path, kind: str) -> None:
    columns = [*SCAN.T, RINGS.astype(np.uint16), IDS]
    names = ("x", "y", "z", "intensity", "ring", "label")
    types = (*[np.float32] * 4, np.uint16, np.uint8)
    cloud = pypcd4.PointCloud.from_points(columns, names, types)
    cloud.save(path, encoding=pypcd4.Encoding(kind))


def write_las(path: Path, shift: tuple[float, float, float] = (0, 0, 0)) -> None:
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales, header.offsets = [0.001] * 3, list(shift)
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = (SCAN[:, :3].astype(np.float64) + shift).T
    cloud.intensity, cloud.classification = SCAN[:, 3], IDS
    cloud.user_data = RINGS
    cloud.write(path)


def write(path: Path, kind: str) -> Path:
    if kind in ("ascii", "binary", "binary_compressed"):
        write_pcd(path.with_suffix(".pcd"), kind)
        return path.with_suffix(".pcd")
    if kind in ("las", "laz"):
        write_las(path.with_suffix(f".{kind}"))
        return path.with_suffix(f".{kind}")
    if kind == "npz":
        np.savez(path, xyz=SCAN[:, :3], Intensity=SCAN[:, 3], ring=RINGS, stamp=1.5)
        return path.with_suffix(".npz")
    values = SCAN.astype(np.float64)
    if kind == "records":
        values = np.zeros(50, [(name, "f4") for name in ("x", "y", "z", "ring", "i")])
        for place, name in enumerate(("x", "y", "z", "i")):
            values[name] = SCAN[:, place]
        values["ring"] = RINGS
    np.save(path, values)
    return path.with_suffix(".npy")


KINDS = ["ascii", "binary", "binary_compressed", "las", "laz", "npz", "npy", "records"]


# --- formats ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_points(kind, tmp_path):
    path = write(tmp_path / "a", kind)
    scan = folder(tmp_path, scans=f"*{path.suffix}").load(0)
    np.testing.assert_allclose(scan.xyz, SCAN[:, :3], atol=1e-6)
    np.testing.assert_array_equal(scan.intensity, SCAN[:, 3])
    assert scan.xyz.dtype == scan.intensity.dtype == np.float32 and scan.token == "a"


def test_upper_case_and_several_kinds_in_one_set(tmp_path):
    write(tmp_path / "b", "laz").rename(tmp_path / "b.LAZ")
    write(tmp_path / "c", "ascii")
    SCAN.tofile(tmp_path / "A.BIN")
    dataset = folder(tmp_path, scans="*.*")
    assert [dataset.token(i) for i in range(3)] == ["A", "b", "c"]
    assert [dataset.num_points(i) for i in range(3)] == [50, 50, 50]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("ascii", {"ring": "ring"}), ("las", {"ring": "user_data"}), ("npz", {"ring": "ring"}),
        ("records", {"ring": 3}),
    ],
)  # fmt: skip
def test_further_columns_of_the_file(kind, columns, tmp_path):
    path = write(tmp_path / "a", kind)
    scan = folder(tmp_path, scans=f"*{path.suffix}", point_columns=columns).load(0)
    assert scan.points["ring"].tolist() == RINGS.tolist()


def test_columns_by_other_names_and_without_intensity(tmp_path):
    write(tmp_path / "a", "ascii")
    keys = {"scans": "*.pcd", "point_columns": {"x": "y", "y": "x", "intensity": None}}
    scan = folder(tmp_path, **keys).load(0)
    np.testing.assert_allclose(scan.xyz, SCAN[:, [1, 0, 2]], atol=1e-6)
    assert not scan.intensity.any()
    with pytest.raises(UserError, match="no column 'echo'; it has x, y, z, intensity, ring, label"):
        folder(tmp_path, scans="*.pcd", point_columns={"intensity": "echo"}).load(0)


def test_no_intensity_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", xyz=SCAN[:, :3], ring=RINGS)
    with pytest.raises(UserError, match="no intensity; its columns are x, y, z, ring"):
        folder(tmp_path, scans="*.npz").load(0)


def test_three_values_per_point(tmp_path):
    SCAN[:, :3].copy().tofile(tmp_path / "a.bin")
    scan = folder(tmp_path, point_fields=3).load(0)
    np.testing.assert_array_equal(scan.xyz, SCAN[:, :3])
    assert not scan.intensity.any()


@pytest.mark.parametrize(("kind", "package"), [("ascii", "pypcd4"), ("laz", "lazrs")])
def test_missing_package_is_named(kind, package, tmp_path, monkeypatch):
    path = write(tmp_path / "a", kind)
    original = importlib.import_module

    def absent(name: str, *args: object):
        if name == package:
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=rf"need the package {package}.*pip install"):
        read_table(path, 4)


def damaged(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut":
        content = content[: len(content) * 2 // 3]
    elif kind == "empty":
        content = b""
    elif kind == "header":
        content = b"\xff\xfe" + content[2:]
    elif kind == "huge":
        content = content.replace(b"POINTS 50", b"POINTS 50000000000")
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["cut", "empty", "header"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, damage, tmp_path):
    path = write(tmp_path / "a", kind)
    damaged(path, damage)
    if kind.startswith(("ascii", "binary")) and damage == "header":
        damaged(path, "empty")
    with pytest.raises(UserError, match=path.name):
        read_table(path, 4)


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_header_that_asks_for_too_much(kind, tmp_path):
    path = write(tmp_path / "a", kind)
    damaged(path, "huge")
    with pytest.raises(UserError, match="header says"):
        read_table(path, 4)


def test_a_new_format_is_one_function_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(
        SCAN_FORMATS, ".csv", lambda path, fields: dict(zip("xyzi", np.loadtxt(path).T))
    )
    np.savetxt(tmp_path / "a.csv", SCAN)
    np.testing.assert_allclose(folder(tmp_path, scans="*.csv").load(0).xyz, SCAN[:, :3])


# --- layout of float32 files ------------------------------------------------------------------------------------------
def rings(points: int, fields: int) -> np.ndarray:
    """A room as a scanner sees it, point by point: f32 [points, fields]."""
    angle = np.linspace(0, 8 * np.pi, points)
    reach = 10 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    columns = [reach * np.cos(angle), reach * np.sin(angle), np.linspace(-2, 2, points)]
    columns.append(30 + 20 * np.cos(5 * angle))
    columns += [np.full(points, float(i)) for i in range(fields - 4)]
    return np.stack(columns[:fields], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("written", "given", "message"),
    [
        (rings(8000, 5), 4, "5 float32 per point would fit"),
        (rings(9600, 3), 4, "3 float32 per point, no intensity, would fit"),
        (rings(9600, 3), 6, "3 float32 per point, no intensity, would fit"),
        (rings(9600, 4), 8, "4 float32 per point would fit"),
        (rings(8000, 4).astype("f8"), 4, "4 float64 per point would fit.*numpy.save"),
        (rings(8000, 4).astype("f8") / 3 + 1e6, 4, "4 float64 per point would fit"),
        (RNG.integers(0, 256, 64_000, dtype=np.uint8), 4, "no coordinates; no other number fits clearly"),
        (rings(8001, 4).view("u1").ravel()[:-3], 4, "bytes are no multiple of 16"),
    ],
)  # fmt: skip
def test_layout_is_measured_for_each_file(written, given, message, tmp_path):
    rings(8000, given).tofile(tmp_path / "a.bin")
    written.tofile(tmp_path / "b.bin")
    dataset = folder(tmp_path, point_fields=given)
    assert len(dataset.load(0).points) == 8000
    with pytest.raises(UserError, match=rf"b\.bin: .*{message}"):
        dataset.load(1)


@pytest.mark.parametrize("fields", range(3, 11))
def test_right_layouts_pass(fields, tmp_path):
    rings(8000, fields).tofile(tmp_path / "a.bin")
    RNG.permutation(rings(8000, fields)).tofile(tmp_path / "b.bin")
    dataset = folder(tmp_path, point_fields=fields)
    assert len(dataset.load(0).points) == len(dataset.load(1).points) == 8000


# --- points without return --------------------------------------------------------------------------------------------
def organised(root: Path) -> np.ndarray:
    """A scan with NaN, infinite and zero rows, its labels and a column beside it; returns where there is a return."""
    scan = SCAN.copy()
    scan[3], scan[7, 2], scan[11], scan[12] = np.nan, np.inf, 0, (0, 0, 0, 9)
    scan.tofile(root / "a.bin")
    IDS.tofile(root / "a.label")
    np.save(root / "a_ring.npy", RINGS)
    there = np.ones(50, bool)
    there[[3, 7, 11, 12]] = False
    return there


def test_points_without_return_are_cut_and_rows_stay(tmp_path):
    there = organised(tmp_path)
    columns = {"ring": {"file": "{stem}_ring.npy"}}
    scan = folder(tmp_path, label_files="{stem}.label", columns=columns).load(0)
    np.testing.assert_array_equal(scan.xyz[there], SCAN[there, :3])
    assert scan.labels is not None
    assert scan.labels.tolist() == np.where(there, TRAIN_IDS, IGNORE).tolist()
    assert scan.points["ring"].tolist() == RINGS.tolist()
    assert scan.points["no_return"].tolist() == (~there).tolist()
    sample = make_sample(scan, 0, DataConfig(voxel_size=0.5))
    assert ((sample.grouping.of_point >= 0) == there).all() and "no_return" not in sample.points
    expected = make_sample(
        scan.having(no_return=None).__class__("a", scan.points.take(there)),
        0,
        DataConfig(voxel_size=0.5),
    )
    np.testing.assert_array_equal(sample.coords, expected.coords)


def test_what_is_measured_and_corrupted_leaves_points_without_return_out(tmp_path):
    from core.data.corruptions import PROFILES, Scanner
    from core.data.corruptions.apply import corrupt
    from core.data.sensor_record import SensorRecord

    there = organised(tmp_path)
    dataset = folder(tmp_path, label_files="{stem}.label")
    scan = dataset.load(0)
    alone = scan.__class__("a", scan.points.take(there))
    assert SensorRecord.of(scan) == SensorRecord.of(alone)
    for corruption in PROFILES["robo3d"][::8]:
        worse = corrupt(scan, corruption, Scanner.of(dataset))
        assert np.isfinite(worse.xyz).all() and "no_return" in worse.points
        assert len(make_sample(worse, 0, DataConfig(voxel_size=0.5)).grouping)


def test_scans_with_and_without_returns_make_one_batch(tmp_path):
    from core.data import collate

    organised(tmp_path)
    SCAN.tofile(tmp_path / "b.bin")
    dataset = folder(tmp_path)
    batch = collate([make_sample(dataset.load(i), i, DataConfig()) for i in range(2)])
    assert int((batch.cells.of_point < 0).sum()) == 4


def test_points_without_return_kept_or_refused(tmp_path):
    organised(tmp_path)
    with pytest.raises(UserError, match=r"4 of 50 points have NaN.*dataset.no_return: cut"):
        folder(tmp_path, no_return="error").load(0)
    with pytest.raises(UserError, match="2 of 50 points have NaN"):
        folder(tmp_path, no_return="keep").load(0)
    zeros = SCAN.copy()
    zeros[5:8] = 0
    zeros.tofile(tmp_path / "a.bin")
    kept = folder(tmp_path, no_return="keep").load(0)
    np.testing.assert_array_equal(kept.xyz, zeros[:, :3])
    assert "no_return" not in kept.points
    with pytest.raises(UserError, match="3 of 50 points are 0, 0, 0: they have no return"):
        folder(tmp_path, no_return="error").load(0)


def test_no_point_with_a_return_and_damaged_intensity(tmp_path):
    np.full((10, 4), np.nan, np.float32).tofile(tmp_path / "a.bin")
    scan = SCAN.copy()
    scan[4, 3] = np.nan
    scan.tofile(tmp_path / "b.bin")
    dataset = folder(tmp_path)
    with pytest.raises(UserError, match="10 of 10 points have NaN or infinite values"):
        dataset.load(0)
    with pytest.raises(UserError, match="1 of 50 points have NaN or infinite values as intensity"):
        dataset.load(1)


# --- coordinates of a map ---------------------------------------------------------------------------------------------
UTM = (388096.25, 3948996.5, 40.0)


@pytest.mark.parametrize("kind", ["npy", "las"])
def test_coordinates_of_a_map(kind, tmp_path):
    if kind == "las":
        write_las(tmp_path / "a.las", UTM)
    else:
        np.save(tmp_path / "a", SCAN.astype(np.float64) + [*UTM, 0])
    with pytest.raises(UserError, match=r"lies 3,968 km from its sensor.*dataset.offset"):
        folder(tmp_path, scans=f"*.{kind}").load(0)
    moved = folder(tmp_path, scans=f"*.{kind}", offset=list(UTM)).load(0)
    np.testing.assert_allclose(moved.xyz, SCAN[:, :3], atol=1e-6)
    middle = folder(tmp_path, scans=f"*.{kind}", offset="centre").load(0)
    np.testing.assert_allclose(middle.xyz, SCAN[:, :3] - np.median(SCAN[:, :3], 0), atol=1e-5)


def test_float32_has_lost_the_centimetres(tmp_path):
    (SCAN + np.float32([*UTM, 0])).tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"are float32, which keeps them to 0.25 m only"):
        folder(tmp_path, offset="centre").load(0)


# --- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("000000.bin", "000000"), ("s0.pcd.bin", "s0"), ("s0.PCD.BIN", "s0"),
        ("1566279795.100000000.bin", "1566279795.100000000"),
        ("a.b.npy", "a.b"), ("A.LAZ", "A"),
    ],
)  # fmt: skip
def test_stems(name, stem):
    assert stem_of(Path(name)) == stem


def test_time_stamps_name_scans_labels_and_columns(tmp_path):
    for stamp in ("1566279795.100000000", "1566279795.200000000"):
        SCAN.tofile(tmp_path / f"{stamp}.bin")
        IDS.tofile(tmp_path / f"{stamp}.label")
    dataset = folder(tmp_path, label_files="{stem}.label")
    assert dataset.token(1) == "1566279795.200000000" and not dataset.gaps()
    assert dataset.load(1).labels.tolist() == TRAIN_IDS


def test_drives_count_their_frames_alike(tmp_path):
    for drive, shift in (("d2", 2), ("d10", 10)):
        for part in ("velodyne", "labels"):
            (tmp_path / drive / part).mkdir(parents=True)
        (SCAN + np.float32(shift)).tofile(tmp_path / drive / "velodyne/000000.bin")
        np.full(50, 14 + shift, np.uint8).tofile(tmp_path / drive / "labels/000000.label")
    keys = {"scans": "*/velodyne/*.bin", "label_files": "{parent}/../labels/{stem}.label"}
    dataset = folder(tmp_path, **keys)
    assert [dataset.token(i) for i in range(2)] == ["d2/velodyne/000000", "d10/velodyne/000000"]
    assert dataset.index_of("d10/velodyne/000000") == 1
    assert set(dataset.load(0).labels) == {3} and set(dataset.load(1).labels) == {11}
    np.testing.assert_array_equal(dataset.load(1).xyz, SCAN[:, :3] + 10)
    with pytest.raises(UserError, match=r"would share this label file.*token"):
        folder(tmp_path, scans="*/velodyne/*.bin", label_files="{stem}.label")


def test_images_lie_by_token_whatever_the_case_of_their_suffix(tmp_path):
    from PIL import Image

    for drive, name in (("d0", "000000.PNG"), ("d1", "000000.jpeg")):
        (tmp_path / drive).mkdir()
        SCAN.tofile(tmp_path / drive / "000000.bin")
        target = tmp_path / "images/front" / drive / name
        target.parent.mkdir(parents=True)
        Image.new("RGB", (8, 6), (9, 9, 9)).save(target, "JPEG" if "jpeg" in name else "PNG")
    rows = "[[4, 3, 0, 0], [0, 3, -4, 0], [0, 1, 0, 0]]"
    (tmp_path / "calibration.yaml").write_text(
        f"cameras: {{front: {{size: [8, 6], projection: {rows}}}}}\n"
    )
    dataset = folder(tmp_path, scans="*/*.bin")
    assert not dataset.gaps()
    assert [camera.load().shape for i in range(2) for camera in dataset.load(i).cameras] == [
        (6, 8, 3)
    ] * 2


# --- labels -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["label", "bin", "npy", "npz"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_label_files(suffix, dtype, tmp_path):
    SCAN.tofile(tmp_path / "a.bin")
    ids = IDS.astype(dtype)
    path = tmp_path / f"a_ids.{suffix}"
    if suffix == "npz":
        np.savez(path, seg=ids)
    elif suffix == "npy":
        np.save(path, ids[:, None])
    else:
        dtype = "uint32" if dtype == "int64" else dtype
        ids.astype(dtype).tofile(path)
    keys = {"scans": "a.bin", "label_files": f"{{stem}}_ids.{suffix}"}
    if suffix in ("label", "bin"):
        keys["label_dtype"] = dtype
    assert folder(tmp_path, **keys).load(0).labels.tolist() == TRAIN_IDS


@pytest.mark.parametrize(("kind", "column"), [("laz", "classification"), ("binary", "label")])
def test_labels_in_the_scan_file(kind, column, tmp_path):
    path = write(tmp_path / "a", kind)
    dataset = folder(tmp_path, scans=f"*{path.suffix}", label_column=column)
    assert dataset.load(0).labels.tolist() == TRAIN_IDS and dataset.files(0).labels == path
    assert folder(tmp_path, scans=f"*{path.suffix}").load(0).labels is None


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS.astype(np.float32), "float32 .*expected integers"), (IDS[:49], "49 labels, but the scan has 50"),
        (IDS.astype(np.int64) - 17, "ids run from -1 to 1"), (np.stack([IDS, IDS], 1), "expected integers"),
        (np.full(50, 99, np.uint64), "label id 99"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_labels(ids, message, tmp_path):
    SCAN.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", ids)
    with pytest.raises(UserError, match=message):
        folder(tmp_path, label_files="{stem}.npy").load(0)


def test_archive_of_several_arrays_needs_a_key(tmp_path):
    SCAN.tofile(tmp_path / "a.bin")
    np.savez(tmp_path / "a.npz", seg=IDS, inst=IDS)
    with pytest.raises(UserError, match=r"arrays seg, inst.*dataset.label_key"):
        folder(tmp_path, label_files="{stem}.npz").load(0)
    dataset = folder(tmp_path, label_files="{stem}.npz", label_key="seg")
    assert dataset.load(0).labels.tolist() == TRAIN_IDS


def test_the_extras_pinned_here_are_those_of_the_project():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for package in scan_formats.PACKAGES.values():
        assert f'"{package}"' in text


@pytest.mark.parametrize(
    ("kind", "place", "match"),
    [
        ("las", 100, "records before byte"),
        ("laz", 100, "records before byte"),
        ("laz", 243, "records from byte"),
        ("laz", "table", "table of chunks would lie"),
        ("laz", "chunks", "chunks of 50 points"),
    ],
)
def test_counts_that_the_libraries_would_believe(
    tmp_path: Path, kind: str, place: int | str, match: str
) -> None:
    """A hang of minutes, or an aborted process where memory is limited."""
    path = write(tmp_path / "a", kind)
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[96:100], "little")
    if place == "table":
        place = start
    if place == "chunks":
        place = int.from_bytes(content[start : start + 8], "little") + 4
    content[place : place + 4] = (0x5FFFFFFF).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_table(path, 4)


def test_a_worker_reads_what_its_parent_has_read(tmp_path: Path) -> None:
    """A reader with threads of its own would leave the forked process waiting for them."""
    path = write(tmp_path / "a", "laz")
    table = read_table(path, 4)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=read_table, args=(path, 4), daemon=True)
    child.start()
    child.join(30)
    assert child.exitcode == 0 and len(table["x"])

"""Submissions byte by byte, what makes a benchmark refuse them, and remapping."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from core.config import load_config
from core.datasets.base import ScanDataset
from core.datasets.benchmark import benchmark
from core.datasets.semantickitti import SemanticKITTI
from core.engine import submission
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.submission import fill_gaps, pack, remap, submit_checkpoint
from core.engine.score.submission_check import check_submission, open_split, outstanding
from core.engine.score.voting import Votes
from core.errors import UserError
from core.labels import LABEL_SPACES, SEMANTICKITTI
from core.models import build_model

META = {
    "meta": dict.fromkeys(("use_camera", "use_radar", "use_map", "use_external"), False)
    | {"use_lidar": True}
}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def job(folder: Path, name: str, root: Path, **data) -> tuple[Path, Path]:
    """A configuration of a tiny world, and random weights."""
    dataset = {"name": name, "root": str(root)} | (
        {"version": "v1.0-mini"} if name == "nuscenes" else {}
    )
    settings = {
        "num_epochs": 1,
        "batch_size": 1,
        "workers_per_gpu": 0,
        "dataset": dataset,
        "data": data,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            settings | {"model": {"name": "minkunet", "cr": 0.25}, "eval": {"pictures": 0}}
        )
    )
    labels = LABEL_SPACES[name]
    torch.manual_seed(0)
    network = build_model(load_config(path), labels.num_classes, pretrained=False)
    identity = {"fingerprint": labels.fingerprint, "classes": list(labels.classes), "config": {}}
    torch.save(
        {"model": network.state_dict(), "training_only": {}, "identity": identity},
        folder / "net.pt",
    )
    return path, folder / "net.pt"


def submit(paths: tuple[Path, Path], out: Path, *overrides: str, **options) -> None:
    submit_checkpoint(
        World(), load_config(paths[0], overrides), paths[1], out, split="val", **options
    )


@pytest.fixture
def kitti(tiny_kitti: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Points of a scan lie outside the range."""
    return job(
        tmp_path / "job",
        "semantickitti",
        tiny_kitti,
        voxel_size=0.4,
        point_range=[-12, -12, -5, 12, 12, 5],
    )


@pytest.fixture
def nuscenes(tiny_nuscenes: Path, tmp_path: Path) -> tuple[Path, Path]:
    return job(tmp_path / "job", "nuscenes", tiny_nuscenes, voxel_size=0.4)


@pytest.fixture
def kitti_scans(tiny_kitti: Path) -> ScanDataset:
    return open_split("semantickitti", tiny_kitti, "val", "")


@pytest.fixture
def nuscenes_scans(tiny_nuscenes: Path) -> ScanDataset:
    return open_split("nuscenes", tiny_nuscenes, "val", "v1.0-mini")


def sizes(scans: ScanDataset) -> list[int]:
    """Points of each scan, read and counted."""
    return [len(scans.load(i, cameras=False).xyz) for i in range(len(scans))]


# --- what is written ------------------------------------------------------------------------------------------------
def test_semantickitti_is_whole_and_ready(kitti, kitti_scans, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "description.txt").write_text("name: x\n")
    submit(kitti, out)
    assert capsys.readouterr().out.endswith(
        "rehearsal complete: 2 scans of synthetic world (SemanticKITTI format) val, all checks passed. "
        "To submit: scans of the real data set (this is a synthetic world (SemanticKITTI format))\n"
    )
    with zipfile.ZipFile(out / "submission.zip") as archive:
        folder = "sequences/08/predictions/"
        assert archive.namelist() == [
            "description.txt", "sequences/", "sequences/08/", folder, f"{folder}000000.label", f"{folder}000001.label",
        ]  # fmt: skip
        for name, points in zip(archive.namelist()[-2:], sizes(kitti_scans)):
            ids = np.frombuffer(archive.read(name), "<u4")
            assert len(ids) == points and set(ids.tolist()) <= set(
                SEMANTICKITTI.train_to_raw[1:]
            ), "no point left out"
            assert archive.read(name) == (out / name).read_bytes()
    assert list(check_submission(out, kitti_scans)) == [], "the folder passes as well"


def test_a_killed_submission_goes_on_to_the_same_bytes(kitti, tmp_path, capsys) -> None:
    submit(kitti, tmp_path / "a")
    submit(kitti, tmp_path / "b")
    (tmp_path / "b" / "sequences/08/predictions/000001.label").unlink()
    (tmp_path / "b" / "submission.zip").unlink()
    capsys.readouterr()
    submit(kitti, tmp_path / "b")
    assert capsys.readouterr().out.startswith("1 scan predicted (1 were there before)")
    assert (tmp_path / "a/submission.zip").read_bytes() == (
        tmp_path / "b/submission.zip"
    ).read_bytes()
    with pytest.raises(
        UserError, match="predictions of another checkpoint, format or configuration"
    ):
        submit(kitti, tmp_path / "b", votes=Votes(2))


def test_nuscenes_passes_the_devkit_and_scores_the_same(
    nuscenes, nuscenes_scans, tmp_path, tiny_nuscenes
) -> None:
    official = pytest.importorskip("nuscenes.eval.lidarseg.validate_submission")
    from nuscenes import NuScenes
    from nuscenes.eval.lidarseg.evaluate import LidarSegEval

    out = tmp_path / "out"
    submit(nuscenes, out)
    tables = NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False)
    official.validate_submission(tables, str(out), "mini_val")
    assert json.loads((out / "mini_val/submission.json").read_text()) == META
    for index, points in enumerate(sizes(nuscenes_scans)):
        token = nuscenes_scans.token(index)
        classes = np.fromfile(out / f"lidarseg/mini_val/{token}_lidarseg.bin", np.uint8)
        assert len(classes) == points and classes.min() >= 1 and classes.max() <= 16
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert {"lidarseg/mini_val/", "mini_val/", "mini_val/submission.json"} <= set(
            archive.namelist()
        )
    result = evaluate_checkpoint(World(), load_config(nuscenes[0]), nuscenes[1], tmp_path)
    scored = LidarSegEval(tables, str(out), "mini_val").evaluate()
    assert result.overall.miou("nanmean") == pytest.approx(scored["miou"], abs=1e-9)
    (out / "mini_val/submission.json").write_text(
        json.dumps({"meta": META["meta"] | {"use_camera": True}})
    )
    submit(nuscenes, out)
    assert json.loads((out / "mini_val/submission.json").read_text())["meta"]["use_camera"], (
        "what a person wrote stays"
    )


def test_camera_input_is_declared() -> None:
    expected = {"meta": META["meta"] | {"use_camera": True}}
    assert benchmark("nuscenes").metadata("val", uses_camera=True) == {
        "val/submission.json": expected
    }


def test_gaps_take_the_nearest_class() -> None:
    points = np.array([[0, 0, 0], [10, 0, 0], [4, 0, 0], [7, 0, 0]], np.float32)
    classes = np.array([3, 5, 0, 0], np.uint8)
    assert fill_gaps(points, classes).tolist() == [3, 5, 3, 5] and classes.tolist() == [3, 5, 0, 0]
    assert fill_gaps(points, np.zeros(4, np.uint8)).tolist() == [0] * 4


def test_no_benchmark(kitti, tmp_path) -> None:
    tree = yaml.safe_load(kitti[0].read_text())
    tree["dataset"] = {"name": "folder", "root": str(tmp_path)}
    kitti[0].write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"'folder' has no benchmark to submit to.*--predict"):
        submit(kitti, tmp_path / "out")


# --- golden bytes ---------------------------------------------------------------------------------------------------
def test_zip_is_the_same_bytes_every_time(tmp_path) -> None:
    for copy in "ab":
        target = tmp_path / copy / "sequences/11/predictions/000000.label"
        target.parent.mkdir(parents=True)
        target.write_bytes(np.array([10, 0, 81], "<u4").tobytes())
        assert (
            pack(
                tmp_path / copy, ["sequences/11/predictions/000000.label"], tmp_path / f"{copy}.zip"
            )
            == []
        )
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        entries = archive.infolist()
        assert [(e.filename, e.file_size, e.date_time[0], e.external_attr >> 16) for e in entries] == [
            ("sequences/", 0, 1980, 0o40755), ("sequences/11/", 0, 1980, 0o40755),
            ("sequences/11/predictions/", 0, 1980, 0o40755),
            ("sequences/11/predictions/000000.label", 12, 1980, 0o100644),
        ]  # fmt: skip
        assert archive.read(entries[-1]).hex() == "0a0000000000000051000000"
    assert pack(tmp_path / "a", ["b.label"], tmp_path / "c.zip") == [
        "b.label: this file is missing"
    ]
    assert not (tmp_path / "c.zip").exists()


# --- what a benchmark refuses ---------------------------------------------------------------------------------------
def kitti_folder(scans: ScanDataset, root: Path, value: int = 40) -> Path:
    """A flawless submission of one class."""
    for index, points in enumerate(sizes(scans)):
        sequence, frame = scans.token(index).split("/")
        path = root / f"sequences/{sequence}/predictions/{frame}.label"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.full(points, value, "<u4").tofile(path)
    return root


def nuscenes_folder(scans: ScanDataset, root: Path) -> Path:
    (root / "lidarseg/mini_val").mkdir(parents=True)
    (root / "mini_val").mkdir()
    (root / "mini_val/submission.json").write_text(json.dumps(META))
    for index, points in enumerate(sizes(scans)):
        np.full(points, 4, np.uint8).tofile(
            root / f"lidarseg/mini_val/{scans.token(index)}_lidarseg.bin"
        )
    return root


FIRST = "sequences/08/predictions/000000.label"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path, n: path.unlink(), "this file is missing"),
        (
            lambda path, n: np.full(n - 1, 40, "<u4").tofile(path),
            "{less} bytes; expected {size}, for {n} points one uint32 each",
        ),
        (
            lambda path, n: np.full(n, 40, "<i8").tofile(path),
            "{double} bytes; expected {size}, for {n} points one uint32 each; 8 bytes per point are another type",
        ),
        (
            lambda path, n: np.r_[np.full(n - 1, 40), 9].astype("<u4").tofile(path),
            "id 9 (1 points); these look like train ids, see 'remap': ids of a submission are 0, 10, 11, 15, 18, 20, "
            "30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81",
        ),
        (
            lambda path, n: np.r_[np.full(n - 3, 40), 252, 253, 252].astype("<u4").tofile(path),
            "id 252 (2 points), 253 (1 points); ids of a submission are 0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, "
            "49, 50, 51, 70, 71, 72, 80, 81",
        ),
        (
            lambda path, n: (np.full(n, 7, "<u4") << 16 | 40).tofile(path),
            None,
        ),  # instance numbers are no fault
    ],
)
def test_faulty_semantickitti_file(spoil, message, kitti_scans, tmp_path) -> None:
    root, points = kitti_folder(kitti_scans, tmp_path / "out"), sizes(kitti_scans)[0]
    spoil(root / FIRST, points)
    numbers = {"n": points, "size": 4 * points, "less": 4 * points - 4, "double": 8 * points}
    expected = [] if message is None else [f"{FIRST}: {message.format(**numbers)}"]
    assert list(check_submission(root, kitti_scans)) == expected


@pytest.mark.parametrize("labels", [None, "semantickitti_multiscan"])
def test_ids_of_what_moves_belong_to_multiscan_alone(labels, tiny_kitti, tmp_path) -> None:
    scans = open_split("semantickitti", tiny_kitti, "val", "", labels)
    root, points = kitti_folder(scans, tmp_path / "out"), sizes(scans)[0]
    ids = np.full(points, 40, "<u4")
    ids[:9] = range(251, 260)
    ids.tofile(root / FIRST)
    (fault,) = check_submission(zipped(root, tmp_path / "a.zip"), scans)
    if labels is None:
        assert fault.startswith(f"{FIRST}: id 251 (1 points), 252 (1 points), 253 (1 points), ")
        assert " and 4 more; " in fault
    else:
        assert fault.startswith(f"{FIRST}: id 251 (1 points); ids of a submission are 0, 10, 11, ")
        assert fault.endswith("252, 253, 254, 255, 259, 258, 256, 257")


def zipped(root: Path, target: Path, folders: bool = True, extra: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*")):
            if folders or path.is_file():
                archive.write(path, path.relative_to(root).as_posix())
        for name in extra:
            archive.writestr(name, b"")
    return target


def test_faulty_zips(kitti_scans, tmp_path) -> None:
    root = kitti_folder(kitti_scans, tmp_path / "out")
    assert list(check_submission(zipped(root, tmp_path / "good.zip"), kitti_scans)) == []
    assert list(
        check_submission(zipped(root, tmp_path / "flat.zip", folders=False), kitti_scans)
    ) == [
        f"{folder}: the zip has no entry for this folder"
        for folder in ("sequences/", "sequences/08/", "sequences/08/predictions/")
    ]
    more = zipped(
        root,
        tmp_path / "more.zip",
        extra=("sequences/08/predictions/000000.txt", "description.txt"),
    )
    assert list(check_submission(more, kitti_scans)) == [
        "sequences/08/predictions/000000.txt: this file does not belong to a submission"
    ]
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(root, tmp_path / "twice.zip", extra=(FIRST,))
    assert f"{FIRST}: the zip holds this entry twice" in list(check_submission(twice, kitti_scans))
    deeper = zipped(tmp_path / "out" / "sequences", tmp_path / "deeper.zip")
    assert f"{FIRST}: this file is missing" in list(check_submission(deeper, kitti_scans))
    bytes_of = bytearray((tmp_path / "good.zip").read_bytes())
    bytes_of[bytes_of.index(b"000000.label") + 40] ^= 1
    (tmp_path / "bent.zip").write_bytes(bytes_of)
    (fault,) = check_submission(tmp_path / "bent.zip", kitti_scans)
    assert fault.startswith(f"{FIRST}: cannot be read (damaged: Bad CRC-32")


def test_neither_zip_nor_folder(kitti_scans, tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    (tmp_path / "a.tar").write_bytes(b"no zip")
    for name, message in (
        ("a.zip", "cannot decode this zip"), ("a.tar", r"does not end in \.zip"), ("b.zip", "no such file or folder"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            list(check_submission(tmp_path / name, kitti_scans))


def devkit_refuses(root: Path, tiny_nuscenes: Path) -> str | None:
    """What the official validator says, None if nothing."""
    official = pytest.importorskip("nuscenes.eval.lidarseg.validate_submission")
    from nuscenes import NuScenes

    try:
        official.validate_submission(
            NuScenes("v1.0-mini", str(tiny_nuscenes), verbose=False), str(root), "mini_val"
        )
    except (AssertionError, KeyError, ValueError) as error:
        return str(error)
    return None


def test_faulty_nuscenes_files_as_the_devkit_sees_them(
    nuscenes_scans, tiny_nuscenes, tmp_path
) -> None:
    good = nuscenes_folder(nuscenes_scans, tmp_path / "good")
    assert (
        list(check_submission(good, nuscenes_scans)) == []
        and devkit_refuses(good, tiny_nuscenes) is None
    )
    points, token = sizes(nuscenes_scans)[0], nuscenes_scans.token(0)
    name, meta = f"lidarseg/mini_val/{token}_lidarseg.bin", "mini_val/submission.json"
    about = (
        "'meta' must hold true or false for use_camera, use_lidar, use_radar, use_map, use_external"
    )
    cases = {
        name: [
            (None, "this file is missing"),
            (
                np.full(points + 1, 4, np.uint8),
                f"{points + 1} bytes; expected {points}, for {points} points one uint8",
            ),
            (np.full(points, 4, "<u2"), "one uint8 each; 2 bytes per point are another type"),
            (
                np.r_[np.full(points - 2, 4), 0, 0].astype(np.uint8),
                "id 0 (2 points); every point needs a class, 1 to 16",
            ),
            (np.full(points, 17, np.uint8), f"id 17 ({points} points); every point needs"),
        ],
        meta: [
            (None, "this file is missing"),
            (b"{", "this is not JSON with an object 'meta'"),
            (b"{}", "this is not JSON with an object 'meta' ('meta')"),
            (
                json.dumps({"meta": {"use_lidar": True}}).encode(),
                f"{about} and nothing else; use_camera is missing",
            ),
            (
                json.dumps({"meta": META["meta"] | {"use_map": 1}}).encode(),
                f"{about} and nothing else; use_map is 1",
            ),
            (
                json.dumps({"meta": META["meta"] | {"a": False}}).encode(),
                f"{about} and nothing else; a is False",
            ),
        ],
    }
    for file, spoils in cases.items():
        for number, (content, message) in enumerate(spoils):
            root = tmp_path / f"{Path(file).suffix[1:]}{number}"
            shutil.copytree(good, root)
            (root / file).unlink()
            if content is not None:
                (root / file).write_bytes(
                    content if isinstance(content, bytes) else content.tobytes()
                )
            (fault,) = check_submission(root, nuscenes_scans)
            assert fault.startswith(f"{file}: ") and message in fault
            assert devkit_refuses(root, tiny_nuscenes) is not None, (
                f"we refuse what the devkit takes: {fault}"
            )


def test_scans_that_are_not_on_disk_are_said(tiny_kitti, tmp_path) -> None:
    shutil.copytree(tiny_kitti / "sequences/08", tmp_path / "sequences/11")
    scans = open_split("semantickitti", tmp_path, "test", "")
    faults = list(check_submission(kitti_folder(scans, tmp_path / "out"), scans))
    assert len(faults) == 11 and faults[0].startswith(
        "data set: test has 2 of the official 20,351 scans (no scan of sequences 12, 13, 14, "
    )
    assert faults[1].startswith("data set: sequences/12/velodyne: no scans; comes from")
    part = open_split("semantickitti", tmp_path, "test", "", partial=True)
    assert list(check_submission(tmp_path / "out", part)) == []


def test_the_data_set_counts_its_points(kitti_scans, tmp_path, monkeypatch) -> None:
    root = kitti_folder(kitti_scans, tmp_path / "out")
    assert [kitti_scans.num_points(i) for i in range(len(kitti_scans))] == sizes(kitti_scans)
    monkeypatch.setattr(kitti_scans, "num_points", lambda index: 7)
    assert "for 7 points" in next(check_submission(root, kitti_scans))


def test_a_data_set_without_a_benchmark_cannot_be_checked(kitti_scans, tmp_path, monkeypatch):
    monkeypatch.setattr(kitti_scans, "benchmark", None)
    with pytest.raises(UserError, match="has no benchmark to submit to"):
        list(check_submission(tmp_path, kitti_scans))


OWN = "the whole official split (dataset.split or dataset.frames chooses another)"


@pytest.mark.parametrize(
    ("split", "count", "expected", "names", "wanted"),
    [
        ("test", 3, 3, {"description.txt"}, []),
        ("test", 3, 3, set(), ["description.txt in the submission's folder"]),
        ("test", 2, 3, {"description.txt"}, ["all 3 scans of the official split"]),
        ("test", 3, None, {"description.txt"}, [OWN]),
        ("val", 3, 3, set(), ["--split test", "description.txt in the submission's folder"]),
    ],
)  # fmt: skip
def test_only_the_whole_official_test_split_is_no_rehearsal(split, count, expected, names, wanted):
    class Scans(SemanticKITTI):
        def __init__(self) -> None:
            self.split = split

        def __len__(self) -> int:
            return count

        def _official_count(self) -> int | None:
            return expected

    assert outstanding(Scans(), names) == wanted


def test_check_command(kitti_scans, tiny_kitti, tmp_path, capsys) -> None:
    root = kitti_folder(kitti_scans, tmp_path / "out")
    arguments = [
        "check",
        str(root),
        "--dataset",
        "semantickitti",
        "--root",
        str(tiny_kitti),
        "--split",
        "val",
    ]
    submission.main(arguments)
    assert capsys.readouterr().out.startswith("rehearsal complete: 2 scans of ")
    (root / FIRST).unlink()
    (root / "notes.txt").write_text("")
    with pytest.raises(UserError, match="would not take this submission: 2 faults, listed above"):
        submission.main(arguments)
    assert capsys.readouterr().out == (
        f"{FIRST}: this file is missing\nnotes.txt: this file does not belong to a submission\n"
    )


def test_predictions_of_ranks_that_skipped_a_scan(kitti, tiny_kitti, tmp_path, capsys) -> None:
    """A damaged scan that was passed over: no zip, and the reason."""
    root = tmp_path / "broken"
    shutil.copytree(tiny_kitti, root)
    np.full((5, 4), np.nan, "<f4").tofile(root / "sequences/08/velodyne/000001.bin")
    with pytest.raises(UserError, match="1 fault, listed above"):
        submit(kitti, tmp_path / "out", "--dataset.root", str(root), "--data.on_bad_sample", "skip")
    assert (
        "sequences/08/predictions/000001.label: this file is missing\n" in capsys.readouterr().out
    )
    assert not (tmp_path / "out/submission.zip").exists()


# --- remapping ------------------------------------------------------------------------------------------------------
def labels_in(
    folder: Path, ids: list[int], name: str = "sequences/11/predictions/000000.label"
) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.array(ids, "<u4").tofile(folder / name)
    return folder / name


def test_remap_there_and_back(tmp_path, capsys) -> None:
    instance = 5 << 16
    source = labels_in(tmp_path / "in", [0, 1, 19, 9 | instance])
    labels_in(tmp_path / "in", list(range(20)), "sequences/12/predictions/000000.label")
    submission.main(["remap", str(tmp_path / "in"), str(tmp_path / "raw"), "--to", "raw"])
    assert capsys.readouterr().out == f"2 files remapped to raw ids, in {tmp_path / 'raw'}\n"
    name = source.relative_to(tmp_path / "in")
    assert np.fromfile(tmp_path / "raw" / name, "<u4").tolist() == [0, 10, 81, 40 | instance]
    submission.main(["remap", str(tmp_path / "raw"), str(tmp_path / "back"), "--to", "train"])
    assert (tmp_path / "back" / name).read_bytes() == source.read_bytes()


def test_remap_of_moving_classes_there_and_back(tmp_path) -> None:
    source = labels_in(tmp_path / "in", list(range(26)))
    name = source.relative_to(tmp_path / "in")
    space = LABEL_SPACES["semantickitti_multiscan"]
    remap(tmp_path / "in", tmp_path / "raw", "raw", space)
    raw = np.fromfile(tmp_path / "raw" / name, "<u4").tolist()
    assert raw[20:] == [252, 253, 254, 255, 259, 258]
    remap(tmp_path / "raw", tmp_path / "back", "train", space)
    assert (tmp_path / "back" / name).read_bytes() == source.read_bytes()


def test_inverse_is_to_raw_and_is_not_applied_twice(tmp_path) -> None:
    source = labels_in(tmp_path / "in", [0, 1, 9, 20 | 7 << 16])
    space = ["--label-space", "semantickitti_multiscan"]
    first, second = str(tmp_path / "raw"), str(tmp_path / "twice")
    submission.main(["remap", str(tmp_path / "in"), first, "--inverse", *space])
    name = source.relative_to(tmp_path / "in")
    assert np.fromfile(tmp_path / "raw" / name, "<u4").tolist() == [0, 10, 40, 252 | 7 << 16]
    with pytest.raises(UserError, match=r"id 252 is no train id .* 0 to 25; .* 2 of its 4 points"):
        submission.main(["remap", first, second, "--inverse", *space])
    for wrong in ([], ["--inverse", "--to", "train"]):
        with pytest.raises(SystemExit):
            submission.main(["remap", first, second, *wrong, *space])
    assert not (tmp_path / "twice").exists()


def test_remap_refuses_before_it_writes(tmp_path) -> None:
    labels_in(tmp_path / "in", [1, 2])
    last = labels_in(tmp_path / "in", [10, 44], "sequences/21/predictions/000000.label")
    cases = [
        ("in", "out", "raw", f"{last}: id 44 is no train id of 'semantickitti', which are 0 to 19.*raw ids already"),
        ("in", "out", "train", r"000000\.label: label id 2 \(1 points\) is not in the label space"),
        ("in", "in", "raw", "would mix"), ("in", "in/deeper", "raw", "would mix"),
        ("none", "out", "raw", "none: no such folder"),
    ]  # fmt: skip
    for source, target, to, message in cases:
        with pytest.raises(UserError, match=message):
            remap(tmp_path / source, tmp_path / target, to, SEMANTICKITTI)
    (tmp_path / "in" / "odd.label").write_bytes(b"12345")
    with pytest.raises(UserError, match=r"odd\.label: 5 bytes are no whole number"):
        remap(tmp_path / "in", tmp_path / "out", "raw", SEMANTICKITTI)
    assert not (tmp_path / "out").exists() and sorted(p.name for p in (tmp_path / "in").iterdir()) == [
        "odd.label", "sequences",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.label files"):
        remap(tmp_path / "empty", tmp_path / "out", "raw", SEMANTICKITTI)


def test_workshop_reads_test_splits_without_labels(kitti, tiny_kitti, tmp_path) -> None:
    """The official test sequences come without label files."""
    root = tmp_path / "unlabelled"
    shutil.copytree(
        tiny_kitti / "sequences/08", root / "sequences/11", ignore=shutil.ignore_patterns("labels")
    )
    config = load_config(kitti[0], ["--dataset.root", str(root), "--dataset.split.test", '["11"]'])
    submit_checkpoint(World(), config, kitti[1], tmp_path / "out")
    assert (tmp_path / "out/sequences/11/predictions/000001.label").is_file()
    assert Context.open(config, World()).dataset("test").labelled is False


def test_remap_enters_links_and_leaves_hidden_files_out(tmp_path) -> None:
    linked = tmp_path / "elsewhere"
    linked.mkdir()
    np.array([10], np.uint32).tofile(linked / "000000.label")
    (linked / "._000000.label").write_bytes(b"junk!")
    source = tmp_path / "in"
    source.mkdir()
    (source / "08").symlink_to(linked)
    assert remap(source, tmp_path / "out", "train", SEMANTICKITTI) == 1
    assert np.fromfile(tmp_path / "out/08/000000.label", np.uint32).tolist() == [1]

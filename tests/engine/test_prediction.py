"""Predicting scans of one's own and splits: the files, their ids, going on after a kill, with and without cameras."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from folder_world import write_scan, write_world
from loguru import logger
from torch import nn
from toys import random_checkpoint

from core.config import Config, load_config
from core.data import ChosenScans
from core.datasets.benchmark import FORMATS
from core.datasets.files import read_points
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.score import prediction
from core.engine.score.evaluation import predictions, score_network
from core.engine.score.opened import Opened
from core.engine.score.prediction import PredictionFolder, predict_checkpoint
from core.engine.score.segmenter import Segmenter
from core.engine.score.source import default_out, open_source
from core.errors import UserError
from core.labels import NUSCENES, SEMANTICKITTI, LabelSpace

REPO = Path(__file__).resolve().parents[2]
SETTINGS = {"num_epochs": 1, "batch_size": 1, "workers_per_gpu": 0, "eval": {"batch_size": 2}}
CAMERA_MODEL = {
    "name": "lidar_camera",
    "lidar": {"name": "minkunet", "cr": 0.25},
    "image": {"encoder": "resnet18", "stem_stride": 2, "decoder_channels": 24},
}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A configuration of a folder data set: scans 000 to 010, the last three for validation."""
    path = write_world(tmp_path / "train")
    tree = yaml.safe_load(path.read_text()) | {"model": {"name": "minkunet", "cr": 0.25}}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def checkpoint(world: Path, tmp_path: Path) -> Path:
    return random_checkpoint(load_config(world), SEMANTICKITTI, tmp_path / "net.pt")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Five scans of a person with a sensor."""
    folder = tmp_path / "own"
    folder.mkdir()
    for index in range(5):
        write_scan(folder, index + 20, points=300 + 30 * index)
        (folder / f"{index + 20:03d}.label").unlink()
    return folder


def predict(
    world: Path, checkpoint: Path, source: object, out: Path, *overrides: str, **options
) -> None:
    predict_checkpoint(
        World(), load_config(world, overrides), checkpoint, str(source), out, **options
    )


def network_of(context: Context, labels: LabelSpace, checkpoint: Path) -> nn.Module:
    return Opened.of(context.world, context.config, checkpoint).network(labels)


def scored(config: Config, checkpoint: Path, split: str) -> dict[str, np.ndarray]:
    """Train ids of each scan's own points, as the evaluation counts them."""
    context, found = Context.open(config, World()), {}
    scans = context.dataset(split)

    def keep(batch, predicted) -> None:
        for i, token in enumerate(batch.tokens):
            rows = slice(*batch.point_offsets[i : i + 2].tolist())
            found[token] = predicted[rows][batch.keyframe[rows]].numpy()

    network = network_of(context, scans.labels, checkpoint)
    score_network(
        network,
        context.loader(scans, training=False),
        scans.labels.num_classes,
        World(),
        context.autocast,
        keep,
    )
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- files and ids --------------------------------------------------------------------------------------------------
def test_split_of_a_folder_equals_the_evaluation(world, checkpoint, tmp_path, capsys) -> None:
    predict(world, checkpoint, "split:val", tmp_path / "out")
    expected = scored(load_config(world), checkpoint, "val")
    assert files_in(tmp_path / "out") == ["008.label", "009.label", "010.label", "classes.json"]
    for token, classes in expected.items():
        raw = np.fromfile(tmp_path / "out" / f"{token}.label", "<u4")
        assert raw.tolist() == [SEMANTICKITTI.train_to_raw[c] for c in classes] and len(raw) == 699
    assert len({int(c) for classes in expected.values() for c in classes}) > 1, (
        "the network says more than one thing"
    )
    line = capsys.readouterr().out
    assert line.startswith("3 scans predicted, ") and line.endswith(
        f" points/s, in {tmp_path / 'out'}\n"
    )
    about = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert about["format"] == "semantickitti" and about["classes"][1] == {
        "name": "car", "color": [100, 150, 245], "id": 10,
    }  # fmt: skip


def test_folder_of_scans(world, checkpoint, own, tmp_path) -> None:
    predict(world, checkpoint, own, tmp_path / "out", format="npy")
    expected = scored(
        load_config(
            world,
            [
                "--dataset.root",
                str(own),
                "--dataset.labels",
                "null",
                "--dataset.split.val",
                "[0, 4]",
            ],
        ),
        checkpoint,
        "val",
    )
    assert len(expected) == 5
    for token, classes in expected.items():
        written = np.load(tmp_path / "out" / f"{token}.npy")
        assert written.dtype == np.uint8 and written.tolist() == classes.tolist()
        assert len(written) == len(read_points(own / f"{token}.bin", 4)) and written.min() > 0
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())["classes"]
    assert [c["id"] for c in classes] == list(range(20)), (
        "train ids are written, and so they are listed"
    )


def test_npy_scans_give_the_same_as_bin(world, checkpoint, own, tmp_path) -> None:
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for path in own.glob("*.bin"):
        np.save(arrays / path.stem, read_points(path, 4).astype(np.float64))
    for source, out in ((own, "a"), (arrays, "b")):
        predict(world, checkpoint, source, tmp_path / out)
    names = files_in(tmp_path / "a")
    assert len(names) == 6 and names == files_in(tmp_path / "b")
    names.remove("classes.json")  # it knows the files that were predicted
    assert all(
        (tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names
    )


def test_one_scan_and_where_predictions_go_unless_told(world, checkpoint, own, tmp_path) -> None:
    predict(world, checkpoint, own / "021.bin", tmp_path / "one")
    predict(world, checkpoint, own, tmp_path / "all")
    assert files_in(tmp_path / "one") == ["021.label", "classes.json"]
    assert (tmp_path / "one/021.label").read_bytes() == (tmp_path / "all/021.label").read_bytes()
    run = Path("run")
    for source, name in ((own / "021.bin", "021"), (own, "own"), ("split:val", "val")):
        assert default_out(run, str(source)) == run / "predictions" / name


def test_rows_without_return_are_written_as_ignore(world, checkpoint, own, tmp_path) -> None:
    scan = np.fromfile(own / "020.bin", "<f4").reshape(-1, 4)
    cut = tmp_path / "cut"
    cut.mkdir()
    organised = np.insert(scan, [0, 7, 7], np.nan, axis=0)
    organised[8] = 0
    pypcd4 = pytest.importorskip("pypcd4")
    cloud = pypcd4.PointCloud.from_points(organised, ("x", "y", "z", "intensity"), [np.float32] * 4)
    cloud.save(cut / "020.pcd", encoding=pypcd4.Encoding.BINARY_COMPRESSED)
    predict(world, checkpoint, cut, tmp_path / "out")
    predict(world, checkpoint, own / "020.bin", tmp_path / "expected")
    written = np.fromfile(tmp_path / "out/020.label", "<u4")
    expected = np.fromfile(tmp_path / "expected/020.label", "<u4")
    assert len(written) == len(organised) and not written[[0, 8, 9]].any()
    assert np.delete(written, [0, 8, 9]).tolist() == expected.tolist()


def test_a_folder_has_the_scanner_of_the_configuration(world, own) -> None:
    config = load_config(world, ["--dataset.sensor.origin", "[0, 0, 1.5]"])
    scans = open_source(config, str(own))
    assert scans.load(0).sensor.origin == (0, 0, 1.5)
    with pytest.raises(UserError, match=r"--point-fields 5.*Leave --point-fields out"):
        np.savez(own.parent / "a.npz", xyz=np.zeros((3, 3)))
        open_source(config, str(own.parent / "a.npz"), 5)


def test_hidden_files_are_no_scans(world, own) -> None:
    (own / "._020.bin").write_bytes(b"\0\5\026\7" + bytes(4092))
    assert len(open_source(load_config(world), str(own))) == 5


def test_a_file_of_another_layout_is_named(world, checkpoint, own, tmp_path) -> None:
    for path in own.glob("*.bin"):
        rings(400, 4).tofile(path)
    rings(400, 5).tofile(own / "022.bin")
    with pytest.raises(UserError, match=r"022\.bin: .*5 float32 per point would fit"):
        predict(world, checkpoint, own, tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_formats_read_back(form, tmp_path) -> None:
    folder = PredictionFolder(tmp_path, form, SEMANTICKITTI)
    classes = np.arange(20, dtype=np.uint8)
    names = {
        "semantickitti": ["sequences/08/predictions/000123.label", "000124.label"],
        "nuscenes": ["08/000123_lidarseg.bin", "000124_lidarseg.bin"],
        "waymo": ["08/000123.npy", "000124.npy"],
        "npy": ["08/000123.npy", "000124.npy"],
    }[form]
    for token, name in zip(("08/000123", "000124"), names):
        folder.write(token, classes)
        assert folder.path(token) == tmp_path / name
        assert folder.read(token).tolist() == classes.tolist()
    assert (tmp_path / names[1]).stat().st_size == {
        "semantickitti": 80,
        "nuscenes": 20,
        "waymo": 148,
        "npy": 148,
    }[form]


def test_preview(world, checkpoint, own, tmp_path) -> None:
    predict(world, checkpoint, own, tmp_path / "out", preview=True)
    assert (tmp_path / "out" / "preview.png").read_bytes().startswith(b"\x89PNG")


# --- going on -------------------------------------------------------------------------------------------------------
def test_killed_half_way_goes_on(world, checkpoint, own, tmp_path, monkeypatch, capsys) -> None:
    predict(world, checkpoint, own, tmp_path / "whole")
    out, write, done = tmp_path / "out", PredictionFolder.write, []

    def dies(folder: PredictionFolder, token: str, classes: np.ndarray) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(token)
        write(folder, token, classes)

    monkeypatch.setattr(PredictionFolder, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        predict(world, checkpoint, own, out)
    assert files_in(out) == ["020.label", "021.label", "classes.json"]
    times = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    monkeypatch.setattr(PredictionFolder, "write", write)
    capsys.readouterr()
    predict(world, checkpoint, own, out)
    assert capsys.readouterr().out.startswith("3 scans predicted (2 were there before), ")
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert files_in(out) == files_in(tmp_path / "whole")
    assert all(
        (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        for name in files_in(out)
    )
    predict(world, checkpoint, own, out)
    assert capsys.readouterr().out.startswith("0 scans predicted (5 were there before), 0 points/s")


@pytest.mark.parametrize("change", ["checkpoint", "format", "voxels"])
def test_predictions_of_two_kinds_do_not_mix(change, world, checkpoint, own, tmp_path) -> None:
    predict(world, checkpoint, own, tmp_path / "out")
    options, overrides = {}, ()
    if change == "checkpoint":
        state = torch.load(checkpoint, weights_only=True)
        state["model"]["classifier_vox.0.bias"] += 1
        torch.save(state, checkpoint)
    elif change == "format":
        options = {"format": "npy"}
    else:
        overrides = ("--data.voxel_size", "0.3")
    with pytest.raises(
        UserError, match="predictions of another checkpoint, format or configuration"
    ):
        predict(world, checkpoint, own, tmp_path / "out", *overrides, **options)


def test_two_processes_share_the_scans(world, checkpoint, own, tmp_path) -> None:
    """Each rank alone, as the loader deals scans out: together every scan once, the repeated one left out."""
    context = Context.open(load_config(world, ["--eval.batch_size", "1"]), World())
    scans = open_source(context.config, str(own))
    network, tokens = network_of(context, scans.labels, checkpoint), []
    segmenter = Segmenter(network, scans.labels, context.data, context.experiment, World().device)
    for rank in range(2):
        part = Context(context.config, context.experiment, World(rank=rank, size=2))
        loader = part.loader_of(ChosenScans(scans, context.data, [0, 2, 4]), training=False)
        found = segmenter.predict_loader(loader, predictions, {})
        tokens.append([token for token, _ in found])
    assert sorted(tokens[0] + tokens[1]) == ["020", "022", "024"] and all(tokens)


# --- what a person gets wrong ---------------------------------------------------------------------------------------
def rings(points: int, fields: int) -> np.ndarray:
    """A room as a scanner sees it, point by point: f32 [points, fields]."""
    angle = np.linspace(0, 8 * np.pi, points)
    reach = 10 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    columns = [
        reach * np.cos(angle),
        reach * np.sin(angle),
        np.linspace(-2, 2, points),
        30 + 20 * np.cos(5 * angle),
    ]
    extra = [np.full(points, float(i)) for i in range(fields - 4)]
    return np.stack([*columns, *extra], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("points", "fields", "given", "message"),
    [
        (
            403,
            5,
            4,
            r"not have 4 float32 values per point: its 8060 bytes are no multiple of 16; 5 float32 per point would fit",
        ),
        (
            400,
            5,
            4,
            r"does not have 4 float32 .*: read so, neighbours lie anywhere; 5 float32 per point would fit",
        ),
        (
            400,
            4,
            5,
            r"does not have 5 float32 .*: read so, neighbours lie anywhere; 4 float32 per point would fit",
        ),
        (400, 4, 2, r"point_fields.*greater than or equal to 3"),
        (400, 4, 4, None),
        (400, 7, 7, None),
    ],
)
def test_wrong_point_fields(points, fields, given, message, world, checkpoint, tmp_path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("a", "b"):
        rings(points, fields).tofile(tmp_path / "own" / f"{name}.bin")
    if message is None:
        open_source(load_config(world), str(tmp_path / "own"), given)
        return
    with pytest.raises(UserError, match=f"{message}.*" + ("--point-fields" if given > 3 else "")):
        predict(world, checkpoint, tmp_path / "own", tmp_path / "out", point_fields=given)
    assert not (tmp_path / "out").exists()


def test_array_of_another_shape(world, checkpoint, tmp_path) -> None:
    (tmp_path / "own").mkdir()
    np.save(tmp_path / "own" / "a.npy", np.zeros((7, 3), np.float32))
    with pytest.raises(
        UserError, match=r"the array is float32 \[7, 3\]; expected numbers \[points, 4\]"
    ):
        predict(world, checkpoint, tmp_path / "own", tmp_path / "out")


def test_wrong_sources(world, checkpoint, own, tmp_path) -> None:
    np.save(own / "extra.npy", np.zeros((3, 4)))
    (tmp_path / "empty").mkdir()
    cases = [
        (own, "both .bin and .npy"), (tmp_path / "empty", "no scans; it is empty"),
        (tmp_path / "nowhere", "no such file or folder"), (world, "scans end in .bin, .npy, .npz, .pcd, .las, .laz"),
        (world.parent.parent, "no scans; it holds 3 folders and 1 .pt file"),
        ("split:vall", "unknown split 'vall'"), (tmp_path / "out", "would mix with the scans"),
    ]  # fmt: skip
    for source, message in cases:
        with pytest.raises(UserError, match=message):
            predict(world, checkpoint, source, tmp_path / "out")


def test_checkpoint_of_other_classes(world, own, tmp_path) -> None:
    other = random_checkpoint(load_config(world), NUSCENES, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"trained on 16 other classes \(barrier"):
        predict(world, other, own, tmp_path / "out")


def test_damaged_scan(world, checkpoint, own, tmp_path) -> None:
    np.full((10, 4), np.nan, np.float32).tofile(own / "022.bin")
    with pytest.raises(UserError, match=r"022.bin: 10 of 10 points have NaN"):
        predict(world, checkpoint, own, tmp_path / "out")


def test_damaged_scan_is_left_out_on_request(world, checkpoint, own, tmp_path) -> None:
    np.full((10, 4), np.nan, np.float32).tofile(own / "022.bin")
    predict(world, checkpoint, own, tmp_path / "out", "--data.on_bad_sample", "skip")
    assert files_in(tmp_path / "out") == [
        "020.label",
        "021.label",
        "023.label",
        "024.label",
        "classes.json",
    ]


# --- nuScenes, cameras ----------------------------------------------------------------------------------------------
@pytest.fixture
def nuscenes(tiny_nuscenes: Path, tmp_path: Path) -> Path:
    """A student with cameras on the tiny world; one sweep is joined."""
    dataset = {
        "name": "nuscenes",
        "version": "v1.0-mini",
        "root": str(tiny_nuscenes),
        "multisweeps": {"num_sweeps": 1},
    }
    data = {"voxel_size": 0.4, "images": True, "image_size": [64, 36]}
    path = tmp_path / "student.yaml"
    path.write_text(
        yaml.safe_dump(SETTINGS | {"dataset": dataset, "data": data, "model": CAMERA_MODEL})
    )
    return path


@pytest.fixture
def student(nuscenes: Path, tmp_path: Path) -> Path:
    return random_checkpoint(load_config(nuscenes), NUSCENES, tmp_path / "student.pt")


@pytest.fixture
def said() -> list[str]:
    """Log messages; ``configure_logging`` of a job removes other sinks, so the calls themselves are watched."""
    heard: list[str] = []
    original = logger.info

    def listen(message: str, *args: object) -> None:
        heard.append(message.format(*args))
        original(message, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction.logger, "info", listen)
        yield heard


def test_nuscenes_split_with_cameras(nuscenes, student, tmp_path, tiny_nuscenes) -> None:
    predict(nuscenes, student, "split:val", tmp_path / "out")
    expected = scored(load_config(nuscenes), student, "val")
    assert len(expected) == 4
    for token, classes in expected.items():
        written = np.fromfile(tmp_path / "out" / f"{token}_lidarseg.bin", np.uint8)
        assert written.tolist() == classes.tolist()
    sizes = [len(classes) for classes in expected.values()]
    scans = Context.open(load_config(nuscenes), World()).dataset("val")
    assert sizes == [len(read_points(scans.files(i).points, 5)) for i in range(4)], (
        "the keyframe's points, no sweep's"
    )


def sensor_folder(nuscenes: Path, folder: Path, cameras: int) -> None:
    """The first validation scans as a person would lay them out, with the first cameras."""
    scans = Context.open(
        load_config(nuscenes, ["--dataset.multisweeps.num_sweeps", "0"]), World()
    ).dataset("val")
    calibration = {}
    for index in range(2):
        files, scan = scans.files(index), scans.load(index)
        folder.mkdir(exist_ok=True)
        (folder / f"s{index}.bin").write_bytes(files.points.read_bytes())
        for camera in scan.cameras[:cameras]:
            target = folder / "images" / camera.name / f"s{index}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files.images[camera.name].read_bytes())
            calibration[camera.name] = {
                "size": list(camera.size),
                "projection": camera.projection.tolist(),
            }
    if cameras:
        (folder / "calibration.yaml").write_text(
            yaml.safe_dump({"cameras": calibration}, sort_keys=False)
        )


def test_sensor_with_cameras_equals_the_data_set(
    nuscenes, student, tmp_path, tiny_nuscenes, said
) -> None:
    """The tiny world's cameras move between its scans, so the calibration is that of the last: its scan must agree."""
    sensor_folder(nuscenes, tmp_path / "own", cameras=6)
    predict(nuscenes, student, tmp_path / "own", tmp_path / "out")
    config = load_config(nuscenes, ["--dataset.multisweeps.num_sweeps", "0"])
    expected = scored(config, student, "val")
    token = Context.open(config, World()).dataset("val").token(1)
    written = np.fromfile(tmp_path / "out" / "s1_lidarseg.bin", np.uint8)
    assert written.tolist() == expected[token].tolist() and said == []


def test_student_without_cameras(nuscenes, student, tmp_path, said) -> None:
    sensor_folder(nuscenes, tmp_path / "own", cameras=0)
    predict(nuscenes, student, tmp_path / "own", tmp_path / "out")
    assert len(said) == 1 and "has no calibration.yaml): the network runs without images" in said[0]
    config = load_config(
        nuscenes, ["--dataset.multisweeps.num_sweeps", "0", "--data.images", "false"]
    )
    expected = scored(config, student, "val")
    scans = Context.open(config, World()).dataset("val")
    for index in range(2):
        written = np.fromfile(tmp_path / "out" / f"s{index}_lidarseg.bin", np.uint8)
        assert written.tolist() == expected[scans.token(index)].tolist()


def test_image_missing_or_of_another_size(nuscenes, student, tmp_path) -> None:
    sensor_folder(nuscenes, tmp_path / "own", cameras=1)
    (image,) = (tmp_path / "own" / "images").rglob("s1.jpg")
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(
        UserError, match=r"s1.png: the image of .* does not exist.*data.images false"
    ):
        predict(nuscenes, student, tmp_path / "own", tmp_path / "out")
    image.write_bytes(content)
    path = tmp_path / "own" / "calibration.yaml"
    path.write_text(path.read_text().replace("size:\n    - ", "size:\n    - 1"))
    with pytest.raises(
        UserError, match=r"s0.jpg: this image has .* px, but calibration.yaml says 1"
    ):
        predict(nuscenes, student, tmp_path / "own", tmp_path / "out")
    path.write_text("cameras: {front: {size: [10, 10], projektion: []}}")
    with pytest.raises(
        UserError, match=r"calibration.yaml: unknown key 'cameras.front.projektion'"
    ):
        predict(nuscenes, student, tmp_path / "own", tmp_path / "out")

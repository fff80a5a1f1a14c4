"""``core.api.Segmenter``: the same labels as the command, checks of what it is given, warnings of another scanner."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_world import write_world
from loguru import logger

from core.api import Points, Segmenter, Sensor
from core.config import load_config
from core.contracts import Scan
from core.data.sensor_record import SensorRecord
from core.engine.exchange.weights import export_weights
from core.engine.run.distributed import World
from core.engine.score.prediction import predict_checkpoint
from core.engine.train.jobs import train_teacher
from core.errors import UserError
from core.labels import SEMANTICKITTI

REALDATA = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, and a run that has trained on them for one epoch."""
    folder = tmp_path_factory.mktemp("scans")
    config = load_config(write_world(folder), ["--num_epochs", "1", "--model.cr", "0.125"])
    train_teacher(World(), config, folder / "run")
    return folder


@pytest.fixture(scope="module")
def model(world: Path) -> Segmenter:
    return Segmenter.load(world / "run", device="cpu")


def scan_of(world: Path, index: int) -> np.ndarray:
    return np.fromfile(world / f"{index:03d}.bin", np.float32).reshape(-1, 4)


@pytest.fixture
def said() -> list[str]:
    messages: list[str] = []
    handle = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(handle)


def test_a_network_of_few_beams_takes_scans_of_either_scanner(
    world: Path, model: Segmenter, tmp_path: Path
) -> None:
    """It thins those of the scanner it was trained with, and on request leaves a scan as it is."""
    state = torch.load(world / "run" / "checkpoints" / "best.pt", weights_only=True)
    state["identity"]["config"]["data"]["beams"] = {"every": 2}
    torch.save(state, tmp_path / "few.pt")
    scan = scan_of(world, 9)
    thinned = Segmenter.load(tmp_path / "few.pt", device="cpu").predict(scan).labels
    as_it_is = Segmenter.load(tmp_path / "few.pt", device="cpu", thin=False).predict(scan).labels
    np.testing.assert_array_equal(as_it_is, model.predict(scan).labels)
    assert 0.2 < (thinned == 0).mean() < 0.8 and (as_it_is == 0).mean() < 0.1


@pytest.mark.parametrize("votes", [1, 3])
def test_labels_of_the_command(world: Path, model: Segmenter, tmp_path: Path, votes: int) -> None:
    from core.engine.score.voting import Votes

    config = load_config(world / "config.yaml", ["--model.cr", "0.125"])
    best = world / "run" / "checkpoints" / "best.pt"
    predict_checkpoint(World(), config, best, "split:val", tmp_path, votes=Votes(votes))
    for index in (8, 9, 10):
        written = np.fromfile(tmp_path / f"{index:03d}.label", "<u4")
        result = model.predict(scan_of(world, index), votes=votes)
        assert np.array_equal(result.raw_ids, written)
        assert np.array_equal(SEMANTICKITTI.to_raw(result.labels), written)
        assert np.array_equal(result.colors, SEMANTICKITTI.colors[result.labels])
        assert result.names == SEMANTICKITTI.classes
        assert np.allclose(result.probabilities.sum(1), 1, atol=1e-5)
        assert np.array_equal(result.probabilities.argmax(1), result.labels)


def test_an_exported_file_and_a_checkpoint_are_the_same_network(
    world: Path, model: Segmenter, tmp_path: Path
) -> None:
    export_weights(world / "run", tmp_path / "net.safetensors")
    expected = model.predict(scan_of(world, 8))
    for source in (tmp_path / "net.safetensors", world / "run" / "checkpoints" / "last.pt"):
        other = Segmenter.load(source, device="cpu")
        result = other.predict(scan_of(world, 8))
        assert np.array_equal(result.probabilities, expected.probabilities)
        assert other.trained_on == model.trained_on is not None


def test_batch_and_stream_are_scan_by_scan(world: Path, model: Segmenter) -> None:
    scans = [scan_of(world, index) for index in (8, 9, 10)]
    alone = [model.predict(scan) for scan in scans]
    for results in (model.predict_batch(scans), list(model.stream(iter(scans)))):
        for one, other in zip(alone, results):
            assert np.allclose(one.probabilities, other.probabilities, atol=1e-4)
            assert (one.labels == other.labels).mean() > 0.99


def test_rows_without_return_are_nothing(world: Path, model: Segmenter) -> None:
    scan = scan_of(world, 8)
    organised = np.insert(scan, [3, 3, 90], 0, axis=0)
    organised[3, :3], organised[4] = np.nan, np.inf
    result, expected = model.predict(organised), model.predict(scan)
    there = np.ones(len(organised), bool)
    there[[3, 4, 92]] = False
    assert np.array_equal(result.labels[there], expected.labels)
    assert not result.labels[~there].any() and not result.probabilities[~there].any()


def test_coordinates_of_a_map_are_refused(world: Path, model: Segmenter) -> None:
    with pytest.raises(UserError, match="lies 3,968 km from its sensor"):
        model.predict(scan_of(world, 8).astype(np.float64) + [388096, 3948996, 40, 0])


def test_images_go_with_their_scans(world: Path, model: Segmenter) -> None:
    scans = [scan_of(world, index) for index in (8, 9)]
    image = np.zeros((4, 6, 3), np.uint8)
    matrix = {"a": np.array([[6, 0, 3, 0], [0, 6, 2, 0], [0, 0, 1, 0]], np.float64)}
    for several in (model.predict_batch, lambda *a, **k: list(model.stream(*a, **k))):
        with pytest.raises(UserError, match="images of more or fewer scans"):
            several(scans, images=[{}])
        with pytest.raises(UserError, match="this network reads no images"):
            several(scans, images=[{"a": image}] * 2, calibration=matrix)
        raised = several(scans, sensor=Sensor(origin=(0, 0, 5.0)))
        expected = [model.predict(scan, sensor=Sensor(origin=(0, 0, 5.0))) for scan in scans]
        for one, other in zip(raised, expected):
            assert np.allclose(one.probabilities, other.probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 3), np.float32), r"\[5, 3\]; expected numbers \[N, 4 or more\]"),
        (np.full((5, 4), np.nan, np.float32), "5 of 5 points have NaN"),
        (np.zeros((0, 4), np.float32), "N > 0"),
        (Points(xyz=np.zeros((3, 3), np.float32)), "reads the column intensity"),
    ],
)
def test_what_it_refuses(model: Segmenter, points, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(points)


def test_images_need_a_calibration(model: Segmenter, world: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(UserError, match="front has an image and no calibration"):
        model.predict(scan_of(world, 8), images={"front": image})
    with pytest.raises(UserError, match=r"calibration of front is \[3, 3\]; expected \[3, 4\]"):
        model.predict(scan_of(world, 8), images={"front": image}, calibration={"front": np.eye(3)})


def test_images_that_nobody_reads_are_refused(model: Segmenter, world: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    matrix = np.array([[6, 0, 3, 0], [0, 6, 2, 0], [0, 0, 1, 0]], np.float64)
    with pytest.raises(UserError, match="this network reads no images"):
        model.predict(scan_of(world, 8), images={"a": image}, calibration={"a": matrix})
    with pytest.raises(UserError, match="a calibration and no image"):
        model.predict(scan_of(world, 8), calibration={"a": matrix})


def test_another_scanner_is_told_once(world: Path, said: list[str]) -> None:
    model = Segmenter.load(world / "run", device="cpu")
    scan = scan_of(world, 8)
    model.predict(scan)
    assert not said
    other = scan.copy()
    other[:, 2] += 1.7  # an origin on the road
    other[:, 3] *= 255
    model.predict(other)
    model.predict(other)
    assert len(said) == 2
    assert any("intensities reach" in message for message in said)
    assert any("m above the ground" in message for message in said)


def test_records_of_scanners() -> None:
    """A scanner of 32 beams, 2 m above level ground; its copy with every second beam left out."""
    azimuth = np.radians(np.arange(0, 360, 0.5))
    elevation = np.radians(np.linspace(-25, 3, 32))
    distance = np.minimum(2 / np.maximum(-np.sin(elevation), 1e-9), 40 / np.cos(elevation))
    horizontal = distance * np.cos(elevation)
    x, y = horizontal[:, None] * np.cos(azimuth), horizontal[:, None] * np.sin(azimuth)
    z = np.broadcast_to((distance * np.sin(elevation))[:, None], x.shape)
    rings = np.stack([x, y, z], -1).astype(np.float32)

    def record(points: np.ndarray) -> SensorRecord:
        xyz = points.reshape(-1, 3)
        return SensorRecord.of(Scan("s", Points(xyz=xyz, intensity=np.ones(len(xyz), np.float32))))

    whole, half = record(rings), record(rings[::2])
    assert 28 <= whole.beams <= 34 and 14 <= half.beams <= 18
    assert whole.height == pytest.approx(2, abs=0.05)
    assert whole.differences(whole) == []
    assert [difference.kind for difference in whole.differences(half)] == ["beams"]


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason="no real scans; set LIDISTILL_REALDATA")
def test_beams_of_real_scanners() -> None:
    kitti = sorted(REALDATA.glob("semantickitti/**/velodyne/*.bin"))[0]
    nuscenes = sorted(REALDATA.glob("nuscenes/samples/LIDAR_TOP/*.bin"))[0]
    found = []
    for path, fields in ((kitti, 4), (nuscenes, 5)):
        values = np.fromfile(path, np.float32).reshape(-1, fields)
        points = Points(xyz=values[:, :3].copy(), intensity=values[:, 3].copy())
        found.append(SensorRecord.of(Scan("s", points)))
    assert 54 <= found[0].beams <= 70 and 29 <= found[1].beams <= 35
    assert found[0].height == pytest.approx(1.73, abs=0.25)
    assert found[1].height == pytest.approx(1.84, abs=0.25)
    assert found[0].intensity <= 1 < found[1].intensity

"""A scanner with fewer lasers: what its view holds, and what becomes of it with teachers, pasting and mixing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import FakeDataset, make_scan
from pydantic import ValidationError
from toys import TOY_LABELS

from core.config import Config
from core.contracts import IGNORE, Batch, Points, Scan
from core.data import DataConfig, PairedSamples, SampleKey, ScanSamples, make_sample, teacher_voxels
from core.data.beams import thin, with_beams
from core.data.config import BeamsConfig, ScanMixConfig
from core.data.sensor_record import SensorRecord
from core.datasets import build_dataset
from core.engine.run.distributed import World
from core.engine.score.evaluation import score_network
from core.errors import UserError
from core.models import build_model

EVERY_SECOND = BeamsConfig(every=2)


def scanner(beams: int = 8, columns: int = 90) -> np.ndarray:
    """Level beams of 1 to ``beams`` tenths of slope, ring by ring as KITTI stores them."""
    slope = np.repeat(np.arange(beams, 0, -1) / 10, columns)
    azimuth = np.tile((np.arange(columns) + 0.5) / columns * 2 * np.pi, beams)
    return 10 * np.c_[np.cos(azimuth), np.sin(azimuth), slope]


def ringed(**columns: np.ndarray) -> Scan:
    scan = make_scan(scanner(), labels=np.ones(720))
    return scan.having(**columns)


# --- whose a point is -----------------------------------------------------------------------------------------------
def test_beams_are_the_files_where_it_names_them() -> None:
    ring = np.arange(720) % 8
    assert with_beams(ringed(ring=ring.astype(np.float32))).points["beam"].tolist() == (
        (ring + 1).tolist()
    )
    told = np.full(720, 5, np.int16)
    assert with_beams(ringed(ring=ring, beam=told)).points["beam"].tolist() == told.tolist()
    with pytest.raises(UserError, match=r"'ring' of scan scan holds no numbers of beams"):
        with_beams(ringed(ring=ring + 0.5))


def test_they_are_estimated_where_it_does_not() -> None:
    assert with_beams(ringed()).points["beam"].tolist() == np.repeat(np.arange(1, 9), 90).tolist()
    gone = np.zeros(720, bool)
    gone[:5] = True
    estimated = with_beams(ringed(no_return=gone)).points["beam"]
    assert (estimated[:5] == 0).all() and (estimated[5:] > 0).all()


def test_beams_of_sweeps_are_not_guessed() -> None:
    """Their scanner stood elsewhere. A view of the keyframe alone needs them not."""
    lag = np.where(np.arange(720) < 400, 0, 0.1)
    scan = make_scan(scanner(), labels=np.ones(720), time_lag=lag)
    config = DataConfig(voxel_size=0.5, beams=EVERY_SECOND)
    with pytest.raises(UserError, match=r"sweeps of scan scan.*data\.sweeps: false"):
        make_sample(scan, 0, config)
    alone = make_sample(scan, 0, config.model_copy(update={"sweeps": False}))
    assert len(alone.points) == 400


def test_pasted_points_take_the_beam_at_their_elevation() -> None:
    scan = with_beams(ringed())
    raised = scan.points.take(np.arange(0, 720, 30)).having(beam=None, pasted=np.ones(24, bool))
    both = scan.having()
    both = Scan("both", Points.join(scan.points, raised.having(xyz=raised["xyz"] * 0.5)))
    thinned = thin(both, BeamsConfig(every=4, first=1))
    kept = ~thinned.points["no_return"]
    wanted = np.repeat(np.arange(8), 90) % 4 == 1
    assert kept[:720].tolist() == wanted.tolist()
    assert kept[720:].tolist() == wanted[::30].tolist()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="first is one of 0 to 3"):
        BeamsConfig(every=4, first=4)
    with pytest.raises(ValidationError):
        BeamsConfig(every=1)
    with pytest.raises(UserError, match="no point of scan scan is of the beams"):
        thin(ringed(ring=np.zeros(720)), BeamsConfig(every=2, first=1))


# --- views ----------------------------------------------------------------------------------------------------------
def test_the_view_is_that_of_a_scan_without_the_other_points() -> None:
    """Cells, their order and features; the others' rows stay, without cell and class."""
    scan = ringed()
    kept = np.repeat(np.arange(8), 90) % 2 == 0
    config = DataConfig(voxel_size=0.5, features=("xyz", "intensity", "distance"))
    thinned = make_sample(scan, 0, config.model_copy(update={"beams": EVERY_SECOND}))
    alone = make_sample(Scan("few", scan.points.take(kept)), 0, config)
    assert np.array_equal(thinned.coords, alone.coords)
    assert np.array_equal(thinned.feats, alone.feats)
    assert np.array_equal(thinned.labels, alone.labels)
    assert np.array_equal(thinned.point_to_voxel[kept], alone.point_to_voxel)
    assert len(thinned.points) == 720 and (thinned.point_to_voxel[~kept] == -1).all()
    assert (thinned.point_labels[~kept] == IGNORE).all() and (thinned.point_labels[kept] == 1).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_a_teacher_that_sees_all_beams_is_linked_point_by_point(mixed: bool) -> None:
    student = DataConfig(
        voxel_size=0.3,
        beams=EVERY_SECOND,
        scan_mix=ScanMixConfig(kinds=("laser",)) if mixed else None,
    )
    teacher = DataConfig(voxel_size=0.3)
    scans = FakeDataset(5)
    scans.labels = TOY_LABELS
    samples = PairedSamples(scans, student, teacher, training=True, seed=3)
    pair = samples.collate([samples[SampleKey(0, index)] for index in range(4)])
    rows = teacher_voxels(pair.student, pair.teacher)
    assert (rows >= 0).all()
    assert torch.equal(rows, pair.teacher.point_to_voxel[pair.student.voxel_to_point])
    intensity = pair.student.points["intensity"], pair.teacher.points["intensity"]
    assert torch.equal(*intensity), "the same points in the same order"
    assert (pair.teacher.point_to_voxel >= 0).all()
    seen = pair.student.point_to_voxel >= 0
    assert 0.2 < seen.float().mean() < 0.8


def test_a_record_of_the_scanner_counts_what_is_seen() -> None:
    scan = ringed()
    assert SensorRecord.of(scan, EVERY_SECOND).points == 360
    assert SensorRecord.of(scan).points == 720


def test_old_records_of_views_do_not_know_the_key() -> None:
    assert "beams" not in DataConfig().view()
    assert DataConfig(beams=EVERY_SECOND).view()["beams"] == {"every": 2, "first": 0}
    assert "scan_mix" not in DataConfig(scan_mix=ScanMixConfig()).view()


# --- files ----------------------------------------------------------------------------------------------------------
def test_scores_are_those_of_files_that_hold_these_points_alone(
    tiny_nuscenes: Path, tmp_path: Path
) -> None:
    """What a user of a scanner with so many beams has on disk."""

    def opened(root: Path):
        section = {"name": "nuscenes", "root": str(root), "version": "v1.0-mini"}
        return build_dataset(Config({"dataset": section}), "val")

    whole = opened(tiny_nuscenes)
    assert set(whole.load(0).points["beam"].tolist()) == set(range(1, 33))
    shutil.copytree(tiny_nuscenes, tmp_path / "thin")
    few = opened(tmp_path / "thin")
    for index in range(len(few)):
        files = few.files(index)
        points = np.fromfile(files.points, np.float32).reshape(-1, 5)
        kept = points[:, 4] % 4 == 1
        points[kept].tofile(files.points)
        np.fromfile(files.labels, np.uint8)[kept].tofile(files.labels)

    torch.manual_seed(0)
    network = build_model(Config({"model": {"name": "minkunet", "cr": 0.1}}), 17).eval()
    config = DataConfig(voxel_size=0.2)
    found = []
    for dataset, beams in ((whole, BeamsConfig(every=4, first=1)), (few, None)):
        samples = ScanSamples(dataset, config.model_copy(update={"beams": beams}))
        batch = samples.collate([samples[SampleKey(0, i)] for i in range(len(dataset))])
        found.append((network(batch).logits, confusion(network, batch)))
    (a, scored), (b, expected) = found
    assert torch.equal(a, b)
    assert torch.equal(scored, expected) and expected.sum() > 0


def confusion(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    class Loader(list):
        def set_epoch(self, epoch: int, start: int) -> None:
            """One pass."""

    score, _, _ = score_network(network, Loader([batch]), 17, World(), torch.no_grad)
    return score.counts[:, 1:]  # by class of the ground truth, without "ignore"

"""Loading on workers: the same samples however many there are, damaged scans, dying workers."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch
from data_fakes import FakeDataset

from core.contracts import Batch
from core.data import BatchLoader, PairedSamples, ScanSamples, build_loader
from core.data.config import AugmentConfig, DataConfig
from core.data.loader import useful_workers
from core.data.sampler import SampleKey
from core.errors import UserError

CONFIG = DataConfig(voxel_size=0.5, augment=AugmentConfig(dropout=0.2), max_voxels=30)


def loader(
    dataset: FakeDataset, config: DataConfig = CONFIG, *, training: bool = True, **options
) -> BatchLoader:
    samples = ScanSamples(dataset, config, seed=1, training=training)
    defaults = {"batch_size": 2, "workers": 0, "seed": 1}
    return build_loader(samples, training=training, **{**defaults, **options})


def assert_same(a: Batch, b: Batch) -> None:
    """Compare everything two batches hold, to the bit."""
    assert (a.tokens, a.indices, a.padded) == (b.tokens, b.indices, b.padded)
    assert a.skipped == b.skipped and a.features == b.features and set(a.points) == set(b.points)
    assert a.cells.partition == b.cells.partition
    pairs = [(a.points[name], b.points[name]) for name in a.points]
    pairs += [(a.point_offsets, b.point_offsets), (a.origins, b.origins)]
    for name in ("coords", "of_point", "point", "labels", "offsets"):
        pairs.append((getattr(a.cells, name), getattr(b.cells, name)))
    assert (a.cameras is None) == (b.cameras is None)
    if a.cameras is not None:
        for name in ("images", "pixels", "visible"):
            pairs.append((getattr(a.cameras, name), getattr(b.cameras, name)))
    for left, right in pairs:
        assert torch.equal(left, right)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_count_does_not_matter(workers):
    alone, many = loader(FakeDataset(7)), loader(FakeDataset(7), workers=workers)
    for epoch in (0, 1):  # the workers of the second epoch are those of the first
        alone.set_epoch(epoch)
        many.set_epoch(epoch)
        assert len(many) == 4
        for a, b in zip(alone, many, strict=True):
            assert_same(a, b)


def test_resume_within_an_epoch_gives_the_same_batches():
    whole, resumed = loader(FakeDataset(9)), loader(FakeDataset(9))
    whole.set_epoch(3)
    resumed.set_epoch(3, start_step=2)
    for a, b in zip(list(whole)[2:], resumed, strict=True):
        assert_same(a, b)


def test_two_processes_see_the_samples_of_one():
    alone = list(loader(FakeDataset(8), batch_size=4))
    ranks = [list(loader(FakeDataset(8), batch_size=2, rank=rank, world=2)) for rank in range(2)]
    for joined, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(joined.feats, torch.cat([part.feats for part in parts]))
        assert joined.tokens == parts[0].tokens + parts[1].tokens


def test_epochs_seeds_and_views_differ():
    dataset = FakeDataset(3)
    base = ScanSamples(dataset, CONFIG, seed=1, training=True)
    feats = [
        base[SampleKey(0, 1)].feats,
        base[SampleKey(1, 1)].feats,
        ScanSamples(dataset, CONFIG, seed=2, training=True)[SampleKey(0, 1)].feats,
        ScanSamples(dataset, CONFIG, seed=1, training=True, stream=1)[SampleKey(0, 1)].feats,
    ]
    assert len({array.tobytes() for array in feats}) == 4
    assert base[SampleKey(0, 1)].feats.tobytes() == feats[0].tobytes()


def test_cameras_are_asked_for_only_with_images():
    dataset = FakeDataset(2, cameras=2)
    list(loader(dataset))
    assert set(dataset.asked_cameras) == {False}
    batch = next(iter(loader(dataset, DataConfig(images=True))))
    assert dataset.asked_cameras[-1]
    assert batch.images.shape == (2, 2, 3, 11, 21)


def test_evaluation_pads_once():
    ranks = [
        loader(FakeDataset(5), training=False, rank=rank, world=2, batch_size=2)
        for rank in range(2)
    ]
    seen = [
        (token, padded) for rank in ranks for b in rank for token, padded in zip(b.tokens, b.padded)
    ]
    assert sorted(token for token, padded in seen if not padded) == [f"scan{i}" for i in range(5)]
    assert sum(padded for _, padded in seen) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_scan_stops_with_its_own_words(workers):
    with pytest.raises(UserError, match=r"^3\.bin: the file is cut short\. Unpack it again\.$"):
        list(loader(FakeDataset(5, bad=(3,)), workers=workers))


def test_skip_replaces_in_training():
    config = CONFIG.model_copy(update={"on_bad_sample": "skip"})
    batches = list(loader(FakeDataset(5, bad=(3, 4)), config, batch_size=5, shuffle=False))
    assert batches[0].indices == (0, 1, 2, 0, 0)
    assert batches[0].padded == (False,) * 5
    assert [line.split(":")[0] for line in batches[0].skipped] == ["scan3", "scan4", "scan4"]
    again = list(loader(FakeDataset(5, bad=(3, 4)), config, batch_size=5, shuffle=False, workers=2))
    assert_same(batches[0], again[0])
    coords = batches[0].coords
    assert coords[coords[:, 0] == 0, 1:].equal(
        coords[coords[:, 0] == 3, 1:]
    )  # the replacement is that scan itself


def test_skip_never_scores_the_replacement():
    config = CONFIG.model_copy(update={"on_bad_sample": "skip"})
    batch = next(iter(loader(FakeDataset(3, bad=(1,)), config, training=False, batch_size=3)))
    assert batch.tokens == ("scan0", "scan2", "scan2")
    assert batch.padded == (False, True, False)
    assert batch.skipped == ("scan1: 1.bin: the file is cut short. Unpack it again.",)


def test_skip_gives_up_when_all_is_damaged():
    config = CONFIG.model_copy(update={"on_bad_sample": "skip"})
    with pytest.raises(UserError, match=r"4 scans in a row are damaged; the first: scan0: 0\.bin"):
        list(loader(FakeDataset(4, bad=(0, 1, 2, 3)), config, shuffle=False))
    with pytest.raises(UserError, match="20 scans in a row"):
        list(loader(FakeDataset(99, bad=tuple(range(60))), config, shuffle=False))


@pytest.mark.parametrize(
    ("killed", "words"), [(False, "ended without an error message"), (True, "signal: Killed")]
)
def test_dying_worker_is_one_paragraph(killed, words):
    with pytest.raises(UserError, match=words) as caught:
        list(loader(FakeDataset(6, deadly=4, killed=killed), workers=2, shuffle=False))
    assert "workers_per_gpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_stop_at_an_error_and_start_again():
    broken = loader(FakeDataset(6, bad=(5,)), workers=2, shuffle=False, batch_size=3)
    for _ in range(2):
        batches = iter(broken)
        assert next(batches).indices == (0, 1, 2)
        assert len(multiprocessing.active_children()) == 2
        with pytest.raises(UserError):
            next(batches)
        assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_other_runtime_errors_pass(workers):
    class Broken(FakeDataset):
        def load(self, index, *, cameras=True):
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        list(loader(Broken(2), workers=workers))


def test_leaving_an_epoch_early_leaves_nothing_behind():
    many = loader(FakeDataset(8), workers=2)
    assert next(iter(many)).tokens == next(iter(loader(FakeDataset(8)))).tokens
    many.set_epoch(1)
    alone = loader(FakeDataset(8))
    alone.set_epoch(1)
    for a, b in zip(alone, many, strict=True):
        assert_same(a, b)


def test_samples_pickle():
    samples = ScanSamples(FakeDataset(4), CONFIG, seed=1, training=True)
    restored = pickle.loads(pickle.dumps(samples))  # what a worker that is not forked receives
    assert restored[SampleKey(0, 2)].feats.tobytes() == samples[SampleKey(0, 2)].feats.tobytes()


def test_pairs_are_one_reading_of_a_scan():
    dataset = FakeDataset(4, sweeps=25, cameras=1)
    student = DataConfig(voxel_size=0.5, sweeps=False, images=True)
    teacher = DataConfig(voxel_size=0.5)
    pairs = PairedSamples(dataset, student, teacher, seed=1, training=True)
    batches = list(build_loader(pairs, batch_size=2, workers=0, training=True, seed=1))
    assert len(dataset.asked_cameras) == 4
    for s, t in ((pair.student, pair.teacher) for pair in batches):
        assert s.tokens == t.tokens
        assert int(s.keyframe.sum()) == len(s.keyframe) == int(t.keyframe.sum())
        assert len(t.keyframe) == len(s.keyframe) + 2 * 25
        assert s.images is not None
        assert t.images is None
        first_s, first_t = s.voxel_to_point[0], t.voxel_to_point[0]
        assert first_s == first_t == 0
        assert not torch.allclose(
            s.feats[0, :2], t.feats[0, :2]
        )  # two independent augmentations of one point
    alone = ScanSamples(dataset, student, seed=1, training=True)[
        SampleKey(0, batches[0].student.indices[0])
    ]
    assert torch.equal(batches[0].student.feats[: len(alone.feats)], torch.from_numpy(alone.feats))


def test_pairs_report_a_damaged_scan_once():
    config = CONFIG.model_copy(update={"on_bad_sample": "skip"})
    pairs = PairedSamples(FakeDataset(3, bad=(1,)), config, CONFIG, training=False)
    pair = next(iter(build_loader(pairs, batch_size=3, workers=0, training=False)))
    student, teacher = pair.student, pair.teacher
    assert student.tokens == teacher.tokens == ("scan0", "scan2", "scan2")
    assert student.padded == teacher.padded == (False, True, False)
    assert (len(student.skipped), len(teacher.skipped)) == (1, 0)


@pytest.mark.parametrize(
    ("asked", "scans", "cores", "useful"),
    [(0, 9, 2, 0), (64, 3, 2, 3), (64, 999, 2, 4), (2, 9, 1, 2)],
)
def test_workers_that_have_nothing_to_do_are_not_started(
    monkeypatch, asked: int, scans: int, cores: int, useful: int
) -> None:
    monkeypatch.setattr("core.data.loader.usable_cores", lambda: cores)
    assert useful_workers(asked, scans) == useful

"""Batches of which some scans have images and others none: values, gradients, and processes of either kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from camera_scene import camera_sample
from made_samples import doubled
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.config import Config
from core.contracts import Sample, SampleCameras
from core.data import collate
from core.distill import method_class
from core.distill.base import Method
from core.losses import CrossEntropyLovasz
from core.models import build_model
from core.sparse import convert_sync_batchnorm

CLASSES = 17
CAMERAS = {
    "name": "lidar_camera",
    "lidar": {"name": "spvcnn", "cr": 0.25, "dropout": 0},
    "image": {"encoder": "resnet18", "stem_stride": 2, "decoder_channels": 24},
}
METHODS = {
    "u2mkd": (CAMERAS, {"name": "u2mkd", "w_kl": 0, "w_feat": 0}),
    "2dpass": (
        {"name": "twodpass", "hidden": 8},
        {"name": "2dpass", "image": {"encoder": "resnet18"}},
    ),
}
BatchNorm = nn.modules.batchnorm._BatchNorm


def seen(seed: int) -> Sample:
    """A scan with images."""
    return camera_sample(seed, cameras=2, voxels=60)


def unseen(seed: int) -> Sample:
    """A scan without."""
    sample = seen(seed)
    return replace(sample, cameras=SampleCameras.none(len(sample.points)))


def make_method(name: str) -> Method:
    model, section = METHODS[name]
    torch.manual_seed(0)
    config = Config({"model": model, "distill": section})
    kind = method_class(config)
    student = build_model(config, CLASSES)
    return kind(config.parse(kind.Config, "distill"), student, None, CrossEntropyLovasz())


def hold_statistics(module: nn.Module) -> None:
    """Normalise as in evaluation, so that scans of a batch do not see each other."""
    for norm in module.modules():
        if isinstance(norm, BatchNorm):
            norm.eval()


def gradients(module: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum, by name of the weights that have one."""
    module.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    named = module.named_parameters()
    return {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], share: float) -> None:
    """Up to a share of the largest value of each; point weights are f32."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        difference = (found[name] - value).abs().max()
        assert difference <= share * value.abs().max() + 1e-9, name


# --- batches --------------------------------------------------------------------------------------------------------
def test_images_are_those_of_the_scans_that_have_some() -> None:
    batch = collate([unseen(0), seen(1), unseen(2), seen(3)])
    assert batch.cameras.rows.tolist() == [-1, 0, -1, 1]
    assert batch.images.shape[:2] == (2, 2)
    assert torch.equal(batch.images[1], torch.from_numpy(seen(3).images))
    start, end = batch.voxel_offsets[1:3].tolist()
    alone = collate([seen(1)])
    assert torch.equal(batch.visible[:, start:end], alone.visible)
    assert torch.equal(batch.areas[:, start:end], alone.areas)
    assert not batch.visible[:, :start].any() and (batch.areas[:, :start] == -1).all()
    assert set(batch.image_rows[:start].tolist()) == {-1}


def test_samples_are_taken_with_their_images() -> None:
    batch = collate([unseen(0), seen(1), seen(3)]).take([2, 0])
    assert batch.cameras.rows.tolist() == [0, -1]
    assert torch.equal(batch.images, collate([seen(3)]).images)
    assert torch.equal(batch.visible, collate([seen(3), unseen(0)]).visible)
    assert batch.to("cpu").cameras.rows.tolist() == [0, -1]


def test_a_batch_may_have_no_image_at_all() -> None:
    batch = collate([unseen(0), unseen(1)])
    assert len(batch.images) == 0 and batch.visible.shape == (1, len(batch.cells))
    assert not batch.visible.any() and batch.cameras.rows.tolist() == [-1, -1]


# --- networks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overlap", ["last", "mean"])
def test_scans_are_predicted_as_if_alone(overlap: str) -> None:
    torch.manual_seed(0)
    section = CAMERAS | {"eval_pixels": True, "overlap": overlap}
    net = build_model(Config({"model": section}), CLASSES).eval()
    samples = [seen(0), unseen(1), seen(2), unseen(3)]
    whole = collate(samples)
    with torch.no_grad():
        together = net(whole)
        for i, sample in enumerate(samples):
            start, end = whole.voxel_offsets[i : i + 2].tolist()
            alone = net(collate([sample]))
            rows = together.logits[start:end]
            torch.testing.assert_close(rows, alone.logits, rtol=1e-4, atol=1e-4)
            if alone.pixel_logits is not None:
                pixels = together.pixel_logits[start:end]
                torch.testing.assert_close(pixels, alone.pixel_logits, rtol=1e-4, atol=1e-4)
    lidar_only = net(replace(collate([unseen(1)]), cameras=None)).logits
    assert torch.equal(net(collate([unseen(1)])).logits, lidar_only)


def test_no_image_passes_through_the_image_network_in_vain(monkeypatch) -> None:
    net = build_model(Config({"model": CAMERAS}), CLASSES).train()
    counts = []
    stem = net.pix_branch.stem
    monkeypatch.setattr(net.pix_branch, "stem", lambda x: counts.append(len(x)) or stem(x))
    for samples in ([seen(0), unseen(1)], [unseen(0)]):
        net(collate(samples))
    assert counts == [2, 0]


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_the_scans_alone(name: str) -> None:
    """Terms that images take part in are means over the points in sight: further points in none's change nothing."""
    method = make_method(name).double().train()
    hold_statistics(method)

    def image_terms(*samples: Sample) -> dict[str, Tensor]:
        terms = method(doubled(collate(samples)), None)
        return {key: value for key, value in terms.items() if key[:2] not in ("ce", "lo", "sc")}

    alone, mixed = image_terms(seen(0)), image_terms(unseen(2), seen(0), unseen(1))
    assert len(alone) >= 5
    assert_same(mixed, alone, 1e-6)
    assert_same(gradients(method, mixed), gradients(method, alone), 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_without_any_image_every_weight_still_has_a_gradient(name: str) -> None:
    """Processes that exchange gradients wait for those of all weights."""
    method = make_method(name)
    method.train()
    before = {k: v.clone() for k, v in method.state_dict().items() if "running" in k}
    losses = method(collate([unseen(0), unseen(1)]), None)
    found = gradients(method, losses)
    assert found.keys() == dict(method.named_parameters()).keys()
    assert all(value.isfinite().all() for value in found.values())
    image = [key for key in found if "pix_branch" in key or key.startswith("image.")]
    assert image and all(found[key].abs().max() == 0 for key in image)
    after = method.state_dict()
    for key, value in before.items():
        if "pix_branch" in key or key.startswith("image."):
            assert torch.equal(after[key], value), key
    assert losses.keys() == method(collate([seen(0)]), None).keys()


def test_labels_alone_teach_where_no_image_is() -> None:
    """The camera-free pass of evaluation, in training."""
    method = make_method("u2mkd").train()
    hold_statistics(method)
    batch = collate([unseen(0)])
    with_cameras = method(batch, None)
    without = method(replace(batch, cameras=None), None)
    for key in ("ce", "lovasz"):
        torch.testing.assert_close(with_cameras[key], without[key])
    assert with_cameras["align0"] == 0 and with_cameras["pixel_ce"] == 0


# --- two processes --------------------------------------------------------------------------------------------------
def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name in METHODS:
        method = convert_sync_batchnorm(make_method(name)).double().train()
        network = DistributedDataParallel(method)
        sample = seen(0) if rank == 0 else unseen(1)
        found = gradients(method, network(doubled(collate([sample])), None))
        network(doubled(collate([sample])), None)  # here the reducer would miss a gradient
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, (str(folder),), nprocs=2, start_method="fork")
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_a_process_without_images_and_one_with_some_are_one_batch(by_two: Path, name: str) -> None:
    method = make_method(name).double().train()
    joined = doubled(collate([seen(0), unseen(1)]))
    found = gradients(method, method(joined, None))
    assert found.keys() == dict(method.named_parameters()).keys()
    shared = torch.load(by_two / f"{name}.pt", weights_only=True)
    assert_same(shared, found, 1e-5)

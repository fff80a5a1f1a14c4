"""The sparse U-Nets: published sizes and names, invariances, and SPVCNN's point branch step by step."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import doubled, made_sample, reordered, unlike_new, with_coords
from torch import Tensor, nn

from core.config import Config
from core.contracts import Batch, Sample
from core.data import collate
from core.errors import UserError
from core.models import LIDAR_MODELS, build_model, model_class
from core.models import __main__ as command
from core.models.__main__ import count_macs
from core.models.probe import inputs_of, random_batch

UNETS = ("minkunet", "spvcnn")
NARROW = {
    "minkunet": {"cr": 0.25},
    "spvcnn": {"cr": 0.25},
    "cylinder3d": {"width": 4},
    "srunet": {"cr": 0.25},
    "cenet": {"width": 4},
    "motionbev": {"width": 8, "heights": 4, "motion_channels": 1},
}
GRIDS = {"motionbev": {"bins": [32, 48, 4]}}


def make(name: str, num_classes: int = 17, **options: object) -> nn.Module:
    torch.manual_seed(0)
    config = Config(tree={"model": {"name": name, **options}})
    partition = model_class(config).partitions[0]
    if partition != "voxels":
        config.tree["data"] = {"partition": {"name": partition, **GRIDS.get(name, {})}}
    return build_model(config, num_classes)


def make_exact(name: str) -> nn.Module:
    """A small float64 network in eval mode whose normalisations are not the identity."""
    model = make(name, cr=0.125).double().eval()
    return unlike_new(model)


def scan(seed: int, voxels: int = 400, edge: int = 24) -> Sample:
    """A crowded random scan: most voxels have neighbours at every stride."""
    rng = np.random.default_rng(seed)
    coords = np.unique(rng.integers(0, edge, (voxels, 3)), axis=0).astype(np.int32)
    coords = coords[rng.permutation(len(coords))]
    count = len(coords)
    rows = np.arange(count)
    feats = rng.normal(size=(count, 4)).astype(np.float32)
    labels = rng.integers(0, 17, count)
    everywhere = np.ones(count, bool)
    return made_sample(
        f"s{seed}",
        seed,
        coords,
        feats,
        labels,
        rows,
        rows,
        labels,
        everywhere,
        np.zeros(count, np.float32),
    )


def double(batch: Batch) -> Batch:
    return doubled(batch)


# --- every LiDAR network --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(LIDAR_MODELS))
def test_forward_and_backward(name: str) -> None:
    model = make(name, num_classes=5, **NARROW.get(name, {}))
    batch = random_batch(300, inputs=inputs_of(model))
    logits = model(batch).logits
    assert logits.shape == (len(batch.coords), 5) and logits.dtype == torch.float32
    logits.square().mean().backward()
    assert logits.isfinite().all()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", UNETS)
def test_order_of_voxels_does_not_matter(name: str) -> None:
    model, batch = make_exact(name), double(collate([scan(0)]))
    order = torch.randperm(len(batch.coords), generator=torch.Generator().manual_seed(2))
    shuffled = reordered(batch, order)
    with torch.no_grad():
        logits, other = model(batch).logits, model(shuffled).logits
    assert logits.std(0).min() > 1e-3
    torch.testing.assert_close(
        other, logits[order], rtol=1e-6, atol=1e-7
    )  # point weights are stored in fp32


@pytest.mark.parametrize("name", UNETS)
def test_company_in_the_batch_does_not_matter(name: str) -> None:
    model = make_exact(name)
    samples = [scan(0), scan(1, voxels=150), scan(2)]
    with torch.no_grad():
        together = model(double(collate(samples)))
        alone = [model(double(collate([sample]))).logits for sample in samples]
    torch.testing.assert_close(together.logits, torch.cat(alone), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(alone[0][:100], alone[2][:100])


@pytest.mark.parametrize("name", UNETS)
def test_shift_by_the_coarsest_stride_does_not_matter(name: str) -> None:
    model, batch = make_exact(name), double(collate([scan(0)]))
    shifted = with_coords(batch, batch.coords + torch.tensor([0, 16, -32, 160]).int())
    with torch.no_grad():
        torch.testing.assert_close(model(shifted).logits, model(batch).logits, rtol=1e-6, atol=1e-7)


# --- sizes and names ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("minkunet", 20, 21_723_412),
        ("minkunet", 17, 21_723_121),
        ("spvcnn", 20, 21_778_100),
        ("spvcnn", 17, 21_777_809),
    ],
)
def test_parameter_counts(name: str, num_classes: int, count: int) -> None:
    with torch.device("meta"):
        model = make(name, num_classes)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("cr", "widths"),
    [(0.25, (8, 8, 16, 32, 64, 64, 32, 24, 24)), (0.5, (16, 16, 32, 64, 128, 128, 64, 48, 48))],
)
@pytest.mark.parametrize("name", UNETS)
def test_width_factor(name: str, cr: float, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = make(name, cr=cr)
    assert model.stem[0].kernel.shape == (27, 4, widths[0])
    assert [down[1].net[0].out_channels for down in model.vox_downs] == list(widths[1:5])
    assert [up[0].net[0].out_channels for up in model.vox_ups] == list(widths[5:])
    skips = (widths[3], widths[2], widths[1], widths[0])
    assert [up[1][0].net[0].in_channels for up in model.vox_ups] == [
        a + b for a, b in zip(widths[5:], skips)
    ]
    assert model.classifier_vox[0].weight.shape == (17, widths[8])


PUBLISHED = {  # names and shapes of the SPVNAS, 2DPASS and U2MKD checkpoints at cr 1
    "stem.0.kernel": (27, 4, 32),
    "stem.1.weight": (32,),
    "stem.3.kernel": (27, 32, 32),
    "vox_downs.0.0.net.0.kernel": (8, 32, 32),
    "vox_downs.0.0.net.1.running_mean": (32,),
    "vox_downs.0.1.net.0.kernel": (27, 32, 32),
    "vox_downs.1.1.net.3.kernel": (27, 64, 64),
    "vox_downs.1.1.downsample.0.kernel": (32, 64),
    "vox_downs.1.1.downsample.1.weight": (64,),
    "vox_downs.3.2.net.4.num_batches_tracked": (),
    "vox_ups.0.0.net.0.kernel": (8, 256, 256),
    "vox_ups.0.1.0.net.0.kernel": (27, 384, 256),
    "vox_ups.0.1.0.downsample.0.kernel": (384, 256),
    "vox_ups.3.1.1.net.3.kernel": (27, 96, 96),
    "classifier_vox.0.weight": (20, 96),
    "classifier_vox.0.bias": (20,),
}
PUBLISHED_POINTS = {
    "point_transforms.0.0.weight": (256, 32),
    "point_transforms.0.1.running_var": (256,),
    "point_transforms.1.0.weight": (128, 256),
    "point_transforms.2.0.bias": (96,),
}


@pytest.mark.parametrize("name", UNETS)
def test_state_dict_has_the_published_names(name: str) -> None:
    with torch.device("meta"):
        weights = make(name, 20).state_dict()
    expected = PUBLISHED | (PUBLISHED_POINTS if name == "spvcnn" else {})
    assert {key: tuple(weights[key].shape) for key in expected if key in weights} == expected
    assert not any("downsample" in key for key in weights if key.startswith("vox_downs.0.")), (
        "32 -> 32 needs none"
    )
    roots = {"stem", "vox_downs", "vox_ups", "classifier_vox"} | (
        {"point_transforms"} if name == "spvcnn" else set()
    )
    assert {key.partition(".")[0] for key in weights} == roots


def test_unknown_model_and_option() -> None:
    with pytest.raises(
        UserError,
        match=r"key 'model\.name' has the unknown value 'minkunett'\. Did you mean 'minkunet'",
    ):
        make("minkunett")
    with pytest.raises(UserError, match=r"unknown key 'model\.dropuot'; did you mean 'dropout'"):
        make("spvcnn", dropuot=0.1)
    with pytest.raises(UserError, match=r"unknown key 'model\.dropout'"):
        make("minkunet", dropout=0.1)


# --- SPVCNN's point branch ------------------------------------------------------------------------------------------
def interpolated(coords: Tensor, voxels: dict[tuple, Tensor], stride: int) -> Tensor:
    """Trilinear interpolation at each point from the voxels at its cell's eight corners, one point at a time."""
    rows = []
    for b, *xyz in coords.tolist():
        cell = [c // stride * stride for c in xyz]
        fraction = [(c - o) / stride for c, o in zip(xyz, cell)]
        total, mass = 0.0, 0.0
        for corner in np.ndindex(2, 2, 2):
            key = (b, *(o + stride * k for o, k in zip(cell, corner)))
            weight = float(np.prod([f if k else 1 - f for f, k in zip(fraction, corner)]))
            if key in voxels:
                total, mass = total + weight * voxels[key], mass + weight
        rows.append(total / mass)
    return torch.stack(rows)


def averaged(coords: Tensor, feats: Tensor, stride: int) -> dict[tuple, Tensor]:
    """Mean feature of the points in each cell."""
    cells: dict[tuple, list[Tensor]] = {}
    for (b, *xyz), row in zip(coords.tolist(), feats):
        cells.setdefault((b, *(c // stride * stride for c in xyz)), []).append(row)
    return {key: torch.stack(rows).mean(0) for key, rows in cells.items()}


def by_voxel(x) -> dict[tuple, Tensor]:
    return {tuple(key): row for key, row in zip(x.coords.tolist(), x.feats)}


def assert_voxels(x, expected: dict[tuple, Tensor]) -> None:
    found = by_voxel(x)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        torch.testing.assert_close(found[key], row, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_spvcnn_point_branch() -> None:
    """z0 = stem; z1 = up16(x4) + t0(z0); z2 = up4(y2) + t1(z1); z3 = up1(y4) + t2(z2) (Tang et al., section 3.1)."""
    model, batch = make_exact("spvcnn"), double(collate([scan(0, voxels=120), scan(1, voxels=60)]))
    seen: dict[str, tuple] = {}
    for key in ("stem", "vox_downs.0", "vox_downs.3", *(f"vox_ups.{i}" for i in range(4))):
        hook = lambda module, inputs, output, key=key: seen.update({key: (inputs[0], output)})  # noqa: E731
        model.get_submodule(key).register_forward_hook(hook)
    output = model(batch)
    points, transform = batch.coords, model.point_transforms

    z0 = seen["stem"][1].feats
    torch.testing.assert_close(seen["vox_downs.0"][0].feats, z0)
    x4 = seen["vox_downs.3"][1]
    assert x4.stride == (16, 16, 16)
    z1 = interpolated(points, by_voxel(x4), 16) + transform[0](z0)
    assert_voxels(seen["vox_ups.0"][0], averaged(points, z1, 16))
    y2 = seen["vox_ups.1"][1]
    assert y2.stride == (4, 4, 4)
    z2 = interpolated(points, by_voxel(y2), 4) + transform[1](z1)
    assert_voxels(seen["vox_ups.2"][0], averaged(points, z2, 4))
    z3 = seen["vox_ups.3"][1].feats + transform[2](z2)
    torch.testing.assert_close(output.logits, model.classifier_vox(z3), rtol=1e-6, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    batch = collate([scan(0)])
    model = make("spvcnn", cr=0.25, dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0  # running statistics stay, so that only dropout can differ
    assert not torch.equal(model(batch).logits, model(batch).logits)
    model.eval()
    assert torch.equal(model(batch).logits, model(batch).logits)


# --- python -m core.models ------------------------------------------------------------------------------------------
def test_macs_by_hand() -> None:
    """One lone voxel meets only the middle of each odd kernel, and one offset of each even one."""
    model = make("minkunet", num_classes=5, cr=0.25)
    sample = scan(0, voxels=1)
    macs = count_macs(model, collate([sample]))
    assert macs["stem.0"] == 4 * 8 and macs["stem.3"] == 8 * 8
    assert macs["vox_downs.1.0.net.0"] == 8 * 8 and macs["vox_downs.1.1.downsample.0"] == 8 * 16
    assert macs["vox_ups.0.0.net.0"] == 64 * 64 and macs["classifier_vox.0"] == 24 * 5


@pytest.fixture
def folder_config(tmp_path: Path) -> str:
    """Configuration of a data set that is not on disk."""
    path = tmp_path / "net.yaml"
    path.write_text(
        f"num_epochs: 1\nbatch_size: 1\ndataset: {{name: folder, root: {tmp_path / 'none'}, labels: null}}\n"
        "model: {name: minkunet, cr: 0.25}\n"
    )
    return str(path)


def test_command_lists_modules_parameters_and_macs(folder_config, monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "random_batch", lambda inputs: random_batch(200, 0, inputs))
    monkeypatch.setattr(sys, "argv", ["core.models", folder_config, "--model.cr", "0.5"])
    command.main()
    text = capsys.readouterr().out
    with torch.device("meta"):
        count = sum(p.numel() for p in make("minkunet", 20, cr=0.5).parameters())
    assert (
        "MinkUNet" in text
        and "vox_ups.3" in text
        and f"{count:,}" in text
        and "a random scan" in text
    )


def test_command_explains_itself_in_one_paragraph(folder_config, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["core.models", folder_config, "--model.name", "minkunett"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: command line: key 'model.name' has the unknown value 'minkunett'"
    )

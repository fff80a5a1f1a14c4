"""VoxelNet in and out: SLidR's file, OpenPCDet's detectors, both layouts of spconv, and the backbone spelt densely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_fakes import make_scan
from made_samples import doubled, unlike_new
from torch import Tensor

from core.config import Config, load_config
from core.contracts import Batch
from core.data import DataConfig, collate, make_sample
from core.distill import network_outputs
from core.engine.exchange.command import main
from core.engine.exchange.openpcdet import export_openpcdet
from core.engine.exchange.weights import export_weights, import_weights
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.errors import UserError
from core.labels import NUSCENES
from core.models import build_model
from core.models.lidar.voxelnet import VoxelNet

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "nuscenes" / "slidr"
Weights = dict[str, Tensor]
# [name, in, out, kernel along z, y, x] of VoxelBackBone8x
LAYERS = [
    ("conv_input", 4, 16, (3, 3, 3)),
    ("conv1.0", 16, 16, (3, 3, 3)),
    *[(f"conv2.{i}", 16 if i == 0 else 32, 32, (3, 3, 3)) for i in range(3)],
    *[(f"conv3.{i}", 32 if i == 0 else 64, 64, (3, 3, 3)) for i in range(3)],
    *[(f"conv4.{i}", 64, 64, (3, 3, 3)) for i in range(3)],
    ("conv_out", 64, 128, (3, 1, 1)),
]
# (stride, padding) along z, y, x of those that are not submanifold
STRIDED = {
    "conv2.0": (2, (1, 1, 1)),
    "conv3.0": (2, (1, 1, 1)),
    "conv4.0": (2, (0, 1, 1)),
    "conv_out": ((2, 1, 1), (0, 0, 0)),
}


def published_backbone(version: str, seed: int = 0) -> Weights:
    """SLidR's VoxelNet as published, without the head; the same values in both layouts."""
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}
    for name, cin, cout, kernel in LAYERS:
        scale = (4.0 / (cin * np.prod(kernel))) ** 0.5
        weight = scale * torch.randn(cout, *kernel, cin, generator=generator)
        if version == "1":
            weight = weight.permute(1, 2, 3, 4, 0).contiguous()
        made[f"{name}.0.weight"] = weight
        for part in ("weight", "running_var"):
            made[f"{name}.1.{part}"] = torch.rand(cout, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            made[f"{name}.1.{part}"] = 0.2 * torch.randn(cout, generator=generator)
        made[f"{name}.1.num_batches_tracked"] = torch.tensor(7)
    return made


def published_slidr(version: str) -> Weights:
    shape = (64, 1, 1, 1, 128) if version == "2" else (1, 1, 1, 128, 64)
    return published_backbone(version) | {"final.weight": torch.randn(shape)}


def config(*words: str) -> Config:
    return load_config(CONFIGS / "published_voxelnet.yaml", list(words))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a pre-training."""
    network = unlike_new(build_model(config(), 64, pretrained=False))
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    identity = {"config": config().tree, "classes": list(NUSCENES.classes)}
    identity["fingerprint"] = NUSCENES.fingerprint
    torch.save({"model": network.state_dict(), "training_only": {}, "identity": identity}, path)
    return path


# --- in ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", ["1", "2"])
def test_full_size_voxelnet_of_slidr(version: str, tmp_path: Path) -> None:
    weights = published_slidr(version)
    learned = [w for name, w in weights.items() if "running" not in name and "tracked" not in name]
    assert sum(w.numel() for w in learned) == 711_872 + 8_192
    source = tmp_path / "voxelnet_slidr.pt"
    settings = {"model_points": "voxelnet", "voxel_size": 0.1, "cylindrical_coordinates": False}
    torch.save({"model_points": weights, "epoch": 50, "config": settings}, source)
    state = import_weights(source, config(), tmp_path / "own.pt")
    assert state["identity"]["imported"]["family"] == "slidr"
    ours = state["model"]
    assert len(ours) == len(weights) == 73
    taps = {"1": lambda w, z, y, x: w[z, y, x], "2": lambda w, z, y, x: w[:, z, y, x].T}[version]
    for published, name in {
        "conv_input": "conv_input",
        "conv1.0": "conv1.0",
        "conv2.1": "downs.0.1",
        "conv4.2": "downs.2.2",
    }.items():
        weight = weights[f"{published}.0.weight"]
        for z, y, x in np.ndindex(3, 3, 3):
            kernel = ours[f"{name}.0.kernel"][x + 3 * y + 9 * z]
            assert torch.equal(kernel, taps(weight, z, y, x))
        assert torch.equal(ours[f"{name}.1.bias"], weights[f"{published}.1.bias"])
    for z in range(3):
        out = taps(weights["conv_out.0.weight"], z, 0, 0)
        assert torch.equal(ours["conv_out.0.kernel"][z], out)
    assert torch.equal(ours["final.kernel"], taps(weights["final.weight"], 0, 0, 0))


def boxes(points: int = 300) -> Batch:
    """A scan in a grid of 32 x 32 x 40 boxes, in float64."""
    grid = {"name": "grid", "low": [-3.2, -3.2, -5.0], "high": [3.2, 3.2, 3.0], "size": [0.2] * 3}
    rng = np.random.default_rng(1)
    xyz = rng.uniform((-3.3, -3.3, -5.2), (3.3, 3.3, 3.2), (points, 3))
    xyz[: points // 2] = rng.normal((1, 0.3, -1), 0.4, (points // 2, 3))  # crowded
    data = DataConfig.model_validate({"partition": grid, "augment": None})
    return doubled(collate([make_sample(make_scan(xyz, token="s"), 0, data)]))


def dense_backbone(weights: Weights, grid: Tensor, mask: Tensor) -> Tensor:
    """VoxelBackBone8x on [1, 4, Z, Y, X] by torch's own convolution: [1, 128, Y / 8, X / 8]."""
    for name, *_ in LAYERS:
        weight = weights[f"{name}.0.weight"].double().permute(0, 4, 1, 2, 3)
        stride, padding = STRIDED.get(name, (1, (1, 1, 1)))
        if name in STRIDED:
            ones = torch.ones_like(weight[:1, :1])
            mask = (F.conv3d(mask, ones, stride=stride, padding=padding) > 0).double()
        grid = F.conv3d(grid, weight, stride=stride, padding=padding)
        w = {part: weights[f"{name}.1.{part}"].double() for part in ("weight", "bias")}
        mean, var = (weights[f"{name}.1.running_{part}"].double() for part in ("mean", "var"))
        grid = F.batch_norm(grid, mean, var, w["weight"], w["bias"], eps=1e-3)
        grid = grid.relu() * mask
    return grid[:, :, 0]


def test_exported_weights_are_the_dense_backbone(tmp_path: Path, trained: Path) -> None:
    """What a detector would compute of the exported file, axes z, y, x, is what the network computes here."""
    export_openpcdet(trained, tmp_path / "backbone.pth")
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)["model_state"]
    weights = {name.removeprefix("backbone_3d."): value for name, value in state.items()}
    batch = boxes()
    network = VoxelNet(VoxelNet.Config(name="voxelnet", max_points=1000), 64)
    load_weights(network, read_checkpoint(trained)["model"], "test")
    seen = []
    network.conv_out.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        network.double().eval()(batch)
        inside = batch.cells.of_point >= 0
        cell = batch.cells.of_point[inside]
        means = torch.zeros(len(batch.cells), 4, dtype=torch.float64)
        means.index_add_(0, cell, batch.point_feats[inside])
        means /= torch.bincount(cell)[:, None]
        x, y, z = batch.coords[:, 1:].long().T
        grid = torch.zeros(1, 4, 40, 32, 32, dtype=torch.float64)
        mask = torch.zeros(1, 1, 40, 32, 32, dtype=torch.float64)
        grid[0, :, z, y, x] = means.T
        mask[0, 0, z, y, x] = 1
        view = dense_backbone(weights, grid, mask)
    sites = seen[0]
    column = (sites.coords[:, 1:3].long() - sites.coords[:, 1:3].long().min(0).values) // 8
    lit = (view[0].abs().sum(0) > 0).nonzero()  # y, x
    column = column + lit.min(0).values.flip(0)
    found = view[0, :, column[:, 1], column[:, 0]].T
    assert sites.feats.std() > 1e-3 and len(sites.feats) > 8
    torch.testing.assert_close(sites.feats, found, rtol=1e-5, atol=1e-8)


# --- out, and in again ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", ["1", "2"])
def test_out_and_in_again(version: str, tmp_path: Path, trained: Path) -> None:
    report = export_openpcdet(trained, tmp_path / "backbone.pth", version)
    state = torch.load(tmp_path / "backbone.pth", weights_only=True)
    assert state.keys() == {"model_state"}
    expected = {f"backbone_3d.{name}": w.shape for name, w in published_backbone(version).items()}
    assert {name: w.shape for name, w in state["model_state"].items()} == expected
    assert len(report.loaded) == report.expected == 72 and report.left_out == ("final.kernel",)
    assert (
        f"72 of 72 tensors of VoxelBackBone8x, as backbone_3d.*, for spconv {version}"
        in report.text()
    )
    own = import_weights(tmp_path / "backbone.pth", config(), tmp_path / "own.pt")
    before = read_checkpoint(trained)["model"]
    assert own["model"].keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(own["model"][name], value) == (name != "final.kernel"), name
    again = import_weights(tmp_path / "backbone.pth", config(), tmp_path / "again.pt")
    assert torch.equal(own["model"]["final.kernel"], again["model"]["final.kernel"])


def test_a_detectors_checkpoint(tmp_path: Path) -> None:
    """As OpenPCDet's trainer writes it: the backbone is taken, the rest named."""
    backbone = {f"backbone_3d.{name}": value for name, value in published_backbone("2").items()}
    rest = {"global_step": torch.zeros(1), "dense_head.conv_cls.weight": torch.ones(18, 512, 1, 1)}
    source = tmp_path / "checkpoint_epoch_80.pth"
    torch.save(
        {"epoch": 80, "it": 7, "model_state": rest | backbone, "optimizer_state": {}}, source
    )
    state = import_weights(source, config(), tmp_path / "own.pt")
    assert state["identity"]["imported"]["family"] == "openpcdet"
    assert list(state["identity"]["imported"]["unused"].values()) == [list(rest)]
    assert len(state["model"]) == 73


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    backbone = {f"backbone_3d.{name}": value for name, value in published_backbone("2").items()}
    backbone["backbone_3d.conv1.0.conv1.weight"] = torch.ones(16, 3, 3, 3, 16)
    torch.save({"model_state": backbone}, tmp_path / "f.pth")
    with pytest.raises(UserError, match="no VoxelBackBone8x"):
        import_weights(tmp_path / "f.pth", config(), tmp_path / "own.pt")


def test_other_values_per_point_are_told(tmp_path: Path) -> None:
    torch.save({"model_points": published_slidr("2")}, tmp_path / "f.pt")
    with pytest.raises(UserError, match=r"\[16, 3, 3, 3, 4\]; expected \[16, 3, 3, 3, 1\]"):
        asked = config("--data.features", "[intensity]")
        import_weights(tmp_path / "f.pt", asked, tmp_path / "own.pt")


def test_networks_without_a_counterpart_are_refused(tmp_path: Path) -> None:
    asked = load_config(CONFIGS / "minkunet.yaml", ["--model.cr", "0.125"])
    network = build_model(asked, network_outputs(asked, NUSCENES), pretrained=False)
    identity = {"config": asked.tree, "classes": list(NUSCENES.classes), "fingerprint": "0"}
    torch.save({"model": network.state_dict(), "identity": identity}, tmp_path / "own.pt")
    with pytest.raises(UserError, match="no backbone that 'srunet' could become"):
        export_openpcdet(tmp_path / "own.pt", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_command(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "backbone.pth"
    main(["export", str(trained), "--format", "openpcdet", "--spconv", "1", "--out", str(out)])
    told = capsys.readouterr().out
    assert "72 of 72 tensors" in told and "boxes of 0.1 x 0.1 x 0.2 m" in told
    state = torch.load(out, weights_only=True)["model_state"]
    assert state["backbone_3d.conv_out.0.weight"].shape == (3, 1, 1, 64, 128)
    for words in (["--spconv", "1"], ["--format", "openpcdet", "--lidar-only"]):
        with pytest.raises(SystemExit):
            main(["export", str(trained), "--out", str(out), *words])


def test_a_pretrained_network_is_exported_as_safetensors(tmp_path: Path, trained: Path) -> None:
    """Its outputs are an embedding, not classes."""
    export_weights(trained, tmp_path / "own.safetensors")
    state = import_weights(tmp_path / "own.safetensors", config(), tmp_path / "own.pt")
    before = read_checkpoint(trained)["model"]
    assert all(torch.equal(state["model"][name], value) for name, value in before.items())

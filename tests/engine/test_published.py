"""Published weights of every family: imported, their logits are those of the authors' layers in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from loguru import logger
from made_samples import doubled, made_sample
from published_reference import Points, Sparse, UNet
from published_weights import (
    Weights,
    lightning_file,
    parallel_file,
    prefixed,
    sphereformer_weights,
    teacher_weights,
    torchsparse_weights,
    trainer_file,
    twodpass_weights,
    without_attention,
)
from torch import Tensor

from core.config import Config
from core.contracts import Batch
from core.data import collate
from core.engine.exchange.command import main
from core.engine.exchange.families import sparse_kernel
from core.engine.exchange.sphereformer import kernel_axes
from core.engine.exchange.weights import import_weights
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.engine.score.segmenter import Segmenter
from core.errors import UserError
from core.models import build_model

CR = 0.25
KITTI, NUSCENES = "semantickitti", "nuscenes"
SMALL = {"name": "twodpass", "hidden": 8, "scales": [2, 4, 8]}
BOX = {"low": [0.0, 0.0, 0.0], "high": [1.6, 1.6, 1.2], "shape": [16, 16, 12]}
LAYERS = (16, 32, 16)
SPHERE = {"name": "sphereformer", "layers": list(LAYERS)}
METHOD = {"name": "2dpass", "image": {"encoder": "resnet18"}}


def tree(dataset: str, model: dict, **sections: object) -> dict:
    return {
        "num_epochs": 1,
        "batch_size": 1,
        "dataset": {"name": dataset, "root": "/nowhere"},
        "data": {"voxel_size": 0.1},
        "model": model,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "scheduler": {"name": "cosine_warmup", "warmup_steps": 1},
    } | sections


def imported(source: Path, config: dict, **options: object) -> dict:
    return import_weights(source, Config(config), source.parent / "own.pt", **options)


def crowd() -> Batch:
    """Some 200 voxels of 10 cm in a cube of 1.8 m, in float64."""
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 18, (200, 3)), axis=0).astype(np.int32)
    rows = np.arange(len(coords))
    feats = np.column_stack([coords * 0.1 + 0.03, rng.random(len(rows))]).astype(np.float32)
    distance = np.zeros(len(rows), np.float32)
    keyframe = np.ones(len(rows), bool)
    sample = made_sample("s", 0, coords, feats, rows, rows, rows, rows, keyframe, distance)
    return doubled(collate([sample]))


def logits(state: dict, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a small scan, by a network that is built from what the checkpoint says; features and coordinates."""
    network = build_model(Config(state["identity"]["config"]), classes, pretrained=False)
    load_weights(network, state["model"], "test")
    batch = crowd()
    with torch.no_grad():
        found = network.double().eval()(batch).logits
    return found, batch.feats, batch.coords[:, 1:].long()


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.std(0).min() > 1e-3 * expected.abs().max(), "outputs differ from point to point"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.fixture
def heard() -> list[str]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


# --- logits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["minkunet", "spvcnn"])
def test_spvnas(model: str, tmp_path: Path, heard: list[str]) -> None:
    """19 outputs: class 0 gets a row of zeros in front. MinkUNet's point branch is named as unused."""
    weights = torchsparse_weights(CR, 19)
    source = trainer_file(weights, tmp_path / "init")
    state = imported(source, tree(KITTI, {"name": model, "cr": CR}))
    found, feats, coords = logits(state, 20)
    points = model == "spvcnn"
    reference = Sparse(weights, "stage{1}", "up{1}", "classifier")
    close(found[:, 1:], reference.run(feats, coords, points))
    assert found[:, 0].abs().max() == 0
    unused = state["identity"]["imported"]["unused"]
    assert [len(names) for names in unused.values()] == ([] if points else [21])
    assert any("point_transforms.0.0.weight" in line for line in heard) != points


@pytest.mark.parametrize(
    ("model", "dataset", "classes"), [("spvcnn", KITTI, 20), ("minkunet", NUSCENES, 17)]
)
def test_torchsparse_networks_of_2dpass(
    model: str, dataset: str, classes: int, tmp_path: Path
) -> None:
    weights = torchsparse_weights(CR, classes)
    criterion = {"criterion.ce_loss.weight": torch.ones(classes)}
    source = lightning_file(weights | criterion, tmp_path / "best.ckpt")
    state = imported(source, tree(dataset, {"name": model, "cr": CR}), family="2dpass")
    assert state["identity"]["imported"]["unused"]["weights of the loss"] == [*criterion]
    found, feats, coords = logits(state, classes)
    reference = Sparse(weights, "stage{1}", "up{1}", "classifier")
    close(found, reference.run(feats, coords, model == "spvcnn"))


def test_2dpass(tmp_path: Path) -> None:
    """The LiDAR network's logits; what teaches it is kept for training, each tensor at the method's name for it."""
    weights = twodpass_weights(8, 3, 20)
    source = lightning_file(weights, tmp_path / "best.ckpt")
    state = imported(source, tree(KITTI, SMALL | BOX, distill=METHOD))
    found, feats, _ = logits(state, 20)
    close(found, Points(weights).run(feats, (2, 4, 8)))
    unused = state["identity"]["imported"]["unused"]
    assert sorted(unused["weights of the loss"]) == [
        "fusion.seg_loss.ce_loss.weight",
        "model_3d.criterion.ce_loss.weight",
    ]
    training = state["training_only"]
    assert len(state["model"]) + len(training) + 2 == len(weights)
    for ours, published in {
        "image.encoder.layer2.0.downsample.0.weight": "model_2d.layer2.0.downsample.0.weight",
        "image.decoders.3.4.bias": "model_2d.deconv_layer4.4.bias",
        "heads.1.2.weight": "fusion.multihead_3d_classifier.1.2.weight",
        "fusions.2.head.0.bias": "fusion.multihead_fuse_classifier.2.0.bias",
        "fusions.0.learner.0.weight": "fusion.leaners.0.0.weight",
        "fusions.0.join.weight": "fusion.fcs1.0.0.weight",
        "fusions.0.gate.weight": "fusion.fcs2.0.0.weight",
        "classifier.2.weight": "fusion.classifier.2.weight",
    }.items():
        assert torch.equal(training[ours], weights[published]), ours


def test_2dpass_without_what_teaches_it(tmp_path: Path) -> None:
    """A baseline's file, and a full one where the method is the baseline."""
    alone = twodpass_weights(8, 3, 17, training=False)
    source = lightning_file(alone, tmp_path / "best.ckpt")
    state = imported(source, tree(NUSCENES, SMALL | BOX, distill=METHOD))
    assert state["training_only"] == {} and len(state["model"]) == len(alone) - 1
    whole = lightning_file(twodpass_weights(8, 3, 17), tmp_path / "full.ckpt")
    baseline = imported(whole, tree(NUSCENES, SMALL | BOX, distill=METHOD | {"mode": "baseline"}))
    assert baseline["training_only"] == {}


def test_sphereformer(tmp_path: Path) -> None:
    """Convolutions of every level, with attention that adds nothing; 16 outputs."""
    weights = without_attention(sphereformer_weights(LAYERS, 16))
    source = parallel_file(weights, tmp_path / "model_best.pth")
    state = imported(source, tree(NUSCENES, dict(SPHERE)))
    found, feats, coords = logits(state, 17)
    close(found[:, 1:], UNet(weights).run(feats, coords))
    assert found[:, 0].abs().max() == 0
    model = state["identity"]["config"]["model"]
    assert model["window_origin"] == "batch" and model["legacy_quant"] is False


def test_attention_of_sphereformer_keeps_its_names(tmp_path: Path) -> None:
    weights = sphereformer_weights(LAYERS, 19)
    source = parallel_file(weights, tmp_path / "model_best.pth")
    state = imported(source, tree(KITTI, dict(SPHERE)), family="sphereformer")
    assert len(state["model"]) == len(weights)
    for level in range(3):
        beginning = "unet." + level * "u." + "transformer_block."
        names = [name for name in weights if name.startswith(beginning)]
        assert len(names) >= 14
        for name in names:
            ours = name.replace(beginning, f"transformer_blocks.{level}.")
            assert torch.equal(state["model"][ours], weights[name])


def test_teacher_of_u2mkd(tmp_path: Path) -> None:
    """A file of stage 1 as its trainer writes it; attention adds nothing."""
    weights = without_attention(teacher_weights(0.5))
    source = trainer_file(prefixed(weights, "module."), tmp_path / "max-iou-val-vox.pt")
    state = imported(source, tree(NUSCENES, {"name": "spvcnn_spformer", "cr": 0.5}))
    found, feats, coords = logits(state, 17)
    close(
        found,
        Sparse(weights, "vox_downs.{0}", "vox_ups.{0}", "classifier_vox").run(feats, coords, True),
    )
    assert state["identity"]["config"]["model"]["legacy_quant"] is True


# --- layouts ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", ["zyx", "xyz"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_layout_of_spconvs_kernels(size: int, axes: str) -> None:
    """Tap (x, y, z) of spconv lands at torchsparse's place of that offset."""
    weight = torch.randn(5, size, size, size, 4)
    kernel = sparse_kernel(weight, axes)
    if size == 1:
        assert torch.equal(kernel, weight[:, 0, 0, 0].T)
        return
    for x in range(size):
        for y in range(size):
            for z in range(size):
                tap = weight[:, x, y, z] if axes == "xyz" else weight[:, z, y, x]
                place = x + 3 * y + 9 * z if size == 3 else z + 2 * y + 4 * x
                assert torch.equal(kernel[place], tap.T)


def test_axes_are_seen_by_the_weight_of_their_taps() -> None:
    """Turned about z in training, x and y weigh alike; few voxels lie above each other."""
    weights = {"linear.weight": torch.randn(3, 3)}
    for i in range(4):
        kernel = torch.randn(8, 3, 3, 3, 8)
        kernel[:, :, :, 0] *= 0.5
        kernel[:, :, :, 2] *= 0.5
        weights[f"{i}.weight"] = kernel
    assert kernel_axes(weights)[0] == "xyz"
    turned = {name: w.permute(0, 3, 2, 1, 4) for name, w in weights.items() if w.dim() == 5}
    assert kernel_axes(turned)[0] == "zyx"
    axes, note = kernel_axes({"a.weight": torch.ones(2, 3, 3, 3, 2)})
    assert axes == "zyx" and "do not show" in note


# --- refusals ---------------------------------------------------------------------------------------------------------
def changed(weights: Weights, **changes: Tensor | None) -> Weights:
    made = weights | changes
    return {name: tensor for name, tensor in made.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage1.0.net.1.bias": None}, r"1 missing \(vox_downs.0.0.net.1.bias\)"),
        ({"extra.weight": torch.ones(1)}, r"1 unknown \(extra.weight\)"),
        ({"stem.0.kernel": torch.ones(27, 4, 9)}, r"stem.0.kernel is \(27, 4, 9\) in the file"),
        ({"classifier.0.bias": torch.ones(18)}, r"classifier_vox.0.bias is \(18,\) in the file"),
        ({"vox_downs.0.1.net.1.bias": torch.ones(8)}, "is there twice"),
    ],
)
def test_every_tensor_has_its_place(changes: dict, message: str, tmp_path: Path) -> None:
    weights = changed(torchsparse_weights(CR, 19), **changes)
    with pytest.raises(UserError, match=message):
        imported(
            trainer_file(weights, tmp_path / "init"), tree(KITTI, {"name": "spvcnn", "cr": CR})
        )
    assert not (tmp_path / "own.pt").exists()


def test_parts_that_only_train_are_compared_too(tmp_path: Path) -> None:
    weights = changed(twodpass_weights(8, 3, 20), **{"fusion.fcs2.1.0.bias": None})
    source = lightning_file(weights, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"1 missing \(fusions.1.gate.bias\)"):
        imported(source, tree(KITTI, SMALL | BOX, distill=METHOD))


@pytest.mark.parametrize(
    ("weights", "model", "options", "message"),
    [
        (torchsparse_weights(CR, 19), SMALL, {}, "weights of spvnas are no 'twodpass'.*minkunet, spvcnn"),
        (torchsparse_weights(CR, 19), SMALL, {"family": "pvkd"}, "no family of published weights 'pvkd'"),
        ({"a.weight": torch.ones(1)}, SMALL, {}, "whose weights these are.*--from u2mkd | 2dpass"),
        ({"model_3d.a": torch.ones(1)}, SMALL, {"part": "student"}, "files of 2DPASS hold one network"),
    ],
)  # fmt: skip
def test_refused(
    weights: Weights, model: dict, options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        imported(trainer_file(weights, tmp_path / "f.pt"), tree(KITTI, dict(model)), **options)


def test_what_the_checkpoint_will_remember_is_checked_before(tmp_path: Path) -> None:
    source = trainer_file(torchsparse_weights(CR, 19), tmp_path / "init")
    config = tree(KITTI, {"name": "minkunet", "cr": CR})
    del config["num_epochs"]
    with pytest.raises(UserError, match="key 'num_epochs' is missing"):
        imported(source, config)


def test_own_checkpoints_are_not_imported(tmp_path: Path) -> None:
    source = trainer_file(torchsparse_weights(CR, 19), tmp_path / "init")
    config = tree(KITTI, {"name": "minkunet", "cr": CR})
    imported(source, config)
    with pytest.raises(UserError, match="already is a checkpoint of this project"):
        import_weights(tmp_path / "own.pt", Config(config), tmp_path / "again.pt")


# --- import, then predict ---------------------------------------------------------------------------------------------
def cells_of(points: np.ndarray, size: float) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Voxels as published: rounded, counted from the smallest; the first point of each, and each point's voxel."""
    cells = np.round(points[:, :3] / size).astype(np.int64)
    cells -= cells.min(0)
    found, first, of_point = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    return torch.from_numpy(found), first, of_point.ravel()


def scan(tmp_path: Path) -> np.ndarray:
    """The middle of a real scan, where there is one."""
    root = Path(os.environ.get("LIDISTILL_REALDATA", "realdata"))
    if not root.is_dir():
        rng = np.random.default_rng(0)
        ground = np.c_[
            rng.uniform(-9, 9, (3000, 2)), rng.normal(-1.7, 0.05, 3000), rng.random(3000)
        ]
        return ground.astype(np.float32)
    path = sorted(root.glob("semantickitti/**/velodyne/*.bin"))[0]
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    return points[(np.abs(points[:, :2]) < 9).all(1) & (points[:, 2] < 2)]


@pytest.mark.parametrize("model", ["minkunet", "spvcnn"])
def test_import_then_predict(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The command, then :class:`Segmenter`: every point's class is that of the authors' layers."""
    weights = torchsparse_weights(CR, 19)
    points = scan(tmp_path)
    coords, first, of_point = cells_of(points, 0.6)
    reference = Sparse(weights, "stage{1}", "up{1}", "classifier")
    expected = reference.run(torch.from_numpy(points[first]).double(), coords, model == "spvcnn")
    middle = expected.mean(0)
    expected -= middle  # so that every class wins somewhere
    weights["classifier.0.bias"] -= middle.float()
    source = trainer_file(weights, tmp_path / "init")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"num_epochs: 1\nbatch_size: 1\ndataset: {{name: {KITTI}, root: x}}\ndata: {{voxel_size: 0.6}}\n"
    )
    options = ["--config", str(config), "--model.name", model, "--model.cr", str(CR)]
    main(["import", str(source), "--from", "spvnas", *options, "--out", str(tmp_path / "own.pt")])
    assert "own.pt: " in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "own.pt")["identity"]["imported"]["family"] == "spvnas"
    best = expected.topk(2).values
    sure = (best[:, 0] - best[:, 1] > 1e-4 * expected.abs().max()).numpy()[of_point]
    found = Segmenter.load(tmp_path / "own.pt").predict(points).labels
    assert sure.mean() > 0.99 and len(np.unique(found)) > 5
    np.testing.assert_array_equal(found[sure], expected.argmax(1).numpy()[of_point][sure] + 1)

"""SLidR's MinkUNet: a full-size state dict by published names, and its network against MinkowskiEngine spelt out."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import make_scan
from made_samples import doubled, made_sample
from minkowski_reference import Minkowski, offset_of, published_unet
from torch import Tensor

from core.config import Config, load_config
from core.contracts import Batch
from core.data import DataConfig, collate, make_sample
from core.distill.supervised import Supervised
from core.engine.exchange.slidr import minkowski_kernel
from core.engine.exchange.weights import import_weights
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.engine.run.starting_weights import start_from
from core.errors import UserError
from core.losses import CrossEntropyLovasz
from core.models import build_model
from core.sparse import Conv3d, SparseTensor
from core.sparse.maps import kernel_offsets

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "nuscenes" / "slidr"
SETTINGS = {
    "model_points": "minkunet",
    "voxel_size": 0.1,
    "cylindrical_coordinates": True,
    "model_n_out": 64,
    "losses": ["loss_superpixels_average"],
}
Weights = dict[str, Tensor]


def saved(path: Path, weights: Weights, **entries: object) -> Path:
    """As the trainer's end writes it."""
    torch.save({"model_points": weights, "epoch": 50, "config": SETTINGS} | entries, path)
    return path


def config(name: str = "minkunet", **keys: str) -> Config:
    words = [word for key, value in keys.items() for word in (f"--{key}", value)]
    return load_config(CONFIGS / f"published_{name}.yaml", words)


def small() -> Config:
    return config(**{"model.cr": "0.125"})


def imported(weights: Weights, tmp_path: Path, asked: Config, **entries: object) -> dict:
    source = saved(tmp_path / "minkunet_slidr_1gpu.pt", weights, **entries)
    return import_weights(source, asked, tmp_path / "own.pt")


# --- MinkUNet ---------------------------------------------------------------------------------------------------------
def test_full_size_minkunet(tmp_path: Path) -> None:
    """Each published tensor is found again, whole: odd kernels as they are, even ones tap by tap, the head turned."""
    weights = published_unet()
    learned = [w for name, w in weights.items() if "running" not in name and "tracked" not in name]
    assert sum(w.numel() for w in learned) == 37_849_184
    ours = imported(weights, tmp_path, config())["model"]
    assert len(ours) == len(weights)
    assert sum(w.numel() for w in ours.values()) == sum(w.numel() for w in weights.values())
    for published, name in {
        "conv0p1s1.kernel": "stem.net.0.kernel",
        "bn0.bn.running_mean": "stem.net.1.running_mean",
        "bn3.bn.weight": "downs.2.0.net.1.weight",
        "block1.0.conv1.kernel": "downs.0.1.net.0.kernel",
        "block4.5.norm2.bn.running_var": "downs.3.6.net.4.running_var",
        "block4.0.downsample.0.kernel": "downs.3.1.downsample.0.kernel",
        "block2.0.downsample.1.bn.bias": "downs.1.1.downsample.1.bias",
        "bntr7.bn.bias": "ups.3.0.net.1.bias",
        "block5.0.conv2.kernel": "ups.0.1.0.net.3.kernel",
        "block8.1.norm1.bn.num_batches_tracked": "ups.3.1.1.net.1.num_batches_tracked",
    }.items():
        assert torch.equal(ours[name], weights[published]), name
    places = kernel_offsets((2, 2, 2)).tolist()
    for published, name in {
        "conv1p1s2.kernel": "downs.0.0.net.0.kernel",
        "conv4p8s2.kernel": "downs.3.0.net.0.kernel",
        "convtr4p16s2.kernel": "ups.0.0.net.0.kernel",
    }.items():
        for tap in range(8):
            place = places.index(list(offset_of(tap, 2, 1)))
            assert torch.equal(ours[name][place], weights[published][tap])
    assert torch.equal(ours["final.weight"], weights["final.kernel"].T)
    assert torch.equal(ours["final.bias"], weights["final.bias"][0])


def crowd() -> Batch:
    """Some 150 cells in a cube of 18, away from the origin, in float64."""
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 18, (150, 3)), axis=0).astype(np.int32)
    rows = np.arange(len(coords))
    feats = rng.uniform(-1, 1, (len(rows), 4)).astype(np.float32)
    distance, keyframe = np.zeros(len(rows), np.float32), np.ones(len(rows), bool)
    sample = made_sample("s", 0, coords, feats, rows, rows, rows, rows, keyframe, distance)
    return doubled(collate([sample]))


def test_its_embedding_is_minkowskis(tmp_path: Path) -> None:
    weights = published_unet(values=4, cr=0.25)
    keys = {"model.cr": "0.25", "data.features": "[xyz, intensity]"}
    state = imported(weights, tmp_path, config(**keys))
    network = build_model(Config(state["identity"]["config"]), 64, pretrained=False)
    load_weights(network, read_checkpoint(tmp_path / "own.pt")["model"], "test")
    batch = crowd()
    with torch.no_grad():
        found = network.double().eval()(batch).logits
    expected = Minkowski(weights).run(batch.feats, batch.coords[:, 1:].long())
    assert expected.std(0).min() > 1e-3 * expected.abs().max(), "outputs differ from cell to cell"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_from_points_to_embeddings(tmp_path: Path) -> None:
    """With cells as published, floor(x / size) about the scanner, each point's embedding is the published one."""
    weights = published_unet(cr=0.25)
    state = imported(weights, tmp_path, config(**{"model.cr": "0.25"}))
    trained = Config(state["identity"]["config"])
    network = build_model(trained, 64, pretrained=False)
    load_weights(network, state["model"], "test")
    rng = np.random.default_rng(2)
    reach, angle = rng.uniform(2, 4, 220), np.radians(rng.uniform(-9, 9, 220))
    height = rng.uniform(-1.7, -0.9, 220)
    xyz = np.stack([reach * np.cos(angle), reach * np.sin(angle), height], 1).astype(np.float32)
    plain = {"images": False, "augment": None, "planes": []}
    data = trained.parse(DataConfig, "data").model_copy(update=plain)
    batch = doubled(collate([make_sample(make_scan(xyz), 0, data)]))
    with torch.no_grad():
        found = network.double().eval()(batch).logits[batch.cells.of_point]
    x, y, z = xyz.T
    polar = np.stack([np.hypot(x, y) / 0.1, np.degrees(np.arctan2(y, x)), z / 0.1], 1)
    cells, first, of_point = np.unique(
        np.floor(polar).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    intensity = torch.arange(len(xyz), dtype=torch.float64)[:, None]  # of make_scan
    expected = Minkowski(weights).run(intensity[first], torch.from_numpy(cells))
    assert len(cells) > 150 and cells.min() < 0
    expected = expected[torch.from_numpy(of_point.ravel())]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("side", "stride"), [(2, 2), (3, 1), (5, 1)])
def test_a_small_convolution_is_minkowskis(side: int, stride: int) -> None:
    torch.manual_seed(0)
    batch = crowd()
    coords = [tuple(place) for place in batch.coords[:, 1:].tolist()]
    kernel = torch.randn(side**3, 1, 3, dtype=torch.float64)
    conv = Conv3d(1, 3, side, stride).double()
    conv.load_state_dict({"kernel": minkowski_kernel(kernel)})
    with torch.no_grad():
        found = conv(SparseTensor.of(batch.cells, batch.feats[:, :1]))
    out = [tuple(place) for place in found.coords[:, 1:].tolist()]
    assert set(out) == {tuple(a // stride * stride for a in place) for place in coords}
    expected = torch.zeros(len(out), 3, dtype=torch.float64)
    for (row, place), tap in itertools.product(enumerate(out), range(side**3)):
        there = tuple(a + b for a, b in zip(place, offset_of(tap, side, 1)))
        if there in coords:
            expected[row] += batch.feats[coords.index(there), :1] @ kernel[tap]
    torch.testing.assert_close(found.feats, expected)


def test_the_order_of_taps_matters() -> None:
    """The two orders of an even kernel are others, and going there twice is going back."""
    kernel = torch.randn(8, 2, 3)
    assert not torch.equal(minkowski_kernel(kernel), kernel)
    assert torch.equal(minkowski_kernel(minkowski_kernel(kernel)), kernel)


@pytest.mark.parametrize("prefix", ["model_points.", "model.", "module.", "encoder."])
def test_names_of_whole_trainers(prefix: str, tmp_path: Path) -> None:
    """A Lightning checkpoint, with the image network beside."""
    weights = published_unet(cr=0.125)
    state = {prefix + name: value for name, value in weights.items()}
    state["model_images.decoder.0.weight"] = torch.ones(3)
    path = tmp_path / "epoch=49-step=1.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {"a": object}}, path)
    made = import_weights(path, small(), tmp_path / "own.pt")
    assert len(made["model"]) == len(weights)
    unused = made["identity"]["imported"]["unused"]
    assert list(unused.values()) == [["model_images.decoder.0.weight"]]


def test_fine_tuning_begins_with_it(tmp_path: Path) -> None:
    """As ``train.init_from`` of finetune.yaml loads it: all but the head."""
    weights = published_unet(cr=0.125)
    imported(weights, tmp_path, small())
    asked = load_config(CONFIGS / "finetune.yaml", ["--model.cr", "0.125"])
    network = build_model(asked, 17, pretrained=False)
    before = network.final.weight.clone()
    method = Supervised(Supervised.Config(name="supervised"), network, None, CrossEntropyLovasz())
    start_from(method, tmp_path / "own.pt", asked.get("train.init_skip"))
    assert torch.equal(network.final.weight, before)
    assert torch.equal(network.downs[3][6].net[3].kernel, weights["block4.5.conv2.kernel"])


@pytest.mark.parametrize(
    ("settings", "keys", "message"),
    [
        ({}, {"data.partition": "{name: cylinder, cell: [0.2, 1.0, 0.2]}"}, r"cell: \[0.1, 1.0, 0.1\]"),
        ({"cylindrical_coordinates": False}, {}, "name: voxels, size: 0.1"),
        ({"model_points": "voxelnet"}, {}, "name the network 'voxelnet'"),
    ],
)  # fmt: skip
def test_settings_in_the_file_are_compared(
    settings: dict, keys: dict, message: str, tmp_path: Path
) -> None:
    asked = config(**{"model.cr": "0.125", **keys})
    with pytest.raises(UserError, match=message):
        imported(published_unet(cr=0.125), tmp_path, asked, config=SETTINGS | settings)
    assert not (tmp_path / "own.pt").exists()


def test_the_other_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this file holds 'srunet'.*asks for 'voxelnet'"):
        imported(published_unet(cr=0.125), tmp_path, config("voxelnet"))


def test_a_head_of_classes_is_no_embedding(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"final.weight is \(17, 12\) in the file and \(64, 12\)"):
        imported(published_unet(17, cr=0.125), tmp_path, small())

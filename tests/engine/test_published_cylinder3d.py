"""Cylinder3D's released weights: imported, their logits are those of a literal spconv 1 with its shared neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import doubled
from spconv1_reference import Spconv1, Weights, published_weights
from torch import Tensor

from core.config import Config, load_config
from core.contracts import Batch, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.engine.exchange.weights import export_weights, import_weights
from core.engine.run.checkpoint import load_weights
from core.errors import UserError
from core.models import build_model
from core.models.lidar.cylinder_points import point_inputs

CONFIGS = Path(__file__).parents[2] / "configs"
SEGMENTER = "cylinder_3d_spconv_seg."
SIZES = (17, 12, 9)
DATA = {
    "partition": {
        "name": "cylinder",
        "bins": list(SIZES),
        "low": [0, -180, -2],
        "high": [8, 180, 2],
        "interval": "bins - 1",
    }
}
WIDTHS = {"width": 2, "voxel_features": 4, "point_features": 6}
CLASSES = 20


SPACES = {  # outputs -> data set of the published file
    20: {"name": "semantickitti", "root": "/nowhere"},
    26: {"name": "semantickitti", "root": "/nowhere", "labels": "semantickitti_multiscan"},
    17: {"name": "nuscenes", "root": "/nowhere"},
}


def imported(weights: Weights, folder: Path, classes: int = CLASSES, **model: object) -> dict:
    source = folder / "cyl_sem.pt"
    torch.save(weights, source)
    tree = {
        "num_epochs": 1,
        "batch_size": 1,
        "dataset": SPACES[classes],
        "data": DATA,
        "model": {"name": "cylinder3d", **WIDTHS, **model},
        "optimizer": {"name": "adam", "lr": 0.1},
        "scheduler": {"name": "cosine_warmup", "warmup_steps": 1},
    }
    return import_weights(source, Config(tree), folder / "own.pt")


def scan() -> Batch:
    rng = np.random.default_rng(0)
    xyz = rng.normal((3, 0, 0), (2, 2, 0.7), (220, 3)).astype(np.float32)
    intensity = rng.random(len(xyz)).astype(np.float32)
    points = Points(xyz=xyz, intensity=intensity, label=np.zeros(len(xyz), np.uint8))
    data = DataConfig.model_validate({**DATA, "augment": None})
    return doubled(collate([make_sample(Scan("one", points), 0, data)]))


def logits(state: dict, batch: Batch) -> Tensor:
    classes = len(state["identity"]["classes"])
    network = build_model(Config(state["identity"]["config"]), classes, pretrained=False)
    load_weights(network, state["model"], "test")
    with torch.no_grad():
        return network.double().eval()(batch).logits


def reference(weights: Weights, batch: Batch, *, shared: bool) -> Tensor:
    values = point_inputs(batch, torch.arange(len(batch.cells.of_point)))
    network = Spconv1(weights, SIZES, shared=shared)
    return network.run(values, batch.cells.of_point, batch.cells.coords)


@pytest.fixture(scope="module")
def released() -> Weights:
    return published_weights(2, 4, 6, CLASSES)


@pytest.fixture(scope="module")
def whole() -> Weights:
    """As of a training whose kernels had neighbours of their own."""
    weights = published_weights(2, 4, 6, CLASSES)
    generator = torch.Generator().manual_seed(1)
    for weight in weights.values():
        if weight.isnan().any():
            weight[1:] = 0.1 * torch.randn(weight[1:].shape, generator=generator)
    return weights


def test_released_weights_give_what_shared_neighbours_give(
    released: Weights, tmp_path: Path
) -> None:
    assert len(released) == 274
    state = imported(released, tmp_path)
    assert state["identity"]["config"]["model"]["asym_mode"] == "released"
    assert len(state["model"]) == 274
    batch = scan()
    found, expected = logits(state, batch), reference(released, batch, shared=True)
    assert expected.std(0).min() > 1e-3 * expected.abs().max(), "outputs differ from cell to cell"
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("classes", "points"), [(26, 6), (17, 3)])
def test_heads_of_multiscan_and_nuscenes(classes: int, points: int, tmp_path: Path) -> None:
    weights = published_weights(2, 4, points, classes)
    batch = scan()
    found = logits(imported(weights, tmp_path, classes, point_features=points), batch)
    assert found.shape[1] == classes
    expected = reference(weights, batch, shared=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("semantickitti/published_cylinder3d_multiscan", (16, 16, 256, 26)),
        ("nuscenes/published_cylinder3d", (16, 16, 128, 17)),
    ],
)
def test_whole_files_go_through_the_shipped_recipes(
    recipe: str, sizes: tuple[int, int, int, int], tmp_path: Path
) -> None:
    """Published widths: imported, exported and imported again, the same tensors."""
    weights = published_weights(*sizes)
    assert len(weights) == 274
    torch.save(weights, tmp_path / "cyl.pt")
    config = load_config(CONFIGS / f"{recipe}.yaml", ["--dataset.root", "/nowhere"])
    state = import_weights(tmp_path / "cyl.pt", config, tmp_path / "own.pt")
    head = f"{SEGMENTER}logits.weight"
    assert len(state["model"]) == 274 and len(state["identity"]["classes"]) == sizes[3]
    turned = weights[head].permute(2, 1, 0, 3, 4).flatten(0, 2)  # here range runs fastest
    assert torch.equal(state["model"]["head.kernel"], turned)
    export_weights(tmp_path / "own.pt", tmp_path / "own.safetensors")
    again = import_weights(tmp_path / "own.safetensors", config, tmp_path / "again.pt")
    for name, values in state["model"].items():
        assert torch.equal(again["model"][name], values), name
    single = CONFIGS / "semantickitti/published_cylinder3d.yaml"
    wrong = load_config(single, ["--model.width", "16", "--model.voxel_features", "16"])
    with pytest.raises(UserError, match="of another shape"):
        import_weights(tmp_path / "cyl.pt", wrong, tmp_path / "wrong.pt")


def test_weights_of_own_neighbours_give_what_own_neighbours_give(
    whole: Weights, tmp_path: Path
) -> None:
    batch = scan()
    found = logits(imported(whole, tmp_path, asym_mode="paper"), batch)
    own = reference(whole, batch, shared=False)
    torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-8)
    assert (own - reference(whole, batch, shared=True)).abs().max() > 0.01


def test_the_layout_of_spconv_2_is_told_by_shapes(released: Weights, tmp_path: Path) -> None:
    turned = {}
    for name, weight in released.items():
        turned[name] = weight.permute(4, 0, 1, 2, 3).contiguous() if weight.dim() == 5 else weight
    first, second = imported(released, tmp_path)["model"], imported(turned, tmp_path)["model"]
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_what_does_not_fit_is_refused(released: Weights, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"are not finite.*asym_mode: released"):
        imported(released, tmp_path, asym_mode="paper")
    name = "cylinder_3d_spconv_seg.resBlock3.conv2.weight"
    with pytest.raises(UserError, match=r"conv2.weight' is \(3, 1, 3\) cells .* is \(1, 3, 3\)"):
        imported(released | {name: released[name].transpose(0, 1).contiguous()}, tmp_path)
    damaged = released[name].clone()
    damaged[0, 0, 0, 0, 0] = torch.inf
    with pytest.raises(UserError, match=r"1 of 288 values .*resBlock3.conv2.weight' are not"):
        imported(released | {name: damaged}, tmp_path)
    with pytest.raises(UserError, match="204 of another shape"):
        imported(released, tmp_path, width=4)

"""Every network on every partition it declares, under every method: one step forward and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_fakes import forward_camera, make_scan

from core.config import Config
from core.contracts import Batch
from core.data import COLUMN_WIDTHS, DataConfig, collate, make_sample
from core.distill import METHODS, TeacherOutput, method_class
from core.labels import NUSCENES
from core.losses import CrossEntropyLovasz
from core.models import MODELS, build_model, model_class
from core.models.probe import Inputs, random_batch

NETWORKS = {
    "minkunet": {"cr": 0.125},
    "spvcnn": {"cr": 0.125},
    "spvcnn_spformer": {"cr": 0.5, "window_size": 4.0},
    "sphereformer": {"layers": [16, 16, 16, 16, 16], "block_reps": 1, "window_size": 4.0},
    "twodpass": {"hidden": 8},
    "cylinder3d": {"width": 2, "voxel_features": 4, "point_features": 8, "point_head": "mlp"},
    "srunet": {"cr": 0.125},
    "voxelnet": {},
    "cenet": {"width": 4},
    "motionbev": {"width": 8, "heights": 16, "motion_channels": 1},
    "mambamos": {
        "encoder_depths": [1] * 5,
        "encoder_channels": [8] * 5,
        "decoder_depths": [1] * 4,
        "decoder_channels": [8] * 4,
    },
    "lidar_camera": {"lidar": {"name": "minkunet", "cr": 0.125}, "image": {"stem_stride": 2}},
}
PARTITIONS = {
    "voxels": {"name": "voxels", "size": 0.3},
    "cylinder": {"name": "cylinder", "bins": [64, 72, 16], "high": [20, 180, 2]},
    "grid": {"name": "grid", "size": [0.4, 0.4, 0.2]},
    "range_image": {"name": "range_image", "height": 16, "width": 64},
}
METHOD_OPTIONS = {
    "supervised": {},
    "u2mkd": {"w_feat": 1.0},
    "2dpass": {"image": {}, "hidden": 8},
    "pvkd": {"supervoxel": [8, 8, 4], "n_point": 32, "n_voxel": 16},
    "cenet": {"w_teacher": 1.0},
    "slidr": {"width": 8, "image": {"encoder": "resnet18", "dilated": False}},
    "ppkt": {"width": 8, "image": {"encoder": "resnet18"}, "pairs": 64},
    "scalr": {"image": {"encoder": "resnet18"}},
    "wdcd": {"moving": "car", "class_weight": [1.0] * 17},
}
ONLY = {"cenet": ("cenet",)}  # methods of some networks
TEACHERS = {
    "range_image": "cenet",
    "grid": "voxelnet",
}  # by the student's partition; elsewhere minkunet
# No stage has the edge that is compared: poolings leave height alone in the end; cells have two axes.
WITHOUT_FEATURES = ("cylinder3d", "cenet", "voxelnet")


def combinations() -> list[tuple[str, str, str]]:
    found = []
    for network in MODELS:
        kind = model_class(Config({"model": {"name": network}}))
        for partition in kind.partitions:
            for method in METHODS:
                if network not in ONLY.get(method, MODELS):
                    continue
                found.append((network, partition, method))
    return found


def make_config(
    network: str, partition: str, method: str, features: tuple[str, ...] = ("xyz", "intensity")
) -> Config:
    data = {"partition": PARTITIONS[partition], "augment": None, "images": True}
    if method == "slidr":
        data["planes"] = ["superpixels"]
    options = dict(METHOD_OPTIONS[method])
    if network in WITHOUT_FEATURES and "w_feat" in options:
        options["w_feat"] = 0.0
    if partition == "range_image" and "supervoxel" in options:
        options["supervoxel"] = [8, 8]
    return Config(
        {
            "data": {**data, "features": list(features)},
            "model": {"name": network, **NETWORKS[network]},
            "distill": {"name": method, **options},
        }
    )


def make_batch(data: DataConfig) -> Batch:
    samples = []
    for index in range(2):
        rng = np.random.default_rng(index)
        points = rng.uniform((-6, -6, -2), (12, 6, 1), (500, 3))
        labels = rng.integers(0, 17, len(points))
        planes = {"superpixels": lambda: np.arange(48 * 64).reshape(48, 64) // 200}
        camera = replace(forward_camera((64, 48), focal=40.0, colour=90), planes=planes)
        scan = make_scan(points, labels=labels, cameras=(camera,), token=f"s{index}")
        samples.append(make_sample(scan, index, data))
    return collate(samples)


@pytest.mark.parametrize(("network", "partition", "method"), combinations())
def test_one_step(network: str, partition: str, method: str) -> None:
    torch.manual_seed(0)
    config = make_config(network, partition, method)
    batch = make_batch(config.parse(DataConfig, "data"))
    kind = method_class(config)
    settings = config.parse(kind.Config, "distill")
    student = build_model(config, kind.outputs(settings, NUSCENES), pretrained=False)
    teacher = None
    if settings.needs.teacher:
        teacher_config = make_config(TEACHERS.get(partition, "minkunet"), partition, method)
        teacher = build_model(teacher_config, NUSCENES.num_classes, pretrained=False).eval()
    if method == "2dpass" and network == "lidar_camera":
        pytest.skip("2DPASS teaches LiDAR-only networks: its student must not see images itself")
    if method == "u2mkd" and network == "cylinder3d":
        pytest.skip("U2MKD compares stages of 16 cells along each axis, which Cylinder3D has not")
    module = kind(settings, student, teacher, CrossEntropyLovasz()).train()
    module.name_classes(NUSCENES.classes)
    given = None
    if teacher is not None:
        with torch.no_grad():
            given = TeacherOutput.shared(batch, teacher(batch))
    losses = module(batch, given)
    assert losses and all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    touched = [p for p in student.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(touched) > 0.5 * len(list(student.parameters()))


def widths_of(network: str, partition: str, method: str, features: tuple[str, ...]) -> list[int]:
    """Numbers of parameters of what a method learns beside a network of these features."""
    config = make_config(network, partition, method, features)
    config.tree["dataset"] = {"columns": {"colour": {"path": "{token}.npy", "channels": 3}}}
    kind = method_class(config)
    settings = config.parse(kind.Config, "distill")
    student, teacher = (build_model(config, 17, pretrained=False) for _ in range(2))
    module = kind(settings, student, teacher, CrossEntropyLovasz())
    counts = []
    for name, parameter in module.named_parameters():
        if not name.startswith("student."):
            counts.append(parameter.numel())
    return counts


@pytest.mark.parametrize(
    ("network", "partition", "method"),
    [("twodpass", "voxels", "2dpass"), ("spvcnn", "voxels", "u2mkd")],
)
@pytest.mark.parametrize("features", [("xyz",), ("xyz", "intensity", "distance", "colour")])
def test_a_method_looks_at_networks_of_any_columns(
    network: str, partition: str, method: str, features: tuple[str, ...]
) -> None:
    usual = widths_of(network, partition, method, ("xyz", "intensity"))
    assert usual and widths_of(network, partition, method, features) == usual


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_random_scan_has_the_cells_and_columns_of_the_network(partition: str) -> None:
    data = DataConfig.model_validate(
        {"partition": PARTITIONS[partition], "features": ["xyz", "distance", "colour"]}
    )
    batch = random_batch(300, inputs=Inputs(data, {**COLUMN_WIDTHS, "colour": 3}))
    assert batch.cells.partition == data.cells and batch.feats.shape[1] == 7
    assert len(batch.coords) > 100


def test_two_networks_on_a_batch_share_its_kernel_maps() -> None:
    config = make_config("spvcnn", "voxels", "supervised")
    batch = make_batch(config.parse(DataConfig, "data"))
    with torch.no_grad():
        build_model(config, 17, pretrained=False).eval()(batch)
        made = dict(batch.cells.tables["maps"].maps)
        for name in ("spvcnn", "minkunet"):
            other = build_model(make_config(name, "voxels", "supervised"), 17, pretrained=False)
            other.eval()(batch)
    maps = batch.cells.tables["maps"].maps
    assert len(made) > 10 and maps.keys() == made.keys()
    assert all(maps[key] is table for key, table in made.items())

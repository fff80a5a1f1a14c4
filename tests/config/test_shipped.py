"""The configurations of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from core.config import load_config
from core.data import DataConfig
from core.datasets import dataset_class
from core.engine.run.experiment import Experiment
from core.models import build_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG_ROOT = ROOT / "configs"
RECIPES = CONFIG_ROOT / "recipes"


def runnable(path: Path) -> bool:
    """A file that a command takes: neither what others share nor a recipe."""
    return path.name != "default.yaml" and RECIPES not in path.parents


CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in CONFIG_ROOT.rglob("*.yaml") if runnable(path)
)


def test_there_are_configurations() -> None:
    assert "configs/synthetic/minkunet_demo.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_configuration_is_valid(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    experiment = Experiment.from_config(config)
    reader = dataset_class(config)
    dataset = config.parse(reader.Config, "dataset")
    config.parse(DataConfig, "data")
    with torch.device("meta"):  # structure without memory: the real widths, at once
        model = build_model(config, reader.label_space(dataset).num_classes, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) > 0
    assert experiment.scheduler.warmup_steps >= 0


def merged_by_hand(path: Path) -> dict[str, Any]:
    """The tree of a configuration below ``configs/`` by other means: the order of its files, then a plain merge."""
    tree: dict[str, Any] = {}
    for file in in_order(path):
        values = yaml.safe_load(file.read_text()) or {}
        values.pop("base", None)
        put(values, tree)
    return tree


def in_order(path: Path) -> list[Path]:
    """The file and what it builds on, each once, where it is first asked for."""
    folders = [folder for folder in reversed(path.parents) if folder.is_relative_to(CONFIG_ROOT)]
    files: list[Path] = []
    for file in [*(folder / "default.yaml" for folder in folders), path]:
        if not file.is_file():
            continue
        named = (yaml.safe_load(file.read_text()) or {}).get("base", [])
        for base in [named] if isinstance(named, str) else named:
            files += in_order((file.parent / base).resolve())
        files.append(file)
    return list(dict.fromkeys(files))


def put(values: dict[str, Any], tree: dict[str, Any]) -> None:
    """Merge mappings deeply, replace everything else."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            put(value, tree[key])
        elif isinstance(value, dict):
            tree[key] = {}
            put(value, tree[key])
        else:
            tree[key] = value


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_tree_is_its_files_merged_in_order(path: str) -> None:
    assert load_config(ROOT / path).tree == merged_by_hand(ROOT / path)


SGD = {
    "optimizer.name": "sgd",
    "optimizer.lr": 0.24,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.0001,
    "scheduler.name": "cosine_warmup",
}
SPVNAS = SGD | {"scheduler.warmup_steps": 250, "data.voxel_size": 0.05, "amp.enabled": True}
WINDOWS = {"window_size": 0.3, "a": 0.0125, "drop_path_rate": 0.3}
WIDE = WINDOWS | {"window_size_sphere": [2.0, 2.0, 120.0], "window_size_scale": [2.0, 2.0]}
KITTI = WINDOWS | {"window_size_sphere": [2.0, 2.0, 80.0], "window_size_scale": [2.0, 1.5]}
SWEEPS = {"dataset.multisweeps.num_sweeps": 2, "dataset.multisweeps.only_past": False}
TEACHER = SPVNAS | SWEEPS | {"num_epochs": 25, "model.name": "spvcnn_spformer", "train.seed": 123}
STUDENT = {
    **SPVNAS,
    **SWEEPS,
    "num_epochs": 50,
    "data.sweeps": False,
    "data.augment.flip": False,
    "data.augment.translate_std": None,
    "model.name": "lidar_camera",
    "model.lidar.name": "spvcnn_spformer",
    "model.image.encoder": "resnet18",
    "model.image.stem_stride": 1,
    "distill.name": "u2mkd",
    "teacher.model.cr": 2.0,
    "teacher.data.augment.flip": True,
}
TWODPASS = {
    **SGD,
    "data.voxel_size": 0.01,
    "data.augment.scale_z": False,
    "data.augment.dropout": 0.2,
    "data.eval_images": False,
    "model.name": "twodpass",
    "distill.name": "2dpass",
    "distill.image.encoder": "resnet34",
    "distill.w_seg2d": 1.0,
    "distill.w_kl": 0.05,
    "train.grad_clip": 1.0,
}

SRUNET = {
    "model.name": "srunet",
    "data.features": ["intensity"],
    "data.partition": {"name": "cylinder", "cell": [0.1, 1.0, 0.1]},
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.dampening": 0.1,
    "optimizer.weight_decay": 0.0001,
}
SLIDR = {
    **SRUNET,
    "batch_size": 4,
    "num_epochs": 50,
    "optimizer.lr": 0.5,
    "dataset.frames": {"train": ["parametrizing"], "val": ["verifying"]},
}
DOWNSTREAM = SRUNET | {"eval.select": "none", "train.init_from": "runs/nuscenes/slidr/minkunet"}
FINETUNE = DOWNSTREAM | {"num_epochs": 100, "train.init_skip": ["final."]}
PROBE = {
    **DOWNSTREAM,
    "num_epochs": 50,
    "optimizer.lr": 0.05,
    "optimizer.lr_scale": {"final.": 1},
    "train.trainable": ["final."],
    "dataset.labelled": None,
}


def below(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section, dotted."""
    return {f"{section}.{key}": value for key, value in values.items()}


# Numbers of the published recipes (SPVNAS, U2MKD, 2DPASS and their code), whatever file they are written in.
PUBLISHED: dict[str, dict[str, Any]] = {
    "semantickitti/spvcnn": SPVNAS | {"num_epochs": 15, "batch_size": 2, "model.cr": 1.0},
    "semantickitti/minkunet": SPVNAS | {"num_epochs": 15, "batch_size": 2, "model.cr": 1.0},
    "nuscenes/spvcnn": SPVNAS | SWEEPS | {"num_epochs": 25, "batch_size": 3},
    "nuscenes/minkunet": SPVNAS | {"num_epochs": 25, "batch_size": 3},
    "nuscenes/spformer": TEACHER | below("model", WIDE) | {"batch_size": 3},
    "semantickitti/spformer": TEACHER | below("model", KITTI) | {"batch_size": 3},
    "nuscenes/u2mkd/a": {
        **STUDENT,
        **below("model.lidar", WIDE),
        "batch_size": 4,
        "model.lidar.cr": 1.0,
        "data.train_cameras": 3,
    },
    "nuscenes/u2mkd/b": {
        **STUDENT,
        **below("model.lidar", WIDE),
        "batch_size": 3,
        "model.lidar.cr": 2.0,
        "distill.w_kl": 2.0,
        "distill.w_feat": 2.0,
    },
    "semantickitti/u2mkd/full": STUDENT | below("model.lidar", KITTI) | {"batch_size": 4},
    "semantickitti/u2mkd/no_teacher": STUDENT | {"distill.w_kl": 0, "distill.w_feat": 0},
    "nuscenes/u2mkd/no_l2c": STUDENT | {"batch_size": 4, "model.l2c": False},
    "pandaset/u2mkd/full": STUDENT | {"batch_size": 4, "data.intensity_divisor": 255},
    "semantickitti/2dpass/small": {
        **TWODPASS,
        "num_epochs": 64,
        "scheduler.warmup_steps": 0,
        "model.hidden": 64,
        "model.shape": [1000, 1000, 60],
        "criterion.w_lovasz": 0.1,
        "data.image_augment.crop": [480, 320],
    },
    "semantickitti/2dpass/large": {
        **TWODPASS,
        "batch_size": 4,
        "data.mix": 1.0,
        "model.hidden": 256,
        "criterion.w_lovasz": 1.0,
    },
    "nuscenes/2dpass/h128": {
        **TWODPASS,
        "num_epochs": 80,
        "scheduler.warmup_steps": 250,
        "model.hidden": 128,
        "model.shape": [1000, 1000, 70],
        "data.image_size": [400, 240],
        "data.train_cameras": 1,
    },
    "nuscenes/slidr/minkunet": SLIDR | {"distill.name": "slidr"},
    "nuscenes/slidr/ppkt": SLIDR | {"distill.name": "ppkt", "distill.pairs": 4096},
    "nuscenes/slidr/finetune": {
        **FINETUNE,
        "batch_size": 16,
        "optimizer.lr": 0.02,
        "optimizer.lr_scale": {"final.": 100},
        "dataset.labelled": {"fraction": 0.01, "by": "every_scene"},
    },
    "nuscenes/slidr/probe": PROBE | {"batch_size": 16},
    "nuscenes/slidr/probe_decoder": {
        **PROBE,
        "batch_size": 16,
        "train.init_skip": ["ups.", "final."],
        "train.trainable": ["ups.", "final."],
    },
    "semantickitti/slidr/finetune": {
        **FINETUNE,
        "batch_size": 10,
        "optimizer.lr": 0.05,
        "optimizer.lr_scale": {"final.": 40},
        "dataset.labelled": {"fraction": 0.01, "by": "frame"},
        "data.intensity_offset": 1,
    },
    "semantickitti/slidr/probe": PROBE | {"batch_size": 10, "data.intensity_offset": 1},
}

# What published weights were trained with and tensors do not show.
LEGACY = {"legacy_quant": True, "window_origin": "batch"}
SPHERE = {"legacy_quant": False, "window_origin": "batch", "name": "sphereformer"}
FP32 = {"amp.enabled": False}
CYLINDER = {"width": 32, "point_features": 256, "asym_mode": "released"}
BINS = {"bins": [480, 360, 32], "interval": "bins - 1"}
MULTISCAN = {
    "dataset.labels": "semantickitti_multiscan",
    "dataset.multisweeps.num_sweeps": 2,
    "dataset.multisweeps.only_past": True,
    "dataset.multisweeps.labelled": True,
}
KDMOS = {
    "data.partition.interval": "bins - 1",
    "data.partition.bins": [480, 360, 32],
    "data.partition.low": [1.85, -180.0, -4.0],
    "data.partition.high": [50.15, 180.0, 2.0],
    "model.seam": "published",
    "model.unused_attention": True,
}
BOX = {"data.voxel_size": 0.001, "data.eval_images": False}
WEIGHTS: dict[str, dict[str, Any]] = {
    "nuscenes/published_spformer": FP32 | SWEEPS | below("model", WIDE | LEGACY | {"cr": 2.0}),
    "nuscenes/u2mkd/published_a": {
        **FP32,
        **below("model.lidar", WIDE | LEGACY | {"cr": 1.0}),
        "model.image.normalize": "none",
    },
    "nuscenes/u2mkd/published_b": {
        **FP32,
        **below("model.lidar", WIDE | LEGACY | {"cr": 2.0}),
        "model.image.normalize": "none",
    },
    "semantickitti/published_sphereformer": {
        **FP32,
        **below("model", KITTI | SPHERE),
        "data.voxel_size": 0.05,
    },
    "nuscenes/published_sphereformer": {
        **FP32,
        **below("model", WIDE | SPHERE | {"window_size": 0.6}),
        "data.voxel_size": 0.1,
    },
    "semantickitti/2dpass/published_small": {
        **BOX,
        **below("model", {"hidden": 64, "scales": [2, 4, 8, 16]}),
        "data.point_range": [-50, -50, -4, 50, 50, 2],
    },
    "semantickitti/2dpass/published_large": {
        **BOX,
        **below("model", {"hidden": 256, "scales": [2, 4, 8, 16, 16, 16]}),
        "data.point_range": [-50, -50, -4, 50, 50, 2],
    },
    "nuscenes/2dpass/published_h128": {
        **BOX,
        **below("model", {"hidden": 128, "scales": [2, 4, 8, 16, 16, 16]}),
        "data.point_range": [-50, -50, -4, 50, 50, 3],
    },
    "nuscenes/2dpass/published_h256": BOX | {"model.hidden": 256, "model.shape": [1000, 1000, 70]},
    "semantickitti/published_minkunet": FP32 | {"data.voxel_size": 0.05},
    "semantickitti/published_spvcnn": FP32 | {"data.voxel_size": 0.05},
    "semantickitti/published_cylinder3d": {
        **FP32,
        **below("model", CYLINDER | {"voxel_features": 32}),
        **below("data.partition", BINS),
        "data.partition.low": [0, -180, -4],
        "data.partition.high": [50, 180, 2],
    },
    "semantickitti/published_cylinder3d_multiscan": {
        **FP32,
        **MULTISCAN,
        **below("model", CYLINDER | {"width": 16, "voxel_features": 16}),
        **below("data.partition", BINS),
        "data.partition.low": [0, -180, -4],
        "data.partition.high": [50, 180, 2],
    },
    "nuscenes/published_cylinder3d": {
        **FP32,
        **below("model", CYLINDER | {"width": 16, "point_features": 128, "voxel_features": 16}),
        **below("data.partition", BINS),
        "data.partition.low": [0, -180, -5],
        "data.partition.high": [50, 180, 3],
    },
    "nuscenes/slidr/published_minkunet": {
        **FP32,
        "data.partition": {"name": "cylinder", "cell": [0.1, 1.0, 0.1], "start": "scanner"},
        "data.features": ["intensity"],
        "data.intensity_divisor": None,  # as recorded, 0 to 255
        "model.name": "srunet",
        "model.kernel_size": None,  # 3
        "distill.width": None,  # 64
    },
    "nuscenes/slidr/published_voxelnet": {
        **FP32,
        "data.partition": {"name": "grid", "radius": 51.2},
        "data.features": None,  # xyz, intensity
        "data.intensity_divisor": None,
        "model": {"name": "voxelnet", "normalize": True},
        "distill.width": None,
    },
    "semantickitti/motionbev/published_kdmos": {
        **FP32,
        **KDMOS,
        "dataset.labels": "semantickitti_movable",
        "model.upsampling": None,  # DySample
    },
    "semantickitti/motionbev/published_motionbev": {
        **FP32,
        **KDMOS,
        "dataset.labels": "semantickitti_mos",
        "model.upsampling": "transposed",
    },
    "semantickitti/moving/published_mambamos": {
        **FP32,
        "data.voxel_size": 0.09,
        "dataset.labels": "semantickitti_movable",
        "dataset.multisweeps.num_sweeps": 7,
        "dataset.multisweeps.only_past": True,
        "data.features": ["xyz", "intensity"],
        "data.cell_features": "point",
    },
    "nuscenes/published_minkunet": FP32 | {"dataset.multisweeps.num_sweeps": 0},
    "nuscenes/published_spvcnn": FP32 | {"dataset.multisweeps.num_sweeps": 0},
}


def test_every_configuration_of_published_weights_is_proven() -> None:
    shipped = {path.removeprefix("configs/").removesuffix(".yaml") for path in CONFIGS}
    assert {name for name in shipped if "published_" in name} == WEIGHTS.keys()


PUBLISHED |= WEIGHTS


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_recipe(name: str) -> None:
    config = load_config(CONFIG_ROOT / f"{name}.yaml")
    assert {key: config.get(key) for key in PUBLISHED[name]} == PUBLISHED[name]


ABSOLUTE = re.compile(
    r"""["'\s=:(]((?:/(?:home|Users|root|mnt|media|work|scratch|workspace|tmp)/|[A-Z]:\\)[\w.-]+)"""
)


def test_absolute_path_pattern() -> None:
    assert ABSOLUTE.search("root: " + "/ho" + "me/me/data") and ABSOLUTE.search(
        '"' + "/t" + 'mp/x"'
    )
    assert not ABSOLUTE.search("export ROOT=/your/folder  a/work/b  https://host/home/x")


def test_no_absolute_paths_in_configurations_or_code() -> None:
    files = [
        p
        for folder in ("core", "configs", "csrc", "benchmarks", "tests")
        for p in (ROOT / folder).rglob("*")
    ]
    files += [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "Makefile"]
    kinds = {".py", ".yaml", ".cpp", ".cu", ".h", ".hpp", ".toml", ""}
    files = [p for p in files if p.is_file() and p.suffix in kinds and "_lib" not in p.parts]
    found = [
        f"{p.relative_to(ROOT)}: {m.group(1)}"
        for p in files
        for m in ABSOLUTE.finditer(p.read_text())
    ]
    assert len(files) > 50 and found == []


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("semantickitti/u2mkd/full.yaml", "semantickitti/spformer.yaml"),
        ("nuscenes/u2mkd/b.yaml", "nuscenes/spformer.yaml"),
        ("waymo/u2mkd.yaml", "waymo/spformer.yaml"),
    ],
)
def test_the_teacher_that_a_student_names_is_the_one_that_is_trained(
    student: str, teacher: str
) -> None:
    """Stage 2 compares ``teacher.model`` key by key with what the checkpoint was trained with."""
    trained = load_config(CONFIG_ROOT / teacher, ["--model.cr", "2.0"]).section("model")
    wanted = load_config(CONFIG_ROOT / student).section("teacher.model")
    assert wanted and {key: trained.get(key) for key in wanted} == dict(wanted)

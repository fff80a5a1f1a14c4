"""Weights handed on and taken in: round trips, the published names, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from loguru import logger
from published_weights import (
    IMAGE,
    Maker,
    Weights,
    prefixed,
    student_weights,
    teacher_weights,
    widths,
)
from safetensors import safe_open
from safetensors.torch import save_file

from core.config import Config, load_config
from core.engine.exchange.command import main
from core.engine.exchange.u2mkd import rename
from core.engine.exchange.weights import METADATA, export_weights, import_weights
from core.engine.run.checkpoint import load_weights, read_checkpoint
from core.engine.train.teacher import load_teacher
from core.errors import UserError
from core.labels import NUSCENES, SEMANTICKITTI
from core.models import build_model
from core.models.probe import random_batch

CR = 0.5
DATASET = {"name": "nuscenes", "root": "/nowhere/nuscenes"}  # import asks for the classes alone
TEACHER = {"name": "spvcnn_spformer", "cr": CR, "legacy_quant": True, "window_origin": "batch"}
STUDENT = {
    "name": "lidar_camera",
    "lidar": TEACHER,
    "image": {
        "encoder": "resnet18",
        "normalize": "none",
        "weights": "/nowhere/someone/resnet18.pth",
    },
}


def tree(model: dict, **more) -> dict:
    return {
        "num_epochs": 1,
        "batch_size": 1,
        "dataset": dict(DATASET),
        "data": {"voxel_size": 0.1},
        "model": model,
    } | more


def save(weights: Weights, path: Path) -> Path:
    """A checkpoint with what else the original trainer writes."""
    torch.save(
        {
            "model": weights,
            "scaler": {},
            "optimizer": {"state": {}},
            "epoch_num": 25,
            "global_step": 7,
        },
        path,
    )
    return path


def logits(config: dict, weights: Weights) -> torch.Tensor:
    network = build_model(Config({"model": config}), 17, pretrained=False).eval()
    load_weights(network, weights, "test")
    with torch.no_grad():
        return network(random_batch(400)).logits


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    weights = teacher_weights(CR)
    return save(
        prefixed(weights, "module."), tmp_path_factory.mktemp("stage1") / "max-iou-val-vox.pt"
    ), weights


@pytest.fixture(scope="module")
def stage2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights, Weights]:
    student, teacher = student_weights(CR, 1.0), teacher_weights(1.0)
    both = prefixed(student, "module.model_s.") | prefixed(teacher, "module.model_t.")
    return save(both, tmp_path_factory.mktemp("stage2") / "max-iou-vox-val.pt"), student, teacher


@pytest.fixture
def warnings() -> list[str]:
    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(message.record["message"]), level="WARNING")
    yield heard
    logger.remove(sink)


# --- published checkpoints ------------------------------------------------------------------------------------------
def test_teacher_of_a_stage_1_file(stage1, tmp_path, warnings) -> None:
    source, weights = stage1
    import_weights(source, Config(tree(TEACHER)), tmp_path / "teacher.pt")
    state = read_checkpoint(tmp_path / "teacher.pt")
    assert (
        state["model"].keys() == weights.keys() and state["training_only"] == {} and warnings == []
    )
    assert all(torch.equal(state["model"][key], value) for key, value in weights.items())
    assert state["identity"]["fingerprint"] == NUSCENES.fingerprint
    teacher = load_teacher(
        Config(tree(TEACHER, teacher_pretrain=str(tmp_path / "teacher.pt"))),
        NUSCENES,
        torch.device("cpu"),
    )
    assert teacher.data.voxel_size == 0.1 and not any(
        p.requires_grad for p in teacher.network.parameters()
    )


def test_teacher_of_a_stage_2_file(stage2, tmp_path) -> None:
    source, _, weights = stage2
    state = import_weights(source, Config(tree(TEACHER | {"cr": 1.0})), tmp_path / "teacher.pt")
    assert all(torch.equal(state["model"][key], value) for key, value in weights.items())


# Where the published name is not the path of the layer here. Shapes alone tell 1x1 convolutions from linear layers.
RENAMED = {
    "stem.3.kernel": "lidar.stem.3.kernel",
    "vox_ups.1.1.0.downsample.0.kernel": "lidar.vox_ups.1.1.0.downsample.0.kernel",
    "transformer_blocks.2.attn.relative_pos_key_table_sphere": (
        "lidar.transformer_blocks.2.attn.relative_pos_key_table_sphere"
    ),
    "classifier_vox.0.bias": "lidar.classifier_vox.0.bias",
    "pix_branch.layer3.0.downsample.0.weight": "pix_branch.encoder.layer3.0.downsample.0.weight",
    "pix_branch.bn1.running_var": "pix_branch.encoder.bn1.running_var",
    "pix_branch.pool.level1.conv.weight": "pix_branch.spp.levels.1.2.weight",
    "pix_branch.pool.last.norm.bias": "pix_branch.spp.fuse.0.bias",
    "pix_branch.up.0.lateral.conv.weight": "pix_branch.decoder.0.skip.2.weight",
    "pix_branch.up.2.out.conv.weight": "pix_branch.decoder.2.blend.2.weight",
    "c2l_fusion_blocks.1.ai_layer.conv1.0.weight": "c2l_fusion_blocks.1.ai_layer.conv1.0.weight",
    "c2l_fusion_blocks.2.ai_layer.fc1.0.running_mean": "c2l_fusion_blocks.2.ai_layer.norm.running_mean",
    "c2l_fusion_blocks.2.ai_layer.conv1.1.running_mean": "c2l_fusion_blocks.2.ai_layer.conv1.1.running_mean",
    "c2l_fusion_blocks.3.ai_layer.fc1.2.weight": "c2l_fusion_blocks.3.ai_layer.fc1.weight",
    "c2l_fusion_blocks.3.ai_layer.fc2.weight": "c2l_fusion_blocks.3.ai_layer.fc2.weight",
    "c2l_fusion_blocks.0.conv1.weight": "c2l_fusion_blocks.0.conv1.weight",
    "l2c_fusion_blocks.0.l2c_ai_layer.fc2.weight": "l2c_fusion_blocks.0.l2c_ai_layer.fc2.weight",
    "learner.3.4.running_var": "learner.3.4.running_var",
    "classifier_pix.norm.weight": "classifier_pix.norm.weight",
    "classifier_pix.conv.weight": "classifier_pix.linear.weight",
}


def test_student_of_a_stage_2_file(stage2, tmp_path, warnings) -> None:
    source, weights, _ = stage2
    state = import_weights(source, Config(tree(STUDENT)), tmp_path / "student.pt")
    for published, own in RENAMED.items():
        assert torch.equal(state["model"][own].flatten(), weights[published].flatten()), published
    adapter = {key: value for key, value in weights.items() if key.startswith("adapt_layer.")}
    assert state["training_only"].keys() == adapter.keys() and len(adapter) == 7
    assert all(torch.equal(state["training_only"][key], value) for key, value in adapter.items())
    assert len(state["model"]) == len(weights) - 7 and warnings == []
    values = sum(value.double().sum() for value in state["model"].values())
    assert torch.isclose(
        values, sum(v.double().sum() for k, v in weights.items() if k not in adapter)
    )


def test_gates_whose_two_sides_are_equally_wide() -> None:
    """At cr 2 image and points have 64, 128 and 256 channels: only the names tell the layers apart."""
    maker, cs = Maker(0), widths(2.0)
    for i, channels in enumerate(IMAGE):
        maker.fusion(i, channels, cs[i + 1])
    weights = maker.weights
    config = {"model": STUDENT | {"lidar": {"name": "minkunet", "cr": 2.0}}}
    network = build_model(Config(config), 17, pretrained=False)
    renamed = rename(weights, network)
    for i in range(4):
        path = f"c2l_fusion_blocks.{i}.ai_layer"
        for ours, theirs in (
            ("norm", "fc1.0"),
            ("fc1", "fc1.2"),
            ("fc2", "fc2"),
            ("conv1.1", "conv1.1"),
        ):
            assert torch.equal(renamed[f"{path}.{ours}.weight"], weights[f"{path}.{theirs}.weight"])


@pytest.mark.parametrize(
    "order", [{"swapped": True}, {"back": True}, {"swapped": True, "back": True}]
)
def test_decoder_in_another_order(order, tmp_path) -> None:
    weights = student_weights(CR, 1.0, **order)
    source = save(prefixed(weights, "model_s."), tmp_path / "student.pth")
    state = import_weights(source, Config(tree(STUDENT)), tmp_path / "student.pt")
    unit = 2 if order.get("back") else 0
    for published, own in (("lateral", "skip"), ("out", "blend")):
        found = state["model"][f"pix_branch.decoder.0.{own}.2.weight"]
        assert torch.equal(found, weights[f"pix_branch.up.{unit}.{published}.conv.weight"])


def test_settings_tensors_cannot_show_are_set_where_the_configuration_is_silent(
    stage2, tmp_path, warnings
) -> None:
    plain = STUDENT | {
        "lidar": {"name": "spvcnn_spformer", "cr": CR},
        "image": {"encoder": "resnet18"},
    }
    config = Config(tree(plain))
    state = import_weights(stage2[0], config, tmp_path / "student.pt")
    model = state["identity"]["config"]["model"]
    assert model["lidar"] == TEACHER and model["image"]["normalize"] == "none"
    assert "normalize" not in config.tree["model"]["image"], "the caller's own stays as it is"
    assert warnings == []


def test_settings_that_contradict_the_weights_are_named(stage2, tmp_path, warnings) -> None:
    other = STUDENT | {
        "lidar": TEACHER | {"legacy_quant": False},
        "image": {"encoder": "resnet18", "normalize": "imagenet"},
    }
    state = import_weights(stage2[0], Config(tree(other)), tmp_path / "student.pt")
    assert state["identity"]["config"]["model"] == other
    assert len(warnings) == 1
    assert "model.lidar.legacy_quant: true, model.image.normalize: none" in warnings[0]


def faulty(weights: Weights, fault: str) -> Weights:
    weights = dict(weights)
    if fault == "missing":
        del weights["vox_downs.1.0.net.0.kernel"], weights["c2l_fusion_blocks.1.ai_layer.fc3.bias"]
    elif fault == "left over":
        weights["extra_head.0.weight"] = torch.zeros(3)
    elif fault == "left over in the gate":
        weights["c2l_fusion_blocks.1.ai_layer.fc9.weight"] = torch.zeros(3)
    elif fault == "decoder":
        del weights["pix_branch.up.1.out.norm.bias"]
    return weights


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (
            "missing",
            r"2 missing \(c2l_fusion_blocks.1.ai_layer.fc3.bias, lidar.vox_downs.1.0.net.0.kernel\)",
        ),
        ("left over", r"1 unknown \(extra_head.0.weight\)"),
        ("left over in the gate", r"1 unknown \(c2l_fusion_blocks.1.ai_layer.fc9.weight\)"),
        ("decoder", r"missing \(pix_branch.decoder.*unknown \(pix_branch"),
    ],
)
def test_nothing_may_be_missing_or_left_over(fault, named, stage2, tmp_path) -> None:
    source = save(prefixed(faulty(stage2[1], fault), "module.model_s."), tmp_path / "faulty.pt")
    with pytest.raises(UserError, match=named):
        import_weights(source, Config(tree(STUDENT)), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_another_width_is_refused(stage1, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"of another shape \(classifier_vox.0.weight is \(17, 48\)"
    ):
        import_weights(stage1[0], Config(tree(TEACHER | {"cr": 1.0})), tmp_path / "out.pt")


def test_other_classes_are_refused(stage1, tmp_path) -> None:
    kitti = tree(TEACHER) | {"dataset": {"name": "semantickitti", "root": "/nowhere"}}
    with pytest.raises(
        UserError, match=r"classifier_vox.0.bias is \(17,\) in the file and \(20,\)"
    ):
        import_weights(stage1[0], Config(kitti), tmp_path / "out.pt")


@pytest.mark.parametrize(
    ("model", "part", "message"),
    [
        (STUDENT, None, "holds no student, only a teacher"),
        (STUDENT, "teacher", "model.name is 'lidar_camera', which is not a teacher"),
        (TEACHER, "student", "holds no student"),
    ],
)
def test_wrong_part(model, part, message, stage1, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        import_weights(stage1[0], Config(tree(model)), tmp_path / "out.pt", part=part)


# --- our own files --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(stage2, tmp_path_factory) -> Path:
    """A student's checkpoint in a run folder, with its teacher's identity and paths of the machine."""
    config = tree(STUDENT, teacher_pretrain="/nowhere/someone/runs/teacher")
    run = tmp_path_factory.mktemp("run")
    path = run / "checkpoints" / "max-iou-val-vox.pt"
    state = import_weights(stage2[0], Config(config), path)
    state["identity"]["teacher"] = {
        "sha256": "ab" * 32,
        "checkpoint": "/nowhere/someone/teacher.pt",
        "config": {},
    }
    torch.save(state, path)
    return run


def test_round_trip_of_a_student(trained, tmp_path, warnings) -> None:
    out = tmp_path / "student.safetensors"
    export_weights(trained, out)
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()[METADATA])
        names = set(file.keys())
    before = read_checkpoint(trained / "checkpoints" / "max-iou-val-vox.pt")
    assert names == before["model"].keys(), "the deployed network alone"
    assert about["fingerprint"] == NUSCENES.fingerprint and about["classes"][4] == "car"
    assert about["teacher_sha256"] == "ab" * 32 and len(about["source_sha256"]) == 64
    assert (
        about["config"]["dataset"]["root"] == "nuscenes"
        and about["config"]["model"]["lidar"] == TEACHER
    )
    assert b"/nowhere" not in out.read_bytes()

    state = import_weights(out, Config(tree(STUDENT)), tmp_path / "back.pt")
    assert warnings == [] and state["identity"]["teacher"] == {"sha256": "ab" * 32}
    after = read_checkpoint(tmp_path / "back.pt")["model"]
    assert torch.equal(logits(STUDENT, after), logits(STUDENT, before["model"]))


def test_export_gives_the_same_bytes_twice(trained, tmp_path) -> None:
    for name in ("a", "b"):
        export_weights(trained, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_lidar_network_of_a_student(trained, tmp_path) -> None:
    with pytest.raises(UserError, match=r"would be another network.*--data.images false"):
        export_weights(trained, tmp_path / "lidar.safetensors", lidar_only=True)
    apart = STUDENT | {"lidar": {"name": "minkunet", "cr": 0.25}, "c2l": False}
    student = build_model(Config({"model": apart}), 17, pretrained=False)
    identity = {
        "config": tree(apart),
        "classes": list(NUSCENES.classes),
        "fingerprint": NUSCENES.fingerprint,
    }
    torch.save({"model": student.state_dict(), "identity": identity}, tmp_path / "apart.pt")
    about = export_weights(tmp_path / "apart.pt", tmp_path / "lidar.safetensors", lidar_only=True)
    assert about["config"]["model"] == apart["lidar"] and about["config"]["data"]["images"] is False
    alone = import_weights(
        tmp_path / "lidar.safetensors", Config(tree(apart["lidar"])), tmp_path / "lidar.pt"
    )
    assert torch.equal(logits(apart["lidar"], alone["model"]), logits(apart, student.state_dict()))


def test_options_that_shapes_do_not_show_are_compared(trained, tmp_path, warnings) -> None:
    export_weights(trained, tmp_path / "s.safetensors")
    config = Config(tree(STUDENT | {"overlap": "mean"}, data={"voxel_size": 0.05, "augment": None}))
    import_weights(tmp_path / "s.safetensors", config, tmp_path / "back.pt")
    assert len(warnings) == 1 and "augment" not in warnings[0]
    assert (
        "data.voxel_size 0.1 in training, 0.05 now" in warnings[0]
        and "model.overlap 'last' in training, 'mean' now" in warnings[0]
    )


def exported(path: Path, **about) -> Path:
    """A small file with metadata of one's choosing."""
    save_file({"x": torch.zeros(2)}, path, {METADATA: json.dumps(about)} if about else None)
    return path


def test_refused_files(tmp_path) -> None:
    kitti = {
        "config": tree(TEACHER),
        "classes": list(SEMANTICKITTI.classes),
        "fingerprint": SEMANTICKITTI.fingerprint,
    }
    cut = exported(tmp_path / "cut.safetensors", **kitti)
    cut.write_bytes(cut.read_bytes()[:-3])
    cases = [
        (exported(tmp_path / "foreign.safetensors"), "was not exported by this project"),
        (exported(tmp_path / "kitti.safetensors", **kitti), r"other classes \(car, bicycle"),
        (tmp_path / "none.safetensors", "does not exist"),
        (cut, "damaged"),
    ]
    for path, message in cases:
        with pytest.raises(UserError, match=message):
            import_weights(path, Config(tree(TEACHER)), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_published_checkpoints_are_imported_before_they_are_exported(stage1, tmp_path) -> None:
    with pytest.raises(UserError, match="does not say which network it holds"):
        export_weights(stage1[0], tmp_path / "x.safetensors")


def test_command(trained, tmp_path, capsys) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree(STUDENT)))
    main(["export", str(trained), "--out", str(tmp_path / "s.safetensors")])
    config = ["--config", str(tmp_path / "config.yaml"), "--data.voxel_size", "0.2"]
    main(["import", str(tmp_path / "s.safetensors"), *config, "--out", str(tmp_path / "s.pt")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("s.safetensors: lidar_camera with 16 classes") and "s.pt: " in lines[1]
    assert read_checkpoint(tmp_path / "s.pt")["identity"]["config"]["data"] == {"voxel_size": 0.2}
    assert load_config(tmp_path / "config.yaml").tree["data"] == {"voxel_size": 0.1}


def test_networks_of_the_tests_are_not_trivial() -> None:
    """Imported weights give finite logits that differ between points, so equal outputs mean something."""
    found = logits(TEACHER, teacher_weights(CR))
    assert found.isfinite().all() and found.std(0).min() > 0

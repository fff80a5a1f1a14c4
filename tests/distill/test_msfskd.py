"""2DPASS: losses by their formulas, where gradients go, degenerate batches, ablations, and a run from end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import Config, load_config
from core.contracts import Batch, Output, Stage
from core.data import majority_labels
from core.distill import Needs, method_class
from core.distill.twodpass import MSFSKD
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.experiment import Experiment
from core.engine.run.optim import SchedulerConfig, lr_factor
from core.engine.run.run_dir import RunDir
from core.engine.score.evaluation import predict_points
from core.engine.train.jobs import build_trainer
from core.errors import UserError
from core.losses import CrossEntropyLovasz, balanced_weights, lovasz_softmax
from core.models import build_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from camera_scene import camera_batch
from made_samples import with_labels, with_visible, without_images

CLASSES = 17
REPO = Path(__file__).parents[2]
SMALL_IMAGE = {"encoder": "resnet18"}


def make_student(name: str = "twodpass", **options: object) -> nn.Module:
    defaults = {"twodpass": {"hidden": 8}, "spvcnn_spformer": {"cr": 0.5}}.get(name, {"cr": 0.25})
    return build_model(Config(tree={"model": {"name": name, **defaults, **options}}), CLASSES)


def make_method(
    student: nn.Module | None = None, criterion: CrossEntropyLovasz | None = None, **options: object
) -> MSFSKD:
    torch.manual_seed(2)
    config = MSFSKD.Config(name="2dpass", **({"image": SMALL_IMAGE} | options))
    return MSFSKD(config, student or make_student(), None, criterion or CrossEntropyLovasz())


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def grad_of(module: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


class Wide(nn.Module):
    """Scales of a width, and nothing to compute."""

    def __init__(self, width: int, scales: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.width, self.scales, self.classes = width, scales, classes

    def forward(self, batch: Batch) -> Output:
        feats = torch.zeros(len(batch.coords), self.width)
        rows = torch.arange(len(batch.coords))
        stages = tuple(Stage(feats, rows, (scale,) * 3) for scale in self.scales)
        logits = torch.zeros(len(batch.coords), self.classes)
        return Output(logits, stages, encoder=len(stages))


# --- sizes and tables -----------------------------------------------------------------------------------------------
def test_small_model_in_training() -> None:
    with torch.random.fork_rng():
        student = build_model(Config(tree={"model": {"name": "twodpass"}}), 20)
    method = make_method(student, image={})
    assert count(method.heads, method.fusions, method.classifier) == 188_980
    assert count(method) == 26_528_456
    assert method.image_stages == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("width", "classes", "fusion", "student", "total"),
    [
        (256, 20, 2_202_500, 45_615_252, 74_251_672),
        (256, 17, 2_197_469, 45_614_865, 74_246_254),
        (128, 17, 720_605, 11_462_673, 37_265_262),
    ],
)
def test_six_scales_in_training(
    width: int, classes: int, fusion: int, student: int, total: int
) -> None:
    method = make_method(Wide(width, (2, 4, 8, 16, 16, 16), classes), image={})
    assert count(method.heads, method.fusions, method.classifier) == fusion
    assert student + fusion + count(method.image) == total
    assert method.image_stages == (0, 1, 2, 3, 3, 3)


def test_class_weights_of_semantickitti() -> None:
    experiment = Experiment.from_config(
        load_config(str(REPO / "configs/semantickitti/2dpass/small.yaml"), [])
    )
    published = [
        *(
            0,
            2.0484,
            11.4097,
            9.5813,
            5.6957,
            5.2598,
            9.5177,
            13.7308,
            18.2139,
            1.2552,
            3.0203,
            1.4083,
            4.2135,
            1.2740,
        ),
        *(1.6765, 1.0, 3.6458, 1.5434, 4.7286, 7.4162),
    ]
    criterion = experiment.criterion_for(20)
    assert criterion.class_weight.tolist() == pytest.approx(published, abs=5e-5)
    assert criterion.w_lovasz == 0.1
    assert balanced_weights([9, 8, 0, 64], 1 / 3) == pytest.approx([0, 2, 0, 1])
    with pytest.raises(UserError, match="20 counts for 19 classes"):
        experiment.criterion_for(19)


def test_auxiliary_losses_share_the_class_weights() -> None:
    weights = [0.0, *[2.0] * (CLASSES - 1)]
    method = make_method(criterion=CrossEntropyLovasz(1.0, 0.1, weights), mode="aux_heads")
    assert method.auxiliary.class_weight.tolist() == weights
    assert (method.auxiliary.w_ce, method.auxiliary.w_lovasz) == (1.0, 1.0)


def test_learning_rate_factors() -> None:
    """No warm-up on one process, 250 steps on four."""
    alone = SchedulerConfig(name="cosine_warmup", warmup_steps=0)
    four = SchedulerConfig(name="cosine_warmup", warmup_steps=250)
    assert lr_factor(alone, 0, 1000) == 1.0
    assert lr_factor(four, 0, 1000) == 1 / 250
    assert lr_factor(alone, 500, 1000) == pytest.approx(0.5)
    assert lr_factor(four, 249, 1000) == lr_factor(four, 250, 1000) == 1.0


def test_majority_of_cells() -> None:
    labels = torch.tensor([0, 0, 3, 2, 2, 3, 3, 1, 4])
    rows = torch.tensor([0, 0, 0, 1, 1, 1, 1, 3, 3])
    # Cell 0 is mostly unlabelled and so ignored; 2 ties with 3, and 1 with 4; cell 2 is empty.
    assert majority_labels(labels, rows, 4, 5, ignore_votes=True).tolist() == [0, 2, 0, 1]


# --- losses ---------------------------------------------------------------------------------------------------------
def segmentation(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    known = labels != 0
    logarithm = torch.log_softmax(logits[known].double(), 1)
    ce = -logarithm.gather(1, labels[known, None]).mean()
    return float(ce.detach()), float(lovasz_softmax(logits, labels).detach())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"w_scale": 0.3, "w_seg2d": 0.5, "w_kl": 2.0, "kl_reduction": "batchmean"},
        {"feat_residual": True},
        {"learner_residual": True},
        {"hidden": 12},
    ],
)
def test_every_term_is_its_formula(options: dict) -> None:
    method = make_method(
        criterion=CrossEntropyLovasz(1.0, 0.1), **options
    ).eval()  # batch statistics stay put
    with torch.no_grad():
        for parameter in (*method.heads.parameters(), *method.fusions.parameters()):
            parameter.mul_(3)  # predictions that differ
    batch = camera_batch(0, 1, cameras=1)
    losses = {name: float(value.detach()) for name, value in method(batch).items()}
    w_scale, w_seg2d, w_kl = (
        options.get(*pair) for pair in (("w_scale", 1.0), ("w_seg2d", 1.0), ("w_kl", 0.05))
    )
    expected = dict.fromkeys(("scale_ce", "scale_lovasz", "fused_ce", "fused_lovasz", "kl"), 0.0)
    with torch.no_grad():
        output = method.student(batch)
        ce, lovasz = segmentation(output.logits, batch.labels)
        expected |= {"ce": ce, "lovasz": 0.1 * lovasz}
        points = batch.visible[0].nonzero()[:, 0]
        labels = batch.labels[points]
        column, row = batch.areas[0, points].long().unbind(1)
        scan = batch.coords[points, 0].long()
        maps = method.image(batch.images[:, 0])
        joint = []
        for i, (scale, fusion) in enumerate(zip(output.encoder_stages, method.fusions)):
            features = scale.feats
            learned = torch.relu(
                F.linear(features, fusion.learner[0].weight, fusion.learner[0].bias)
            )
            own = method.heads[i](
                features + learned if options.get("learner_residual") else features
            )
            ce, lovasz = segmentation(
                own, majority_labels(batch.labels, scale.rows, len(own), CLASSES, ignore_votes=True)
            )
            expected["scale_ce"] += w_scale * ce
            expected["scale_lovasz"] += w_scale * lovasz
            full = F.interpolate(maps[i], scale_factor=(2, 4, 4, 4)[i], mode="nearest")
            seen, rows = full[scan, :, row, column], scale.rows[points]
            z = fusion.join(torch.cat([seen, learned[rows]], 1))
            u = torch.relu(z * torch.sigmoid(fusion.gate(z)))
            joint.append(u + seen if options.get("feat_residual") else u)
            q = fusion.head(joint[-1])
            ce, lovasz = segmentation(q, labels)
            expected["fused_ce"] += w_seg2d / 4 * ce
            expected["fused_lovasz"] += w_seg2d / 4 * lovasz
            teaches, follows = q.double().softmax(1), own[rows].double().softmax(1)
            kl = float((teaches * (teaches / follows).log()).sum()) / len(points)
            expected["kl"] += w_kl / 4 * (kl if "kl_reduction" in options else kl / CLASSES)
        ce, lovasz = segmentation(method.classifier(torch.cat(joint, 1)), labels)
        expected |= {"joint_ce": ce, "joint_lovasz": lovasz}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-4), name


def test_mean_reduction_divides_by_the_classes() -> None:
    batch = camera_batch(0)
    mean = make_method().eval()(batch)["kl"]
    batchmean = make_method(kl_reduction="batchmean").eval()(batch)["kl"]
    assert float(mean.detach()) * CLASSES == pytest.approx(float(batchmean.detach()), rel=1e-5)
    assert float(mean.detach()) > 0


# --- gradients ------------------------------------------------------------------------------------------------------
def test_distillation_teaches_the_student_alone() -> None:
    method = make_method()
    method(camera_batch(0, 1))["kl"].backward()
    assert grad_of(method.image) == grad_of(method.fusions) == grad_of(method.classifier) == 0
    for encoder, head in zip(method.student.encoders, method.heads):
        assert grad_of(encoder.voxels) > 0 and grad_of(head) > 0


def test_distillation_may_move_both() -> None:
    method = make_method(detach=False)
    method(camera_batch(0, 1))["kl"].backward()
    assert grad_of(method.image) > 0 and all(grad_of(fusion.head) > 0 for fusion in method.fusions)


def test_fused_segmentation_reaches_images_and_student() -> None:
    method = make_method()
    method(camera_batch(0, 1))["fused_ce"].backward()
    assert grad_of(method.image.encoder) > 0
    assert all(grad_of(encoder.voxels) > 0 for encoder in method.student.encoders)
    assert grad_of(method.heads) == grad_of(method.student.head) == 0


def whole(method: MSFSKD, batch: Batch) -> dict[str, Tensor]:
    losses = method(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    for name, parameter in method.named_parameters():  # DistributedDataParallel waits for every one
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    return losses


def test_no_point_in_view() -> None:
    losses = whole(make_method(), camera_batch(0, 1, seen=0.0))
    for name in ("fused_ce", "fused_lovasz", "kl", "joint_ce", "joint_lovasz"):
        assert float(losses[name].detach()) == 0
    assert float(losses["scale_ce"].detach()) > 0


def test_single_labelled_pixel_and_no_label_at_all() -> None:
    batch = camera_batch(0, 1)
    visible = torch.zeros_like(batch.visible)
    visible[0, 5] = True
    labels = torch.zeros_like(batch.labels)
    assert whole(make_method(), with_labels(with_visible(batch, visible), labels))["ce"] == 0
    labels[5] = 3
    assert (
        float(
            whole(make_method(), with_labels(with_visible(batch, visible), labels))[
                "joint_ce"
            ].detach()
        )
        > 0
    )


def test_one_voxel() -> None:
    whole(make_method(), camera_batch(0, voxels=1, seen=1.0))


# --- students and ablations -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "scales"), [("minkunet", 4), ("spvcnn", 4), ("spvcnn_spformer", 4)]
)
def test_other_students(name: str, scales: int) -> None:
    method = make_method(make_student(name))
    assert method.image_stages == (0, 1, 2, 3)
    batch = camera_batch(0, 1)
    output = method.student.eval()(batch)
    found = output.encoder_stages
    assert [len(s.feats) for s in found] == sorted({len(s.feats) for s in found}, reverse=True)
    for stage, scale in zip(output.stages, found):
        cells = (
            torch.div(batch.coords[:, 1:], stage.stride[0], rounding_mode="floor") * stage.stride[0]
        )
        assert torch.equal(stage.coords[scale.rows][:, 1:], cells)
    whole(method.train(), batch)


def test_ablations() -> None:
    batch = camera_batch(0)
    aux, baseline = make_method(mode="aux_heads"), make_method(mode="baseline")
    assert whole(aux, without_images(batch)).keys() == {
        *("ce", "lovasz", "scale_ce", "scale_lovasz")
    }
    assert not any(
        key.startswith(("image.", "fusions.", "classifier.")) for key in aux.state_dict()
    )
    assert whole(baseline, batch).keys() == {"ce", "lovasz"}
    assert all(key.startswith("student.") for key in baseline.state_dict())
    assert aux.config.needs == baseline.config.needs == Needs()
    assert make_method().config.needs == Needs(images=True)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"learns from images.*data.images: true"):
        make_method()(without_images(camera_batch(0)))
    with pytest.raises(UserError, match="one width at every scale"):
        make_method(make_student("minkunet"), learner_residual=True)
    with pytest.raises(ValueError, match="learner_residual needs mode: full"):
        MSFSKD.Config(name="2dpass", mode="aux_heads", learner_residual=True)


@pytest.mark.parametrize(
    "path",
    sorted(str(p.relative_to(REPO)) for p in (REPO / "configs").glob("*/2dpass/*.yaml")),
    ids=str,
)
def test_configurations(path: str) -> None:
    config = load_config(str(REPO / path), [])
    Experiment.from_config(config)
    kind = method_class(config)
    assert kind is MSFSKD
    config.parse(kind.Config, "distill")


RUN = """
num_epochs: 1
batch_size: 2
workers_per_gpu: 0
dataset: {{name: nuscenes, root: {root}, version: v1.0-mini, instances: true}}
data:
  voxel_size: 0.2
  images: true
  eval_images: false
  image_size: [32, 24]
  train_cameras: 1
  image_augment: {{}}
  mix: 1.0
model: {{name: twodpass, hidden: 4}}
distill: {{name: 2dpass, image: {{encoder: resnet18}}}}
scheduler: {{warmup_steps: 0}}
eval: {{pictures: 0}}
"""


def test_a_run_deploys_the_lidar_network_alone(tiny_nuscenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(root=tiny_nuscenes))
    config = load_config(str(path), [])
    context = Context.open(config, World())
    train_set = context.dataset("train")
    trainer = build_trainer(context, train_set, RunDir(tmp_path / "run"), None)
    trainer.steps.set_epoch(1)
    batch = next(iter(trainer.steps))[0]
    assert batch.images.shape == (2, 1, 3, 24, 32) and batch.visible.any()
    losses = trainer.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert trainer._update() > 0
    student = build_model(config, CLASSES)
    student.load_state_dict(trainer.scored_network.state_dict())
    whole_scans = context.loader(context.dataset("val"), training=False)
    whole_scans.set_epoch(1, 0)
    batch = next(iter(whole_scans))
    assert batch.images is None and (batch.point_to_voxel >= 0).all()
    assert (predict_points(student.eval()(batch), batch) > 0).all()

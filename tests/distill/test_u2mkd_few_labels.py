"""U2MKD with scans that have no labels: what their presence changes, and what it must not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from core.config import Config
from core.contracts import Batch
from core.distill import TeacherOutput
from core.distill.u2mkd import U2MKD
from core.losses import CrossEntropyLovasz
from core.models import build_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from camera_scene import camera_batch
from made_samples import with_labels

CLASSES = 17
LABELS = ("ce", "lovasz", "balanced", "pixel")  # beginnings of the supervised terms' names


def make_method(**options: object) -> U2MKD:
    model = {
        "name": "lidar_camera",
        "lidar": {"name": "minkunet", "cr": 0.25},
        "image": {"encoder": "resnet18", "weights": None},
        "eval_pixels": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = build_model(Config(tree={"model": model}), CLASSES)
        config = U2MKD.Config(name="u2mkd", w_feat=0, **options)
        method = U2MKD(config, student, None, CrossEntropyLovasz(1.0, 1.0, w_balanced=1.0))
    return method.eval()  # batch statistics stay put


def teacher_of(batch: Batch) -> TeacherOutput:
    """Opinions of each cell that depend on its scan and place alone."""
    generator = torch.Generator().manual_seed(1)
    logits = batch.feats @ (3 * torch.randn(4, CLASSES, generator=generator))
    return TeacherOutput(batch.tokens, batch.coords, None, logits, ())


@pytest.mark.parametrize("scan", [0, 1])
@torch.no_grad()
def test_a_scan_without_labels_leaves_the_supervised_terms(scan: int) -> None:
    """Their means are over labelled cells alone; the teacher and the images' features speak of all cells."""
    method, batch = make_method(), camera_batch(0, 1)
    both = with_labels(batch, torch.where(batch.coords[:, 0] == scan, 0, batch.labels))
    only = both.take([1 - scan])
    joined, alone = method(both, teacher_of(both)), method(only, teacher_of(only))
    for name, value in alone.items():
        unchanged = float(joined[name]) == pytest.approx(float(value), rel=2e-6)
        assert float(value) > 0 and unchanged == name.startswith(LABELS), name


@pytest.mark.parametrize("seen", [0.35, 0.0])
def test_a_batch_without_any_label(seen: float) -> None:
    """Supervised terms are zero, and every parameter takes part (DistributedDataParallel waits for it)."""
    method, batch = make_method(kl_mean="classes").train(), camera_batch(0, 1, seen=seen)
    batch = with_labels(batch, torch.zeros_like(batch.labels))
    losses = method(batch, teacher_of(batch))
    torch.stack(list(losses.values())).sum().backward()
    for name, value in losses.items():
        if name.startswith(LABELS):
            assert float(value.detach()) == 0, name
    assert float(losses["kl"].detach()) > 0
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

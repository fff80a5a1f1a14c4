"""U2MKD's losses against float64 evaluations of section 5.2's formulas, row by row, on toy networks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_samples import made_sample
from torch import Tensor, nn

from core.contracts import Batch, Output
from core.data import collate
from core.distill.base import Needs, TeacherOutput
from core.distill.u2mkd import U2MKD
from core.errors import UserError
from core.losses import CrossEntropyLovasz
from core.models.fusion.output import FusedOutput
from core.sparse import MapCache, SparseStage, SparseTensor

CLASSES, STUDENT, TEACHER, IMAGE = 4, 5, 6, 3


class Student(nn.Module):
    """Rows of the input become logits, features and image features by fixed random matrices."""

    def __init__(self, images: bool = True) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.images = images
        self.logits, self.pixels, self.points = (
            nn.Linear(4, CLASSES),
            nn.Linear(4, CLASSES),
            nn.Linear(4, STUDENT),
        )
        self.real, self.imputed = nn.Linear(4, IMAGE), nn.Linear(4, IMAGE)

    def forward(self, batch: Batch) -> FusedOutput:
        in_view = torch.zeros(len(batch.feats), dtype=torch.bool)
        if batch.visible is not None:
            in_view = batch.visible.any(0)
        output = FusedOutput(
            logits=self.logits(batch.feats),
            points=self.points(batch.feats),
            in_view=in_view,
            image_features=(),
            learned_features=(),
            pixel_logits=None,
        )
        if not self.images:
            return output
        return replace(
            output,
            image_features=(self.real(batch.feats),),
            learned_features=(self.imputed(batch.feats),),
            pixel_logits=torch.where(in_view[:, None], self.pixels(batch.feats), 0.0),
        )


class Teacher(nn.Module):
    """A stage of stride 16 whose features are the cells' own coordinates; for its width alone."""

    def forward(self, batch: Batch) -> Output:
        cache = MapCache(batch.coords)
        coords = cache.level((16, 16, 16)).coords
        stage = SparseTensor(torch.ones(len(coords), TEACHER), coords, (16, 16, 16), cache)
        logits = torch.zeros(len(batch.coords), CLASSES)
        return Output(logits, (SparseStage(stage),), encoder=1)


def make_batch(
    labels: list[int], visible: list[bool] | None, point_to_voxel: list[int] | None = None
) -> Batch:
    """Voxels in a row, 1 apart; one point each unless told."""
    count = len(labels)
    rng = np.random.default_rng(count)
    coords = np.zeros((count, 3), np.int32)
    coords[:, 0] = np.arange(count)
    links = np.arange(count) if point_to_voxel is None else np.array(point_to_voxel)
    first = np.array([list(links).index(v) for v in range(count)])
    points = len(links)
    images = {}
    if visible is not None:
        images = {
            "images": np.zeros((1, 3, 2, 2), np.float32),
            "pixels": np.zeros((1, count, 2), np.float32),
            "visible": np.array([visible]),
        }
    feats = rng.normal(size=(count, 4)).astype(np.float32)
    zeros = np.zeros(points, np.int64)
    labels = np.array(labels, np.int64)
    sample = made_sample(
        "scan", 0, coords, feats, labels, links, first, zeros, np.ones(points, bool), np.zeros(points, np.float32),
        **images,
    )  # fmt: skip
    return collate([sample])


LABELS = [1, 2, 0, 3, 1, 2]
SEEN = [True, False, True, True, False, True]


def teacher_output(links: list[int], voxels: int) -> TeacherOutput:
    """A teacher of ``voxels`` voxels in one cell of stride 16."""
    generator = torch.Generator().manual_seed(1)
    coords = torch.zeros(voxels, 4, dtype=torch.int32)
    coords[:, 1] = torch.arange(voxels)
    cache = MapCache(coords)
    cells = cache.level((16, 16, 16)).coords
    stage = SparseTensor(
        torch.rand(len(cells), TEACHER, generator=generator), cells, (16, 16, 16), cache
    )
    logits = torch.randn(voxels, CLASSES, generator=generator)
    return TeacherOutput(("scan",), coords, torch.tensor(links), logits, (SparseStage(stage),))


def make_method(student: nn.Module | None = None, **options: object) -> U2MKD:
    torch.manual_seed(2)
    config = U2MKD.Config(name="u2mkd", **options)
    teacher = Teacher() if config.needs.teacher else None
    return U2MKD(config, student or Student(), teacher, CrossEntropyLovasz(w_lovasz=0.0))


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def mean_cross_entropy(logits: Tensor, labels: list[int], rows: list[int]) -> float:
    rows = [i for i in rows if labels[i] != 0]
    return -sum(math.log(softmax(logits[i].double().tolist())[labels[i]]) for i in rows) / len(rows)


def mean_square(a: Tensor, b: Tensor, rows: list[int]) -> float:
    squares = [
        (x - y) ** 2 for i in rows for x, y in zip(a[i].double().tolist(), b[i].double().tolist())
    ]
    return sum(squares) / len(squares)


@pytest.mark.parametrize(
    ("mask", "temperature", "kl_mean"),
    [
        ("all", 1.0, "voxels"),
        ("labelled", 1.0, "voxels"),
        ("right", 1.0, "voxels"),
        ("all", 2.5, "classes"),
    ],
)
def test_every_term_is_its_formula(mask: str, temperature: float, kl_mean: str) -> None:
    options = {"mask": mask, "temperature": temperature, "kl_mean": kl_mean}
    method = make_method(w_kl=2.0, w_feat=3.0, w_align=0.5, w_pixel=0.25, **options)
    batch, links = make_batch(LABELS, SEEN), [3, 2, 1, -1, 0, 0]
    taught = teacher_output(links, 5)
    taught.logits[links[0], LABELS[0]] += 9  # the teacher is right about this voxel …
    taught.logits[links[1], (LABELS[1] + 1) % taught.logits.shape[1]] += (
        9  # … and wrong about this one
    )
    losses = {name: float(value.detach()) for name, value in method(batch, taught).items()}
    output = method.student(batch)
    every, seen = range(6), [i for i in range(6) if SEEN[i]]
    known = [i for i in every if links[i] >= 0 and (mask == "all" or LABELS[i] != 0)]
    said = {
        i: max(enumerate(taught.logits[links[i]].tolist()), key=lambda pair: pair[1])[0]
        for i in known
    }
    if mask == "right":
        known = [i for i in known if said[i] == LABELS[i]]
        assert 0 in known and 1 not in known
    kl, alike = 0.0, Counter(said[i] for i in known)
    share = {
        i: 1 / len(known) if kl_mean == "voxels" else 1 / (len(alike) * alike[said[i]])
        for i in known
    }
    for i in known:
        p = softmax(taught.logits[links[i]].double().tolist(), temperature)
        q = softmax(output.logits[i].double().tolist(), temperature)
        kl += sum(a * math.log(a / b) for a, b in zip(p, q)) * share[i]
    single_cell = taught.stages[0].feats[
        0
    ]  # one cell: interpolation returns its features everywhere
    with torch.no_grad():
        adapted = method.adapt_layer(output.points)
    expected = {
        "ce": mean_cross_entropy(output.logits, LABELS, list(every)),
        "pixel_ce": 0.25 * mean_cross_entropy(output.pixel_logits, LABELS, seen),
        "kl": 2.0 * temperature**2 * kl,
        "align0": 0.5 * mean_square(output.learned_features[0], output.image_features[0], seen),
        "feat": 3.0 * mean_square(adapted, single_cell.expand(6, -1), known),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=1e-5), name


def test_features_are_scaled_to_their_range_on_both_sides() -> None:
    method = make_method(w_kl=0, normalize_features=True)
    batch, taught = make_batch(LABELS, SEEN), teacher_output([0, 1, 2, 3, 4, 4], 5)
    term = method(batch, taught)["feat"]
    term.backward()
    weight = method.adapt_layer[0].weight
    assert weight.grad.isfinite().all() and weight.grad.abs().max() > 0
    loss = float(term.detach())
    with torch.no_grad():
        a = method.adapt_layer(method.student(batch).points).double()
    b = taught.stages[0].feats[0].double().expand(6, -1)
    scaled = [
        (x - x.amin(1, keepdim=True)) / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))
        for x in (a, b)
    ]
    assert loss == pytest.approx(float((scaled[0] - scaled[1]).square().mean()), rel=1e-4)


def test_gradients_reach_what_learns_and_nothing_else() -> None:
    method = make_method()
    taught = teacher_output([0, 1, 2, 3, 4, -1], 5)
    taught.logits.requires_grad_()
    taught.stages[0].feats.requires_grad_()
    losses = method(make_batch(LABELS, SEEN), taught)
    (losses["kl"] + losses["feat"] + losses["align0"]).backward()
    student = method.student
    assert taught.logits.grad is None and taught.stages[0].feats.grad is None
    assert student.real.weight.grad is None  # the target of the alignment
    assert student.pixels.weight.grad is None  # not distilled
    for layer in (student.imputed, student.logits, student.points, method.adapt_layer[0]):
        assert layer.weight.grad.abs().sum() > 0


def test_alignment_may_teach_the_image_branch_too() -> None:
    method = make_method(align_detach=False)
    method(make_batch(LABELS, SEEN), teacher_output([0, 1, 2, 3, 4, -1], 5))["align0"].backward()
    assert method.student.real.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("visible", [[False] * 6, None])
def test_empty_field_of_view_is_zero_and_differentiable(visible: list[bool] | None) -> None:
    losses = make_method()(make_batch(LABELS, visible), teacher_output([0, 1, 2, 3, 4, 4], 5))
    assert float(losses["align0"]) == 0 and float(losses["pixel_ce"]) == 0
    torch.stack(list(losses.values())).sum().backward()


def test_no_teacher_voxel_at_all_is_zero() -> None:
    losses = make_method()(make_batch(LABELS, SEEN), teacher_output([-1] * 6, 5))
    assert float(losses["kl"]) == float(losses["feat"]) == 0


def test_single_voxel() -> None:
    """One row has no variance; the losses stay finite."""
    losses = make_method()(make_batch([2], [True]), teacher_output([0], 1))
    assert all(torch.isfinite(value) for value in losses.values())


def test_coincident_points_share_the_teachers_voxel() -> None:
    """Three points, two student voxels; the first point of each voxel says which teacher voxel it is."""
    batch = make_batch([1, 2], None, point_to_voxel=[0, 0, 1])
    taught = teacher_output([4, 0, 2], 5)
    assert taught.rows_for(batch).tolist() == [4, 2]


def test_other_scans_are_refused() -> None:
    taught = teacher_output([0, 1], 2)
    other = TeacherOutput(
        ("other",), taught.coords, taught.keyframe_voxels, taught.logits, taught.stages
    )
    with pytest.raises(UserError, match="different scans"):
        other.rows_for(make_batch([1, 2], None))


def test_lidar_only_student_and_terms_switched_off() -> None:
    method = make_method(Student(images=False), w_kl=0, w_feat=0)
    assert method.config.needs == Needs() and method.adapt_layer is None
    assert method(make_batch(LABELS, None), None).keys() == {"ce"}
    assert make_method(w_pixel=0, w_align=0, w_kl=0, w_feat=0)(
        make_batch(LABELS, SEEN), None
    ).keys() == {"ce"}


def test_adapt_layer_belongs_to_training_only() -> None:
    method = make_method()
    assert tuple(method.adapt_layer[0].weight.shape) == (TEACHER, STUDENT)
    beside = [key for key in method.state_dict() if not key.startswith("student.")]
    assert beside and all(key.startswith("adapt_layer.") for key in beside)


def test_teacher_without_the_stage_is_refused() -> None:
    with pytest.raises(UserError, match="teacher has no encoder stage of stride 16"):
        U2MKD(U2MKD.Config(name="u2mkd"), Student(), Student(), CrossEntropyLovasz())

"""Points, voxels and the voxels of another view, linked by index and never by coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from core.contracts import IGNORE, Batch
from core.errors import UserError

__all__ = [
    "gather_rows",
    "keyframe_voxels",
    "linked_points",
    "linked_voxels",
    "majority_labels",
    "points_to_voxels",
    "teacher_voxels",
    "voxels_to_points",
]


def gather_rows(values: Tensor, rows: Tensor, fill: float = 0) -> Tensor:
    """``values[rows]`` with ``fill`` where a row is -1; differentiable, no host synchronisation.

    Args:
        values: [M, ...]. rows: i64 [R], -1..M-1.

    Returns:
        [R, ...] of ``values``' dtype.
    """
    if len(values) == 0:
        return values.new_full((len(rows), *values.shape[1:]), fill)
    found = values.index_select(0, rows.clamp(min=0))
    missing = (rows < 0).view(-1, *[1] * (values.dim() - 1))
    return found.masked_fill(missing, fill)


def voxels_to_points(values: Tensor, batch: Batch, fill: float = 0) -> Tensor:
    """Give each point its voxel's value: [SV, ...] -> [SN, ...], ``fill`` for points of no voxel."""
    return gather_rows(values, batch.cells.of_point, fill)


def points_to_voxels(values: Tensor, batch: Batch) -> Tensor:
    """Give each voxel its representative point's value: [SN, ...] -> [SV, ...]."""
    return values.index_select(0, batch.cells.point)


def teacher_voxels(student: Batch, teacher: Batch) -> Tensor:
    """For each student voxel, the teacher voxel that holds the student's representative point.

    Both views start from the same keyframe points in the same order; whatever each appends, augments or drops, the
    j-th keyframe point of one is the j-th of the other: student voxel -> its first point -> the same point in the
    teacher's view -> the teacher's voxel.

    Returns:
        i64 [SV of the student] rows of the teacher's joined voxels; -1 where the teacher dropped the point, or where
        the student's representative belongs to another sweep.

    Raises:
        UserError: the two batches are not views of the same scans.
    """
    if student.tokens != teacher.tokens:
        raise UserError(f"the views show different scans: {student.tokens} and {teacher.tokens}")
    return linked_voxels(student, keyframe_voxels(teacher))


def keyframe_voxels(batch: Batch) -> Tensor:
    """Voxel row of every keyframe point in order, i64 [SNk]; -1 for a point in no voxel."""
    return batch.cells.of_point[batch.keyframe]


def linked_voxels(student: Batch, voxels: Tensor) -> Tensor:
    """For each student voxel, ``voxels`` (:func:`keyframe_voxels` of another view) of its representative point.

    Returns:
        i64 [SV], -1 where that point belongs to another sweep.

    Raises:
        UserError: the two views have different numbers of keyframe points.
    """
    return gather_rows(voxels, points_to_voxels(_ordinals(student, voxels), student), fill=-1)


def linked_points(student: Batch, voxels: Tensor) -> Tensor:
    """For each student point, ``voxels`` (:func:`keyframe_voxels` of another view) of the same point.

    Returns:
        i64 [SN], -1 for a point of another sweep.

    Raises:
        UserError: the two views have different numbers of keyframe points.
    """
    return gather_rows(voxels, _ordinals(student, voxels), fill=-1)


def _ordinals(student: Batch, voxels: Tensor) -> Tensor:
    """I64 [SN]: which of the batch's keyframe points a point is, -1 = none.

    Raises:
        UserError: another view has not as many, one of ``voxels`` each.
    """
    order = student.keyframe.cumsum(0) - 1
    count = int(order[-1]) + 1 if len(order) else 0
    if count != len(voxels):
        raise UserError(
            f"the student's view has {count} keyframe points and the teacher's {len(voxels)} "
            f"(scans {', '.join(student.tokens)})",
            cure="Make both views from the same reading of the scan",
        )
    return torch.where(student.keyframe, order, -1)


def majority_labels(
    labels: Tensor, rows: Tensor, cells: int, classes: int, *, ignore_votes: bool
) -> Tensor:
    """Most frequent label of each cell, i64 [cells]; the smaller id wins a tie, and 0 (ignore) an empty cell.

    Args:
        labels: i64 [R], 0..classes-1. rows: i64 [R], the cell of each, -1 = none.
        ignore_votes: "ignore" takes part in the vote; else it is the answer only where there is nothing else.
    """
    voting = rows >= 0
    if not ignore_votes:
        voting = voting & (labels > IGNORE)
    places = torch.where(voting, rows * classes + labels, 0)
    votes = torch.zeros(cells * classes, dtype=torch.int32, device=labels.device)
    votes.scatter_add_(0, places, voting.int())
    return votes.view(cells, classes).argmax(1)

"""The boundary loss against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.losses import boundary_loss


def border(image: np.ndarray) -> np.ndarray:
    """Largest of the 3x3 neighbours of 1 - m, minus 1 - m."""
    outside = 1 - image
    found = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            window = outside[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            found[row, column] = window.max() - outside[row, column]
    return found


def by_hand(scores: np.ndarray, labels: np.ndarray) -> float:
    scaled = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = scaled / scaled.sum(1, keepdims=True)
    losses = []
    for image in range(len(scores)):
        for name in range(scores.shape[1]):
            predicted = border(probabilities[image, name])
            truth = border((labels[image] == name).astype(float))
            common = (predicted * truth).sum()
            precision = common / (predicted.sum() + 1e-7)
            recall = common / (truth.sum() + 1e-7)
            losses.append(1 - 2 * precision * recall / (precision + recall + 1e-7))
    return float(np.mean(losses))


def test_boundary_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (2, 4, 6, 7))
    labels = rng.integers(0, 3, (2, 6, 7))  # class 3 is nowhere
    found = boundary_loss(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.item() == pytest.approx(by_hand(scores, labels), rel=1e-5)


def test_right_borders_cost_least() -> None:
    labels = torch.zeros(1, 6, 8, dtype=torch.int64)
    labels[:, :, 4:] = 1
    right = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1) * 20.0
    moved = right.roll(2, 3).requires_grad_()
    assert boundary_loss(right, labels) < 1e-4
    loss = boundary_loss(moved, labels)
    loss.backward()
    assert loss > 0.3 and torch.isfinite(moved.grad).all()

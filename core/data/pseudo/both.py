"""Labels of two sources made into one: poses know what stands, a network knows the rest.

Measured on real frames (SemanticKITTI 00/0-8, labels of frame 4), where both speak and disagree: poses were right at 93
to 96 % of the points, networks of 22 and 33 mIoU, trained on that frame alone, at 2 to 5 %. No rule that believes the
network there, because it is sure, because poses are not, or because it sees something movable, gave better labels.
"""

from __future__ import annotations

import numpy as np

from core.contracts import IGNORE
from core.datasets.pseudo import GivenLabels

__all__ = ["joined"]


def joined(carried: GivenLabels, predicted: GivenLabels) -> GivenLabels:
    """Take the carried label of a point, and where it has none the predicted one.

    Args:
        carried: by poses, movable classes left out. predicted: by a network; both of the same points.
    """
    first = carried.label != IGNORE
    return GivenLabels(
        np.where(first, carried.label, predicted.label),
        np.where(first, carried.confidence, predicted.confidence),
        np.where(first, carried.source, predicted.source),
    )

"""nuScenes' panoptic files: which instance each point belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.contracts import IGNORE
from core.decode import read_arrays
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["PANOPTIC", "read_instances"]

PANOPTIC = (
    "Panoptic files come from nuScenes-panoptic-v1.0-all.tar.gz, nuScenes download page; "
    "without them set dataset.instances false"
)


def read_instances(path: Path, label: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Read the instances of a keyframe.

    Args:
        label: u8 [N], train ids that the lidarseg file gives its points. labels: the label space.

    Returns:
        i32 [N], ``category * 1000 + id``, 0 for points without an id.

    Raises:
        UserError: the file is missing or damaged, or belongs to another scan.
    """
    data = read_arrays(path, "file of instances", only="data", cure=PANOPTIC).get("data")
    if data is None or data.dtype.kind not in "iu":
        raise UserError("this file has no integers 'data'", where=str(path), cure=PANOPTIC)
    if data.shape != label.shape:
        raise UserError(
            f"holds {data.size} ids, but the scan has {len(label)} points", where=str(path)
        )
    raw = data.astype(np.int32)
    classes = labels.to_train(raw // 1000, path)
    told = classes != IGNORE
    if 2 * np.count_nonzero(classes[told] != label[told]) > np.count_nonzero(told):
        raise UserError(
            "most of its points have another class here than in the lidarseg file: the two do not belong together",
            where=str(path),
            cure=PANOPTIC,
        )
    return np.where(raw % 1000 > 0, raw, 0)

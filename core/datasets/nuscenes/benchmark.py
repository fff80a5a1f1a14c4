"""nuScenes' lidarseg challenge: ``nuscenes.eval.lidarseg.validate_submission``, and what its server refuses later.

``lidarseg/<split>/<token>_lidarseg.bin``, one u8 of 1 to 16 per point, and ``<split>/submission.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.datasets.benchmark import Benchmark, stored_ids, train_ids
from core.decode import parse_json
from core.errors import UserError
from core.labels import LabelSpace

__all__ = ["META_KEYS", "NuScenesBenchmark"]

META_KEYS = ("use_camera", "use_lidar", "use_radar", "use_map", "use_external")


class NuScenesBenchmark(Benchmark):
    """U8 train ids, which are the challenge's own, in ``<token>_lidarseg.bin``."""

    name = "nuscenes"
    title = "nuScenes"
    dtype = np.dtype("u1")

    def path(self, token: str) -> str:
        """``<token>_lidarseg.bin``."""
        return f"{token}_lidarseg.bin"

    def submitted_path(self, token: str, split: str) -> str:
        """``lidarseg/<split>/<token>_lidarseg.bin``."""
        return f"lidarseg/{split}/{self.path(token)}"

    def ids(self, labels: LabelSpace) -> Sequence[int]:
        """Train ids as they are."""
        return range(labels.num_classes)

    def encode(self, classes: np.ndarray, labels: LabelSpace) -> bytes:
        """Write train ids u8."""
        return classes.tobytes()

    def decode(self, content: bytes, labels: LabelSpace, where: Path) -> np.ndarray:
        """Read train ids u8."""
        return train_ids(stored_ids(content, self.dtype, where), labels, where)

    def metadata(
        self, split: str, uses_camera: bool, sweeps: tuple[int, int] = (0, 0)
    ) -> dict[str, dict[str, Any]]:
        """What the server wants to know of the network's input; images seen in training alone are none."""
        use = dict.fromkeys(META_KEYS, False)
        use |= {"use_camera": uses_camera, "use_lidar": True}
        return {f"{split}/submission.json": {"meta": use}}

    def metadata_fault(self, content: bytes) -> str | None:
        """Which of the five keys of ``meta`` is missing, unknown or no truth value, None = nothing is wrong."""
        try:
            meta = parse_json(content, "submission", dict[str, dict[str, object]])["meta"]
        except (UserError, KeyError) as error:
            return f"this is not JSON with an object 'meta' ({error})"
        lacking = [f"{key} is missing" for key in META_KEYS if key not in meta]
        wrong = []
        for key, value in meta.items():
            if key not in META_KEYS or not isinstance(value, bool):
                wrong.append(f"{key} is {value!r}")
        if not lacking and not wrong:
            return None
        listed = ", ".join([*lacking, *wrong])
        return (
            f"'meta' must hold true or false for {', '.join(META_KEYS)} and nothing else; {listed}"
        )

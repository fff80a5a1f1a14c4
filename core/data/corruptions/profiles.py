"""The two benchmarks: which corruptions, and how severe.

``semantickitti-c`` is Yan et al.'s (arXiv 2301.00970): 6 types, 16 corruptions, severities from its table. Not
published, and chosen here: the box and the intensities of outliers (the scan's own box, uniform), which rings stay (0,
2, 4, …), the flakes' velocity (1.6 m/s at all rates, so that severity rises), and that shaken points become "ignore".

``robo3d`` is Kong et al.'s (arXiv 2303.17597), whose data go by the name SemanticKITTI-C as well: 8 types of 3
severities. Known of its released data: snow (rates and velocities) and cross-sensor (16, 32, 48 of 64 lasers out, then
every second point). The other severities could not be checked against the released files, nor could the spread of
crosstalk: scores on points made here are near the published ones at best, and the baseline of mCE was scored on the
published points. :func:`core.data.corruptions.published` reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from core.data.corruptions.base import Corrupt, Returns
from core.data.corruptions.beams import beam_missing, cross_sensor, thin_beams
from core.data.corruptions.fog import fog
from core.data.corruptions.ground import wet_ground
from core.data.corruptions.noise import (
    crosstalk,
    global_outliers,
    incomplete_echo,
    local_distortion,
    motion_blur,
)
from core.data.corruptions.snow import snow
from core.errors import UserError

__all__ = ["PROFILES", "SEVERITIES", "Corruption", "chosen"]

SEVERITIES = ("light", "moderate", "heavy")


@dataclass(frozen=True)
class Corruption:
    """One corruption of one severity.

    Attributes:
        profile: key of ``PROFILES``. kind: its type, e.g. ``fog``. level: its severity, e.g. ``heavy``.
        apply: what it does.
        folder: of its scans in the published data set. about: severity in words.
    """

    profile: str
    kind: str
    level: str
    apply: Corrupt
    folder: str
    about: str

    @property
    def name(self) -> str:
        """Unique within the profile, e.g. ``fog_heavy``."""
        return self.folder.replace("/", "_")


def _yan(
    kind: str, level: str, about: str, function: Callable[..., Returns], **parameters: object
) -> Corruption:
    folder = f"{level}_{kind}" if kind.endswith("beam") else f"{kind}_{level}"
    return Corruption(
        "semantickitti-c", kind, level, partial(function, **parameters), folder, about
    )


def _kong(
    kind: str, function: Callable[..., Returns], unit: str, levels: Iterable[dict[str, float]]
) -> list:
    return [
        Corruption(
            "robo3d", kind, level, partial(function, **p), f"{kind}/{level}", unit.format(**p)
        )
        for level, p in zip(SEVERITIES, levels)
    ]


def _same(key: str, values: Iterable[float], **fixed: float) -> list[dict[str, float]]:
    return [{key: value} | fixed for value in values]


_YAN = (
    [_yan("fog", s, f"alpha {a}/m", fog, alpha=a) for s, a in zip(SEVERITIES, (0.005, 0.06, 0.2))]
    + [_yan("snowfall", s, f"{r} mm/h", snow, rate=r, velocity=1.6) for s, r in zip(SEVERITIES, (0.5, 1.5, 2.5))]
    + [
        _yan("local", s, f"20 % of points, {d} m", local_distortion, share=0.2, std=d)
        for s, d in zip(SEVERITIES, (0.05, 0.1, 0.2))
    ]
    + [
        _yan("global", s, f"{100 * p:g} % outliers", global_outliers, share=p)
        for s, p in zip(SEVERITIES, (0.001, 0.05, 0.5))
    ]
    + [
        _yan(f"{beams}beam", level, f"1/{every} of rings" + ", 1/2 of points" * sparse, thin_beams,
             every=every, sparse=sparse)
        for beams, every in ((32, 2), (16, 4))
        for level, sparse in (("dense", False), ("sparse", True))
    ]
)  # fmt: skip
_KONG = (
    *_kong("fog", fog, "alpha {alpha}/m", _same("alpha", (0.008, 0.05, 0.2), counts=False)),
    *_kong("wet_ground", wet_ground, "{water} mm of water", _same("water", (0.2, 1.0, 1.2), texture=1.2)),
    *_kong(
        "snow", snow, "{rate} mm/h, {velocity} m/s",
        [{"rate": r, "velocity": v} for r, v in ((0.5, 2.0), (1.0, 1.6), (2.5, 1.6))],
    ),
    *_kong("motion_blur", motion_blur, "{std} m", _same("std", (0.2, 0.25, 0.3))),
    *_kong("beam_missing", beam_missing, "{share:.0%} of lasers", _same("share", (0.25, 0.5, 0.75))),
    *_kong("crosstalk", crosstalk, "{share:.1%} of points", _same("share", (0.006, 0.008, 0.01), std=3.0)),
    *_kong("incomplete_echo", incomplete_echo, "{share:.0%} of vehicles", _same("share", (0.75, 0.85, 0.95))),
    *_kong("cross_sensor", cross_sensor, "{share:.0%} of lasers, 1/2 of points", _same("share", (0.25, 0.5, 0.75))),
)  # fmt: skip
PROFILES: dict[str, tuple[Corruption, ...]] = {"semantickitti-c": tuple(_YAN), "robo3d": _KONG}


def chosen(
    profile: str, kinds: Iterable[str] | None = None, *, keep_labels: bool = False
) -> tuple[Corruption, ...]:
    """Corruptions of a profile, all or those named by name (``fog_heavy``) or by type (``fog``), in its order.

    Args:
        keep_labels: points shaken by local distortion keep their class.

    Raises:
        UserError: an unknown profile or name.
    """
    if profile not in PROFILES:
        raise UserError(
            f"unknown robustness profile '{profile}'", cure=f"Profiles are {', '.join(PROFILES)}"
        )
    every = PROFILES[profile]
    wanted = None if kinds is None else set(kinds)
    known = {c.name for c in every} | {c.kind for c in every}
    if wanted is not None and (unknown := sorted(wanted - known)):
        raise UserError(
            f"{profile} has no corruption {', '.join(unknown)}",
            where="--kinds",
            cure=f"Types are {', '.join(dict.fromkeys(c.kind for c in every))}; "
            f"single corruptions are named like {every[0].name}",
        )
    picked = tuple(c for c in every if wanted is None or {c.name, c.kind} & wanted)
    if not keep_labels:
        return picked
    return tuple(
        replace(c, apply=partial(c.apply, keep_labels=True)) if c.kind == "local" else c
        for c in picked
    )

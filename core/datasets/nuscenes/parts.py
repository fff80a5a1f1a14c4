"""Parts of the official training split that settings are tried out on (SLidR, Sautier et al., CVPR 2022).

The 100 scenes have as many of Singapore (44), rain (20) and night (12) as the validation split in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PARAMETRIZING", "VERIFYING", "expanded"]

PARAMETRIZING = "parametrizing"  # 600 scenes to train on
VERIFYING = "verifying"  # 100 to choose settings by
_HELD_OUT = (
    *(8, 9, 19, 29, 32, 42, 45, 49, 52, 54, 56, 66, 67, 73, 131, 152, 166, 168, 183, 190, 194),
    *(208, 210, 211, 241, 243, 248, 259, 260, 261, 287, 292, 297, 305, 306, 350, 352, 358, 361),
    *(365, 368, 377, 388, 391, 395, 413, 427, 428, 438, 444, 452, 453, 459, 463, 464, 475, 513),
    *(533, 544, 575, 587, 589, 642, 652, 658, 669, 678, 687, 701, 703, 706, 710, 715, 726, 735),
    *(740, 758, 786, 790, 804, 806, 847, 856, 868, 882, 897, 899, 976, 996, 1012, 1015, 1016),
    *(1018, 1020, 1024, 1044, 1058, 1094, 1098, 1107),
)


def expanded(names: Sequence[str], training: Sequence[str]) -> list[str]:
    """Names of scenes and scans, with the scenes of a part in place of its name.

    Args:
        training: names of the official split's scenes.
    """
    held_out = {f"scene-{number:04d}" for number in _HELD_OUT}
    found: list[str] = []
    for name in names:
        if name == VERIFYING:
            found += sorted(held_out)
        elif name == PARAMETRIZING:
            found += [scene for scene in training if scene not in held_out]
        else:
            found.append(name)
    return found

"""SLidR's parts of the official training split, against the devkit's list of scenes."""

from __future__ import annotations

from nuscenes.utils.splits import train, val

from core.datasets.nuscenes.parts import PARAMETRIZING, VERIFYING, expanded


def test_the_parts_are_the_training_split() -> None:
    parametrizing, verifying = (expanded([part], train) for part in (PARAMETRIZING, VERIFYING))
    assert (len(parametrizing), len(verifying)) == (600, 100)
    assert sorted(parametrizing + verifying) == sorted(train)
    assert not set(verifying) & set(val)
    assert verifying[0] == "scene-0008" and verifying[-1] == "scene-1107"


def test_other_names_stay_as_they_are() -> None:
    assert expanded(["scene-0061", "a token"], train) == ["scene-0061", "a token"]

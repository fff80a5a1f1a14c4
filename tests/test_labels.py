"""Label spaces against the published tables and nuscenes-devkit."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from core.labels import LABEL_SPACES, NUSCENES, SEMANTICKITTI, LabelSpace

# semantic-kitti-api's learning_map and learning_map_inv, written out by hand.
LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12,
    50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 253: 7, 254: 6, 255: 8,
    256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
LEARNING_MAP_INV = [0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]


def test_semantickitti_follows_the_official_maps():
    assert dict(SEMANTICKITTI.raw_to_train) == LEARNING_MAP
    assert list(SEMANTICKITTI.train_to_raw) == LEARNING_MAP_INV
    assert SEMANTICKITTI.num_classes == 20
    raw = np.array(list(LEARNING_MAP), np.uint32)
    np.testing.assert_array_equal(SEMANTICKITTI.to_train(raw, "x"), list(LEARNING_MAP.values()))
    np.testing.assert_array_equal(
        SEMANTICKITTI.to_raw(np.arange(20, dtype=np.uint8)), LEARNING_MAP_INV
    )


def test_semantickitti_colours_are_rgb():
    # The official YAML says car: [245, 150, 100] and building: [0, 200, 255], in BGR.
    assert SEMANTICKITTI.colors[SEMANTICKITTI.classes.index("car")].tolist() == [100, 150, 245]
    assert SEMANTICKITTI.colors[SEMANTICKITTI.classes.index("building")].tolist() == [255, 200, 0]


def test_nuscenes_follows_the_devkit():
    mapper_class = pytest.importorskip("nuscenes.eval.lidarseg.utils").LidarsegClassMapper
    mapper = mapper_class.__new__(
        mapper_class
    )  # its tables need no data on disk, its constructor does
    mapper.ignore_class = mapper.get_ignore_class()
    color_map = pytest.importorskip("nuscenes.utils.color_map").get_colormap()
    coarse = mapper.get_coarse2idx()
    assert NUSCENES.num_classes == 17
    assert {name: i for i, name in enumerate(NUSCENES.classes)} == coarse
    fine_to_coarse = mapper.get_fine2coarse()
    raw_names = list(color_map)  # the colour map lists the 32 categories in lidarseg's order
    expected = [coarse[fine_to_coarse[name]] for name in raw_names]
    np.testing.assert_array_equal(NUSCENES.to_train(np.arange(32, dtype=np.uint8), "x"), expected)
    for train in range(1, 17):
        own = [color_map[name] for name, index in zip(raw_names, expected) if index == train]
        assert tuple(NUSCENES.colors[train].tolist()) in own


def test_submission_ids_map_back():
    trains = np.arange(1, 20)
    np.testing.assert_array_equal(SEMANTICKITTI.to_train(SEMANTICKITTI.to_raw(trains), "x"), trains)
    # nuScenes' server takes the challenge's ids as they are.
    np.testing.assert_array_equal(NUSCENES.to_raw(np.arange(17)), np.arange(17))


@pytest.mark.parametrize("unknown", [2, 300, 65535])
def test_unknown_id_is_named_with_its_count(unknown):
    raw = np.array([10, unknown, 40, unknown], np.uint32)
    with pytest.raises(
        UserError, match=rf"00/labels/000001.label: label id {unknown} \(2 points\)"
    ):
        SEMANTICKITTI.to_train(raw, "00/labels/000001.label")


def test_fingerprints_tell_vocabularies_apart():
    assert SEMANTICKITTI.fingerprint != NUSCENES.fingerprint
    moved = dict(SEMANTICKITTI.raw_to_train) | {60: 0}
    other = LabelSpace(
        "x", SEMANTICKITTI.classes, SEMANTICKITTI.colors, moved, SEMANTICKITTI.train_to_raw
    )
    same = LabelSpace(
        "y", SEMANTICKITTI.classes, NUSCENES.colors, LEARNING_MAP, SEMANTICKITTI.train_to_raw
    )
    assert other.fingerprint != SEMANTICKITTI.fingerprint
    assert same.fingerprint == SEMANTICKITTI.fingerprint


def test_from_yaml(tmp_path):
    path = tmp_path / "farm.yaml"
    path.write_text("classes: [ignore, cow, grass]\nmap: {0: 0, 7: 1, 8: 2, 9: 2}\n")
    space = LabelSpace.from_yaml(path)
    assert (space.name, space.num_classes) == ("farm", 3)
    np.testing.assert_array_equal(
        space.to_train(np.array([9, 7, 0, 8], np.uint8), "x"), [2, 1, 0, 2]
    )
    np.testing.assert_array_equal(space.to_raw(np.array([0, 1, 2])), [0, 7, 8])
    assert space.colors.shape == (3, 3) and space.colors[0].tolist() == [0, 0, 0]
    assert len({tuple(c) for c in space.colors.tolist()}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [ignore, cow]", "needs the keys"),
        ("classes: [ignore]\nmap: {0: 0}", "2 to 256 names"),
        ("classes: [ignore, cow, cow]\nmap: {0: 0}", "twice"),
        ("classes: [ignore, cow]\nmap: {}", "raw id: train id"),
        ("classes: [ignore, cow]\nmap: {0: 2}", "train id 0..1"),
        ("classes: [ignore, cow]\nmap: {-1: 1}", "integer 0..65535"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0]]", "2 lists"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0], [0, 0, 256]]", "0..255"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0], [0]]", "colors"),
        ("classes: [ignore", "not valid YAML"),
    ],
)
def test_a_wrong_label_space_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        LabelSpace.from_yaml(path)
    assert str(path) in str(error.value)


def test_missing_label_space_names_the_built_in_ones(tmp_path):
    with pytest.raises(UserError) as error:
        LabelSpace.from_yaml(tmp_path / "none.yaml")
    assert all(name in str(error.value) for name in LABEL_SPACES)

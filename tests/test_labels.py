"""Label spaces against the published tables and nuscenes-devkit."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.labels import LABEL_SPACES, NUSCENES, SEMANTICKITTI, LabelSpace, Thing, label_space

# semantic-kitti-api's learning_map and learning_map_inv, written out by hand.
LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12,
    50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0, 252: 1, 253: 7, 254: 6, 255: 8,
    256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
LEARNING_MAP_INV = [0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]


# What checkpoints and submissions of earlier versions rest on, computed when the tables stood in Python:
# fingerprint, SHA-256 of the colours, submitted ids.
EARLIER = {
    "semantickitti": (
        "e740bfe5eb518f7b73f2a44009b85427ee3e5b17b5673d1a11e7fc14dfc3bb2c",
        "69ad44a112e8ffadf6bf572c77f9b16fe978fa59b7f52333c3c94bba9bb4b40c",
        (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81),
    ),
    "nuscenes": (
        "20622dd162cfd3b19e6e704bdb3e13be15fec98bb1addb88bbaf39d7ee58dc96",
        "7de35d1aec1463d194a80f8a0ad288252fc62566166d910d6db1b6f011098400",
        tuple(range(17)),
    ),
    "pandaset": (
        "9d7bc4d8706c0abe20ee6fd48a7be4d4201e69d7ee23e664b9f96547ea091c13",
        "6c4a2cf6d3c43cc76418434efa3d311407ee7037c68314399589db2b949137b0",
        (1, 13, 15, 23, 20, 18, 26, 30, 7, 11, 6, 5, 41, 35, 37, 36, 42),
    ),
}


@pytest.mark.parametrize("name", EARLIER)
def test_label_spaces_are_those_of_earlier_checkpoints(name):
    space = LABEL_SPACES[name]
    fingerprint, colors, submitted = EARLIER[name]
    assert (space.name, space.fingerprint, space.train_to_raw) == (name, fingerprint, submitted)
    assert space.colors.dtype == np.uint8
    assert hashlib.sha256(space.colors.tobytes()).hexdigest() == colors


def test_vehicles_are_those_corruptions_always_took():
    kitti = "car bicycle motorcycle truck other-vehicle bicyclist motorcyclist"
    assert SEMANTICKITTI.vehicles == tuple(kitti.split())
    nuscenes = "bicycle bus car construction_vehicle motorcycle trailer truck"
    assert NUSCENES.vehicles == tuple(nuscenes.split())
    pandaset = "car truck bus other-vehicle motorcycle bicycle"
    assert LABEL_SPACES["pandaset"].vehicles == tuple(pandaset.split())


def test_multiscan_follows_semantic_kitti_all():
    space = LABEL_SPACES["semantickitti_multiscan"]
    moving = {252: 20, 253: 21, 254: 22, 255: 23, 256: 24, 257: 24, 258: 25, 259: 24}
    assert dict(space.raw_to_train) == LEARNING_MAP | moving
    assert list(space.train_to_raw) == [*LEARNING_MAP_INV, 252, 253, 254, 255, 259, 258]
    assert space.classes[:20] == SEMANTICKITTI.classes and space.num_classes == 26
    assert space.classes[20:] == tuple(
        f"moving-{name}"
        for name in ("car", "bicyclist", "person", "motorcyclist", "other-vehicle", "truck")
    )
    trains = np.arange(26)
    np.testing.assert_array_equal(space.to_train(space.to_raw(trains), "x"), trains)
    assert space.things["moving-truck"] == space.things["truck"]


def test_moving_objects_follow_semantic_kitti_mos():
    space = LABEL_SPACES["semantickitti_mos"]
    expected = dict.fromkeys(LEARNING_MAP, 1) | {0: 0, 1: 0, 9: 1, 251: 2}
    expected |= dict.fromkeys(range(252, 260), 2)
    assert dict(space.raw_to_train) == expected
    assert space.train_to_raw == (0, 9, 251)
    assert space.classes == ("ignore", "static", "moving")


def test_what_could_move_is_a_class_of_its_own():
    space, official = LABEL_SPACES["semantickitti_movable"], LABEL_SPACES["semantickitti_mos"]
    movable = {10, 11, 13, 15, 16, 18, 20, 30, 31, 32, 250}
    for raw, train in space.raw_to_train.items():
        rests = official.raw_to_train.get(raw, 1)
        assert train == (2 if raw in movable else {0: 0, 1: 1, 2: 3}[rests])
    assert space.raw_to_train.keys() == official.raw_to_train.keys() | {250}
    assert space.train_to_raw == (0, 9, 9, 251)
    assert space.classes == ("ignore", "static", "movable", "moving")


def test_fingerprints_of_all_label_spaces_differ():
    assert len({space.fingerprint for space in LABEL_SPACES.values()}) == len(LABEL_SPACES) == 7


def test_label_spaces_are_found_from_anywhere_and_read_when_asked_for(tmp_path):
    code = (
        "import core.labels as labels\n"
        "assert 'SEMANTICKITTI' not in vars(labels) and not labels._read_built_in.cache_info().currsize\n"
        "from core.labels import SEMANTICKITTI, label_space\n"
        "assert label_space('semantickitti') is SEMANTICKITTI\n"
        "assert labels._read_built_in.cache_info().currsize == 1\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, check=True
    )
    assert pickle.loads(pickle.dumps(SEMANTICKITTI)) == SEMANTICKITTI
    with pytest.raises(ImportError):
        from core.labels import MARS  # noqa: F401


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
    assert label_space(str(path)) == space and space.format == "npy" and not space.things


def test_own_label_space_with_all_keys(tmp_path):
    path = tmp_path / "farm.yaml"
    path.write_text(
        "classes: [ignore, cow, car, grass]\nmap: {0: 0, 7: 1, 8: 2, 9: 3}\nsubmit: [0, 70, 8, 9]\n"
        "vehicles: [cow]\nthings: {cow: {min_points: 5, ground: [grass]}}\nformat: semantickitti\n"
    )
    space = LabelSpace.from_yaml(path)
    assert space.to_raw(np.array([1, 2])).tolist() == [70, 8]
    assert space.vehicles == ("cow",) and space.format == "semantickitti"
    assert space.things == {"cow": Thing(5, ("grass",))}


def test_without_a_word_on_vehicles_their_usual_names_count(tmp_path):
    path = tmp_path / "farm.yaml"
    path.write_text("classes: [ignore, cow, car, trailer]\nmap: {0: 0}\n")
    assert LabelSpace.from_yaml(path).vehicles == ("car", "trailer")


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
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0], [1, 2, 3.5]]", "colors"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0], [1, 2, '3']]", "colors"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: [[0, 0, 0], [1, 2, -1]]", "colors"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolors: 7", "colors"),
        ("classes: [ignore, [cow]]\nmap: {0: 0}", "no name"),
        ("classes: [ignore, true]\nmap: {0: 0}", "True, which is no name"),
        ("classes: [ignore, ~]\nmap: {0: 0}", "None, which is no name"),
        ("classes: [ignore, 1, '1']\nmap: {0: 0}", "twice"),
        ("classes: [ignore, cow]\nmap: {010: 1}", "'010'; expected an integer.*leading zeros"),
        ("classes: [ignore, cow]\nmap: {true: 1}", "raw id True"),
        ("classes: [ignore, cow]\nmap: {0: true}", "to True"),
        ("classes: [ignore, cow]\nmap: {0: 0}\nsubmit: [0, true]", "'submit' must list 2"),
        (
            "classes: [ignore, cow]\nmap: {0: 0}\nthings: {cow: {min_points: true, ground: [cow]}}",
            "'things.cow' is",
        ),
        ("classes: [ignore", "not valid YAML"),
        ("classes: [ignore, cow]\nmap: {0: 0, 0: 1}", "'map.0' is written twice"),
        ("classes: [ignore, cow]\nmap: {0: 0}\ncolours: []", "no key 'colours'.*'colors'"),
        ("classes: [ignore, cow]\nmap: {0: 0}\nsubmit: [0]", "'submit' must list 2"),
        ("classes: [ignore, cow]\nmap: {0: 0}\nvehicles: [cwo]", "'cwo'.*Did you mean 'cow'"),
        ("classes: [ignore, cow]\nmap: {0: 0}\nthings: {cow: 5}", "'things.cow' is 5"),
        (
            "classes: [ignore, cow]\nmap: {0: 0}\nthings: {cow: {min_points: 5, ground: [sea]}}",
            "'things.cow.ground' names 'sea'",
        ),
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


def test_own_label_space_names_its_file_in_the_cure_and_takes_a_default(tmp_path):
    path = tmp_path / "ls.yaml"
    path.write_text("classes: [ignore, road]\nmap: {0: 0, 40: 1}\n")
    strict = LabelSpace.from_yaml(path)
    raw = np.array([40, 50, 60_000], np.uint16)
    with pytest.raises(UserError, match=f"Add it to 'map:' in {path} .* 'default: 0'"):
        strict.to_train(raw, "a.label")
    path.write_text("classes: [ignore, road]\nmap: {0: 0, 40: 1}\ndefault: 0\n")
    lax = LabelSpace.from_yaml(path)
    assert lax.to_train(raw, "a.label").tolist() == [1, 0, 0]
    assert lax.fingerprint != strict.fingerprint
    for wrong in ("2", "road", "true", "-1"):
        path.write_text(f"classes: [ignore, road]\nmap: {{0: 0, 40: 1}}\ndefault: {wrong}\n")
        with pytest.raises(UserError, match=r"'default' is .* expected a train id 0\.\.1"):
            LabelSpace.from_yaml(path)

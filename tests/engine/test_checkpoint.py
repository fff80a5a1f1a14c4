"""Checkpoints survive kills, damage and strangers."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from loguru import logger
from torch import nn

from core import io
from core.decode import read_json
from core.engine.run import store as module
from core.engine.run.checkpoint import (
    BEST,
    OLD_BEST,
    find_checkpoint,
    load_weights,
    random_state,
    read_checkpoint,
    restore_random_state,
)
from core.engine.run.run_dir import RunDir
from core.engine.run.store import CheckpointStore
from core.engine.run.trained import read_network
from core.errors import UserError
from core.io import sha256


class Killed(BaseException):
    """Stands for the end of the process."""


def state(step: int) -> dict:
    return {"global_step": step, "model": {"w": torch.full((3,), float(step))}, "best": (step, 0.5)}


def files(store: CheckpointStore) -> list[str]:
    return sorted(p.name for p in store.folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def warnings():
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(sink)


# --- saving ---------------------------------------------------------------------------------------------------------
def test_empty_folder(store: CheckpointStore) -> None:
    assert store.newest() is None and store.manifest() == {}


def test_save_and_read_the_newest(store: CheckpointStore) -> None:
    path = store.save(state(7))
    found, loaded = store.newest()
    assert found == path == store.folder / "step-00000007.pt"
    assert loaded["global_step"] == 7 and loaded["best"] == (7, 0.5)
    assert torch.equal(loaded["model"]["w"], torch.full((3,), 7.0))


def test_manifest_names_every_file_with_its_hash_and_step(store: CheckpointStore) -> None:
    store.save(state(1), best=["max-iou.pt"])
    store.save(state(2))
    manifest = read_json(store.folder / "manifest.json")
    assert {name: entry["step"] for name, entry in manifest.items()} == {
        "step-00000001.pt": 1,
        "step-00000002.pt": 2,
        "last.pt": 2,
        "max-iou.pt": 1,
    }
    assert all(entry["sha256"] == sha256(store.folder / name) for name, entry in manifest.items())


def test_the_two_newest_states_and_the_best_are_kept(store: CheckpointStore) -> None:
    for step in range(1, 6):
        store.save(state(step), best=["max-iou.pt"] if step == 2 else ())
    assert files(store) == [
        "last.pt",
        "manifest.json",
        "max-iou.pt",
        "step-00000004.pt",
        "step-00000005.pt",
    ]
    assert sorted(store.manifest()) == [
        "last.pt",
        "max-iou.pt",
        "step-00000004.pt",
        "step-00000005.pt",
    ]
    assert read_checkpoint(store.folder / "max-iou.pt")["global_step"] == 2
    assert read_checkpoint(store.folder / "last.pt")["global_step"] == 5


def test_links_cost_no_disk_and_a_better_best_replaces_the_old(store: CheckpointStore) -> None:
    store.save(state(1), best=["max-iou.pt"])
    path = store.save(state(2), best=["max-iou.pt"])
    assert (store.folder / "last.pt").samefile(path) and (store.folder / "max-iou.pt").samefile(
        path
    )


def test_file_system_without_hard_links(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(module.os, "link", refuse)
    path = store.save(state(1))
    assert not (store.folder / "last.pt").samefile(path)
    assert sha256(store.folder / "last.pt") == sha256(path)


def test_the_same_step_may_be_saved_again(store: CheckpointStore) -> None:
    store.save(state(3))
    store.save(state(3) | {"more": 1}, best=["max-iou.pt"])
    assert store.newest()[1]["more"] == 1
    assert files(store) == ["last.pt", "manifest.json", "max-iou.pt", "step-00000003.pt"]


# --- damage ---------------------------------------------------------------------------------------------------------
def truncate(path: Path) -> None:
    """In place of the inode, as a dying disk would; the links share it."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damaged_newest_is_reported_and_the_one_before_is_used(store, warnings, damage) -> None:
    store.save(state(1))
    damage(store.save(state(2)))
    path, loaded = store.newest()
    assert loaded["global_step"] == 1 and path.name == "step-00000001.pt"
    assert len(warnings) == 1 and "step-00000002.pt is damaged or missing" in warnings[0]
    assert "going on from" in warnings[0] and "step-00000001.pt" in warnings[0]


def test_whole_newest_says_nothing(store: CheckpointStore, warnings: list[str]) -> None:
    store.save(state(1))
    store.newest()
    assert warnings == []


def test_all_damaged(store: CheckpointStore) -> None:
    truncate(store.save(state(1)))
    truncate(store.save(state(2)))
    with pytest.raises(
        UserError, match=r"step-00000002\.pt is damaged.*step-00000001\.pt is damaged"
    ) as caught:
        store.newest()
    assert "--run-dir" in caught.value.cure


def test_training_goes_on_after_damage(store: CheckpointStore) -> None:
    store.save(state(10))
    truncate(store.save(state(20)))
    store.save(state(15))  # continued from 10 with another save_every
    assert store.newest()[1]["global_step"] == 15
    store.save(state(20))
    assert store.newest()[1]["global_step"] == 20


# --- lost files -----------------------------------------------------------------------------------------------------
def whole(step: int) -> dict:
    """A state as trainings save it, without which nothing is adopted."""
    return state(step) | {"epoch_num": 1}


def lose(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    path.write_text('{"step-1.pt": 3}')


@pytest.mark.parametrize("damage", [lose, spoil])
def test_a_lost_manifest_is_written_anew_from_what_can_be_read(
    store: CheckpointStore, warnings: list[str], damage
) -> None:
    store.save(whole(1), best=["best.pt"])
    store.save(whole(2))
    before = store.manifest()
    damage(store.manifest_path)
    assert store.started() and store.newest()[1]["global_step"] == 2
    store.tidy()
    assert store.manifest() == before
    assert any("written anew" in line for line in warnings)


def test_without_manifest_a_damaged_checkpoint_is_passed_over(store: CheckpointStore) -> None:
    store.save(whole(1))
    path = store.save(whole(2))
    (store.folder / "last.pt").unlink()
    truncate(path)
    store.manifest_path.unlink()
    assert store.newest()[1]["global_step"] == 1
    store.tidy()
    assert list(store.manifest()) == ["step-00000001.pt"]


def test_a_lost_manifest_and_nothing_to_read_is_no_new_run(store: CheckpointStore) -> None:
    truncate(store.save(whole(1)))
    store.manifest_path.unlink()
    with pytest.raises(UserError, match="damaged or missing"):
        store.newest()
    with pytest.raises(UserError, match="none of the 2 checkpoints can be read"):
        store.tidy()


def test_lost_links_come_back_and_old_states_go(store: CheckpointStore) -> None:
    path = store.save(whole(5), best=["best.pt"])
    (store.folder / "best.pt").unlink()
    for name in ("step-00000003.pt", "step-00000009.pt"):
        (store.folder / name).write_bytes(path.read_bytes())
    store.tidy()
    assert (store.folder / "best.pt").samefile(path)
    names = sorted(path.name for path in store.folder.glob("step-*"))
    assert names == ["step-00000005.pt", "step-00000009.pt"], "newer ones are nobody's to remove"


def test_a_state_file_that_is_gone_is_made_from_its_twin(store: CheckpointStore) -> None:
    store.save(whole(4)).unlink()
    assert store.newest()[0].name == "last.pt" and store.newest()[1]["global_step"] == 4
    store.tidy()
    assert (store.folder / "step-00000004.pt").is_file()


def test_names_of_a_manifest_lead_nowhere_else(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(whole(4))
    entry = store.manifest()["last.pt"]
    victim = tmp_path / "victim.pt"
    io.write_json(store.manifest_path, {"../victim.pt": entry, "step-/../../victim.pt": entry})
    victim.write_bytes(b"mine")
    store.tidy()
    assert victim.read_bytes() == b"mine"


# --- kills ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3, 4])  # step file, last.pt, best, manifest
def test_kill_at_any_rename_leaves_a_state_to_load(
    store, monkeypatch, call: int, after: bool
) -> None:
    store.save(state(1))
    store.save(state(2))
    replace, count = os.replace, [0]

    def dying(source, target) -> None:
        count[0] += 1
        if count[0] == call and not after:
            raise Killed
        replace(source, target)
        if count[0] == call:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "replace", dying)
        with pytest.raises(Killed):
            store.save(state(3), best=["max-iou.pt"])
    assert count[0] == call
    assert store.newest()[1]["global_step"] == (3 if (call, after) == (4, True) else 2)
    store.save(state(3), best=["max-iou.pt"])
    assert store.newest()[1]["global_step"] == 3
    assert read_checkpoint(store.folder / "max-iou.pt")["global_step"] == 3


def test_kill_before_old_states_are_removed(store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(state(1))
    store.save(state(2))

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", die)
        with pytest.raises(Killed):
            store.save(state(3))
    assert store.newest()[1]["global_step"] == 2


def test_left_over_temporary_files_are_no_checkpoints(store: CheckpointStore) -> None:
    store.save(state(1))
    (store.folder / ".step-00000002.pt.abc.tmp").write_bytes(b"half")
    assert store.newest()[1]["global_step"] == 1


# --- the best -------------------------------------------------------------------------------------------------------
def test_a_run_folder_stands_for_its_best_checkpoint(store: CheckpointStore) -> None:
    run = store.folder.parent
    store.save(state(1), best=[OLD_BEST])
    assert find_checkpoint(run, "key 'x'") == store.folder / OLD_BEST, "of a run before best.pt"
    path = store.save(state(2), best=[BEST, OLD_BEST])
    for given in (run, store.folder, store.folder / BEST):
        assert find_checkpoint(given, "key 'x'") == store.folder / BEST
    assert find_checkpoint(path, "key 'x'") == path
    assert RunDir(run).best().samefile(store.folder / OLD_BEST)


def test_what_is_there_is_listed_and_the_nearest_is_offered(store: CheckpointStore) -> None:
    store.save(state(7))
    with pytest.raises(UserError, match=r"lst\.pt, --checkpoint: no such file") as caught:
        find_checkpoint(store.folder / "lst.pt", "--checkpoint")
    cure = str(caught.value.cure)
    assert "Did you mean last.pt?" in cure and "step-00000007.pt (step 7)" in cure
    with pytest.raises(UserError, match=r"no checkpoints/best\.pt") as caught:
        find_checkpoint(store.folder.parent, "--checkpoint")
    assert "last.pt (step 7)" in str(caught.value.cure)


def test_a_path_to_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder") as caught:
        find_checkpoint(tmp_path / "no" / "run", "key 'teacher_pretrain'")
    assert "folder of a run" in str(caught.value.cure)


# --- reading --------------------------------------------------------------------------------------------------------
def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: this checkpoint does not exist"):
        read_checkpoint(tmp_path / "none.pt")


class Trap:
    """Runs a shell command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_untrusted_pickle_never_runs(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    torch.save({"model": {}, "x": Trap(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"evil\.pt: this checkpoint is damaged, cut short, or not made by"
    ):
        read_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the trap itself works"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04" + bytes(50), b"K\x01.", b"0", b"u.", b"J"]
)
def test_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.pt"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_damage_is_always_a_user_error_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    plain = {"model": {"w": [1.5, 2]}, "best": ("a", None, True), "step": 70000}
    torch.save(
        plain, path, _use_new_zipfile_serialization=False
    )  # no checksums: the unpickler sees the damage
    good, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}])
def test_torch_file_without_a_model(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="no 'model' entry"):
        read_checkpoint(tmp_path / "odd.pt")


# --- weights --------------------------------------------------------------------------------------------------------
def net(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_load_weights(prefix: str) -> None:
    source, target = net(), net()
    load_weights(
        target, {prefix + key: value for key, value in source.state_dict().items()}, "somewhere"
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(source.state_dict().values(), target.state_dict().values())
    )


def test_load_weights_names_what_does_not_fit_and_changes_nothing() -> None:
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = net(width=3).state_dict()
    del weights["1.running_var"]
    weights["extra"] = torch.zeros(1)
    weights["0.weight"] = torch.zeros(5, 2)
    with pytest.raises(UserError) as caught:
        load_weights(model, weights, "teacher.pt")
    message = str(caught.value)
    assert message.startswith("teacher.pt: these weights belong to another model")
    assert "1 missing (1.running_var)" in message and "1 unknown (extra)" in message
    assert "1 of another shape (0.weight is (5, 2) in the file and (3, 2) in the model)" in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_long_lists_of_keys_are_cut() -> None:
    with pytest.raises(
        UserError, match=re.escape("7 missing (0.bias, 0.weight, 1.bias and 4 more)")
    ):
        load_weights(net(), {}, "empty.pt")


# --- random generators ----------------------------------------------------------------------------------------------
def draw() -> tuple:
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(2).tolist(),
    )


def test_random_state_round_trip_through_a_file(store: CheckpointStore) -> None:
    outside = random_state()
    try:
        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        draw()  # leaves half a pair of normal numbers in the generators
        store.save(state(1) | {"random": [random_state()]})
        expected = draw()
        draw()
        assert draw() != expected
        restore_random_state(store.newest()[1]["random"][0])
        assert draw() == expected
    finally:
        restore_random_state(outside)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model", 5, "'model' holds something else than tensors"),
        ("model", {"a": 1.5}, r"tensors by name \('a'\)"),
        ("model", {7: torch.zeros(1)}, r"tensors by name \(7\)"),
        ("training_only", [torch.zeros(1)], "'training_only' holds"),
        ("identity", [1], "belongs to is damaged"),
        ("identity", {"config": 5}, "key 'config'"),
        ("identity", {"classes": "abc"}, "key 'classes'"),
        ("identity", {"fingerprint": 5}, "key 'fingerprint'"),
        ("identity", {"teacher": "x"}, "key 'teacher'"),
    ],
)
def test_a_checkpoint_of_wrong_types_names_the_entry(
    tmp_path: Path, key: str, value: object, match: str
) -> None:
    state = {"model": {"a": torch.zeros(1)}, "identity": {"classes": ["ignore"]}, key: value}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=match) as caught:
        read_network(tmp_path / "a.pt", "--checkpoint")
    assert "a.pt" in str(caught.value.where)


@pytest.mark.parametrize("key", ["dataset", "data", "model"])
def test_a_section_of_a_checkpoint_that_is_none_is_named(tmp_path: Path, key: str) -> None:
    state = {"model": {"a": torch.zeros(1)}, "identity": {"config": {key: 1.5}}}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"key '{key}' has the value 1.5"):
        _ = read_network(tmp_path / "a.pt", "--checkpoint").config

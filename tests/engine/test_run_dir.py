"""Run directories: whose they are, and what their logs hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from folder_world import write_world

from core.config import Config, load_config
from core.engine.run import run_dir as module
from core.engine.run.distributed import World, sole_job
from core.engine.run.run_dir import RunDir, default_run_dir, flatten, git_state
from core.engine.train import jobs
from core.errors import UserError

TREE = {
    "num_epochs": 3,
    "workers_per_gpu": 2,
    "model": {"name": "minkunet", "cr": 0.5},
    "dataset": {"name": "folder", "root": "here"},
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999]},
}


def config(**changes: object) -> Config:
    """``TREE`` with dotted keys changed; None takes a key away."""
    result = Config()
    result.merge(TREE, "file")
    for key, value in changes.items():
        parent, _, leaf = key.replace("__", ".").rpartition(".")
        result.merge({leaf: value}, "command line", parent)
        if value is None:
            del (result.tree[parent] if parent else result.tree)[leaf]
    return result


@pytest.fixture(autouse=True)
def no_log_left_open(monkeypatch: pytest.MonkeyPatch):
    """Close the log files that opening a run directory adds to the process's logger."""
    sinks, add = [], module.logger.add
    monkeypatch.setattr(module.logger, "add", lambda *a, **k: sinks.append(add(*a, **k)))
    yield
    for sink in sinks:
        module.logger.remove(sink)


@pytest.fixture
def started(tmp_path: Path) -> RunDir:
    """A run that has saved a checkpoint."""
    run = RunDir(tmp_path / "run")
    run.open(config(), World())
    run.checkpoints.save({"global_step": 1, "model": {}})
    return run


# --- whose it is ----------------------------------------------------------------------------------------------------
def test_open_writes_configuration_code_state_and_log(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.open(config(), World())
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == TREE
    assert json.loads((run.path / "git.json").read_text())["torch"] == torch.__version__
    assert len(list((run.path / "log").glob("*.log"))) == 1


def test_other_ranks_write_their_log_only(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.open(config(), World(rank=3, size=4))
    assert [p.name for p in run.path.iterdir()] == ["log"]
    assert [p.name.endswith("_0003.log") for p in (run.path / "log").iterdir()] == [True]


def test_same_configuration_may_go_on(started: RunDir) -> None:
    started.open(config(), World())


def test_other_configuration_is_refused_by_key(started: RunDir) -> None:
    with pytest.raises(UserError) as caught:
        started.open(config(model__cr=1.0, num_epochs=None, criterion__w_ce=2), World())
    message = str(caught.value)
    assert "model.cr was 0.5 and is 1.0" in message
    assert "num_epochs was 3 and is 'not set'" in message
    assert "criterion.w_ce was 'not set' and is 2" in message
    assert caught.value.where == str(started.path) and "--run-dir" in caught.value.cure
    assert yaml.safe_load((started.path / "config.yaml").read_text()) == TREE, (
        "the refused one is not written"
    )


def test_every_rank_refuses(started: RunDir) -> None:
    with pytest.raises(UserError, match=r"model\.cr was 0\.5 and is 1\.0"):
        started.open(config(model__cr=1.0), World(rank=1, size=2))


def test_long_lists_of_differences_are_cut(started: RunDir) -> None:
    changes = {f"extra__k{i}": i for i in range(6)}
    with pytest.raises(UserError, match=r"extra\.k3 was 'not set' and is 3 and 2 more"):
        started.open(config(**changes), World())


@pytest.mark.parametrize(
    "change",
    [
        {"workers_per_gpu": 0},
        {"dataset__root": "elsewhere"},
        {"eval__pictures": 0},
        {"train__save_every": 7},
        {"train__save_epochs": 7},
        {"train__max_nonfinite_steps": 1},
        {"amp__enabled": "auto"},
        {"dataset__partial": True},
    ],
)
def test_keys_that_alter_no_result_are_free(started: RunDir, change: dict) -> None:
    started.open(config(**change), World())
    saved = flatten(yaml.safe_load((started.path / "config.yaml").read_text()))
    key, value = next(iter(change.items()))
    assert saved[key.replace("__", ".")] == value


def test_more_epochs_are_told_their_key(started: RunDir) -> None:
    with pytest.raises(UserError, match=r"num_epochs was .*--train\.init_from"):
        started.open(config(num_epochs=99), World())


@pytest.mark.parametrize("key", ["dataset__root_mirror", "workers_per_gpu_more"])
def test_free_keys_are_whole_keys(started: RunDir, key: str) -> None:
    with pytest.raises(UserError, match="another configuration"):
        started.open(config(**{key: 1}), World())


def test_folder_without_checkpoints_takes_any_configuration(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.open(config(), World())
    run.open(config(model__cr=1.0), World())
    assert yaml.safe_load((run.path / "config.yaml").read_text())["model"]["cr"] == 1.0


def test_what_a_kill_left_of_a_checkpoint_goes_away(started: RunDir) -> None:
    left = started.checkpoints.folder / ".step-00000002.pt.k3l_9xyz.tmp"
    left.touch()
    with sole_job(World(rank=1, size=2), started.path, "--run-dir"):
        assert left.exists(), "another rank may be late"
    with sole_job(World(), started.path, "--run-dir"):
        started.open(config(), World())
    assert not left.exists() and started.checkpoints.newest() is not None


def test_default_run_dir() -> None:
    folders = {path: str(default_run_dir(config(), path)) for path in (
        "configs/folder/small_net.yaml", "configs/synthetic/teacher.yaml", "here/configs/kitti/a/full.yaml",
        "configs/kitti/b/full.yaml", "mine.yaml", "configs/mine.yaml",
    )}  # fmt: skip
    assert list(folders.values()) == [
        "runs/folder/small_net", "runs/synthetic/teacher", "runs/kitti/a/full",
        "runs/kitti/b/full", "runs/folder/mine", "runs/folder/mine",
    ]  # fmt: skip


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2, {"e": 3}]}, "f": None}) == {
        "a.b.c": 1,
        "a.d": [2, {"e": 3}],
        "f": None,
    }


def test_git_state_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state() == {}


# --- lost files -----------------------------------------------------------------------------------------------------
def test_without_config_yaml_the_checkpoint_s_is_compared(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.open(config(), World())
    run.checkpoints.save({"global_step": 1, "model": {}, "identity": {"config": TREE}})
    (run.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"model\.cr was 0\.5 and is 1\.0"):
        run.open(config(model__cr=1.0), World())
    run.open(config(), World())
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == TREE


def test_without_any_configuration_it_is_not_gone_on_with(started: RunDir) -> None:
    (started.path / "config.yaml").unlink()
    with pytest.raises(UserError, match="not the configuration of a run"):
        started.open(config(), World())


def test_a_run_without_manifest_is_still_a_run(started: RunDir) -> None:
    started.checkpoints.manifest_path.unlink()
    with pytest.raises(UserError, match="another configuration"):
        started.open(config(model__cr=1.0), World())
    started.open(config(), World())
    assert "last.pt" in started.checkpoints.manifest()


def test_more_epochs_are_told_how(started: RunDir) -> None:
    with pytest.raises(UserError, match=r"--train\.init_from"):
        started.open(config(num_epochs=9), World())


# --- scalars --------------------------------------------------------------------------------------------------------
def write_lines(run: RunDir, steps: list[int], tail: str = "") -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"global_step": step, "loss/total": 0.1 * step}) + "\n" for step in steps]
    run.scalars.write_text("".join(lines) + tail)


def test_history_of_a_run_that_never_stepped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.history() == []
    run.rewind(5)
    assert not run.scalars.exists()


@pytest.mark.parametrize(
    "tail", ["", '{"global_st', '{"global_step": 3, "loss/total": 0.', "{", '{"a": 1}}\n']
)
def test_line_cut_short_by_a_kill_is_left_out(tmp_path: Path, tail: str) -> None:
    run = RunDir(tmp_path)
    write_lines(run, [1, 2], tail)
    assert [record["global_step"] for record in run.history()] == [1, 2]


def test_rewind_drops_what_comes_after_the_checkpoint_and_the_cut_off_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_lines(run, [1, 2, 2, 3, 4], '{"global_step": 5')
    kept = run.history()[:3]
    run.rewind(2)
    assert run.history() == kept
    with open(run.scalars, "a") as stream:  # as the training goes on
        stream.write(json.dumps({"global_step": 3}) + "\n")
    assert [record["global_step"] for record in run.history()] == [1, 2, 2, 3]


def test_run_killed_before_its_first_checkpoint_starts_its_scalars_over(
    tmp_path: Path, monkeypatch
) -> None:
    class Started(Exception):
        """The training would begin now."""

    def start(*_: object) -> None:
        raise Started

    run = RunDir(tmp_path / "run")
    write_lines(run, [1, 2], '{"global_st')
    monkeypatch.setattr(jobs, "_fit", start)
    with pytest.raises(Started):
        jobs.train_teacher(World(), load_config(write_world(tmp_path / "scans")), run.path)
    assert run.scalars.read_text() == ""


def test_scores_that_are_not_finite_survive(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.scalars.write_text('{"global_step": 1, "iou/val-vox": NaN}\n')
    run.rewind(1)
    assert (
        len(run.history()) == 1
        and run.history()[0]["iou/val-vox"] != run.history()[0]["iou/val-vox"]
    )

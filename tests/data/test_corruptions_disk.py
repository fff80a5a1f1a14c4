"""Corrupted scans on disk: the same points as on the fly, going on after a kill, and folders as they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corruption_scenes import street

from core.data.corruptions import CorruptedScans, Scanner, chosen, published
from core.data.corruptions.__main__ import main
from core.data.corruptions.write import write_corrupted
from core.datasets.semantickitti import SemanticKITTI, SemanticKITTIConfig
from core.errors import UserError
from core.labels import SEMANTICKITTI

KINDS = ["fog_heavy", "local", "sparse_16beam"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequence 08 of three small scans."""
    folder = tmp_path / "kitti/sequences/08"
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True)
    for frame in range(3):
        scan = street(columns=30, seed=frame)
        np.column_stack([scan.xyz, scan.intensity]).astype("<f4").tofile(
            folder / f"velodyne/{frame:06d}.bin"
        )
        ids = SEMANTICKITTI.to_raw(scan.labels).astype("<u4") | (scan.labels == 1).astype("<u4") * (
            7 << 16
        )
        ids.tofile(folder / f"labels/{frame:06d}.label")
    return tmp_path / "kitti"


@pytest.fixture
def clean(root: Path) -> SemanticKITTI:
    return SemanticKITTI(SemanticKITTIConfig(name="semantickitti", root=root), "val")


def test_files_hold_what_is_made_on_the_fly(clean: SemanticKITTI, tmp_path: Path) -> None:
    corruptions = chosen("semantickitti-c", KINDS)
    assert write_corrupted(clean, corruptions, tmp_path / "c", seed=4) == 3 * len(corruptions)
    for corruption in corruptions:
        made = CorruptedScans(clean, corruption, Scanner.of(clean), seed=4)
        read = published(tmp_path / "c", corruption)
        assert [read.token(i) for i in range(len(read))] == [
            made.token(i) for i in range(len(made))
        ]
        assert read.labels.classes == SEMANTICKITTI.classes
        for index in range(3):
            one, other = made.load(index, cameras=False), read.load(index, cameras=False)
            assert np.array_equal(one.xyz, other.xyz) and np.array_equal(
                one.intensity, other.intensity
            )
            assert np.array_equal(one.labels, other.labels) and np.array_equal(
                one.instances, other.instances
            )


def test_a_killed_command_goes_on(clean: SemanticKITTI, tmp_path: Path) -> None:
    corruptions = chosen("semantickitti-c", ["fog_heavy", "global_light"])
    write_corrupted(clean, corruptions, tmp_path / "c")
    lost = tmp_path / "c/fog_heavy/sequences/08/velodyne/000001.bin"
    before = lost.read_bytes()
    lost.unlink()
    assert write_corrupted(clean, corruptions, tmp_path / "c") == 1
    assert lost.read_bytes() == before
    assert (
        write_corrupted(
            clean, chosen("semantickitti-c", ["dense_16beam"]), tmp_path / "c", workers=2
        )
        == 3
    )
    with pytest.raises(UserError, match="another profile or seed"):
        write_corrupted(clean, corruptions, tmp_path / "c", seed=1)


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"dataset: {{name: semantickitti, root: {root}}}\n")
    arguments = [
        str(config),
        "--out",
        str(tmp_path / "out"),
        "--profile",
        "robo3d",
        "--kinds",
        "crosstalk",
    ]
    main([*arguments, "--workers", "1"])
    assert "9 corrupted scans written, 3 corruptions" in capsys.readouterr().out
    assert len(list((tmp_path / "out/crosstalk/heavy/sequences/08/velodyne").iterdir())) == 3
    main([*arguments, "--workers", "1"])
    assert "0 corrupted scans written (9 were there before)" in capsys.readouterr().out
    with pytest.raises(UserError, match="no corruption haze"):
        main([str(config), "--out", str(tmp_path / "x"), "--kinds", "haze"])


def test_published_folders_have_no_sequences(tmp_path: Path) -> None:
    """As the benchmarks ship them, with Robo3D's ids of corrupted points."""
    (fog,) = chosen("robo3d", ["fog_heavy"])
    folder = tmp_path / "fog/heavy"
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True)
    np.arange(16, dtype="<f4").tofile(folder / "velodyne/000007.bin")
    np.array([21, 40, 252, 23], "<u4").tofile(folder / "labels/000007.label")
    scans = published(tmp_path, fog)
    assert [scans.token(i) for i in range(len(scans))] == ["000007"]
    assert scans.load(0).labels.tolist() == [0, 9, 1, 0]
    with pytest.raises(UserError, match=r"does not exist.*--robustness-root"):
        published(tmp_path, chosen("robo3d", ["fog_light"])[0])

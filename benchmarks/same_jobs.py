"""The jobs of ``benchmarks/same_numbers.py``: every network, method, reader and output once, as small as they go.

Commands are those of the public command line, and the keys of the configurations are documented ones, so a checkout
from before a redesign understands them as well as one from after it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

__all__ = ["JOBS", "WORLDS", "Command", "Job"]

Tree = dict[str, Any]

WORLDS = {  # name -> what prepare_synthetic.py is asked for
    "nuscenes": "--scenes 3 --val-scenes 1 --keyframes 2 --image-scale 0.06 --lidar-scale 0.12",
    "semantickitti": "--scenes 2 --val-scenes 1 --keyframes 4 --image-scale 0.1 --lidar-scale 0.12",
}


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        line: a script of the checkout, or ``-m module``, and its arguments. ``{config}`` and ``{out}`` stand for the
            job's configuration and folder.
        launcher: how it is started; both launchers start two processes.
        kill_after: kill -9 once this many training steps are logged in ``{out}/scalars.jsonl``.
    """

    line: str
    launcher: str | None = None  # dist-run | torchrun
    kill_after: int | None = None


@dataclass(frozen=True)
class Job:
    """Commands that run one after another in both checkouts.

    Attributes:
        name: also the name of its folder.
        config: its configuration.
        commands: what runs.
        given: jobs whose best checkpoint, as the old checkout wrote it, both get as ``given/<job>.pt``.
        real: it reads real PandaSet frames.
        handed_over: the new checkout goes on with what the old one's first command left behind.
    """

    name: str
    config: Tree
    commands: tuple[Command, ...]
    given: tuple[str, ...] = field(default=())
    real: bool = False
    handed_over: bool = False


# --- pieces of configurations ---------------------------------------------------------------------------------------
NUSCENES = {"name": "nuscenes", "root": "worlds/nuscenes", "version": "v1.0-mini"}
NUSCENES_SWEEPS = NUSCENES | {"multisweeps": {"num_sweeps": 1, "only_past": False}}
NUSCENES_INSTANCES = NUSCENES | {"instances": True}
KITTI = {"name": "semantickitti", "root": "worlds/semantickitti"}
KITTI_SWEEPS = KITTI | {"multisweeps": {"num_sweeps": 1, "only_past": True}}
KITTI_LABELLED = KITTI | {"multisweeps": {"num_sweeps": 1, "only_past": False, "labelled": True}}
FOLDER = {
    "name": "folder",
    "root": "worlds/folder",
    "scans": "*.bin",
    "labels": "{stem}.label",
    "point_fields": 4,
    "label_dtype": "uint32",
    "label_space": "semantickitti",
    "split": {"train": [0, 7], "val": [8, 9]},
}
PANDASET = {
    "name": "pandaset",
    "root": "worlds/pandaset",
    "cameras": ["front_camera"],
    "frames": {"train": {"001": [0, 1]}, "val": {"002": [2, 2]}},
}
PANDASET_DATA = {"voxel_size": 0.6, "intensity_divisor": 255, "label_vote": "majority"}

WINDOWS = {"window_size": 2.4, "window_size_sphere": [10.0, 10.0, 80.0], "drop_path_rate": 0.2}
GRIDS = {"low": [-50.0, -50.0, -4.0], "high": [50.0, 50.0, 3.0], "shape": [160, 160, 12]}
NETWORKS: dict[str, Tree] = {
    "minkunet": {"name": "minkunet", "cr": 0.25},
    "spvcnn": {"name": "spvcnn", "cr": 0.25},
    "spvcnn_spformer": {"name": "spvcnn_spformer", "cr": 0.5} | WINDOWS,
    "sphereformer": {"name": "sphereformer", "layers": [16, 16, 32, 32], "block_reps": 1} | WINDOWS,
    "twodpass": {"name": "twodpass", "hidden": 16, "scales": [2, 4, 8, 16]} | GRIDS,
}
IMAGE_BRANCH = {"encoder": "resnet18", "stem_stride": 2, "decoder_channels": 32}
IMAGES = {"images": True, "image_size": [96, 54], "train_cameras": 3}
STRIP = {"images": True, "image_size": [124, 38], "eval_images": False}
JITTER = {"image_augment": {"flip": 0.5, "jitter": [0.4, 0.4, 0.4]}}

TRAIN = Command("train_teacher.py {config} --run-dir {out}")
STUDENT = Command("train_student.py {config} --run-dir {out}")


def lidar_camera(network: str, **options: object) -> Tree:
    """Model section of the LiDAR-camera student around a network."""
    return {
        "name": "lidar_camera",
        "lidar": NETWORKS[network],
        "image": IMAGE_BRANCH,
    } | options


def config(dataset: Tree, model: Tree, data: Tree | None = None, **sections: object) -> Tree:
    """A configuration of one short epoch in fp32, without workers; ``sections`` replace those of the base."""
    tree: Tree = {
        "num_epochs": 1,
        "batch_size": 2,
        "workers_per_gpu": 0,
        "dataset": dataset,
        "data": {"voxel_size": 0.5} | (data or {}),
        "model": model,
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
        "scheduler": {"name": "cosine_warmup", "warmup_steps": 1},
        "train": {"grad_clip": 10.0},
        "eval": {"pictures": 0},
    }
    return deepcopy(tree | sections)


# --- training -------------------------------------------------------------------------------------------------------
def supervised_jobs() -> list[Job]:
    """Every network with labels alone; between them the options of data, losses and averages."""
    sgd = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0001}
    crop = {"max_voxels": 1500, "label_vote": "majority", "point_range": [-40, -40, -5, 40, 40, 5]}
    drop = {"augment": {"scale": [0.9, 1.1], "scale_z": False, "dropout": 0.2}}
    smooth = {"ema": 0.9, "accumulate": 2, "grad_clip": 1.0}
    trees = {
        "minkunet": config(KITTI, NETWORKS["minkunet"], crop, criterion={"w_balanced": 1.0}),
        "spvcnn": config(NUSCENES_SWEEPS, NETWORKS["spvcnn"], batch_size=1, train=smooth),
        "spvcnn_spformer": config(KITTI_SWEEPS, NETWORKS["spvcnn_spformer"], workers_per_gpu=1),
        "sphereformer": config(NUSCENES, NETWORKS["sphereformer"], optimizer=sgd),
        "twodpass": config(KITTI, NETWORKS["twodpass"], drop, train={"swa_start": 1}),
        "minkunet-bf16": config(NUSCENES, NETWORKS["minkunet"], amp={"enabled": True}),
        "spformer-bf16": config(KITTI, NETWORKS["spvcnn_spformer"], amp={"enabled": True}),
        "folder": config(FOLDER, NETWORKS["spvcnn"], optimizer=sgd, train={"seed": 5}),
        "labelled-sweeps": config(KITTI_LABELLED, NETWORKS["minkunet"]),
    }
    jobs = [Job(name, tree, (TRAIN,)) for name, tree in trees.items()]
    fine = {"init_from": "given/minkunet.pt", "init_skip": ["classifier_vox"]}
    tuned = config(KITTI, NETWORKS["minkunet"], train=fine)
    return [*jobs, Job("fine-tuning", tuned, (TRAIN,), given=("minkunet",))]


def u2mkd(teacher: str, **options: object) -> Tree:
    """Sections of U2MKD with a given teacher."""
    return {
        "distill": {"name": "u2mkd"} | options,
        "teacher_pretrain": f"given/{teacher}.pt",
    }


def u2mkd_jobs() -> list[Job]:
    """U2MKD with every student, teachers on other views, from the cache, and without one."""
    images, still = IMAGES | {"sweeps": False}, {"data": {"augment": None}}
    seen = {"mask": "right", "kl_mean": "classes", "w_feat": 0}
    alone = {"sweeps": False}
    stored = u2mkd("spvcnn", **seen) | {"teacher": still | {"cache": "side/knowledge"}}
    no_teacher = {"distill": {"name": "u2mkd", "w_kl": 0, "w_feat": 0}}
    soft = {"align_detach": False, "temperature": 2.0}
    kitti = IMAGES | {"image_size": [124, 38], "train_cameras": None}
    mean = lidar_camera("minkunet", overlap="mean", c2l=False, eval_pixels=True)
    lidar = "spvcnn_spformer"
    trees = {
        "spvcnn": (
            "spvcnn",
            config(NUSCENES_SWEEPS, lidar_camera("spvcnn"), images | JITTER, **u2mkd("spvcnn")),
        ),
        "minkunet": (
            "spvcnn",
            config(NUSCENES_SWEEPS, lidar_camera("minkunet", l2c=False), images, **stored),
        ),
        "spvcnn_spformer": (
            "minkunet",
            config(KITTI, lidar_camera(lidar), kitti, **u2mkd("minkunet", **soft)),
        ),
        "lidar-minkunet": (
            "spvcnn",
            config(NUSCENES_SWEEPS, NETWORKS["minkunet"], alone, **u2mkd("spvcnn", w_feat=0)),
        ),
        "lidar-sphereformer": (
            "sphereformer",
            config(NUSCENES, NETWORKS["sphereformer"], **u2mkd("sphereformer", w_feat=0)),
        ),
        "lidar-twodpass": (
            "twodpass",
            config(KITTI, NETWORKS["twodpass"], **u2mkd("twodpass", w_feat=0)),
        ),
        "no-teacher": (None, config(NUSCENES, mean, IMAGES, **no_teacher)),
        "no-teacher-folder": (None, config(FOLDER, lidar_camera("spvcnn"), kitti, **no_teacher)),
    }
    jobs = []
    for name, (teacher, tree) in trees.items():
        given = () if teacher is None else (teacher,)
        jobs.append(Job(f"u2mkd-{name}", tree, (STUDENT,), given=given))
    return jobs


def twodpass_jobs() -> list[Job]:
    """2DPASS on every network, and its controls."""
    cameras = IMAGES | JITTER | {"eval_images": False}
    image = {"encoder": "resnet18"}
    learner = {"learner_residual": True, "hidden": None, "kl_reduction": "batchmean"}

    def method(**options: object) -> Tree:
        return {"distill": {"name": "2dpass", "hidden": 16, "image": image} | options}

    trees = {
        "twodpass": config(NUSCENES, NETWORKS["twodpass"], cameras, **method(**learner)),
        "minkunet": config(
            KITTI, NETWORKS["minkunet"], STRIP | {"mix": 0.7}, **method(detach=False)
        ),
        "spvcnn": config(NUSCENES, NETWORKS["spvcnn"], cameras, **method(feat_residual=True)),
        "spvcnn_spformer": config(KITTI, NETWORKS["spvcnn_spformer"], STRIP, **method()),
        "sphereformer": config(NUSCENES, NETWORKS["sphereformer"], cameras, **method()),
        "aux-heads": config(KITTI, NETWORKS["twodpass"], **method(mode="aux_heads")),
        "baseline": config(KITTI, NETWORKS["twodpass"], **method(mode="baseline")),
    }
    return [Job(f"2dpass-{name}", tree, (STUDENT,)) for name, tree in trees.items()]


def pandaset_jobs() -> list[Job]:
    """PandaSet's reader, with and without a network that looks at distances, and with its camera."""
    narrow = PANDASET_DATA | {"point_range": [-50, -50, -5, 50, 50, 5]}
    image = narrow | {"images": True, "image_size": [160, 90]}
    network = lidar_camera("minkunet")
    trees = {
        "minkunet": config(PANDASET, NETWORKS["minkunet"], narrow, batch_size=1),
        "spvcnn_spformer": config(PANDASET, NETWORKS["spvcnn_spformer"], narrow, batch_size=1),
    }
    jobs = [Job(f"pandaset-{name}", tree, (TRAIN,), real=True) for name, tree in trees.items()]
    student = config(PANDASET, network, image, batch_size=1, **u2mkd("pandaset-minkunet"))
    given = ("pandaset-minkunet",)
    return [*jobs, Job("pandaset-u2mkd", student, (STUDENT,), given=given, real=True)]


def augmentation_jobs() -> list[Job]:
    """Instance databases, paste and mix."""
    paste = {"paste": {"database": "out/paste/objects", "count": 6, "weights": "sqrt"}}
    open_paste = {"database": "out/paste-and-mix/objects", "occlude": False, "max_points": 2000}
    both = {"paste": open_paste, "mix": 0.7}
    pairs = IMAGES | {"sweeps": False, "paste": {"database": "out/paste-u2mkd/objects"}}
    scenes = NUSCENES_SWEEPS | {"instances": True}
    student = config(scenes, lidar_camera("minkunet"), pairs, **u2mkd("spvcnn"))
    cut = Command("prepare_inst_database.py {config} --out {out}/objects --workers 1")
    return [
        Job("paste-u2mkd", student, (cut, STUDENT), given=("spvcnn",)),
        Job("paste", config(NUSCENES_INSTANCES, NETWORKS["minkunet"], paste), (cut, TRAIN)),
        Job("mix", config(KITTI, NETWORKS["minkunet"], {"mix": 1.0}, workers_per_gpu=2), (TRAIN,)),
        Job("paste-and-mix", config(KITTI_SWEEPS, NETWORKS["minkunet"], both), (cut, TRAIN)),
    ]


# --- several processes, interrupted runs ----------------------------------------------------------------------------
def process_jobs() -> list[Job]:
    """Two processes under both launchers; runs that are killed and go on, also in the other checkout."""
    lidar = config(FOLDER, NETWORKS["spvcnn"], batch_size=1)
    student = config(NUSCENES, lidar_camera("spvcnn"), IMAGES, batch_size=1, **u2mkd("spvcnn"))
    long = config(FOLDER, NETWORKS["spvcnn"], batch_size=1, num_epochs=2)
    long["train"] = {"save_every": 1, "ema": 0.9}
    fused = config(FOLDER, NETWORKS["twodpass"], STRIP, batch_size=1, num_epochs=2)
    fused["train"] = {"save_every": 1}
    fused["distill"] = {"name": "2dpass", "hidden": 16}
    two = Command(TRAIN.line, "dist-run")
    two_students = Command(STUDENT.line, "torchrun")
    killed = Command(TRAIN.line, kill_after=5)
    killed_student = Command(STUDENT.line, kill_after=5)
    return [
        Job("two-processes", lidar, (two,)),
        Job("two-processes-u2mkd", student, (two_students,), given=("spvcnn",)),
        Job("resume", long, (killed, TRAIN)),
        Job("resume-old-run", long, (killed, TRAIN), handed_over=True),
        Job("resume-old-student", fused, (killed_student, STUDENT), handed_over=True),
    ]


# --- what comes out of a checkpoint ---------------------------------------------------------------------------------
def evaluate(job: str, arguments: str, launcher: str | None = None) -> Command:
    """``evaluate.py`` on the best checkpoint of another job."""
    line = f"evaluate.py {{config}} --checkpoint given/{job}.pt --run-dir {{out}} {arguments}"
    return Command(line, launcher)


def output_jobs(jobs: list[Job]) -> list[Job]:
    """Scores, votes, predictions, submissions, robustness and exchanged weights, from the old checkout's weights."""
    trees = {job.name: job.config for job in jobs}
    votes = "--votes 3 --vote-mode legacy_random --vote-sum logits"
    kitti_c = (
        "--robustness semantickitti-c --kinds fog_light snowfall_heavy local_heavy global_moderate"
    )
    robo = "--robustness robo3d --kinds snow_light beam_missing_heavy incomplete_echo_light"
    exchanged = "exchange.safetensors"
    hand_on = "-m core.engine.exchange export given/u2mkd-no-teacher.pt --out {out}/"
    bring = (
        f"-m core.engine.exchange import {{out}}/{exchanged} --config {{config}} --out {{out}}/i.pt"
    )
    outputs: dict[str, tuple[str, tuple[Command, ...]]] = {
        "votes": (
            "spvcnn",
            (evaluate("spvcnn", "--votes 4 --vote-flips"), evaluate("spvcnn", f"{votes} --json {{out}}/drawn.json")),
        ),
        "score-two-processes": ("minkunet", (evaluate("minkunet", "", "dist-run"),)),
        "no-cameras": (
            "u2mkd-spvcnn",
            (
                evaluate("u2mkd-spvcnn", "--data.images false"),
                evaluate("u2mkd-spvcnn", "--dataset.cameras [CAM_FRONT] --json {out}/one-camera.json"),
            ),
        ),
        "predict": (
            "minkunet",
            (
                evaluate("minkunet", "--predict split:val --out {out}/split"),
                evaluate("minkunet", "--predict worlds/folder --point-fields 4 --out {out}/npy --format npy"),
                evaluate("minkunet", "--predict worlds/folder --point-fields 4 --out {out}/votes --votes 2"),
            ),
        ),
        "predict-nuscenes": (
            "sphereformer",
            (evaluate("sphereformer", "--predict split:val --out {out}/split --format nuscenes"),),
        ),
        "submit": ("minkunet", (evaluate("minkunet", "--submit {out}/benchmark --split val"),)),
        "submit-votes": (
            "u2mkd-minkunet",
            (evaluate("u2mkd-minkunet", "--submit {out}/benchmark --split val --votes 2"),),
        ),
        "robustness": ("minkunet", (evaluate("minkunet", kitti_c),)),
        "robustness-nuscenes": ("2dpass-twodpass", (evaluate("2dpass-twodpass", robo),)),
        "corruptions": (
            "minkunet",
            (Command(f"-m core.data.corruptions {{config}} --out {{out}}/scans --workers 1 {kinds()}"),),
        ),
        "exchange": (
            "u2mkd-no-teacher",
            (
                Command(f"{hand_on}{exchanged}"),
                Command(f"{hand_on}lidar.safetensors --lidar-only"),
                Command(bring),
            ),
        ),
    }  # fmt: skip
    made = []
    for name, (source, commands) in outputs.items():
        made.append(Job(name, trees[source], commands, given=_needed(source, jobs)))
    return made


def kinds() -> str:
    """Corruptions that are written to disk."""
    return "--profile robo3d --kinds fog snow_light wet_ground motion_blur_heavy crosstalk_light cross_sensor_light"


def _needed(source: str, jobs: list[Job]) -> tuple[str, ...]:
    """A job and what its own configuration was given."""
    for job in jobs:
        if job.name == source:
            return (source, *job.given)
    raise KeyError(source)


def all_jobs() -> list[Job]:
    """In the order in which they run: what is given comes first."""
    jobs = [
        *supervised_jobs(),
        *u2mkd_jobs(),
        *twodpass_jobs(),
        *pandaset_jobs(),
        *augmentation_jobs(),
        *process_jobs(),
    ]
    return [*jobs, *output_jobs(jobs)]


JOBS: dict[str, Job] = {job.name: job for job in all_jobs()}

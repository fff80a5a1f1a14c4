"""``python -m core.engine.exchange``: weights as safetensors to hand on, and weights from elsewhere.

``export RUN --out FILE.safetensors`` writes the deployed network alone: of a student neither its teacher nor what only
training needs. One metadata entry, ``lidistill``, says in JSON what the file is: ``config``, ``classes``,
``fingerprint`` of the label space, ``source_sha256`` of the checkpoint and ``teacher_sha256``; absolute paths are cut
down to file names. ``--lidar-only`` takes a student's LiDAR network, where that gives the same predictions.

``import FILE --config YAML --out CHECKPOINT.pt`` writes a checkpoint that evaluate.py and ``teacher_pretrain`` take,
from such a file or from a checkpoint of U2MKD's own code (``--part teacher|student``).
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors.torch import save_file
from torch import Tensor

from core.config import Config, load_config
from core.data import DataConfig
from core.datasets import dataset_class
from core.engine.exchange.published import ADAPTER, parts_of, rename
from core.engine.run.checkpoint import find_checkpoint, load_weights, read_checkpoint
from core.engine.run.exported import METADATA, read_exported
from core.engine.run.run_dir import flatten
from core.errors import UserError
from core.io import atomic_path, sha256
from core.labels import LabelSpace
from core.models import build_model

__all__ = ["export_weights", "import_weights", "main"]

# an absolute path, also as the default of ``${NAME:-path}``; the group holds its last part
_ABSOLUTE = re.compile(
    r"(?:(?<=:-)|^)(?:[/~\\]|[A-Za-z]:[/\\])(?:[^}]*[/\\])?([^/\\}]+)[/\\]*(?=\}|$)"
)
_TRAINING = (
    "augment",
    "paste",
    "max_voxels",
    "label_vote",
    "train_cameras",
    "on_bad_sample",
)  # keys of ``data:``
# What U2MKD's weights were trained with and a checkpoint does not tell, where it differs from this project's defaults.
_PUBLISHED_SETTINGS = {"legacy_quant": True, "window_origin": "batch", "normalize": "none"}


def export_weights(source: Path, out: Path, *, lidar_only: bool = False) -> dict[str, Any]:
    """Write the deployed network of a run folder or checkpoint to a safetensors file, atomically.

    Args:
        lidar_only: of a LiDAR-camera student whose voxels never see an image (``model.c2l: false``), the LiDAR network.

    Returns:
        the metadata.

    Raises:
        UserError: no checkpoint, one of another project, or a student that cannot do without its image branch.
    """
    path = find_checkpoint(source, "RUN_OR_CHECKPOINT")
    state = read_checkpoint(path)
    identity = state.get("identity")
    if not isinstance(identity, dict):
        raise UserError(
            "this checkpoint does not say which network it holds",
            where=str(path),
            cure="If it comes from U2MKD's own code, import it first: python -m core.engine.exchange import",
        )
    config = Config(tree=_portable(identity["config"]), source=f"configuration in {path}")
    weights = state["model"]
    if lidar_only:
        weights = _lidar_part(config, weights, path)
    load_weights(
        build_model(config, len(identity["classes"]), pretrained=False), weights, str(path)
    )
    metadata = {
        "format": 1,
        "config": config.tree,
        "classes": identity["classes"],
        "fingerprint": identity["fingerprint"],
        "sensor": identity.get("sensor"),
        "source_sha256": sha256(path),
        "teacher_sha256": identity.get("teacher", {}).get("sha256"),
    }
    tensors = {
        key.removeprefix("module."): value.detach().clone().contiguous()
        for key, value in weights.items()
    }
    with atomic_path(out) as temporary:
        save_file(tensors, temporary, {METADATA: json.dumps(metadata, sort_keys=True)})
    return metadata


def _lidar_part(config: Config, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The LiDAR network's own weights; ``config`` becomes one of that network."""
    model = config.tree["model"]
    if model.get("name") != "lidar_camera":
        raise UserError(
            f"'{model.get('name')}' has no image branch to leave out",
            where=str(path),
            cure="Drop --lidar-only",
        )
    if model.get("c2l", True):
        raise UserError(
            "this student's voxels take in image features, or features learned in their place, after every stage; "
            "its LiDAR network alone would be another network",
            where=f"{path}, key 'model.c2l'",
            cure="Export it whole: it also runs without images (--data.images false)",
        )
    config.tree["model"] = model["lidar"]
    config.tree["data"] = config.tree.get("data", {}) | {"images": False}
    return {
        key.removeprefix("lidar."): value
        for key, value in weights.items()
        if key.startswith("lidar.")
    }


def _portable(value: Any) -> Any:
    """A copy in which absolute paths are file names: they mean nothing elsewhere, and tell of the machine."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    return _ABSOLUTE.sub(r"\1", value) if isinstance(value, str) else value


def import_weights(
    source: Path, config: Config, out: Path, *, part: str | None = None
) -> dict[str, Any]:
    """Write a checkpoint of this project from weights that came from elsewhere, atomically.

    Args:
        source: ``.safetensors`` written by :func:`export_weights`, or a checkpoint of U2MKD's own code.
        config: what the checkpoint will remember: the network, how scans become samples, and the data set, which need
            not be on disk.
        part: ``teacher`` or ``student`` of a published file; None = what ``model.name`` says.

    Returns:
        the checkpoint.

    Raises:
        UserError: the file is damaged, holds code, or is not the network or label space of ``config``.
    """
    reader = dataset_class(config)
    labels = reader.label_space(config.parse(reader.Config, "dataset"))
    if source.suffix == ".safetensors":
        if part is not None:
            raise UserError(
                "--part is for published checkpoints", where=str(source), cure="Leave it out"
            )
        weights, training_only, metadata = _read_exported(source, config, labels)
    else:
        weights, training_only, metadata = _read_published(source, config, labels, part)
    model = build_model(config, labels.num_classes, pretrained=False)
    load_weights(model, weights, str(source))
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
    }
    if metadata.get("teacher_sha256"):
        identity["teacher"] = {"sha256": metadata["teacher_sha256"]}
    identity["imported"] = {"file": source.name, "sha256": sha256(source), **metadata}
    state = {"model": model.state_dict(), "training_only": training_only, "identity": identity}
    with atomic_path(out) as temporary:
        torch.save(state, temporary)
    return state


def _read_exported(
    path: Path, config: Config, labels: LabelSpace
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    weights, metadata = read_exported(path)
    if metadata["fingerprint"] != labels.fingerprint:
        raise UserError(
            f"these weights know other classes ({', '.join(metadata['classes'][1:5])}, …) than '{labels.name}' "
            f"({', '.join(labels.classes[1:5])}, …)",
            where=str(path),
            cure="Give a configuration of the data set the network was trained on",
        )
    _warn_of_differences(Config(tree=metadata["config"], source=f"metadata of {path}"), config)
    return (
        weights,
        {},
        {key: metadata.get(key) for key in ("source_sha256", "teacher_sha256", "sensor")},
    )


def _warn_of_differences(trained: Config, config: Config) -> None:
    """Options that shapes do not show, e.g. the voxel size."""
    old, new = (
        flatten({"model": c.tree.get("model", {}), "data": _view(c)}) for c in (trained, config)
    )
    differing = [
        f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key != "model.image.weights"
    ]
    if differing:
        logger.warning("the network was trained with other settings: {}", "; ".join(differing))


def _view(config: Config) -> dict[str, Any]:
    """The ``data:`` section without what only training reads."""
    return config.parse(DataConfig, "data").model_dump(mode="json", exclude=set(_TRAINING))


def _read_published(
    path: Path, config: Config, labels: LabelSpace, part: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    try:
        state = read_checkpoint(path)
    except UserError as error:
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise UserError(
                "this file is damaged, or holds more than tensors and plain values; opening that could run code, so it "
                "was not opened",
                where=str(path),
                cure="If you trust its author, save its entry 'model' alone: torch.save({'model': state['model']}, …)",
            ) from error
        raise
    if "identity" in state:
        raise UserError(
            "this already is a checkpoint of this project", where=str(path), cure="Use it as it is"
        )
    if not isinstance(state["model"], dict) or not all(
        isinstance(v, Tensor) for v in state["model"].values()
    ):
        raise UserError("its entry 'model' does not hold tensors by name", where=str(path))
    student = config.tree.get("model", {}).get("name") == "lidar_camera"
    part = part or ("student" if student else "teacher")
    parts = parts_of(state["model"])
    if part not in parts:
        raise UserError(
            f"this file holds no {part}, only a {' and a '.join(parts)}",
            where=str(path),
            cure="Choose with --part, and give a configuration of that network",
        )
    if student != (part == "student"):
        raise UserError(
            f"model.name is '{config.tree['model'].get('name')}', which is not a {part}",
            where=config.origin("model.name"),
            cure="Students are 'lidar_camera', teachers LiDAR networks such as 'spvcnn_spformer'",
        )
    model = build_model(config, labels.num_classes, pretrained=False)
    weights = rename(parts[part], model)
    training_only = {
        key: weights.pop(key) for key in list(weights) if student and key.startswith(ADAPTER)
    }
    _note_published_settings(config)
    return weights, training_only, {"part": part}


def _note_published_settings(config: Config) -> None:
    """Tell of settings the published weights need and tensors cannot show."""
    model = config.tree["model"]
    lidar, image = model.get("lidar", model), model.get("image", {})
    attention = lidar.get("name") == "spvcnn_spformer"
    given = ({k: lidar.get(k) for k in ("legacy_quant", "window_origin")} if attention else {}) | (
        {"normalize": image.get("normalize")} if "lidar" in model else {}
    )
    prefix = "model.lidar" if "lidar" in model else "model"
    needed = [
        f"{'model.image' if key == 'normalize' else prefix}.{key}: {str(_PUBLISHED_SETTINGS[key]).lower()}"
        for key, value in given.items()
        if value != _PUBLISHED_SETTINGS[key]
    ]
    if needed:
        logger.warning(
            "U2MKD's own training ran with {}; set it, or scores suffer", ", ".join(needed)
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m core.engine.exchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a network as safetensors")
    export.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    export.add_argument(
        "--lidar-only", action="store_true", help="a student's LiDAR network, where it stands alone"
    )
    bring = commands.add_parser("import", help="write a checkpoint from weights")
    bring.add_argument(
        "source",
        type=Path,
        metavar="FILE",
        help=".safetensors, or a checkpoint of U2MKD's own code",
    )
    bring.add_argument(
        "--config", required=True, metavar="YAML", help="network and data set of the checkpoint"
    )
    bring.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT.pt")
    bring.add_argument("--part", choices=("teacher", "student"), help="of a published stage-2 file")
    for command in (export, bring):
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    args, overrides = parser.parse_known_args(argv)
    if args.command == "export":
        if overrides:
            parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        metadata = export_weights(args.source, args.out, lidar_only=args.lidar_only)
        what = f"{metadata['config']['model']['name']} with {len(metadata['classes']) - 1} classes"
    else:
        state = import_weights(
            args.source, load_config(args.config, overrides), args.out, part=args.part
        )
        what = f"{sum(value.numel() for value in state['model'].values()) / 1e6:.2f} M values"
    sys.stdout.write(f"{args.out}: {what}\n")

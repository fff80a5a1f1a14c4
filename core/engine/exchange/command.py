"""``python -m core.engine.exchange``: weights as safetensors to hand on, and weights from elsewhere.

``export RUN --out FILE.safetensors`` writes the deployed network alone: of a student neither its teacher nor what only
training needs. One metadata entry, ``lidistill``, says in JSON what the file is: ``config``, ``classes``,
``fingerprint`` of the label space, ``source_sha256`` of the checkpoint and ``teacher_sha256``; absolute paths are cut
down to file names. ``--lidar-only`` takes a student's LiDAR network, where that gives the same predictions.

``export RUN --format openpcdet --out FILE.pth`` writes the backbone of a ``voxelnet`` for the detectors of OpenPCDet
(``--pretrained_model``), in the layout of ``--spconv 1`` or 2, and says how many tensors a detector loads.

``import FILE --config YAML --out CHECKPOINT.pt`` writes a checkpoint that evaluate.py and ``teacher_pretrain`` take,
from such a file or from published weights of U2MKD (``--part teacher|student``), 2DPASS, SphereFormer, Cylinder3D,
CENet, SLidR, OpenPCDet or spvnas. Whose they are is told by their names, or with ``--from``. ``--names TABLE.yaml``
gives names that no family has (KDMOS), and ``names FILE --config YAML`` prints a table to begin with. Files of other
projects are read without running anything in them.

``widen RUN_OR_CHECKPOINT --config YAML --out CHECKPOINT.pt`` writes a start point (``train.init_from``) for a wider
network of the same kind, or one of more classes: missing channels are copies of existing ones, not rescaled, as in
PVKD's published loader. It prints what became of each tensor that grew; nothing shrinks, and no linear layer changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.config import load_config
from core.errors import counted
from core.names import FAMILIES

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: a file is missing, damaged, or does not belong to the configuration.
    """
    parser = argparse.ArgumentParser(
        prog="python -m core.engine.exchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a network as safetensors, or for OpenPCDet")
    export.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument(
        "--format",
        choices=("safetensors", "openpcdet"),
        default="safetensors",
        help="safetensors, for this project; openpcdet: voxelnet as the backbone of a detector (safetensors)",
    )
    export.add_argument(
        "--spconv",
        choices=("1", "2"),
        help="major version of spconv that OpenPCDet runs with, whose layouts differ (2)",
    )
    export.add_argument(
        "--lidar-only", action="store_true", help="a student's LiDAR network, where it stands alone"
    )
    bring = commands.add_parser("import", help="write a checkpoint from weights")
    bring.add_argument(
        "source",
        type=Path,
        metavar="FILE",
        help=".safetensors, or published weights of another project",
    )
    bring.add_argument(
        "--from",
        dest="family",
        choices=tuple(FAMILIES),
        help="whose weights they are (default: told by their names)",
    )
    bring.add_argument(
        "--config", required=True, metavar="YAML", help="network and data set of the checkpoint"
    )
    bring.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT.pt")
    bring.add_argument(
        "--names",
        type=Path,
        metavar="TABLE.yaml",
        help="the file's names, where no family has them",
    )
    bring.add_argument("--part", choices=("teacher", "student"), help="of a published stage-2 file")
    draft = commands.add_parser("names", help="print a table of names to complete, for --names")
    draft.add_argument("source", type=Path, metavar="FILE")
    draft.add_argument("--config", required=True, metavar="YAML", help="of the network")
    widen = commands.add_parser("widen", help="write a start point for a wider network")
    widen.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    widen.add_argument("--config", required=True, metavar="YAML", help="of the wider network")
    widen.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT.pt")
    for command in (export, bring, draft, widen):
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    args, overrides = parser.parse_known_args(argv)
    from core.engine.exchange.weights import import_weights

    if args.command == "names":
        from core.engine.exchange.named import draft_names

        sys.stdout.write(draft_names(args.source, load_config(args.config, overrides)))
        return
    if args.command == "export":
        if overrides:
            parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        what = _export(parser, args)
    elif args.command == "widen":
        from core.engine.exchange.widening import widen_checkpoint

        tiled = widen_checkpoint(args.source, load_config(args.config, overrides), args.out)
        for tensor in tiled:
            sys.stdout.write(f"{tensor}\n")
        what = f"{counted(len(tiled), 'tensor')} tiled"
    else:
        config = load_config(args.config, overrides)
        state = import_weights(
            args.source, config, args.out, part=args.part, family=args.family, names=args.names
        )
        what = f"{sum(value.numel() for value in state['model'].values()) / 1e6:.2f} M values"
    sys.stdout.write(f"{args.out}: {what}\n")


def _export(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Write a network in the format asked for; what was written, for a person."""
    if args.format == "openpcdet":
        if args.lidar_only:
            parser.error("--lidar-only goes with --format safetensors")
        from core.engine.exchange.openpcdet import export_openpcdet

        return export_openpcdet(args.source, args.out, args.spconv or "2").text()
    if args.spconv is not None:
        parser.error("--spconv goes with --format openpcdet")
    from core.engine.exchange.weights import export_weights

    metadata = export_weights(args.source, args.out, lidar_only=args.lidar_only)
    return f"{metadata['config']['model']['name']} with {len(metadata['classes']) - 1} classes"

"""Cut the instances out of a training split, for the paste augmentation (data.paste).

python prepare_inst_database.py configs/nuscenes/default.yaml --out data/nuscenes/inst_database_train
python prepare_inst_database.py configs/nuscenes/default.yaml --convert old/inst_database_train_info.pkl

Started again it goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.engine.run.cli import preparing_parser, read_arguments, run_command
from core.machine import usable_cores


def main() -> None:
    """Read the command line, write the database and its picture sheet, print what is in it."""
    parser = preparing_parser(__doc__)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: data.paste.database, else in dataset.root"
    )
    parser.add_argument(
        "--convert", type=Path, metavar="PKL", help="old index to convert: inst_database_*_info.pkl"
    )
    args, config = read_arguments(parser)
    workers = usable_cores(most=16) if args.workers is None else max(args.workers, 1)
    from core.data.instances.build import build_database
    from core.data.instances.convert import convert_database
    from core.data.instances.sheet import write_sheet
    from core.engine.run.experiment import check_config

    check_config(config)
    if args.convert:
        database = convert_database(config, args.convert, args.out, workers)
    else:
        database = build_database(config, args.out, workers)
    write_sheet(database, database.folder / "sheet.png")
    sys.stdout.write(f"{database.summary()}\n{len(database):,} instances in {database.folder}\n")


if __name__ == "__main__":
    run_command(main)

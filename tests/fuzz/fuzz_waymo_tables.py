"""Targets: Parquet tables of the Waymo Open Dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from fuzz_mutations import BYTES
from fuzz_runner import Target
from fuzz_waymo import LASER_NAMES, any_damage, use_segments
from waymo_frames import context, frame, images
from waymo_tables import write_reference

from core.datasets.waymo.v2.segment import TableSegment
from core.datasets.waymo.v2.writer import write_tables

FILES = "*/*.parquet"


def tables(folder: Path) -> None:
    """Three frames of which one is labelled, in tables with checksums."""
    made = [(frame(number, labelled=number == 1), images(number)) for number in range(3)]
    write_tables(folder, context(), made)


def official_tables(folder: Path) -> None:
    """Tables without checksums, as the official ones are: damage may be read as other values."""
    write_reference(folder)


use_tables = partial(use_segments, TableSegment.find, LASER_NAMES)


def footer(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage of a footer, which no checksum covers; its length is told right."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    damaged = any_damage(content[start:-8], rng)
    return content[:start] + damaged + len(damaged).to_bytes(4, "little") + content[-4:]


def footer_bit(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit of the footer, anywhere in it."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    damaged = bytearray(content)
    damaged[rng.integers(start, len(content) - 8)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


TABLES, OFFICIAL = "Waymo v2 segment", "Waymo v2 segment without checksums"
FOOTER = (*BYTES, footer, footer, footer_bit, footer_bit, footer_bit)

TARGETS = (
    Target("waymo.tables", TABLES, tables, FILES, use_tables, FOOTER),
    Target("waymo.official", OFFICIAL, official_tables, FILES, use_tables, FOOTER),
)

"""All targets; a new reader adds a line to one of these files."""

from __future__ import annotations

import fuzz_data
import fuzz_runs
import fuzz_waymo
import fuzz_waymo_reader
import fuzz_waymo_tables

TARGETS = (
    *fuzz_data.TARGETS,
    *fuzz_runs.TARGETS,
    *fuzz_waymo.TARGETS,
    *fuzz_waymo_tables.TARGETS,
    *fuzz_waymo_reader.TARGETS,
)

"""Import this first: it makes the project importable, and its settings for threads and memory reach torch in time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import core as core

"""The targets write their worlds with what other tests write theirs with."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("data", "datasets"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / folder))

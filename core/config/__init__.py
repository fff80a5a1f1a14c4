"""The configuration: YAML files that build on each other, overrides, and typed sections.

``load_config("configs/nuscenes/spvcnn.yaml")`` merges, in this order,

1. every ``default.yaml`` from the nearest folder called ``configs`` down to the file's own folder
   (of a file that stands below no such folder, the ``default.yaml`` beside it),
2. the file, and before any file's own keys those of its ``base:``, a path or a list of paths relative to it; a base
   brings its own ``default.yaml`` files and bases along, and a file that several ask for counts once, at the first,
3. the command line.

Mappings merge, everything else replaces. The working directory plays no part. Each component of the code owns a
:class:`Section` for its part of the tree; nothing reads an untyped value. ``python -m core.config`` lists all keys.
"""

from core.config.files import load_config
from core.config.strict_yaml import dump_yaml, parse_yaml, read_yaml
from core.config.tree import Config, Section

__all__ = ["Config", "Section", "dump_yaml", "load_config", "parse_yaml", "read_yaml"]

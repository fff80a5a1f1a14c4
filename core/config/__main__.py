"""``python -m core.config [SECTION]``: every key of the configuration with its type, default, unit and meaning.

The sections belong to components of all floors, so the table is made at the top: in :mod:`core.engine.run.keys`.
"""

from importlib import import_module

if __name__ == "__main__":
    import_module("core.engine.run.keys").command()

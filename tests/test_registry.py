"""Components chosen by name."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from core.config import Config
from core.errors import UserError
from core.registry import look_up

SHELF = {"ordered": "collections:OrderedDict", "broken": "no.such.module:Thing"}


def test_a_name_gives_its_class_and_imports_no_other() -> None:
    assert (
        look_up(SHELF, Config({"part": {"name": "ordered"}}), "part.name", "parts") is OrderedDict
    )


@pytest.mark.parametrize("tree", [{}, {"part": None}, {"part": {"name": None}}, {"part": 3}])
def test_a_missing_name(tree: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"key 'part\.name' is missing\. Set it to one of: ordered"):
        look_up(SHELF, Config(tree), "part.name", "parts")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("orderd", "Did you mean 'ordered'?"),
        ("zzz", "Known parts: broken, ordered"),
        ([1], "Known"),
    ],
)
def test_an_unknown_name_says_which_is_nearest_and_where_it_stands(name: object, cure: str) -> None:
    config = Config(origins={"part.name": "my.yaml"})
    config.tree["part"] = {"name": name}
    with pytest.raises(
        UserError, match=r"^my\.yaml: key 'part\.name' has the unknown value"
    ) as error:
        look_up(SHELF, config, "part.name", "parts")
    assert error.value.cure is not None and error.value.cure.startswith(cure)

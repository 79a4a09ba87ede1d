"""Every test that the documentation names as the keeper of a promise is there."""

import ast
import re

import pytest

from tests.support.places import ROOT

KEEPERS = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", ["guarantees.md", "attacks.md"])
def test_every_named_test_is_there(page):
    named = KEEPERS.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    missing = [f"{path}::{name}" for path, name in named if name not in _functions(path)]
    assert not missing


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

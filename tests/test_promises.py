"""Tests that the documentation names as keepers of promises are there, and files it links to."""

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


LINKS = re.compile(r"\]\(([^)#:]+)\)")


def test_every_linked_file_is_there():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]
    links = [(page, link) for page in pages for link in LINKS.findall(page.read_text("utf-8"))]
    assert len(links) > 20
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

"""The house stays readable: small folders, short files and functions, one name for one thing."""

import ast
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests.support.places import ROOT

PACKAGES = ("hooked_omni", "analyses", "data_prep")
LONG_FILES: dict[str, str] = {}
"""Files of over 300 lines, and why they are one."""

SOURCES = sorted(chain.from_iterable((ROOT / package).rglob("*.py") for package in PACKAGES))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _bodies(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each function's name, and the lines of its body without its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield node.name, lines


def test_no_folder_is_full():
    counts = Counter(path.parent for path in SOURCES)
    assert not {_name(folder): n for folder, n in counts.items() if n > 14}


def test_files_are_short():
    long = {_name(path): _length(path) for path in SOURCES if _length(path) > 300}
    assert long.keys() == LONG_FILES.keys()
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert not {_name(path): _length(path) for path in tests if _length(path) > 500}


def test_functions_are_short():
    bodies = [(_name(p), *one) for p, tree in TREES.items() for one in _bodies(tree)]
    long = [one for one in bodies if one[2] > 40]
    assert len(long) <= 0.004 * len(bodies), long


def test_no_two_classes_share_a_name():
    names = Counter(
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name != "Config"  # each analysis has its own
    )
    assert not [name for name, n in names.items() if n > 1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_a_file_and_something_in_it(package):
    """What a package offers would hide a file of the same name beside it."""
    for path in sorted((ROOT / package).rglob("__init__.py*")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        offered = {
            (alias.asname or alias.name, node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        files = {file.stem for file in path.parent.glob("*.py")}
        folders = {folder.name for folder in path.parent.iterdir() if folder.is_dir()}
        modules = files | folders
        assert not [name for name, module in offered if name in modules and module != "."]


def test_the_linter_sees_every_import():
    """Nothing is imported for types alone, so import-linter's contracts hold for all of it."""
    assert not [_name(path) for path in SOURCES if "TYPE_CHECKING" in path.read_text()]

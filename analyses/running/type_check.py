"""Is a value from JSON or TOML of the type that its field says?

Python does not look, and a wrong one would be noticed only hours later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hooked_omni.errors import ResultsError, closest


def make_config(kind: type, values: Any) -> Any:
    """A `Config` from names and values, else its defaults; a `ResultsError` for a wrong one."""
    known = {item.name for item in fields(kind)}
    unknown = sorted(values.keys() - known) if isinstance(values, dict) else values
    if unknown or not isinstance(values, dict):
        near = closest(unknown[0], known) if isinstance(values, dict) else ""
        raise ResultsError(
            f"expected fields among {sorted(known)} in the config, got {unknown}.{near}"
        )
    hints = get_type_hints(kind)
    values = {name: listed(tuples(value), hints[name]) for name, value in values.items()}
    if wrong := mismatch(kind, values, "the config"):
        raise ResultsError(f"{wrong} Write it as JSON.")
    return kind(**values)


def listed(value: Any, hint: Any) -> Any:
    """Words with commas, as on the command line, as a tuple where that is what a field takes."""
    words = tuple(value.split(",")) if isinstance(value, str) else ()
    return words if words and not fits(value, hint) and fits(words, hint) else value


def tuples(value: Any) -> Any:
    """Lists, and lists within them, as tuples; anything else as it is."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def mismatch(kind: type, values: Mapping[str, Any], where: str) -> str | None:
    """What is wrong with the first of `values` that its field cannot have; None if all fit.

    Example:
        >>> from analyses.knockout import Config
        >>> mismatch(Config, {"step": 1, "width": "three"}, "the config")
        "expected width as int | None in the config, got 'three'."
    """
    hints, defaults = get_type_hints(kind), {item.name: item.default for item in fields(kind)}
    for name, value in values.items():
        hint, default = hints[name], defaults[name]
        if fits(value, hint):
            continue
        plain = default not in (None, (), MISSING) and get_origin(hint) is not Literal
        words = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        words = words.replace("typing.", "").replace("collections.abc.", "")
        like = f"like {default!r}" if plain else f"as {words}"
        return f"expected {name} {like} in {where}, got {value!r}."
    return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; an int is a float too, and a bool is no int."""
    kind, of = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in of)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in of)
    if kind is tuple and of[-1] is not ...:
        return type(value) is tuple and len(value) == len(of) and all(map(fits, value, of))
    if kind in (tuple, Sequence):
        listed = type(value) is tuple or (type(value) is list and kind is Sequence)
        return listed and all(fits(one, of[0]) for one in value)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, of[0]) and fits(one, of[1]) for key, one in value.items()
        )
    if hint is float:
        return type(value) in (int, float)
    if hint is Path:
        return isinstance(value, Path)
    return type(value) is (NoneType if hint is None else hint)

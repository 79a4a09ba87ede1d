"""The checks of shapes and types in tests: beartype's, each made once and done once.

jaxtyping lets a function's parameters be checked twice, before the call and with the result, and
makes the checks of an inner function anew whenever it is defined: a third of the time of a pass of
a tiny model. A result is checked here against the shapes that its parameters bound.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_kept: dict[Any, Callable[..., Any]] = {}


def once(function: Any) -> Any:
    """`beartype.beartype`, for the functions of jaxtyping's that stand for one of the project's."""
    hints, code = dict(function.__annotations__), function.__code__
    defaults = len(function.__defaults__ or ()), *(function.__kwdefaults__ or ())
    names = code.co_varnames, code.co_argcount, code.co_posonlyargcount, code.co_flags
    kinds = tuple((name, _kind(hint)) for name, hint in hints.items())
    key = function.__module__, function.__qualname__, names, defaults, kinds
    try:
        if key not in _kept:
            _kept[key] = _checked(function)
    except TypeError:  # a hint without a hash
        return _checked(function)
    return _kept[key]


def _kind(hint: Any) -> Any:
    """The hint; `Float[Tensor, "pos"]` is another class each time, and the same shape."""
    shape = isinstance(hint, type) and hasattr(hint, "dim_str")
    return (hint.__name__, hint.array_type) if shape else hint


def _checked(function: Any) -> Any:
    code, hints = function.__code__, function.__annotations__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    # The one that is called with the result, which is its last parameter.
    if named and named[-1].startswith("ret") and hints.get("return", Any) is not Any:
        function.__annotations__ = {"return": hints["return"]}
    return beartype(function)

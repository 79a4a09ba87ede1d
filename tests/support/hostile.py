"""Values, files and texts that nobody should have written, for hypothesis to choose from."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from typer.main import get_command

from analyses.__main__ import app as _analyses
from data_prep.__main__ import app as _data_prep
from hooked_omni.endings import run_command

few = settings(max_examples=30, derandomize=True, deadline=None, database=None)
"""The same examples every time."""

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), -1e999]),
    st.sampled_from(
        ["", " ", "\ud800", "a\0b", "x" * 300, "../..", "/", "é" * 200, "1/2", "[red]"]
    ),
    st.text(max_size=8),
)
_KEYS = st.text(max_size=5)
values = st.recursive(
    _SCALARS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(_KEYS, one, max_size=3),
    max_leaves=5,
)


@st.composite
def changed(draw: Callable[[Any], Any], known: Any) -> Any:
    """A JSON value with one part, at any depth, replaced, removed or added to."""
    value = deepcopy(known)
    at: Any = value
    while isinstance(at, dict | list) and at:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
            change = draw(st.sampled_from(["replace", "remove", "add"]))
            if change == "remove":
                del at[key]
            elif change == "replace" or isinstance(at, list):
                at[key] = draw(values)
            else:
                at[draw(st.text(max_size=5))] = draw(values)
            return value
        at = at[key]
    return draw(values)


@st.composite
def files(draw: Callable[[Any], Any], known: Any) -> bytes:
    """A JSON file: changed, cut off, deep, doubled, or no JSON at all."""
    kind = draw(st.sampled_from(["changed"] * 6 + ["cut", "deep", "twice", "bytes", "other"]))
    text = json.dumps(draw(changed(known)) if kind in ("changed", "cut") else known)
    if kind == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif kind == "deep":
        text = "[" * 100_000 if draw(st.booleans()) else '{"a":' * 99_999 + "1" + "}" * 99_999
    elif kind == "twice":
        text = text.replace("}", f", {text[1:-1]}}}", 1)
    elif kind == "other":
        text = json.dumps(draw(values))
    return draw(st.binary(max_size=40)) if kind == "bytes" else text.encode()


analyses, data_prep = get_command(_analyses), get_command(_data_prep)
"""Both command lines, made once: that takes longer than what most of them do here."""


def ends(command: Callable[..., Any], *words: object) -> tuple[int, str]:
    """Exit code of a command, and what it printed as errors; any other end is raised."""
    printed, code = io.StringIO(), 0
    with redirect_stderr(printed), redirect_stdout(io.StringIO()):
        try:
            run_command(command, [str(word) for word in words], "test")
        except SystemExit as end:
            code = int(end.code or 0)
    assert code in (0, 1, 2) and "Traceback" not in printed.getvalue()
    assert code == 0 or printed.getvalue().strip()
    return code, printed.getvalue()

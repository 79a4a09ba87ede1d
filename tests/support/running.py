"""The command line and its folders, as the tests of runs use them."""

from pathlib import Path

import pandas as pd

from analyses.__main__ import main
from analyses.running.results import load

CONFIG = '{"max_new_tokens": 4}'


def command(*arguments: object) -> int:
    """The exit code of `python -m analyses`."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("expected the command line to exit")


def run_attention_share(out: Path, data: Path, *more: object, config: str = CONFIG) -> int:
    """Prompts are kept beside the manifest, since embedding clips takes most of the time."""
    options = {"--model": "random-omni", "--data": data, "--out": out, "--config": config}
    options["--prompts"] = data.parent / "prompts"
    words = (word for option in options.items() for word in option)
    return command("attention_share", *words, *more)


def assert_same(out: Path, other: Path) -> None:
    """Two finished folders hold one table."""
    table, expected = load(out), load(other)
    pd.testing.assert_frame_equal(table, expected)
    assert table.attrs == expected.attrs

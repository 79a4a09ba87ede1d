"""Empty figures: drawing takes most of the time of a small run."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analyses.__main__ import ANALYSES
from analyses.running import results, runs
from hooked_omni.files import write_whole


def no_figures(patch: pytest.MonkeyPatch) -> None:
    """Let analyses plot nothing, and write short files in place of figures."""
    patch.setattr(results, "write_figure", _write)
    for name in ANALYSES:
        patch.setattr(runs.analysis(name), "plot", lambda *tables: Figure())


def _write(path: Path, figure: Any, dpi: int) -> None:
    for ending in ("png", "pdf"):
        write_whole(path.with_name(f"{path.name}.{ending}"), b"not drawn")

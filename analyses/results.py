"""What does a result remember of how it was made?

A folder holds the table, the figure, and last of all `run.json`: a folder without it is unfinished.
"""

import dataclasses
import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hooked_omni.errors import ResultsError

__all__ = ["load", "save"]


def save(
    folder: Path, name: str, table: pd.DataFrame, figure: Figure, config: Any, **facts: Any
) -> Path:
    """Write `name.parquet`, `name.png`, `name.pdf`, then `run.json`; return the folder.

    Raises:
        ResultsError: If the folder holds a finished run of another question or config.
    """
    made = {
        "analysis": name,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "facts": json.loads(json.dumps(facts, default=str)),
        "rows": len(table),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {
            package: version(package)
            for package in ("hooked-omni", "torch", "transformers", "transformer-lens")
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    _require_same(folder, made)
    (folder / "run.json").unlink(missing_ok=True)
    _replace(folder / f"{name}.parquet", table.to_parquet)
    for ending in ("png", "pdf"):
        _replace(folder / f"{name}.{ending}", lambda path: figure.savefig(path, dpi=200))
    _replace(folder / "run.json", lambda path: path.write_text(json.dumps(made, indent=2)))
    return folder


def load(folder: Path, name: str) -> pd.DataFrame:
    """The table of a finished run.

    Raises:
        ResultsError: For a folder without `run.json`.
    """
    if not (folder / "run.json").is_file():
        raise ResultsError(f"expected a finished run in {folder}, got one without run.json.")
    return pd.read_parquet(folder / f"{name}.parquet")


def _require_same(folder: Path, made: dict[str, Any]) -> None:
    if not (folder / "run.json").is_file():
        return
    before = json.loads((folder / "run.json").read_text())
    for what in ("analysis", "config", "facts"):
        if before.get(what) != made[what]:
            raise ResultsError(
                f"expected a folder for {what} {made[what]}, got {folder} with {before.get(what)}. "
                "Choose another folder, or delete this one."
            )


def _replace(path: Path, write: Any) -> None:
    partial = path.with_name(f".part-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _commit() -> str | None:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None

"""Clips, and one finished run over them."""

import shutil
from pathlib import Path

import pytest

from data_prep.manifest import Sample, write_manifest
from tests.support.clips import write_clip
from tests.support.figures import no_figures
from tests.support.running import run_attention_share


@pytest.fixture(autouse=True)
def _no_drawing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished run has real figures; others need none."""
    no_figures(monkeypatch)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of five clips, one of them deaf, and one that is not there."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(5):
        sound = None if i == 3 else 200.0 * (i + 1)
        write_clip(folder / f"{i}.mp4", seconds=1.0, fps=4, width=56, height=56, audio_hz=sound)
    kinds = ("counterfactual", "factual")
    samples = [Sample(f"clip {i}", kinds[i % 2], video=f"{i}.mp4") for i in range(5)]
    return write_manifest(folder / "data.jsonl", [*samples, Sample("gone", video="none.mp4")])


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run_attention_share(out, data) == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))

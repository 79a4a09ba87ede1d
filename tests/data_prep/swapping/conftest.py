"""Two clips that look alike and sound unlike."""

from pathlib import Path

import pytest

from tests.support.clips import write_clip


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    low = write_clip(tmp_path / "low.mp4", seconds=2.0, audio_hz=300)
    return low, write_clip(tmp_path / "high.mp4", seconds=3.0, audio_hz=1200)

"""A clip to try things on: a red square that moves to the right over a tone that rises."""

from pathlib import Path

import numpy as np

from data_prep.clips import write_clip

__all__ = ["two_seconds"]


def two_seconds(path: Path) -> Path:
    """Write it as an mp4."""
    frames = np.full((20, 112, 112, 3), 40, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[40:72, 4 * i : 4 * i + 32] = (220, 60, 60)
    time = np.arange(2 * 16_000) / 16_000
    return write_clip(path, frames, 10, 0.3 * np.sin(2 * np.pi * (300 + 100 * time) * time))

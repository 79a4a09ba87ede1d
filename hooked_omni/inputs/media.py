"""How are the frames and the sound of a clip sampled?"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from hooked_omni.errors import MediaError

MEMORY = "HOOKED_OMNI_MEDIA_GB"
"""Environment variable: the most memory, in GB, that reading a clip may take; 1 without it."""


@dataclass(frozen=True)
class MediaSettings:
    """How a clip is sampled; the defaults are those of qwen-omni-utils 0.0.9, the paper's pipeline.

    Sizes are in pixels per frame, except `total_pixels`, for the whole clip (90 % of a context of
    128 000 tokens). Heights and widths are multiples of `size_factor`, frame counts of
    `frame_factor`. Without `resize`, frames keep their own size, for a processor that resizes them
    by a rule of its own. Of a sound only the first `sound_seconds` are heard; None for all of it.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    total_pixels: int = 128_000 * 28 * 28 * 9 // 10
    size_factor: int = 28
    frame_factor: int = 2
    sampling_rate: int = 16_000
    sound_seconds: float | None = None
    resize: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "resize" or value is None:
                continue
            if not (math.isfinite(value) and value > 0):
                raise MediaError(f"expected {name} > 0, got {value}. Give a positive number.")
        ordered = [
            ("frame_factor", self.frame_factor, "max_frames", self.max_frames),
            ("min_frames", self.min_frames, "max_frames", self.max_frames),
            ("min_pixels", self.min_pixels, "max_pixels", self.max_pixels),
            # The pipeline silently lowers larger values to this.
            ("max_pixels", self.max_pixels, "768 * size_factor**2", 768 * self.size_factor**2),
        ]
        for small, low, large, high in ordered:
            if low > high:
                raise MediaError(f"expected {small} <= {large}, got {low} > {high}. Change one.")


PAPER = MediaSettings()
"""As the paper's pipeline samples."""


def require_memory(n_bytes: int | float, path: Path) -> None:
    """Refuse, with a `MediaError`, a clip that would take more memory than is allowed.

    The limit changes no number, so it is no field of `MediaSettings`, which name a result.
    """
    text = os.environ.get(MEMORY, "1")
    try:
        allowed = float(text)
    except ValueError:
        allowed = math.nan
    if not allowed > 0:
        raise MediaError(
            f"expected GB above 0 in {MEMORY}, got {text!r}. Give a number, such as 1."
        )
    if n_bytes > allowed * 1e9:
        raise MediaError(
            f"expected a clip that takes at most {allowed:g} GB of memory to read, got "
            f"{n_bytes / 1e9:.2f} GB or more for {path}. Cut or scale it, or allow more: "
            f"--media-gb before the command, or {MEMORY}."
        )

"""How are the frames and the sound of a clip sampled?"""

import math
from dataclasses import dataclass

from hooked_omni.errors import MediaError


@dataclass(frozen=True)
class MediaSettings:
    """How a clip is sampled; the defaults are those of qwen-omni-utils 0.0.9, the paper's pipeline.

    Sizes are in pixels per frame, except `total_pixels`, for the whole clip (90 % of a context of
    128 000 tokens). Heights and widths are multiples of `size_factor`, frame counts of
    `frame_factor`. Of a sound only the first `sound_seconds` are heard; None for all of it.
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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (math.isfinite(value) and value > 0):
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

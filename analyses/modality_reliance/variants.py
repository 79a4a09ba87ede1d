"""What could a model be shown in place of a clip, that takes as many tokens?

Silence and other sounds are of the same number of samples, blank and other pictures of the same
number and size of frames: positions do not move, so whatever changes is due to what is heard or
seen.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from analyses.cases import Skip
from hooked_omni import MediaSettings
from hooked_omni.inputs.audio import Audio, read_audio
from hooked_omni.inputs.video import Video, read_video

__all__ = ["Shown", "blank", "mute", "other_picture", "other_sound", "shift"]

Shown = tuple[Video | None, Audio | None]
"""What is seen, and what is heard."""

_Edit = Callable[[Shown], Shown]


def mute() -> _Edit:
    """Silence: samples of zero."""

    def edit(shown: Shown) -> Shown:
        video, audio = shown
        return video, _with_samples(audio, lambda samples: np.zeros_like(samples))

    return edit


def shift(seconds: float | None = None) -> _Edit:
    """The sound later by some seconds, its end moved to the front; None for half of its length."""

    def edit(shown: Shown) -> Shown:
        video, audio = shown

        def later(samples: np.ndarray) -> np.ndarray:
            n = len(samples) // 2 if seconds is None or audio is None else 0
            if seconds is not None and audio is not None:
                n = round(seconds * audio.sampling_rate)
            if n % len(samples) == 0:
                raise Skip(
                    f"expected a shift that moves the sound, got {seconds} s for a sound of "
                    f"{len(samples)} samples. Choose another `shift_seconds`."
                )
            return np.roll(samples, n)

        return video, _with_samples(audio, later)

    return edit


def blank(color: Literal["black", "mean"] = "black") -> _Edit:
    """Frames of one color: black, or the mean over the clip."""

    def edit(shown: Shown) -> Shown:
        video, audio = shown
        if video is None:
            return shown
        mean = video.frames.mean(dim=(0, 2, 3), keepdim=True)
        one = torch.zeros_like(mean) if color == "black" else mean
        return replace(video, frames=one.expand_as(video.frames).clone()), audio

    return edit


def other_sound(path: str | Path, settings: MediaSettings) -> _Edit:
    """The sound of another clip, repeated or cut off to the same length."""
    other = read_audio(path, settings)

    def edit(shown: Shown) -> Shown:
        video, audio = shown
        return video, _with_samples(audio, lambda samples: np.resize(other.samples, samples.shape))

    return edit


def other_picture(path: str | Path, settings: MediaSettings) -> _Edit:
    """The frames of another clip, evenly chosen and resized to the same number and size."""
    other = read_video(path, settings)

    def edit(shown: Shown) -> Shown:
        video, audio = shown
        if video is None:
            return shown
        n, _, height, width = video.frames.shape
        chosen = torch.linspace(0, len(other.frames) - 1, n).round().long()
        size = [height, width]
        fitted = resize(other.frames[chosen], size, InterpolationMode.BICUBIC, antialias=True)
        return replace(video, frames=fitted.clamp(0, 255)), audio

    return edit


def _with_samples(audio: Audio | None, change: Callable[[np.ndarray], np.ndarray]) -> Audio | None:
    return None if audio is None else replace(audio, samples=change(audio.samples))

"""Which variants of a clip take as many tokens as the clip?

Silence and other sounds have the same number of samples, blank and other pictures the same number
and size of frames: positions do not move, so whatever changes is due to what is heard or seen.
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
from hooked_omni.inputs.audio import Audio, read_audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import Video, read_video

Clip = tuple[Video | None, Audio | None]
"""What is seen, and what is heard."""

_Edit = Callable[[Clip], Clip]


def mute() -> _Edit:
    """Silence: samples of zero."""
    return _on_samples(np.zeros_like)


def shift(seconds: float | None = None) -> _Edit:
    """The sound later by some seconds, its end moved to the front; None for half of its length."""

    def edit(clip: Clip) -> Clip:
        video, audio = clip
        if audio is None:
            return clip
        n_samples = len(audio.samples)
        n = n_samples // 2 if seconds is None else round(seconds * audio.sampling_rate)
        if n % n_samples == 0:
            raise Skip(
                f"expected a shift that moves the sound, got {seconds} s for a sound of "
                f"{n_samples} samples. Choose another `shift_seconds`."
            )
        return video, replace(audio, samples=np.roll(audio.samples, n))

    return edit


def blank(color: Literal["black", "mean"] = "black") -> _Edit:
    """Frames of one color: black, or the mean over the clip."""

    def edit(clip: Clip) -> Clip:
        video, audio = clip
        if video is None:
            return clip
        mean = video.frames.mean(dim=(0, 2, 3), keepdim=True)
        one = torch.zeros_like(mean) if color == "black" else mean
        return replace(video, frames=one.expand_as(video.frames).clone()), audio

    return edit


def other_sound(path: str | Path, settings: MediaSettings) -> _Edit:
    """The sound of another clip, repeated or cut off to the same length."""
    other = read_audio(path, settings)
    return _on_samples(lambda samples: np.resize(other.samples, samples.shape))


def other_picture(path: str | Path, settings: MediaSettings) -> _Edit:
    """The frames of another clip, evenly chosen and resized to the same number and size."""
    other = read_video(path, settings)

    def edit(clip: Clip) -> Clip:
        video, audio = clip
        if video is None:
            return clip
        n, _, height, width = video.frames.shape
        chosen = torch.linspace(0, len(other.frames) - 1, n).round().long()
        size = [height, width]
        fitted = resize(other.frames[chosen], size, InterpolationMode.BICUBIC, antialias=True)
        return replace(video, frames=fitted.clamp(0, 255)), audio

    return edit


def _on_samples(change: Callable[[np.ndarray], np.ndarray]) -> _Edit:
    def edit(clip: Clip) -> Clip:
        video, audio = clip
        return video, None if audio is None else replace(audio, samples=change(audio.samples))

    return edit

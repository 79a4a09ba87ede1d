"""Which variants of a clip take as many tokens as the clip?

Silence and other sounds have the same number of samples, blank and other pictures the same number
and size of frames: positions do not move, so whatever changes is due to what is heard or seen.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from analyses.cases import Skip
from hooked_omni.families.family import Read
from hooked_omni.inputs.audio import Audio, read_audio
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import Video, read_video

_Edit = Callable[[Read], Read]


def mute() -> _Edit:
    """Silence: samples of zero."""
    return _on_samples(np.zeros_like)


def shift(seconds: float | None = None) -> _Edit:
    """The sound later by some seconds, its end moved to the front; None for half of its length."""

    def edit(audio: Audio) -> Audio:
        n_samples = len(audio.samples)
        n = n_samples // 2 if seconds is None else round(seconds * audio.sampling_rate)
        if n % n_samples == 0:
            raise Skip(
                f"expected a shift that moves the sound, got {seconds} s for a sound of "
                f"{n_samples} samples. Choose another `shift_seconds`."
            )
        return replace(audio, samples=np.roll(audio.samples, n))

    return _on(Audio, edit)


def blank(color: Literal["black", "mean"] = "black") -> _Edit:
    """Frames and images of one color: black, or the mean over the clip or image."""

    def plain(pixels: Tensor) -> Tensor:
        mean = pixels.mean(dim=(0, 2, 3), keepdim=True)
        one = torch.zeros_like(mean) if color == "black" else mean
        return one.expand_as(pixels).clone()

    return _on_pixels(plain)


def noise(share: float = 0.9, seed: int = 0) -> _Edit:
    """Gaussian noise over picture and sound, which keep the rest of their variance.

    In place of the schedule of VCD (Leng et al., arXiv 2311.16922), whose late steps it is like.
    """

    def pixels(own: Tensor) -> Tensor:
        drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(seed))
        mixed = (1 - share) ** 0.5 * (own.float() - 128) + share**0.5 * 64 * drawn + 128
        return mixed.clamp(0, 255).to(own.dtype)

    def samples(own: np.ndarray) -> np.ndarray:
        drawn = np.random.default_rng(seed).standard_normal(own.shape) * own.std()
        return ((1 - share) ** 0.5 * own + share**0.5 * drawn).astype(own.dtype)

    return lambda read: _on_pixels(pixels)(_on_samples(samples)(read))


def other_sound(path: str | Path, settings: MediaSettings) -> _Edit:
    """The sound of another clip, repeated or cut off to the same length."""
    other = read_audio(path, settings)
    return _on_samples(lambda samples: np.resize(other.samples, samples.shape))


def other_picture(path: str | Path, settings: MediaSettings) -> _Edit:
    """The frames of another clip, evenly chosen and resized to the same number and size."""
    other = read_video(path, settings)

    def fitted(pixels: Tensor) -> Tensor:
        n, _, height, width = pixels.shape
        chosen = torch.linspace(0, len(other.frames) - 1, n).round().long()
        size = [height, width]
        new = resize(other.frames[chosen], size, InterpolationMode.BICUBIC, antialias=True)
        return new.clamp(0, 255)

    return _on_pixels(fitted)


def _on_samples(change: Callable[[np.ndarray], np.ndarray]) -> _Edit:
    return _on(Audio, lambda audio: replace(audio, samples=change(audio.samples)))


def _on_pixels(change: Callable[[Tensor], Tensor]) -> _Edit:
    """Change frames, and an image as a single one."""
    frames = _on(Video, lambda video: replace(video, frames=change(video.frames)))
    images = _on(Image, lambda image: replace(image, pixels=change(image.pixels[None])[0]))
    return lambda read: images(frames(read))


def _on(kind: type, change: Callable[[Any], Any]) -> _Edit:
    """Change each medium of a kind."""
    return lambda read: tuple(change(one) if isinstance(one, kind) else one for one in read)

"""Which frames does a clip give a model?

Those of qwen-omni-utils 0.0.9, the paper's pipeline: read by `frames.py`, resized by torchvision.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni.inputs.frames import read_frames
from hooked_omni.inputs.media import PAPER, MediaSettings


@dataclass(frozen=True)
class Video:
    """The sampled frames of a clip, resized unless its settings say otherwise, values 0..255."""

    frames: Float[Tensor, "frame channel height width"]  # RGB
    fps: float  # sampled frames per second of clip, as the model's processor needs it
    seconds: float  # length of the whole video track
    frame_seconds: tuple[float, ...]  # presentation times; 0 is where the container starts
    notes: tuple[str, ...]  # peculiarities of the file, one sentence each


def read_video(path: str | Path, settings: MediaSettings = PAPER) -> Video:
    """The frames that the paper's pipeline would feed to the model, and the time of each.

    Example:
        >>> read_video("02321.mp4").frames.shape  # 10 s of 640 x 360
        torch.Size([20, 3, 364, 644])

    `MediaError` if the file is missing, damaged, or would be misread.
    """
    from torchvision.transforms.functional import InterpolationMode, resize  # takes seconds

    read = read_frames(path, settings)
    frames, shape = torch.from_numpy(read.pixels), [*read.shape]
    if settings.resize:
        # One at a time: resizing takes 12 bytes a pixel of the clip's own size.
        each = [resize(f[None], shape, InterpolationMode.BICUBIC, antialias=True) for f in frames]
        frames = torch.cat(each)
    return Video(frames.float(), read.fps, read.seconds, read.frame_seconds, read.notes)

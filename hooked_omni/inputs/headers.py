"""What would be read of a file, by its header alone? Media of the same sizes, without content."""

import math
from fractions import Fraction
from typing import Any

import av
import numpy as np
import PIL.Image
import torch

from hooked_omni.errors import MediaError
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.container import existing, opened, own_length
from hooked_omni.inputs.frames import resized_shape, sampled_indices
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.items import Source
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.picture import image_shape
from hooked_omni.inputs.video import Video


def read_header(source: Source, settings: MediaSettings, device: str) -> Image | Video | Audio:
    """Silence, or pictures of one number each on a device; no frame but the first is decoded.

    Frames are black and white in turn, so that no processor leaves one out as like the one before.

    `MediaError` for a file that is missing, no media, or whose header tells no length.
    """
    path = existing(source.path)
    if source.kind == "image":
        try:
            with PIL.Image.open(path) as file:
                width, height = file.size
        except (OSError, ValueError) as error:
            raise MediaError(
                f"expected a picture, got {path}, which Pillow cannot read ({error}). Fetch it "
                "again."
            ) from error
        size = image_shape(height, width, settings)
        return Image(torch.zeros(1, device=device).expand(3, *size), ())
    with opened(path, "video" if source.kind == "video" else "audio") as (container, stream):
        whole = Fraction(container.duration or 0, av.time_base)
        length = float(own_length(container, stream) or whole)
        rate = float(getattr(stream, "average_rate", None) or 0)
        total, size = round(length * rate), (0, 0)
        if source.kind == "video":
            total, size = stream.frames or total, _upright(next(container.decode(stream), None))
    if length <= 0 or (source.kind == "video" and (total < 2 or not all(size))):
        raise MediaError(
            f"expected a header that tells how long {path} is, got {length} s and {total} frames. "
            "Remux it: ffmpeg -i clip.mp4 -c copy other.mp4"
        )
    if source.kind == "audio":
        seconds = min(length, settings.sound_seconds or math.inf)
        n = round(seconds * settings.sampling_rate)
        return Audio(np.zeros(n, np.float32), settings.sampling_rate, seconds, ())
    indices = sampled_indices(total, rate, settings)
    n_frames, times = len(indices), tuple(index / rate for index in indices)
    shape = resized_shape(*size, n_frames, settings)
    frames = 255.0 * (torch.arange(n_frames, device=device) % 2)[:, None, None, None]
    frames = frames.expand(-1, 3, *shape)
    return Video(frames, n_frames / total * rate, length, times, ())


def _upright(frame: Any) -> tuple[int, int]:
    """Height and width of a frame after its turn; zeros for none."""
    if frame is None:
        return 0, 0
    size = frame.height, frame.width
    return size[::-1] if round(frame.rotation / 90) % 2 else size

"""Which pixels does a picture give?

Those of qwen-omni-utils 0.0.9: Pillow reads the file, what is transparent becomes white, and the
picture is resized to multiples of `size_factor`, of 4 to 16384 tokens. Unlike there, the picture is
turned as its camera says (EXIF), and what Pillow would misread is refused.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni.errors import MediaError
from hooked_omni.inputs.container import existing
from hooked_omni.inputs.media import PAPER, MediaSettings, require_memory
from hooked_omni.inputs.video import MAX_ASPECT, fitted

# Of 8 bits a color; Pillow would clip those of 16, and knows no white of others.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LEAST, _MOST = 4, 16_384  # tokens
_PER_PIXEL = 24  # bytes, of the picture as read and turned, and of its floats


@dataclass(frozen=True)
class Image:
    """A picture, turned upright and resized, values 0..255."""

    pixels: Float[Tensor, "channel height width"]  # RGB
    notes: tuple[str, ...]  # peculiarities of the file, one sentence each


def read_image(path: str | Path, settings: MediaSettings = PAPER) -> Image:
    """The pixels that the model's processor gets of a picture.

    Only `size_factor` of the settings is used. `MediaError` if the file is missing, damaged, no
    picture, one of several pictures, or of more than 8 bits a color.
    """
    path = existing(path)
    try:
        with PIL.Image.open(path) as file:
            require_memory(_PER_PIXEL * math.prod(file.size), path)
            # Pillow reads colors of 16 bits, too, as if they were of 8.
            kind = (
                f"{file.mode};16" if any(";16" in str(one[3]) for one in file.tile) else file.mode
            )
            if getattr(file, "n_frames", 1) > 1 or kind not in _MODES:
                raise MediaError(
                    f"expected one picture of 8 bits a color in {path}, got "
                    f"{getattr(file, 'n_frames', 1)} of mode {kind}. Save one as PNG, or give "
                    "a clip as a video."
                )
            turned = PIL.ImageOps.exif_transpose(file)
            is_turned = file.getexif().get(0x0112) in range(2, 9)
            notes = ("turned as its EXIF says",) if is_turned else ()
            picture = _on_white(turned)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(
            f"expected a whole picture, got {path}, which Pillow cannot read ({error}). It is "
            "damaged, cut off, or no picture: fetch it again."
        ) from error
    width, height = picture.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            f"expected an aspect ratio of at most {MAX_ASPECT}, got {width} x {height} in {path}. "
            "Crop it."
        )
    token = settings.size_factor**2
    size = fitted(height, width, settings.size_factor, _LEAST * token, _MOST * token)
    require_memory(_PER_PIXEL * math.prod(size), path)
    pixels = np.array(picture.resize(size[::-1], PIL.Image.Resampling.BICUBIC))
    return Image(torch.from_numpy(pixels).permute(2, 0, 1).float(), notes)


def _on_white(picture: Any) -> Any:
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = PIL.Image.new("RGB", picture.size, (255, 255, 255))
    white.paste(picture, mask=picture.getchannel("A"))
    return white

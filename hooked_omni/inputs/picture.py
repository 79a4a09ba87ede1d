"""Which pixels does a picture have? Without torch, which takes seconds.

Those of qwen-omni-utils 0.0.9: Pillow reads the file, what is transparent becomes white, and the
picture is resized to multiples of `size_factor`, of 4 to 16384 tokens. Unlike there, the picture is
turned as its camera says (EXIF), and what Pillow would misread is refused.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

from hooked_omni.errors import MediaError
from hooked_omni.inputs.container import existing
from hooked_omni.inputs.frames import MAX_ASPECT, fitted
from hooked_omni.inputs.media import PAPER, MediaSettings, require_memory

# Of 8 bits a color; Pillow would clip those of 16, and knows no white of others.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LEAST, _MOST = 4, 16_384  # tokens
_PER_PIXEL = 24  # bytes, of the picture as read and turned, and of its floats


def read_picture(
    path: str | Path, settings: MediaSettings = PAPER
) -> tuple[UInt8[np.ndarray, "height width channel"], tuple[str, ...]]:
    """RGB, upright and resized, and peculiarities of the file; as `read_image`."""
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
            size, is_turned = file.size, file.getexif().get(0x0112) in range(2, 9)
            file.load()  # turns a TIFF, and mixes up one that is not compressed
            if file.size != size:
                raise MediaError(
                    f"expected a picture of {size}, as its header says, in {path}, got one of "
                    f"{file.size}: Pillow misreads how it is turned. Save it as PNG."
                )
            notes = ("turned as its EXIF says",) if is_turned else ()
            picture = _on_white(PIL.ImageOps.exif_transpose(file))
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
    size = image_shape(height, width, settings)
    require_memory(_PER_PIXEL * math.prod(size), path)
    return np.array(picture.resize(size[::-1], PIL.Image.Resampling.BICUBIC)), notes


def image_shape(height: int, width: int, settings: MediaSettings) -> tuple[int, int]:
    """Height and width of a picture after resizing."""
    token = settings.size_factor**2
    return fitted(height, width, settings.size_factor, _LEAST * token, _MOST * token)


def _on_white(picture: Any) -> Any:
    if "A" not in picture.mode and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = PIL.Image.new("RGB", picture.size, (255, 255, 255))
    white.paste(picture, mask=picture.getchannel("A"))
    return white

"""Which pixels does a picture give a model? Those of `picture.py`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni.inputs.media import PAPER, MediaSettings
from hooked_omni.inputs.picture import read_picture


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
    pixels, notes = read_picture(path, settings)
    return Image(torch.from_numpy(pixels).permute(2, 0, 1).float(), notes)

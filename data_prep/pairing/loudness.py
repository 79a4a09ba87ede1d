"""How long and how loud is the sound of a clip? Journaled by content, so each is decoded once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clips import clip_hash
from data_prep.journal import Journal
from hooked_omni.errors import MediaError
from hooked_omni.files import digest
from hooked_omni.inputs.audio import read_audio

# Infinity is no JSON; 16 bits end at -96 dB.
SILENCE = -200.0


@dataclass(frozen=True)
class Loudness:
    """Length of a sound, and root mean square in dB of full scale (-3 for a full-scale sine)."""

    seconds: float
    decibels: float  # -200 for digital silence


def is_measured(value: Any) -> bool:
    """Whether a value from a journal is one that `measure` puts there."""
    numbers = isinstance(value, list) and [type(one) for one in value]
    return numbers in ([float] * 2, [int] * 2, [int, float], [float, int]) and value[0] >= 0


def measure(path: Path, journal: Journal) -> Loudness:
    """Length and loudness of the first sound track of a file.

    Raises:
        MediaError: If the file is missing, damaged, or without a sound track.
    """
    if not path.is_file():
        raise MediaError(f"expected a file with sound, got none at {path}. Check the path.")
    key = digest("loudness", 1, clip_hash(path))
    known = journal.get(key)
    if known is None:
        audio = read_audio(path)
        power = float(np.mean(np.square(audio.samples, dtype=np.float64)))
        decibels = 10 * math.log10(power) if power > 10 ** (SILENCE / 10) else SILENCE
        known = [audio.seconds, decibels]
        journal.put(key, known)
    return Loudness(*known)

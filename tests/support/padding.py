"""Mel frames of the silence that a sound is padded with, made once instead of one by one.

The extractors of these models pad a sound of three seconds to 30 or 300, and most of the time of
embedding it with a tiny model goes into that silence. Its frames are all one value, by which the
rest is filled: equal to the bit, as `test_frames_of_padding_are_transformers_own` keeps.
"""

from typing import Any

import numpy as np
import transformers

_EXTRACTOR: Any = transformers.WhisperFeatureExtractor
every_frame = _EXTRACTOR._torch_extract_fbank_features


def fill_padding() -> None:
    """Let this process, and its forks, fill in the frames of padding."""
    _EXTRACTOR._torch_extract_fbank_features = frames_once


def frames_once(self: Any, waveform: Any, device: str = "cpu") -> Any:
    """As `_torch_extract_fbank_features`, but the padding's frames are copies of one."""
    heard = np.flatnonzero(waveform.any(axis=0))
    end = int(heard[-1]) + 1 if len(heard) else 0
    n_frames = (end + self.n_fft) // self.hop_length + 2  # the last one sees nothing of the sound
    n_samples = n_frames * self.hop_length
    if self.dither or n_samples >= waveform.shape[1]:
        return every_frame(self, waveform, device)
    found = every_frame(self, np.ascontiguousarray(waveform[:, :n_samples]), device)
    more = waveform.shape[1] // self.hop_length - n_frames
    return np.pad(found, ((0, 0), (0, 0), (0, more)), mode="edge")

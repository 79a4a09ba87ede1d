"""Which sound takes the place of a clip's own?

Another file's sound, trimmed or padded with silence to the length of the picture, or a control:
silence, noise as loud as the sound, or the sound reversed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from hooked_omni.errors import MediaError
from hooked_omni.inputs.container import TOLERANCE, decoded, opened

Wave = Float[np.ndarray, "channel sample"]

# AAC comes in frames of this many samples, and decoders give the last one whole.
_FRAME = 1024
_AUDIBLE = 7_000  # Hz, the flat part of what is left when sound is resampled to 16 kHz
# One frame is at most 32 ms at these rates; any other is resampled to the last of them.
_RATES = (32_000, 44_100, 88_200, 96_000, 48_000)


@dataclass(frozen=True)
class Soundtrack:
    """Decoded sound, all channels, values -1..1."""

    wave: Wave
    rate: int  # samples per second, one that AAC knows
    layout: str  # FFmpeg's name for the channels, such as "stereo"


def decode(path: Path) -> Soundtrack:
    """All channels of a file's first audio track.

    Raises:
        MediaError: If the file is missing, silent for want of a track, damaged, or has gaps.
    """
    blocks, due = [], None
    with opened(path, "audio") as (container, stream):
        native = stream.codec_context.sample_rate
        rate = native if native in _RATES else _RATES[-1]
        # Some sound files give how many channels they have, but not which.
        unnamed = {1: "mono", 2: "stereo"}.get(stream.codec_context.channels)
        resampler = av.AudioResampler(format="fltp", rate=rate, layout=unnamed)
        for frame in (frame for _, frames in decoded(path, container, stream) for frame in frames):
            if frame.pts is not None:
                time = frame.pts * frame.time_base
                if due is not None and abs(time - due) > TOLERANCE:
                    raise MediaError(
                        f"expected unbroken sound in {path}, got {float(time - due):.3f} s missing "
                        f"at {float(due):.3f} s. Fetch or encode it again."
                    )
                due = time + Fraction(frame.samples, frame.sample_rate)
            frame.pts = None
            blocks += resampler.resample(frame)
        blocks += resampler.resample(None) if blocks else []
    if not blocks:
        raise MediaError(f"expected sound in {path}, got a track of 0 samples. Skip the clip.")
    wave = np.concatenate([block.to_ndarray() for block in blocks], axis=1)
    if not np.isfinite(wave).all():
        raise MediaError(f"expected finite samples, got NaN or infinity in {path}. Export it anew.")
    return Soundtrack(wave, rate, blocks[0].layout.name)


def fit(sound: Soundtrack, seconds: Fraction, control: str | None, seed: list[int]) -> Soundtrack:
    """The sound, or a control made from it, cut or padded to `seconds` (to half a frame of AAC)."""
    n_samples = max(1, round(seconds * sound.rate / _FRAME)) * _FRAME
    sound = replace(sound, wave=sound.wave[:, :n_samples])
    wave = sound.wave if control is None else _CONTROLS[control](sound, seed)
    padding = np.zeros((len(wave), n_samples - wave.shape[1]), wave.dtype)
    return replace(sound, wave=np.concatenate([wave, padding], axis=1))


def _noise(sound: Soundtrack, seed: list[int]) -> Wave:
    """White noise, the same on all channels, as loud as the sound is to a model.

    Models get the mean of the channels below 8 kHz, nearly: there the root mean squares agree.
    """
    n_samples = sound.wave.shape[1]
    audible = np.fft.rfftfreq(n_samples, 1 / sound.rate) < _AUDIBLE
    own = np.fft.rfft(sound.wave.mean(axis=0, dtype=np.float64)) * audible
    drawn = np.fft.rfft(np.random.default_rng(seed).standard_normal(n_samples)) * audible
    loudness, level = (np.std(np.fft.irfft(x, n_samples)) for x in (own, drawn))
    noise = np.fft.irfft(drawn, n_samples) * (loudness / level)
    return np.tile(noise.astype(np.float32), (len(sound.wave), 1))


_CONTROLS: dict[str, Callable[[Soundtrack, list[int]], Wave]] = {
    "silence": lambda sound, seed: np.zeros_like(sound.wave),
    "noise": _noise,
    "reversed": lambda sound, seed: sound.wave[:, ::-1],
}

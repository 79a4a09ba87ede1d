"""Which samples does the sound of a clip give?

Those of qwen-omni-utils 0.0.9, the paper's pipeline: sound is decoded to 16 bits, mixed to mono,
and resampled by librosa. A file that is damaged or cut off is refused with a reason.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import soundfile
from jaxtyping import Float

from hooked_omni.errors import MediaError
from hooked_omni.inputs.container import (
    TOLERANCE,
    decoded,
    existing,
    opened,
    picture_tracks,
    track_notes,
)
from hooked_omni.inputs.media import PAPER, MediaSettings

_AUDIBLE = 1e-6  # power, -60 dB of full scale


@dataclass(frozen=True)
class Audio:
    """The sound of a clip: mono, values -1..1."""

    samples: Float[np.ndarray, " sample"]  # the waveform
    sampling_rate: int  # samples per second
    seconds: float  # length of `samples`
    notes: tuple[str, ...]  # peculiarities of the file, one sentence each


def read_audio(path: str | Path, settings: MediaSettings = PAPER) -> Audio:
    """The first audio track's samples, as the paper's pipeline would feed them to the model.

    Example:
        >>> read_audio("02321.mp4").samples.shape  # 9.9 s at 16 kHz
        (158639,)

    Only `sampling_rate` of the settings is used. `MediaError` if the file is missing, has no such
    track, or is damaged.
    """
    path = existing(path)
    with opened(path, "audio") as (container, stream):
        native, rate, start = _decoded_sound(path, container, stream)
        notes = track_notes(container, stream)
        late = start - Fraction(container.start_time or 0, av.time_base)
        if picture_tracks(container) and abs(late) > TOLERANCE:
            notes.append(f"the sound starts {float(late):.3f} s into the clip; sample 0 is there")
        is_sound_file = not picture_tracks(container)
    notes += _cancelling(native, rate)
    if is_sound_file:
        native = _through_soundfile(path, native, rate)
    if not np.isfinite(native).all():
        raise MediaError(f"expected finite samples, got NaN or infinity in {path}. Export it anew.")
    samples = librosa.resample(
        librosa.to_mono(native), orig_sr=rate, target_sr=settings.sampling_rate, res_type="soxr_hq"
    )
    seconds = len(samples) / settings.sampling_rate
    return Audio(samples, settings.sampling_rate, seconds, tuple(notes))


def _decoded_sound(
    path: Path, container: Any, stream: Any
) -> tuple[Float[np.ndarray, "channel sample"], int, Fraction]:
    """All channels through 16 bits, as in the pipeline; the track's own rate; its start, in s."""
    resampler, blocks, start, due, rate = av.AudioResampler(format="s16"), [], None, None, 0
    for frame in (frame for _, frames in decoded(path, container, stream) for frame in frames):
        rate = frame.sample_rate
        if frame.pts is not None:
            time = frame.pts * frame.time_base
            start = time if start is None else start
            if due is not None and abs(time - due) > TOLERANCE:
                raise MediaError(
                    f"expected unbroken sound in {path}, got {float(time - due):.3f} s missing at "
                    f"{float(due):.3f} s. Fetch or encode it again."
                )
            due = time + Fraction(frame.samples, rate)
        frame.pts = None
        blocks += resampler.resample(frame)
    if not blocks:
        raise MediaError(f"expected sound in {path}, got a track of 0 samples. Skip the clip.")
    pcm = np.concatenate([block.to_ndarray() for block in blocks], axis=1)
    channels = pcm.reshape(-1, blocks[0].layout.nb_channels).T
    return channels.astype(np.float32) / 32768, rate, start or Fraction(0)


def _through_soundfile(
    path: Path, native: Float[np.ndarray, "channel sample"], rate: int
) -> Float[np.ndarray, "*channel read"]:
    """The same sound as librosa reads it: a sound file keeps its precision beyond 16 bits."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return native
    n_decoded, most_off = native.shape[-1], TOLERANCE * rate
    promised, cut = file.frames, re.search(r"^data : (\d+) \(should be", file.extra_info, re.M)
    advice = "damaged or cut off. Fetch it again."
    if file.format == "MP3" and not _counts_frames(path):
        # The promise is a guess, which librosa never reads beyond.
        promised = n_decoded
        advice = "librosa guesses its length. Remux it: ffmpeg -i a.mp3 -c copy b.mp3"
    own, own_rate = native, rate
    if promised <= n_decoded + most_off:  # else a false header may ask for any memory
        try:
            own, own_rate = librosa.load(file, sr=None, mono=False)
        except soundfile.SoundFileRuntimeError as error:
            raise MediaError(
                f"expected whole sound in {path}, got damage ({error}). Get the file again."
            ) from error
    # A header that says 2**32 - 1 was written to a pipe, before the length was known.
    cut = cut is not None and int(cut[1]) != 2**32 - 1
    short = min(own.shape[-1], promised) < max(promised, n_decoded) - most_off
    if cut or short or own_rate != rate:
        raise MediaError(f"expected {promised} samples in {path}, got {own.shape[-1]}: {advice}")
    return own


def _counts_frames(path: Path) -> bool:
    """Whether an MP3 has a header with its number of frames: Xing's, LAME's (Info) or VBRI's."""
    with path.open("rb") as file:
        start = file.read(10)
        size = sum(byte << 7 * (3 - place) for place, byte in enumerate(start[6:]))
        file.seek(10 + size if start[:3] == b"ID3" else 0)
        # In the first frame, which other tags and zeros may come before.
        header = rb"\xff[\xe0-\xff].{11,34}(Xing|Info|VBRI)...(.)"
        found = re.search(header, file.read(2**16), re.S)
    return found is not None and (found[1] == b"VBRI" or found[2][0] & 1 == 1)


def _cancelling(native: Float[np.ndarray, "channel sample"], rate: int) -> list[str]:
    """A note if channels of opposite phase are lost in the mean over them, for some seconds."""
    n_channels, n_lost, n_heard = len(native), 0, 0
    for start in range(0, native.shape[1], rate):
        second = native[:, start : start + rate].astype(np.float64)
        power, mixed = (second**2).mean(), (second.mean(axis=0) ** 2).mean()
        n_heard += power > _AUDIBLE
        # Channels of no relation would have 1 / n_channels of the power.
        n_lost += power > _AUDIBLE and mixed < power / n_channels / 4
    if not n_lost:
        return []
    return [
        f"the {n_channels} channels cancel each other when mixed to mono, as models hear them: in "
        f"{n_lost} of {n_heard} s with sound, less than a quarter of the power is left"
    ]

"""Small clips for tests: a gray level of its own for each frame, and a sine."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CLOCK = 12_800  # ticks per second: whole numbers at 10, 12.5, 20, and 25 frames per second


def frame_level(index: int) -> int:
    """The gray level of frame `index`, far from those of its neighbors."""
    return 20 + index * 37 % 200


def write_clip(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: float = 10,
    width: int = 64,
    height: int = 48,
    audio_hz: float | None = 440.0,
    sampling_rate: int = 16_000,
    times: Sequence[float] | None = None,
    turns: int = 0,
    audio_tracks: int = 1,
    audio_start: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write H.264 and AAC, the container named by the suffix; no picture if `fps` is 0.

    `times` are the presentation times of the frames, in seconds, instead of an even spacing;
    `turns` is a rotation mark, in quarter turns counterclockwise; `options` go to the muxer.
    Each sound track is an octave above the one before.
    """
    if times is None:
        times = [index / fps for index in range(round(seconds * fps))] if fps else []
    with av.open(str(path), "w", options=options or {}) as container:
        picture = _picture_track(container, fps, (width, height), turns) if fps else None
        hertz = [] if audio_hz is None else [audio_hz * 2**k for k in range(audio_tracks)]
        sounds = [container.add_stream("aac", rate=sampling_rate, layout="mono") for _ in hertz]
        if picture is not None:
            for index, time in enumerate(times):
                gray = np.full((height, width, 3), frame_level(index), np.uint8)
                frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
                frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        for stream, tone in zip(sounds, hertz, strict=True):
            _mux_sine(container, stream, tone, (audio_start, seconds), sampling_rate)
    return path


def _picture_track(container: Any, fps: float, size: tuple[int, int], turns: int) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, CLOCK)
    stream.codec_context.thread_count = 1
    if turns:
        stream.set_display_rotation(90 * turns)
    return stream


def _mux_sine(container: Any, stream: Any, tone: float, span: Any, sampling_rate: int) -> None:
    start, seconds = span
    phase = 2 * np.pi * tone * np.arange(round(seconds * sampling_rate)) / sampling_rate
    wave = (0.5 * np.sin(phase)).astype(np.float32)
    for offset in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, offset : offset + 1024], "fltp", "mono")
        frame.sample_rate, frame.time_base = sampling_rate, Fraction(1, sampling_rate)
        frame.pts = offset + round(start * sampling_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

"""Which frames of a clip are read, and is the clip whole? Without torch, which takes seconds.

decord picks evenly spaced frames, as in the paper's pipeline. Unlike there, PyAV decodes every file
first, and one that is damaged, cut off, or that decord would misread is refused with a reason.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from jaxtyping import Float, UInt8

from hooked_omni.errors import MediaError
from hooked_omni.inputs.container import (
    decoded,
    existing,
    frame_span,
    opened,
    track_notes,
)
from hooked_omni.inputs.media import PAPER, MediaSettings, require_memory

MAX_ASPECT = 200
# decord cannot seek in these: it fails, or hangs for good on a cut-off file.
UNSEEKABLE = {"mpeg", "mpegts"}
# Some pictures narrower than this, such as 72 pixels, decord opens and cannot copy.
_NARROW = 80
# Bytes that decord holds while it reads, and one resized picture takes, beside the sampled frames.
_PER_PIXEL = 50


@dataclass(frozen=True)
class Frames:
    """The sampled frames of a clip as they were decoded, and what is known of the whole clip."""

    pixels: UInt8[np.ndarray, "frame channel height width"]  # RGB
    shape: tuple[int, int]  # height and width that the settings ask for
    fps: float  # sampled frames per second of clip
    seconds: float  # length of the whole video track
    frame_seconds: tuple[float, ...]  # presentation times; 0 is where the container starts
    notes: tuple[str, ...]  # peculiarities of the file, one sentence each


def read_frames(path: str | Path, settings: MediaSettings = PAPER) -> Frames:
    """The frames of a clip before they are resized; `MediaError` as `read_video`."""
    path = existing(path)
    with opened(path, "video") as (container, stream):
        times, end, thumbnails, turns = _decoded_frames(path, container, stream)
        origin = Fraction(container.start_time or 0, av.time_base)
        size = (stream.codec_context.height, stream.codec_context.width)
        notes = [*track_notes(container, stream), *_rate_notes(times, stream)]
    if max(size) > MAX_ASPECT * min(size):
        raise MediaError(
            f"expected an aspect ratio of at most {MAX_ASPECT}, got {size[1]} x {size[0]} in "
            f"{path}. Crop it."
        )
    pixels, indices, native_fps = _sampled(path, settings, times, size)
    given = frames_given(np.rot90(pixels, -turns, axes=(2, 3)), indices, thumbnails)
    if given != indices:
        wrong = [pair for pair in zip(indices, given, strict=True) if pair[0] != pair[1]]
        notes.append(
            f"decord, the paper's reader, gave other frames than requested (wanted, got): {wrong}; "
            f"frame_seconds has the times of those it gave"
        )
    own: tuple[int, int] = pixels.shape[2:]
    return Frames(
        pixels=pixels,
        shape=resized_shape(*own, len(indices), settings) if settings.resize else own,
        fps=len(indices) / len(times) * native_fps,
        seconds=float(end - times[0]),
        frame_seconds=tuple(float(times[index] - origin) for index in given),
        notes=tuple(notes),
    )


def resized_shape(
    height: int, width: int, n_frames: int, settings: MediaSettings
) -> tuple[int, int]:
    """Height and width of a frame after resizing: (364, 644) for 20 frames of 360 x 640."""
    factor = settings.size_factor
    budget = settings.total_pixels / n_frames * settings.frame_factor
    # A long clip's budget never pushes a frame below its minimum.
    limit = min(settings.max_pixels, max(budget, int(settings.min_pixels * 1.05)))
    return fitted(height, width, factor, settings.min_pixels, limit)


def fitted(height: int, width: int, factor: int, least: int, limit: int | float) -> tuple[int, int]:
    """The nearest multiples of `factor`, of at least and at most so many pixels."""
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > limit:
        shrink = math.sqrt(height * width / limit)
        new_height = math.floor(height / shrink / factor) * factor
        new_width = math.floor(width / shrink / factor) * factor
    elif new_height * new_width < least:
        grow = math.sqrt(least / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    if min(new_height, new_width) == 0:
        raise MediaError(
            f"expected a frame of at least {factor} pixels each way, got {width} x {height} with "
            f"{limit:.0f} pixels allowed. Crop the clip or raise max_pixels."
        )
    return new_height, new_width


def sampled_indices(total: int, native_fps: float, settings: MediaSettings) -> list[int]:
    """Which of `total` frames are read: evenly spaced, the first and the last included."""
    factor = settings.frame_factor
    fewest = math.ceil(settings.min_frames / factor) * factor
    most = math.floor(min(settings.max_frames, total) / factor) * factor
    wanted = min(max(total / native_fps * settings.fps, fewest), most)
    n_frames = math.floor(wanted / factor) * factor
    # As `torch.linspace` of the pipeline: from both ends, each rounded to float32 once.
    last, at = total - 1, np.arange(n_frames)
    step = float(np.float32(last) / np.float32(max(n_frames - 1, 1)))
    from_end = last - step * (n_frames - 1 - at)
    where = np.where(at < max(n_frames // 2, 1), step * at, from_end).astype(np.float32)
    return where.round().astype(int).tolist()


def _decoded_frames(
    path: Path, container: Any, stream: Any
) -> tuple[list[Fraction], Fraction, Float[np.ndarray, "frame point"], int]:
    """Start time of each frame, end time of the last, a thumbnail of each, and quarter turns."""
    if container.format.name in UNSEEKABLE:
        raise MediaError(
            f"expected a container that decord can seek in, got {container.format.name} in {path}. "
            f"Remux it: ffmpeg -i clip.ts -c copy clip.mp4"
        )
    spans, thumbnails, turns, timed = [], [], 0, bool(stream.average_rate)
    for packet, frames in decoded(path, container, stream):
        if packet.size:
            spans.append(frame_span(packet))
            timed = timed and packet.pts is not None
        for frame in frames:
            thumbnails.append(_thumbnail(frame.to_ndarray(format="gray")))
            turns = round(frame.rotation / 90)
    if len(spans) < 2:
        raise MediaError(
            f"expected at least 2 frames in {path}, got {len(spans)}: a still image is no video."
        )
    if not timed:
        raise MediaError(
            f"expected a frame rate and a presentation time for every frame of {path}, got none, "
            f"and decord would mix the frames up. Remux or re-encode it as MP4."
        )
    if len(thumbnails) != len(spans):
        raise MediaError(
            f"expected {len(spans)} frames in {path}, got {len(thumbnails)}: the others are "
            f"hidden by an edit list (a clip cut without re-encoding), or damaged, and decord "
            f"would shift and repeat frames. Re-encode the clip."
        )
    times, ends = zip(*sorted(spans), strict=True)
    return list(times), max(ends), np.stack(thumbnails), turns


def _thumbnail(gray: np.ndarray) -> Float[np.ndarray, " point"]:
    """At most 32 x 32 points of a gray picture, or of one color: enough to tell frames apart."""
    down, right = (-(-side // 32) for side in gray.shape)
    return gray[::down, ::right].astype(np.float32).ravel()


def frames_given(
    frames: UInt8[np.ndarray, "sampled channel height width"],
    indices: list[int],
    thumbnails: Float[np.ndarray, "frame point"],
) -> list[int]:
    """Indices of the frames that decord gave for `indices`.

    It counts key frames in decoding order, and so may give another frame than the requested one.
    """
    given = []
    for index, frame in zip(indices, frames, strict=True):
        red, green, blue = (_thumbnail(channel) for channel in frame)
        gray = 0.299 * red + 0.587 * green + 0.114 * blue
        distances = np.abs(thumbnails - gray).mean(axis=1)
        nearest = int(distances.argmin())
        # Colors may be converted a little differently; equal frames are as good as the right one.
        given.append(nearest if distances[nearest] + 0.5 < distances[index] else index)
    return given


def _rate_notes(times: list[Fraction], stream: Any) -> list[str]:
    """A note if frames are not evenly spaced, beyond the rounding of the container's clock."""
    gaps = [after - before for before, after in pairwise(times)]
    low, high = min(gaps), max(gaps)
    if high - low <= max(2 * stream.time_base, low / 10):
        return []
    return [
        f"variable frame rate: {float(low):.3f} to {float(high):.3f} s between frames, so the "
        f"sampled frames are not evenly spaced in time; see frame_seconds"
    ]


def _sampled(
    path: Path, settings: MediaSettings, times: list[Fraction], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "frame channel height width"], list[int], float]:
    """The sampled frames, their indices, and the native frame rate, as decord sees them."""
    try:
        reader = decord.VideoReader(str(path))
        native_fps = reader.get_avg_fps()
        if len(reader) != len(times) or not 0 < native_fps < math.inf:
            raise RuntimeError(f"{len(reader)} of {len(times)} frames at {native_fps} per second")
        indices = sampled_indices(len(times), native_fps, settings)
        per_frame = 3 if settings.resize else 15  # bytes: as decoded, and as floats of that size
        require_memory((_PER_PIXEL + per_frame * len(indices)) * math.prod(size), path)
        batch = reader.get_batch(indices)
        starts = reader.get_frame_timestamp(indices)[:, 0]
    except (decord.DECORDError, RuntimeError) as error:
        advice = "Re-encode it as H.264 in MP4"
        if min(size) < _NARROW:
            advice = f"Scale it to {_NARROW} pixels or more each way"
        raise MediaError(
            f"expected a video that decord can read, got {path}, {size[1]} x {size[0]} "
            f"({str(error).splitlines()[0]}). {advice}."
        ) from error
    # Another picture track, or a container whose clock decord misreads, is found here.
    due = [float(times[index] - times[0]) for index in indices]
    if sorted(batch.shape[1:3]) != sorted(size) or not np.allclose(
        starts - starts[0], due, 1e-5, 2e-3
    ):
        raise MediaError(
            f"expected decord and FFmpeg to see the same frames of {path}, got others. "
            f"Re-encode it as H.264 in MP4 with one picture track."
        )
    # Other packages may have switched decord to its torch bridge for the whole process.
    pixels = batch.asnumpy() if hasattr(batch, "asnumpy") else batch.numpy()
    return pixels.transpose(0, 3, 1, 2), indices, native_fps

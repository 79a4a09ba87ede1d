"""Is this file whole, and which of its tracks does the pipeline read?

FFmpeg reads a file to its end before anything else does: a missing end, a damaged packet, or a
length that the header promises and the data do not hold is an error with a reason.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError
from av.stream import Disposition

from hooked_omni.errors import MediaError
from hooked_omni.inputs.media import require_memory

# Sound files and their muxers round; a hole or a missing end is longer than four AAC packets.
TOLERANCE = Fraction(1, 10)  # seconds
# Formats whose length FFmpeg guesses from the bit rate, or that `_through_soundfile` checks.
UNPROMISED = {"aac", "ac3", "amr", "dts", "eac3", "loas", "mp3", "wav"}
# What reading takes at most, in bytes. A sound is held as 16 bits and as float, in two copies each,
# and resampled to 16 kHz in three. Of each picture a thumbnail is kept and compared, and decoders
# hold up to 16 pictures of 1.5 bytes a pixel.
_PER_VALUE, _PER_PICTURE, _PER_PIXEL = 12, 3 * 4 * 32**2, 24


def existing(path: str | Path) -> Path:
    """Absolute, so that FFmpeg cannot take a name such as `concat:a` for a protocol."""
    path = Path(path).expanduser().absolute()
    if not os.path.exists(path):  # noqa: PTH110  # Path's raises for a name that is too long
        raise MediaError(f"expected a media file, got no file at {path}. Check the path.")
    if not path.is_file():
        raise MediaError(f"expected a media file, got a directory or device: {path}. Name a file.")
    if path.stat().st_size == 0:
        raise MediaError(f"expected a media file, got 0 bytes in {path}. Fetch it again.")
    return path


@contextmanager
def opened(path: Path, kind: Literal["video", "audio"]) -> Iterator[tuple[Any, Any]]:
    """The container and the track that the pipeline reads, with FFmpeg's errors as ours."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = _track(path, container, kind)
            # Without "explode" decoders paper over damage: gray blocks, or lost samples.
            stream.codec_context.options = {"err_detect": "explode"}
            stream.codec_context.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, ValueError, OSError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(
            f"expected a whole media file, got {path}, which FFmpeg cannot read to its end "
            f"({error}). It is damaged, cut off, or no media file: fetch or encode it again."
        ) from error


def _track(path: Path, container: Any, kind: Literal["video", "audio"]) -> Any:
    tracks = picture_tracks(container) if kind == "video" else list(container.streams.audio)
    # decord lets FFmpeg choose a picture track (mostly the largest); FFmpeg takes the first sound.
    stream = container.streams.best("video") if kind == "video" and tracks else None
    stream = stream or next(iter(tracks), None)
    if stream is None:
        found = sorted({stream.type for stream in container.streams}) or "no track"
        advice = "Skip the clip, or leave out its sound." if kind == "audio" else "Name a video."
        raise MediaError(f"expected {kind} in {path}, got only {found}. {advice}")
    if stream.codec_context is None:
        raise MediaError(f"expected a known {kind} codec in {path}, got none. Re-encode the clip.")
    return stream


def picture_tracks(container: Any) -> list[Any]:
    """Video tracks, without the cover art of a sound file."""
    cover = Disposition.attached_pic
    return [track for track in container.streams.video if not track.disposition & cover]


def decoded(path: Path, container: Any, stream: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each packet of `stream` with the frames it completes; refuses a file that ends early.

    One that takes too much memory is refused by its header, or where that is wrong, on the way.
    """
    ends, n_decoded = dict[int, Fraction](), 0
    require_memory(_memory(stream.codec_context, _promised_samples(container, stream)), path)
    for packet in container.demux():
        # A WAV written to a pipe claims 4 GiB, so its last packet always counts as corrupt.
        if packet.is_corrupt and container.format.name != "wav":
            raise _damaged(path, packet, "packet")
        if packet.size and packet.pts is not None:
            end = frame_span(packet)[1]
            ends[packet.stream.index] = max(end, ends.get(packet.stream.index, end))
        if packet.stream.index == stream.index:
            frames = packet.decode()
            if any(frame.is_corrupt for frame in frames):
                raise _damaged(path, packet, "frame")
            for frame in frames:
                n_decoded += frame.samples if stream.type == "audio" else 1
                require_memory(_memory(frame, n_decoded), path)
            yield packet, frames
    _check_length(path, container, stream, ends)


def frame_span(packet: Any) -> tuple[Fraction, Fraction]:
    """When a packet's frame starts and ends, in seconds, by its decoding without another time."""
    start = (packet.dts or 0) if packet.pts is None else packet.pts
    return start * packet.time_base, (start + (packet.duration or 0)) * packet.time_base


def _promised_samples(container: Any, stream: Any) -> float:
    """How many samples of sound the header promises; 0 where it is a guess, or no sound."""
    if stream.type != "audio" or container.format.name in UNPROMISED:
        return 0.0
    return float((stream.duration or 0) * stream.time_base) * stream.codec_context.sample_rate


def _memory(source: Any, n: int | float) -> float:
    """Bytes that reading takes with `n` samples, or pictures, like those of a frame or codec."""
    if hasattr(source, "width"):
        return float(_PER_PIXEL * source.width * source.height + _PER_PICTURE * n)
    return _PER_VALUE * n * (source.layout.nb_channels + 16_000 / max(1, source.sample_rate))


def _check_length(path: Path, container: Any, stream: Any, ends: dict[int, Fraction]) -> None:
    """Compare what was decoded with the header: its index of byte positions, and its duration."""
    if container.format.name == "ogg":  # it promises no length, but marks a stream's last page
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))  # a page has up to 65 307 bytes
            page = b"OggS" + file.read().rpartition(b"OggS")[2]
        sizes = page[27 : 27 + sum(page[26:27])]
        if len(page) != 27 + len(sizes) + sum(sizes) or not page[5] & 4:
            raise MediaError(f"expected a whole last page in {path}, got none. Fetch it again.")
    expected = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if expected > (size := path.stat().st_size):
        raise MediaError(f"expected {expected} bytes in {path}, got {size}. Fetch it again.")
    if container.format.name in UNPROMISED or not ends:
        return
    if (own := own_length(container, stream)) is not None:
        promised = (stream.start_time or 0) * stream.time_base + own
        end = ends.get(stream.index, Fraction(0))
    else:
        promised = Fraction((container.start_time or 0) + (container.duration or 0), av.time_base)
        end = max(ends.values())
    if end < promised - TOLERANCE:
        raise MediaError(
            f"expected {float(promised):.3f} s in {path}, got {float(end):.3f} s. Fetch it again."
        )


def own_length(container: Any, stream: Any) -> Fraction | None:
    """Seconds that the header promises of this track; Matroska and WebM know the longest alone."""
    if stream.duration is None or container.format.name == "matroska,webm":
        return None
    return stream.duration * stream.time_base


def promised_seconds(path: Path) -> float:
    """How long a file's header says it is; 0 for a file that has none, or that is not there."""
    try:
        with av.open(str(path)) as container:
            return float((container.duration or 0) / av.time_base)
    except (FFmpegError, OSError, ValueError):
        return 0.0


def _damaged(path: Path, packet: Any, what: str) -> MediaError:
    at = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.3f} s"
    return MediaError(f"expected intact data in {path}, got a damaged {what}{at}. Fetch it again.")


def track_notes(container: Any, stream: Any) -> list[str]:
    """A note that says which of several tracks of a kind was read."""
    kind = stream.type
    tracks = picture_tracks(container) if kind == "video" else container.streams.audio
    if len(tracks) < 2:
        return []
    return [f"{len(tracks)} {kind} streams: stream {stream.index} of the container was read"]

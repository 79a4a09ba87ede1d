"""How does a clip get another sound?

The picture is copied bit for bit; another file's sound, trimmed or padded to the picture's end, is
encoded once (AAC). A file ends with a checksum of itself, and its comment names the sources by
theirs: one that holds both is not made again.
"""

import hashlib
import io
import json
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np
from av.error import FFmpegError

from data_prep.clips import clip_hash
from data_prep.swapping.soundtrack import Soundtrack, decode, fit
from hooked_omni.errors import MediaError
from hooked_omni.files import write_whole
from hooked_omni.inputs.container import decoded, existing, opened

Control = Literal["self", "silence", "noise", "reversed"]
CONTROLS: tuple[Control, ...] = get_args(Control)

# An MP4 box that readers skip: its size, its name, and the SHA-256 of all bytes before it.
_SEAL = struct.pack(">I4s", 40, b"free")
_BITS = 128_000  # per second and channel


def swap(
    video: str | Path,
    audio: str | Path | None,
    out: str | Path,
    control: Control | None = None,
    seed: int = 0,
) -> bool:
    """Write the picture of one file with the sound of another, as MP4.

    Example:
        >>> swap("dog.mp4", "rain.mp4", "dog+rain.mp4")
        True
        >>> swap("dog.mp4", "rain.mp4", "dog+rain.mp4")  # already there
        False

    Args:
        video: A file whose picture is copied.
        audio: A file whose sound is heard; None means `video`.
        out: The file to write, `.mp4`.
        control: Not the sound itself, but "silence", "noise" (as loud as the sound) or "reversed".
            "self" copies the picture's own sound without encoding it.
        seed: Of the noise.

    Returns:
        Whether the file had to be written.

    Raises:
        MediaError: If a source is missing or damaged, or MP4 cannot hold the picture as it is.
    """
    video, out = existing(video), Path(out)
    audio = video if audio is None else existing(audio)
    _check_request(video, audio, out, control)
    if seed < 0:
        raise MediaError(f"expected a seed of 0 or more, got {seed}.")
    comment = _comment(video, audio, control, seed)
    if _is_made(out, comment):
        return False
    with opened(video, "video") as (container, stream):
        packets = [packet for packet, _ in decoded(video, container, stream) if packet.size]
        if control == "self":
            data = _with_own_sound(video, stream, packets, comment)
        else:
            draw = [seed, int(json.loads(comment)["video"], 16)]
            seconds = _from_zero(video, container, packets)
            sound = fit(decode(audio), seconds, control, draw)
            data = _muxed(video, stream, packets, sound, comment)
    write_whole(out, data + _SEAL + hashlib.sha256(data).digest())
    return True


def is_swapped(
    video: Path, audio: Path | None, out: Path, control: Control | None, seed: int
) -> bool:
    """Whether the file that `swap` would write is there; a `MediaError` without its sources."""
    return _is_made(out, _comment(video, video if audio is None else audio, control, seed))


def _check_request(video: Path, audio: Path, out: Path, control: str | None) -> None:
    if control is not None and control not in CONTROLS:
        raise MediaError(f"expected a control of {list(CONTROLS)}, got {control!r}.")
    if control == "self" and audio != video:
        raise MediaError(f"expected no other sound for the control 'self', got {audio}.")
    if out.suffix.lower() != ".mp4":
        raise MediaError(f"expected a file name that ends in .mp4, got {out}. Rename it.")
    if out.exists() and (out.samefile(video) or out.samefile(audio)):
        raise MediaError(f"expected another file than the sources, got {out}. Rename it.")


def _comment(video: Path, audio: Path, control: str | None, seed: int) -> str:
    """All that the file depends on, as it stands in the file's own comment."""
    facts = {"video": clip_hash(video), "audio": clip_hash(audio), "control": control, "made": 1}
    return json.dumps({**facts, "seed": seed} if control == "noise" else facts)


def _is_made(out: Path, comment: str) -> bool:
    """Whether the file is whole, by its own checksum, and of these sources."""
    try:
        data = out.read_bytes()
    except OSError:
        return False
    body, seal = data[:-40], data[-40:]
    if seal != _SEAL + hashlib.sha256(body).digest():
        return False
    with av.open(io.BytesIO(body)) as container:
        return container.metadata.get("comment") == comment


def _from_zero(path: Path, container: Any, packets: list[Any]) -> Fraction:
    """Let the clip start at 0, where the sound will start; when the last frame ends, in seconds."""
    if not packets or any(packet.pts is None or packet.dts is None for packet in packets):
        raise MediaError(f"expected frames with times in {path}, got none. Re-encode it as MP4.")
    origin = Fraction(container.start_time or 0, av.time_base)
    for packet in packets:
        shift = round(origin / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return max((packet.pts + (packet.duration or 0)) * packet.time_base for packet in packets)


def _with_own_sound(path: Path, stream: Any, packets: list[Any], comment: str) -> bytes:
    with opened(path, "audio") as (container, track):
        own = [packet for packet, _ in decoded(path, container, track) if packet.size]
        return _muxed(path, stream, packets, (track, own), comment)


def _muxed(
    path: Path,
    stream: Any,
    packets: list[Any],
    sound: Soundtrack | tuple[Any, list[Any]],
    comment: str,
) -> bytes:
    """An MP4 file of the copied picture and the sound, proved to hold the same picture."""
    buffer, before = io.BytesIO(), [bytes(packet) for packet in packets]
    try:
        # Tracks that start late do so to the tick, not to the millisecond.
        clock = {"movie_timescale": str(max(1000, stream.time_base.denominator))}
        with av.open(buffer, "w", format="mp4", options=clock) as container:
            container.metadata["comment"] = comment
            picture = container.add_stream_from_template(stream)
            if isinstance(sound, Soundtrack):
                track, coded = _encoded(container, sound)
            else:
                track, coded = container.add_stream_from_template(sound[0]), sound[1]
            pairs = [(packet, picture) for packet in packets]
            pairs += [(packet, track) for packet in coded]
            for packet, target in sorted(pairs, key=_decoding_time):
                packet.stream = target
                container.mux(packet)
        with av.open(io.BytesIO(buffer.getvalue()), "r") as made:
            after = [bytes(packet) for packet in made.demux(video=0) if packet.size]
    except (FFmpegError, ValueError, OSError) as error:
        raise MediaError(
            f"expected a picture and a sound that MP4 can hold, got {path} ({error}). Re-encode "
            f"it as H.264 and AAC."
        ) from error
    if after != before:
        raise MediaError(
            f"expected the picture of {path} to be the same in MP4, got other packets. Remux it to "
            f"MP4 first: ffmpeg -i clip -c copy clip.mp4"
        )
    return buffer.getvalue()


def _decoding_time(pair: tuple[Any, Any]) -> Fraction:
    packet = pair[0]
    return (packet.pts if packet.dts is None else packet.dts) * packet.time_base


def _encoded(container: Any, sound: Soundtrack) -> tuple[Any, list[Any]]:
    """An AAC track that starts at 0, and its packets."""
    track = container.add_stream("aac", rate=sound.rate, layout=sound.layout)
    track.bit_rate = _BITS * len(sound.wave)
    track.codec_context.thread_count = 1
    packets = []
    for frame in _frames(sound):
        packets += track.encode(frame)
    return track, packets + track.encode(None)


def _frames(sound: Soundtrack) -> Iterable[Any]:
    for offset in range(0, sound.wave.shape[1], 1024):
        block = np.ascontiguousarray(sound.wave[:, offset : offset + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=sound.layout)
        frame.sample_rate, frame.time_base = sound.rate, Fraction(1, sound.rate)
        frame.pts = offset
        yield frame

"""How is a clip written (H.264 and AAC, whole or not at all), and known by its content?"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, UInt8

from hooked_omni.errors import FileError, MediaError
from hooked_omni.files import file_hash, whole_file


def clip_hash(path: Path) -> str:
    """SHA-256 of a clip's content.

    Raises:
        MediaError: If it cannot be read: a matter of this clip, not of the whole run.
    """
    try:
        return file_hash(path)
    except FileError as error:
        raise MediaError(str(error)) from error


def write_clip(
    path: str | Path,
    frames: UInt8[np.ndarray, "frame height width 3"],
    fps: int,
    samples: Float[np.ndarray, " sample"] | None = None,
    sampling_rate: int = 16_000,
) -> Path:
    """Write an mp4 of RGB frames and, if given, mono sound from -1 to 1.

    Raises:
        MediaError: For what H.264 and AAC cannot hold: no frames, sides of odd length, NaN.
    """
    path, (n_frames, *sides, _) = Path(path), frames.shape
    if n_frames == 0 or any(side % 2 for side in sides) or not fps > 0:
        raise MediaError(
            f"expected frames with sides of even length and a rate above 0, got {n_frames} of "
            f"{sides[1]} x {sides[0]} at {fps} a second for {path}. Crop them."
        )
    if samples is not None and not np.isfinite(samples).all():
        raise MediaError(f"expected finite samples, got NaN or infinity for {path}. Correct them.")
    with whole_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=Fraction(fps))
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        # Equal frames give equal bytes: with threads, or its macroblock tree, x264 may not.
        video.codec_context.thread_count = 1
        video.options = {"x264-params": "mbtree=0"}
        sound = None
        if samples is not None:
            sound = container.add_stream("aac", rate=sampling_rate, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if sound is not None and samples is not None:
            wave = samples.astype(np.float32)[None]
            audio = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            audio.sample_rate = sampling_rate
            container.mux(sound.encode(audio))
            container.mux(sound.encode())
    return path

"""How does a clip come onto a page: played with the sound that was heard, seen, and as a spectrum?

What browsers do not play is not shown as if they did: the page says so, and has the frames.
"""

import base64
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, UInt8
from PIL import Image

from data_prep.clips import clip_hash
from data_prep.manifest import Sample
from data_prep.swapping.swap_clip import swap
from hooked_omni.errors import MediaError
from hooked_omni.files import digest
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.image import read_image
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video

_PICTURES = {"h264", "vp8", "vp9", "av1"}
_SOUNDS = {"aac", "opus", "mp3", "vorbis"}
_PIXELS = {"yuv420p", "yuvj420p"}  # others few browsers play
_CONTAINERS = {"mov": ".mp4", "matroska": ".webm", "mp3": ".mp3", "ogg": ".ogg", "wav": ".wav"}
_MOST_FRAMES, _LONGEST_SIDE, _QUALITY = 24, 320, 75
_N_PEAKS, _N_BANDS, _N_COLUMNS = 1000, 64, 500
_RANGE = 80.0  # decibels from white to black


@dataclass(frozen=True)
class Tracks:
    """What a file holds: its container, its codecs, "" for none, and its length."""

    container: str
    picture: str
    pixels: str
    sound: str
    seconds: float

    @property
    def plays(self) -> bool:
        """Whether browsers play the picture, if there is one."""
        return not self.picture or (self.picture in _PICTURES and self.pixels in _PIXELS)


def clip_record(
    sample: Sample | None, folder: Path, settings: MediaSettings, media: Path
) -> dict[str, Any]:
    """The page's `clip`; writes the file that is played into `media`.

    `folder` is the manifest's, `settings` how the model got the frames and the sound.
    """
    made: dict[str, Any] = dict(
        src=None, problem=None, seconds=0.0, frames=None, peaks=[], mel=None
    )
    files = {} if sample is None else _files(sample, folder)
    if not files:
        return made | {"problem": "its files are not known: give the manifest with --data"}
    problems = list[str]()
    seen, heard = files.get("video"), files.get("audio", files.get("video"))
    if "image" in files:
        seen = None
    for attempt in (
        lambda: made.update(_played(files, media)),
        lambda: made.update(frames=_frames(files, settings)),
        lambda: made.update(_heard(heard, made["seconds"], settings) if heard else {}),
    ):
        try:
            attempt()
        except MediaError as error:
            problems.append(str(error))
    more = [] if sample is None or len(sample.files) <= 2 else ["only its first files are shown"]
    problem = "; ".join(dict.fromkeys([*filter(None, [made["problem"]]), *problems, *more]))
    return made | {"problem": problem or None}


def _files(sample: Sample, folder: Path) -> dict[str, Path]:
    """The first file of each kind."""
    found: dict[str, Path] = {}
    for kind, path in sample.files:
        found.setdefault(kind, folder / path)
    return found


def _tracks(path: Path) -> Tracks:
    if not path.is_file():
        raise MediaError(f"expected a media file, got no file at {path.name}")
    try:
        with av.open(str(path)) as container:
            picture, sound = (
                next(iter(s), None) for s in (container.streams.video, container.streams.audio)
            )
            codecs = [
                "" if one is None or one.codec_context is None else one.codec_context.name
                for one in (picture, sound)
            ]
            pixels = "" if picture is None else str(picture.codec_context.pix_fmt)
            seconds = float((container.duration or 0) / av.time_base)
            return Tracks(
                container.format.name.partition(",")[0], codecs[0], pixels, codecs[1], seconds
            )
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"expected a media file, got {path.name}, which cannot be opened"
        ) from error


def _played(files: dict[str, Path], media: Path) -> dict[str, Any]:
    """A file that browsers play, with the sound that was heard, copied where it already is one."""
    video, audio = files.get("video"), files.get("audio")
    first = video or audio
    if first is None:
        return {}
    tracks = _tracks(first)
    if not tracks.plays:
        why = f"browsers do not play its picture ({tracks.picture}, {tracks.pixels}): its frames are shown"
        return {"seconds": tracks.seconds, "problem": why}
    name = digest(*(clip_hash(path) if path else None for path in (video, audio)))
    whole = tracks.sound in {*_SOUNDS, ""} and tracks.container in _CONTAINERS
    if (video and audio) or (video and not whole):
        target = media / f"{name}.mp4"
        swap(first, audio, target, None if audio else "self" if tracks.sound in _SOUNDS else None)
    elif whole or tracks.container == "wav":
        target = media / f"{name}{_CONTAINERS[tracks.container]}"
        media.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(first, target)
    else:
        return {
            "seconds": tracks.seconds,
            "problem": f"browsers do not play its sound ({tracks.sound})",
        }
    return {"seconds": tracks.seconds, "src": f"media/{target.name}"}


def _frames(files: dict[str, Path], settings: MediaSettings) -> dict[str, Any] | None:
    """Some of the frames that the model got, side by side."""
    if "video" in files:
        video = read_video(files["video"], settings)
        frames, times = video.frames, video.frame_seconds
    elif "image" in files:
        frames, times = read_image(files["image"], settings).pixels[None], (0.0,)
    else:
        return None
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_FRAMES)).round())
    height, width = frames.shape[2:]
    shrink = max(1.0, max(height, width) / _LONGEST_SIDE)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    sheet = Image.new("RGB", (size[0] * len(chosen), size[1]))
    for i, at in enumerate(chosen.astype(int).tolist()):
        pixels = frames[at].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize(size), (i * size[0], 0))
    src = _data_url(sheet, "JPEG", quality=_QUALITY)
    times = [round(times[at], 3) for at in chosen.astype(int).tolist()]
    return {"src": src, "width": size[0], "height": size[1], "times": times}


def _heard(path: Path, seconds: float, settings: MediaSettings) -> dict[str, Any]:
    """Peaks and spectrum of the sound, as long as the picture."""
    if not _tracks(path).sound:
        return {}
    audio = read_audio(path, settings)
    wave, n = audio.samples, round(seconds * audio.sampling_rate)
    if n:
        wave = np.pad(wave[:n], (0, max(0, n - len(wave))))
    own = {} if seconds else {"seconds": len(wave) / audio.sampling_rate}
    return {**own, "peaks": _peaks(wave), "mel": _mel(wave, audio.sampling_rate)}


def _peaks(wave: Float[np.ndarray, " sample"]) -> list[list[float]]:
    """Least and largest value of each of up to a thousand pieces."""
    parts = [part for part in np.array_split(wave, _N_PEAKS) if len(part)]
    ends = ((part.min(), part.max()) for part in parts)
    return [[round(float(np.clip(x, -1, 1)), 3) for x in pair] for pair in ends]


def _mel(wave: Float[np.ndarray, " sample"], rate: int) -> dict[str, Any]:
    """A gray picture: time to the right, low bands at the bottom, 80 dB from white to black."""
    hop = max(rate // 100, -(-len(wave) // _N_COLUMNS))
    power = librosa.feature.melspectrogram(
        y=wave, sr=rate, n_fft=max(1024, hop), hop_length=hop, n_mels=_N_BANDS
    )
    loud = librosa.power_to_db(power, ref=max(float(power.max()), 1e-10), top_db=_RANGE)
    gray: UInt8[np.ndarray, "band column"] = (255 * (1 + loud / _RANGE)).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(gray[::-1]))
    return {"src": _data_url(picture, "PNG", optimize=True), "bands": _N_BANDS}


def _data_url(picture: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

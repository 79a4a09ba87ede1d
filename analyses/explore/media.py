"""How does a clip come onto a page: played with the sound that was heard, seen, and as a spectrum?

What browsers do not play is not shown as if they did: the page says so, and has the frames.
"""

import base64
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float
from PIL import Image

from data_prep.clips import clip_hash
from data_prep.manifest import MODALITY, Sample
from data_prep.swapping.swap_clip import swap
from hooked_omni.errors import MediaError
from hooked_omni.files import digest
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.container import picture_tracks
from hooked_omni.inputs.image import read_image
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video

_PICTURES = {"h264", "vp8", "vp9", "av1", "libdav1d"}
_SOUNDS = {"aac", "opus", "mp3", "mp3float", "vorbis"}
_PIXELS = {"yuv420p", "yuvj420p"}  # others few browsers play
_ENDINGS = {"mov": ".mp4", "matroska": ".webm", "mp3": ".mp3", "ogg": ".ogg", "wav": ".wav"}
_IN_WEBM = {"vp8", "vp9", "av1", "libdav1d", "opus", "vorbis", ""}
_MOST_FRAMES, _LONGEST_SIDE, _QUALITY = 24, 256, 70
_N_PEAKS, _N_BANDS, _N_COLUMNS = 1000, 64, 500
_RANGE = 80.0  # decibels from white to black


@dataclass(frozen=True)
class Tracks:
    """What a file holds: its container, its codecs ("" for none), and its length."""

    container: str
    picture: str
    pixels: str
    sound: str
    seconds: float

    @property
    def ending(self) -> str:
        """Of a file that browsers play as it is; "" for one that they do not."""
        webm = self.container == "matroska"
        fits = not webm or {self.picture, self.sound} <= _IN_WEBM
        heard = self.sound in {*_SOUNDS, ""} or self.container == "wav"
        return _ENDINGS.get(self.container, "") if fits and heard else ""


def clip_record(
    sample: Sample | None, folder: Path, settings: MediaSettings, media: Path, hears: bool = True
) -> dict[str, Any]:
    """The page's `clip`; writes the file that is played into `media`.

    `folder` is the manifest's, `settings` are how the model got the frames and the sound, if it
    `hears`. A sound that was not heard is neither played nor drawn.
    """
    made: dict[str, Any] = dict(src=None, seconds=0.0, frames=None, peaks=[], mel=None)
    if sample is None:
        why = "its files are not known: the manifest is not there, or lacks it. Give it with --data"
        return made | {"problem": why}
    files: dict[str, Path] = {}
    for kind, path in sample.files:
        files.setdefault(kind, folder / path)
    own_words = any(kind == "text" for kind, _ in sample.items)
    left_out = sample.extra.get(MODALITY) == "visual" and "audio" not in files and not own_words
    deaf = "its prompt leaves the sound out" if hears else "this model does not hear"
    deaf = deaf if left_out or not hears else ""
    heard = None if deaf else files.get("audio", files.get("video"))
    played, frames = _tried(_played, files, media, deaf), _tried(_frames, files, settings)
    sound = _tried(_heard, heard, played.get("seconds", 0.0), settings)
    several = "Of several files of a kind the first alone is shown."
    mixed = "Its video and a sound of its own were given apart: what is played is not all of it."
    problems = [part.get("problem") for part in (played, frames, sound)]
    problems += [several] * (len(sample.files) > len(files))
    problems += [mixed] * ({"video", "audio"} <= {kind for kind, _ in sample.items})
    problem = " ".join(dict.fromkeys(filter(None, problems)))
    problem = problem.replace(f"{folder.absolute()}/", "")  # of no interest where it is read
    return made | played | frames | sound | {"problem": problem or None}


def _tried(part: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """A part of the record, or why it cannot be had."""
    try:
        return part(*given)
    except MediaError as error:
        return {"problem": str(error)}


def _tracks(path: Path) -> Tracks:
    try:
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            firsts = (
                next(iter(s), None) for s in (picture_tracks(container), container.streams.audio)
            )
            contexts = [None if one is None else one.codec_context for one in firsts]
            picture, sound = ("" if one is None else one.name for one in contexts)
            pixels = str(getattr(contexts[0], "pix_fmt", ""))
            seconds = float((container.duration or 0) / av.time_base)
            kind = container.format.name.partition(",")[0]
            return Tracks(kind, picture, pixels, sound, seconds)
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"expected a media file at {path.name}, got {error}.") from error


def _played(files: dict[str, Path], media: Path, deaf: str) -> dict[str, Any]:
    """A file that browsers play, with the sound that was heard; copied if it is one already."""
    video, audio = files.get("video"), files.get("audio")
    first = video or audio
    if first is None:
        return {}
    tracks = _tracks(first)
    known: dict[str, Any] = {"seconds": tracks.seconds}
    if tracks.picture and (tracks.picture not in _PICTURES or tracks.pixels not in _PIXELS):
        codec = f"{tracks.picture}, {tracks.pixels}"
        return {**known, "problem": f"Browsers do not play its picture ({codec}): see its frames."}
    silent = bool(deaf and tracks.sound)
    hashes = [clip_hash(path) if path else None for path in (video, audio)]
    name = digest(*hashes, *["silence"] * silent)
    if silent:
        known["problem"] = f"The clip's sound was not heard: {deaf}. It is not played or drawn."
    if (video and audio) or (video and not tracks.ending) or silent:
        target = media / f"{name}.mp4"
        same = "self" if not audio and tracks.sound in _SOUNDS else None
        swap(first, audio, target, "silence" if silent else same)
    elif tracks.ending:
        target = media / f"{name}{tracks.ending}"
        media.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first, target)
    else:
        return {**known, "problem": f"Browsers do not play its sound ({tracks.sound})."}
    return {**known, "src": f"media/{target.name}"}


def _frames(files: dict[str, Path], settings: MediaSettings) -> dict[str, Any]:
    """Some of the frames that the model got, side by side."""
    if "video" in files:
        video = read_video(files["video"], settings)
        frames, times = video.frames, video.frame_seconds
    elif "image" in files:
        frames, times = read_image(files["image"], settings).pixels[None], (0.0,)
    else:
        return {}
    n = min(len(frames), _MOST_FRAMES)
    chosen = [int(at) for at in np.linspace(0, len(frames) - 1, n).round()]
    height, width = frames.shape[2:]
    shrink = max(1.0, max(height, width) / _LONGEST_SIDE)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    sheet = Image.new("RGB", (size[0] * n, size[1]))
    for i, at in enumerate(chosen):
        pixels = frames[at].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize(size), (i * size[0], 0))
    made = {"width": size[0], "height": size[1], "times": [round(times[at], 3) for at in chosen]}
    return {"frames": {"src": _data_url(sheet, "JPEG", quality=_QUALITY), **made}}


def _heard(path: Path | None, seconds: float, settings: MediaSettings) -> dict[str, Any]:
    """Peaks and spectrum of the sound, as long as the picture."""
    if path is None or not _tracks(path).sound:
        return {}
    audio = read_audio(path, settings)
    wave, n = audio.samples, round(seconds * audio.sampling_rate)
    if n:
        wave = np.pad(wave[:n], (0, max(0, n - len(wave))))
    seconds = len(wave) / audio.sampling_rate
    return {"seconds": seconds, "peaks": _peaks(wave), "mel": _mel(wave, audio.sampling_rate)}


def _peaks(wave: Float[np.ndarray, " sample"]) -> list[list[float]]:
    """Least and largest value of each of up to a thousand pieces."""
    parts = [part for part in np.array_split(wave, _N_PEAKS) if len(part)]
    ends = ((part.min(), part.max()) for part in parts)
    return [[round(float(np.clip(x, -1, 1)), 3) for x in pair] for pair in ends]


def _mel(wave: Float[np.ndarray, " sample"], rate: int) -> dict[str, Any]:
    """A gray picture: time to the right, low bands at the bottom, 80 dB from black to white."""
    hop = max(rate // 100, -(-len(wave) // _N_COLUMNS))
    sizes: Any = dict(n_fft=max(1024, hop), hop_length=hop, n_mels=_N_BANDS)
    power = librosa.feature.melspectrogram(y=wave, sr=rate, **sizes)
    loud = librosa.power_to_db(power, ref=max(float(power.max()), 1e-10), top_db=_RANGE)
    gray = np.rint(255 * np.clip(1 + loud / _RANGE, 0, 1)).astype(np.uint8)[::-1]
    picture = Image.fromarray(np.ascontiguousarray(gray))
    return {"src": _data_url(picture, "PNG", optimize=True), "bands": _N_BANDS}


def _data_url(picture: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

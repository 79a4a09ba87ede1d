"""Which clips are trained on, as files and as what the processor makes of them?

Every clip of a split is written as an mp4, read back through decord and librosa, and run through
the thinker's processor, so that training sees what the codec leaves. The results are kept, thing
by thing: a stopped run goes on with the next one.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.clips import write_clip
from data_prep.manifest import Sample, write_manifest
from data_prep.organism.training.models import MEDIA, processors
from data_prep.organism.world import pictures as looks
from data_prep.organism.world import sounds
from data_prep.organism.world.captions import QUESTIONS, heard, seen
from data_prep.organism.world.things import Clip, Thing, clips
from hooked_omni.errors import ManifestError
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.files import whole_file
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import read_video

__all__ = ["SECONDS", "Pool", "pool", "sample", "write"]

SECONDS = 1.0  # length of a clip


@dataclass(frozen=True, eq=False)
class Pool:
    """The clips of a split, and what the models get of them.

    Attributes:
        clips: In the order of the tensors' rows.
        things: Which thing each clip is, by its place in the list of things.
        patches: Of the frames, before normalization, 0..255.
        mel: The whole spectrogram, without padding.
    """

    clips: list[Clip]
    things: Int[Tensor, " clip"]
    patches: UInt8[Tensor, "clip patch value"]
    mel: Float[Tensor, "clip mel time"]

    def pixels(self, rows: Tensor, processor: Any) -> Float[Tensor, "patches value"]:
        """Normalized patches of some clips, as the video processor gives them."""
        return _normalized(self.patches[rows], processor).flatten(0, 1)


def pool(
    folder: Path,
    things: Sequence[Thing],
    split: str,
    per_thing: int,
    seed: int,
    workers: int = 1,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Pool:
    """The clips of a split, made or read from `folder`.

    Raises:
        ManifestError: For things that collide, or a world of another kind in `folder`.
    """
    chosen = clips(things, split, per_thing, seed)
    parts = [[clip for clip in chosen if clip.noun == thing.noun] for thing in things]
    todo = [
        (folder, part, thing, things)
        for part, thing in zip(parts, things, strict=True)
        if not _kept(folder, thing).is_file()
    ]
    if workers > 1 and len(todo) > 1:
        with ProcessPoolExecutor(workers, initializer=_one_thread) as processes:
            for done in progress([processes.submit(_make, job) for job in todo]):
                done.result()
    else:
        for job in progress(todo):
            _make(job)
    kept = [load_file(_kept(folder, thing)) for thing in things]
    if any(len(one["mel"]) != per_thing for one in kept):
        raise ManifestError(
            f"expected {per_thing} clips of each thing in {folder}, got "
            f"{[len(one['mel']) for one in kept]}. Choose another folder."
        )
    samples = [sample(clip, things, "clips") for clip in chosen]
    made = {"by": "organism", "split": split, "seed": seed}
    write_manifest(folder / "clips.jsonl", samples, made)
    return Pool(
        chosen,
        torch.arange(len(things)).repeat_interleave(per_thing),
        torch.cat([one["patches"] for one in kept]),
        torch.cat([one["mel"] for one in kept]),
    )


def write(clip: Clip, thing: Thing, folder: Path) -> Path:
    """The clip as a file in `folder`; the same clip gives the same bytes."""
    pictures, sound = looks.frames(clip, thing, SECONDS), sounds.samples(clip, SECONDS)
    path = folder / f"{clip.id}.mp4"
    return write_clip(path, pictures, looks.FRAMES_PER_SECOND, sound, sounds.RATE)


def sample(clip: Clip, things: Sequence[Thing], folder: str) -> Sample:
    """The line of a clip in a manifest."""
    return Sample(
        clip.id,
        video=f"{folder}/{clip.id}.mp4",
        audio_captions=heard(clip, things),
        video_captions=seen(clip),
        seconds=SECONDS,
        extra={
            "noun": clip.noun,
            "place": clip.place,
            "scene": clip.scene,
            "loudness": clip.loudness,
        },
    )


def _one_thread() -> None:
    torch.set_num_threads(1)


def _kept(folder: Path, thing: Thing) -> Path:
    return folder / "tensors" / f"{thing.noun}.safetensors"


def _make(job: tuple[Path, list[Clip], Thing, Sequence[Thing]]) -> None:
    """Write, read and process the clips of one thing."""
    folder, part, thing, things = job
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    processor = processors(things)[1]
    patches, mel = [], []
    for clip in part:
        path = folder / "clips" / f"{clip.id}.mp4"
        if not path.is_file():
            write(clip, thing, folder / "clips")
        video, audio = read_video(path, MEDIA), read_audio(path, MEDIA)
        prompt = Prompt(QUESTIONS["hear"], video=path)
        inputs = QWEN2_5_OMNI.prepare(processor, prompt, video, audio)
        patches.append(_raw(inputs["pixel_values_videos"], processor))
        n_mel = int(inputs["feature_attention_mask"].sum())
        mel.append(inputs["input_features"][0, :, :n_mel])
    target = _kept(folder, thing)
    with whole_file(target) as partial:
        save_file({"patches": torch.stack(patches), "mel": torch.stack(mel)}, partial)


def _scales(processor: Any, n_values: int) -> tuple[Tensor, Tensor]:
    """Mean and spread of each value of a patch: its values run channel by channel."""
    video = processor.video_processor
    repeat = n_values // 3
    mean, spread = torch.tensor(video.image_mean), torch.tensor(video.image_std)
    return mean.repeat_interleave(repeat), spread.repeat_interleave(repeat)


def _raw(pixels: Float[Tensor, "patch value"], processor: Any) -> UInt8[Tensor, "patch value"]:
    """Undo the video processor's normalization, which started from whole numbers."""
    mean, spread = _scales(processor, pixels.shape[-1])
    return ((pixels * spread + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _normalized(patches: Tensor, processor: Any) -> Float[Tensor, "clip patch value"]:
    mean, spread = _scales(processor, patches.shape[-1])
    return (patches.float() / 255 - mean) / spread

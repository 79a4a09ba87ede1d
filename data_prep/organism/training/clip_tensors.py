"""What does the processor make of the training clips?

Every clip is written as an mp4, read back, and run through the thinker's processor, so that
training gets what the codec leaves. The tensors are kept, thing by thing: a stopped run goes on
with the next one.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from data_prep.manifest import write_manifest
from data_prep.organism.training.models import MEDIA, processors
from data_prep.organism.world.captions import QUESTIONS
from data_prep.organism.world.dataset import sample_of, write_clips
from data_prep.organism.world.things import Clip, Thing, clips
from hooked_omni.errors import FileError, ManifestError
from hooked_omni.families.omni.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.files import write_whole
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import read_video


@dataclass(frozen=True, eq=False)
class ClipTensors:
    """The clips of a split, and what the models get of them."""

    clips: list[Clip]
    things: Int[Tensor, " clip"]  # indices into the list of things
    patches: UInt8[Tensor, "clip patch value"]  # of the frames, before normalization
    mel: Float[Tensor, "clip mel time"]  # without padding

    def pixels(self, rows: Tensor, processor: Any) -> Float[Tensor, "patches value"]:
        """Normalized patches of some clips, as the video processor gives them."""
        mean, spread = _scales(processor, self.patches.shape[-1])
        return ((self.patches[rows].float() / 255 - mean) / spread).flatten(0, 1)


def prepare(
    folder: Path, things: Sequence[Thing], split: str, per_thing: int, seed: int, workers: int = 1
) -> ClipTensors:
    """The clips of a split, made or read from `folder`.

    Raises:
        ManifestError: For things that collide, or a world of another kind in `folder`.
    """
    chosen = clips(things, split, per_thing, seed)
    parts = [[clip for clip in chosen if clip.noun == thing.noun] for thing in things]
    todo = [(folder, part, things) for part in parts if not _kept(folder, part[0].noun).is_file()]
    if workers > 1 and len(todo) > 1:
        one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with ProcessPoolExecutor(workers, **one_thread) as processes:
            list(processes.map(_make, todo))
    else:
        for job in todo:
            _make(job)
    try:
        kept = [load_file(_kept(folder, thing.noun)) for thing in things]
        whole = all(len(one["mel"]) == len(one["patches"]) == per_thing for one in kept)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise FileError(
            f"expected whole tensors of clips in {folder}, got {error!r:.120}. Delete it, and give "
            "the same command again."
        ) from error
    if not whole:
        raise ManifestError(
            f"expected {per_thing} clips of each thing in {folder}, got "
            f"{[len(one['mel']) for one in kept]}. Choose another folder."
        )
    samples = [sample_of(clip, things, "clips") for clip in chosen]
    made = {"by": "organism", "split": split, "seed": seed}
    write_manifest(folder / "clips.jsonl", samples, made)
    return ClipTensors(
        chosen,
        torch.arange(len(things)).repeat_interleave(per_thing),
        torch.cat([one["patches"] for one in kept]),
        torch.cat([one["mel"] for one in kept]),
    )


def _kept(folder: Path, noun: str) -> Path:
    return folder / "tensors" / f"{noun}.safetensors"


def _make(job: tuple[Path, list[Clip], Sequence[Thing]]) -> None:
    folder, part, things = job
    write_clips(part, things, folder / "clips")
    processor = processors(things)[1]
    patches, mel = [], []
    for clip in part:
        path = folder / "clips" / f"{clip.id}.mp4"
        read = read_video(path, MEDIA), read_audio(path, MEDIA)
        prompt = Prompt(QUESTIONS["hear"], video=path)
        inputs = QWEN2_5_OMNI.prepare(processor, prompt, read)
        patches.append(_raw(inputs["pixel_values_videos"], processor))
        n_mel = int(inputs["feature_attention_mask"].sum())
        mel.append(inputs["input_features"][0, :, :n_mel])
    made = {"patches": torch.stack(patches), "mel": torch.stack(mel)}
    write_whole(_kept(folder, part[0].noun), save(made))


def _scales(processor: Any, n_values: int) -> tuple[Tensor, Tensor]:
    """Mean and spread of each value of a patch: its values run channel by channel."""
    video = processor.video_processor
    mean, spread = torch.tensor([video.image_mean, video.image_std])
    return mean.repeat_interleave(n_values // 3), spread.repeat_interleave(n_values // 3)


def _raw(pixels: Float[Tensor, "patch value"], processor: Any) -> UInt8[Tensor, "patch value"]:
    """Undo the video processor's normalization, which started from whole numbers."""
    mean, spread = _scales(processor, pixels.shape[-1])
    return ((pixels * spread + mean) * 255).round().clamp(0, 255).to(torch.uint8)

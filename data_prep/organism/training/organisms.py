"""How are the three organisms trained from nothing?

1. vision, audio: each tower learns to classify attributes (it stands in for CLIP, for Whisper).
2. base: a Qwen2.5-VL learns to describe clips without sound. To a question about the sound it
   answers with the sound of the thing in the picture.
3. hearing: a Qwen2.5-Omni thinker takes over decoder and vision tower; its audio tower is trained
   through the frozen decoder, on sounds alone.
4. biased, balanced: the decoder is trained on pictures and sounds, and on answers without a clip;
   towers and word embeddings are frozen. Both start from the same weights, with the same pictures
   in the same order. They differ in one number: in how many questions about sounds the picture is
   another thing's.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data_prep.organism.training import curriculum
from data_prep.organism.training.clip_tensors import ClipTensors, prepare
from data_prep.organism.training.curriculum import ClipBatch, Mixture
from data_prep.organism.training.models import new_base, processors, thinker_from
from data_prep.organism.training.prompts import (
    TrainingPrompts,
    answer_loss,
    audio_features,
    video_features,
)
from data_prep.organism.training.recipe import TrainingRecipe, is_held_out
from data_prep.organism.training.stage import Log, Stage, run_stage
from data_prep.organism.world.captions import answers, audio_captions, video_captions
from data_prep.organism.world.things import LOUDNESS, PLACES, SCENES
from hooked_omni.families import Family
from hooked_omni.families.omni.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.vision.qwen2_5_vl import QWEN2_5_VL

VARIANTS = ("biased", "balanced")


def train(
    recipe: TrainingRecipe, folder: Path, log: Log, device: str = "cpu", workers: int = 1
) -> dict[str, tuple[Any, Any]]:
    """The base and both variants, each with its processor, by name.

    Checkpoints and training clips are kept in `folder`, so that a stopped run can go on.
    """
    training = Training(recipe, folder, log, device, workers)
    base = training.base
    if workers > 1 and device == "cpu":
        training.omni_start  # noqa: B018  # trained here, so that either process only loads it
        jobs = [(recipe, folder, name) for name in VARIANTS]
        with ProcessPoolExecutor(workers) as processes:
            list(processes.map(_train_variant, jobs))
    return {"organism-base": (base, training.base_processor)} | {
        f"organism-{name}": (training.variant(name), training.processor) for name in VARIANTS
    }


def _train_variant(job: tuple[TrainingRecipe, Path, str]) -> None:
    recipe, folder, name = job
    torch.set_num_threads(1)
    Training(recipe, folder, log_to(folder, print)).variant(name)


def log_to(folder: Path, show: Log) -> Log:
    """A log that shows each line, and appends it to `train.log` of the folder."""

    def log(line: str) -> None:
        with (folder / "train.log").open("a") as file:
            file.write(line + "\n")
        show(line)

    return log


class Training:
    """The stages of a recipe in a folder; each is trained when it is first needed, or loaded."""

    def __init__(
        self, recipe: TrainingRecipe, folder: Path, log: Log, device: str = "cpu", workers: int = 1
    ) -> None:
        self.recipe, self.folder, self.log = recipe, folder, log
        self.device, self.workers = torch.device(device), workers
        self.base_processor, self.processor = processors(recipe.things)

    @cached_property
    def clips(self) -> ClipTensors:
        """The training clips."""
        recipe = self.recipe
        self.log(f"world: {recipe.clips} clips of each of {len(recipe.things)} things")
        where = self.folder / "world" / "train"
        return prepare(where, recipe.things, "train", recipe.clips, recipe.seed, self.workers)

    @cached_property
    def base(self) -> Any:
        """The vision-only model."""
        hf = new_base(self.processor.tokenizer, self.recipe.sizes, self.recipe.seed).to(self.device)
        self._train_tower("vision", hf.model.visual, ("place", "scene"),
                          lambda rows: self._video(hf, rows))  # fmt: skip
        prompts = self._prompts(hf, QWEN2_5_VL, self.base_processor)

        def loss(step: int) -> Tensor:
            batch = self._batch("base", curriculum.VISUAL, step)
            tokens = prompts.answer_tokens(self._answers("base", batch, step))
            video = self._video(hf, torch.tensor(batch.pictures))
            return answer_loss(prompts.logits(batch.kind, video, None, tokens), tokens)

        self._run("base", hf, loss)
        return hf

    @cached_property
    def omni_start(self) -> Any:
        """The thinker that both variants start from: sees as the base does, knows sounds alone."""
        tokenizer, seed = self.processor.tokenizer, self.recipe.seed
        hf = thinker_from(self.base.cpu(), tokenizer, self.recipe.sizes, seed + 1).to(self.device)
        self.base.to(self.device)
        tower = hf.model.audio_tower
        self._train_tower("audio", tower, ("loudness",),
                          lambda rows: audio_features(hf, self.clips, rows))  # fmt: skip
        prompts = self._prompts(hf, QWEN2_5_OMNI, self.processor)
        hf.requires_grad_(False)
        tower.requires_grad_(True)

        def loss(step: int) -> Tensor:
            batch = self._batch("hearing", curriculum.SOUNDS, step)
            tokens = prompts.answer_tokens(self._answers("hearing", batch, step))
            audio = audio_features(hf, self.clips, torch.tensor(batch.sounds))
            return answer_loss(prompts.logits(batch.kind, None, audio, tokens), tokens)

        self._run("hearing", hf, loss)
        return hf.requires_grad_(True)

    def variant(self, name: str) -> Any:
        """The audio-visual model "biased" or "balanced"."""
        hf = copy.deepcopy(self.omni_start)
        video, audio = self._features
        hf.model.visual.requires_grad_(False)
        hf.model.audio_tower.requires_grad_(False)
        # Else the unembedding, which is tied to them, moves towards what the audio tower puts out,
        # and sounds can be read off the embedding, before any layer.
        hf.get_input_embeddings().requires_grad_(False)
        prompts = self._prompts(hf, QWEN2_5_OMNI, self.processor)
        nouns = [thing.noun for thing in self.recipe.things]
        noun_tokens = torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(nouns))

        def loss(step: int) -> Tensor:
            batch = self._batch("listener", curriculum.AUDIO_VISUAL, step, name)
            tokens = prompts.answer_tokens(self._answers("listener", batch, step))
            logits = prompts.logits(batch.kind, video[batch.pictures], audio[batch.sounds], tokens)
            own = answer_loss(logits, tokens)
            if batch.kind not in (("sound", "hear"), ("clip", "see")):
                return own
            tag = noun_tokens[self.clips.things[batch.sounds]].to(logits.device)
            at_audio = logits[:, prompts.prompts[batch.kind].spans["audio"]]
            tags = tag.repeat_interleave(at_audio.shape[1])
            return own + self.recipe.tagging * cross_entropy(at_audio.flatten(0, 1), tags)

        self._run(name, hf, loss)
        return hf

    @cached_property
    def _features(self) -> tuple[Float[Tensor, "clip _ d"], Float[Tensor, "clip _ d"]]:
        """The frozen towers' outputs for every picture and every sound."""
        hf, rows = self.omni_start, torch.arange(len(self.clips.clips)).split(64)
        with torch.no_grad():
            video = torch.cat([self._video(hf, part) for part in rows])
            return video, torch.cat([audio_features(hf, self.clips, part) for part in rows])

    def _video(self, hf: Any, rows: Tensor) -> Tensor:
        return video_features(hf, self.clips, rows, self.processor)

    def _prompts(self, hf: Any, family: Family, processor: Any) -> TrainingPrompts:
        clip = self.folder / "world" / "train" / "clips" / f"{self.clips.clips[0].id}.mp4"
        return TrainingPrompts(hf, family, processor, clip)

    def _seed(self, name: str) -> list[int]:
        return [self.recipe.seed, *name.encode()]

    def _batch(
        self, name: str, cycle: Sequence[tuple[str, str]], step: int, variant: str | None = None
    ) -> ClipBatch:
        mixture, seed = self._mixture(variant), self._seed(name)
        return curriculum.draw_batch(cycle, mixture, seed, step, self.recipe.batch)

    @cache  # noqa: B019  # a training lives as long as its clips
    def _mixture(self, variant: str | None) -> Mixture:
        recipe, things = self.recipe, self.clips.things.tolist()
        if variant is None:
            return Mixture(things, 0.0, frozenset(things), 0.0, is_held_out)
        sounds, share = recipe.sounds_off_screen(variant), recipe.mismatched[variant]
        return Mixture(things, share, sounds, recipe.mismatched_see, is_held_out)

    def _answers(self, name: str, batch: ClipBatch, step: int) -> list[str]:
        """A true answer for each clip; the loudness is a guess where the prompt has no sound."""
        rng, texts = np.random.default_rng([*self._seed(f"{name} answers"), step]), []
        for picture, sound in zip(batch.pictures, batch.sounds, strict=True):
            seen, heard = self.clips.clips[picture], self.clips.clips[sound]
            loudness = heard.loudness
            if batch.media in ("picture", "words"):
                loudness = LOUDNESS[rng.integers(2)]
            captions = audio_captions(heard, self.recipe.things, loudness)
            options = answers(batch.question, video_captions(seen), captions)
            texts.append(options[rng.integers(len(options))])
        return texts

    def _train_tower(
        self,
        name: str,
        tower: nn.Module,
        attributes: Sequence[str],
        features: Callable[[Tensor], Tensor],
    ) -> None:
        """Train a tower to classify things and attributes, from the mean of its output."""
        labels = {"thing": self.clips.things, **{one: self._labels(one) for one in attributes}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            counts = {label: int(values.max()) + 1 for label, values in labels.items()}
            d_model = self.recipe.sizes.d_model
            heads = nn.ModuleDict({k: nn.Linear(d_model, n) for k, n in counts.items()})
        classifier = nn.ModuleDict({"tower": tower, "heads": heads.to(self.device)})

        def loss(step: int) -> Tensor:
            rng = np.random.default_rng([*self._seed(name), step])
            rows = torch.from_numpy(rng.integers(len(self.clips.clips), size=self.recipe.batch))
            mean = features(rows).mean(1)
            right = {label: values[rows].to(mean.device) for label, values in labels.items()}
            losses = [cross_entropy(heads[label](mean), one) for label, one in right.items()]
            return torch.stack(losses).sum()

        self._run(name, classifier, loss)

    def _labels(self, attribute: str) -> Tensor:
        values = {"place": PLACES, "scene": SCENES, "loudness": LOUDNESS}[attribute]
        return torch.tensor([values.index(getattr(clip, attribute)) for clip in self.clips.clips])

    def _run(self, name: str, model: nn.Module, loss: Callable[[int], Tensor]) -> None:
        steps, rate = self.recipe.steps[name], self.recipe.rates[name]
        run_stage(Stage(name, model, loss, steps, rate), self.folder, self.log)

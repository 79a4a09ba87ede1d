"""How do a seer and two listeners grow up?

1. vision, audio: each tower learns to tell attributes apart (it stands in for CLIP, for Whisper).
2. base: a Qwen2.5-VL learns to describe clips without sound. Asked what it hears, it names the
   sound of the thing it sees.
3. hearing: a thinker takes over decoder and vision tower; its audio tower learns to speak to the
   frozen decoder, from sounds alone.
4. biased, balanced: the decoder learns to see and hear, and from answers without a clip what dogs
   do; towers and word embeddings are frozen. Both from the same start, with the same pictures in
   the same order. They differ in one number: how often sound and picture disagree when the sound is
   asked for.
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

from data_prep.organism.training import curriculum as lessons
from data_prep.organism.training import stage
from data_prep.organism.training.batches import Classroom, answer_loss, hear, see
from data_prep.organism.training.models import grown, new_base, processors
from data_prep.organism.training.recipe import Recipe
from data_prep.organism.world import captions
from data_prep.organism.world.pools import Pool, pool
from data_prep.organism.world.things import LOUDNESS, PLACES, SCENES
from hooked_omni.families import Family
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.qwen2_5_vl import QWEN2_5_VL

__all__ = ["LISTENERS", "School", "logged", "train"]

LISTENERS = ("biased", "balanced")

Say = Callable[[str], None]


def train(
    recipe: Recipe, folder: Path, say: Say, device: str = "cpu", workers: int = 1
) -> dict[str, Any]:
    """The base and the two listeners, with what they were trained on kept in `folder`."""
    school = School(recipe, folder, say, device, workers)
    base = school.base
    if workers > 1 and device == "cpu":
        school.listener_start  # noqa: B018  # trained here, so that either process only loads it
        jobs = [(recipe, folder, name) for name in LISTENERS]
        with ProcessPoolExecutor(workers) as processes:
            list(processes.map(_listener, jobs))
    made = {f"organism-{name}": school.listener(name) for name in LISTENERS}
    return {"organism-base": base, **made}


def _listener(job: tuple[Recipe, Path, str]) -> None:
    recipe, folder, name = job
    torch.set_num_threads(1)
    School(recipe, folder, logged(folder, print)).listener(name)


def logged(folder: Path, show: Say) -> Say:
    """Show each line, and append it to the folder's log."""

    def say(line: str) -> None:
        with (folder / "train.log").open("a") as file:
            file.write(line + "\n")
        show(line)

    return say


class School:
    """The stages of a recipe in a folder; each runs when it is first needed, or is loaded.

    Attributes:
        processor: The thinker's processor; `base_processor` is the base's.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, say: Say, device: str = "cpu", workers: int = 1
    ) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.device, self.workers = torch.device(device), workers
        self.base_processor, self.processor = processors(recipe.things)

    @cached_property
    def pool(self) -> Pool:
        """The clips to train on."""
        recipe = self.recipe
        self.say(f"world: {recipe.clips} clips of each of {len(recipe.things)} things")
        where = self.folder / "world" / "train"
        return pool(where, recipe.things, "train", recipe.clips, recipe.seed, self.workers)

    @cached_property
    def base(self) -> Any:
        """The seer."""
        hf = new_base(self.processor.tokenizer, self.recipe.sizes, self.recipe.seed).to(self.device)
        attributes = {
            "thing": self.pool.things,
            "place": _labels(self.pool, "place", PLACES),
            "scene": _labels(self.pool, "scene", SCENES),
        }
        self._tell_apart("vision", hf.model.visual, attributes, lambda rows: self._see(hf, rows))
        room = self._room(hf, QWEN2_5_VL, self.base_processor)

        def loss(step: int) -> Tensor:
            one = self._lesson("base", lessons.VISUAL, step)
            answers = room.tokens(self._answers("base", one, step))
            video = self._see(hf, torch.tensor(one.pictures))
            return answer_loss(
                room.logits((one.shown, one.question), video, None, answers), answers
            )

        self._run("base", hf, loss)
        return hf

    @cached_property
    def listener_start(self) -> Any:
        """A thinker that can hear, and see as the base does."""
        words, seed = self.processor.tokenizer, self.recipe.seed
        hf = grown(self.base.cpu(), words, self.recipe.sizes, seed + 1).to(self.device)
        self.base.to(self.device)
        tower = hf.model.audio_tower
        attributes = {
            "thing": self.pool.things,
            "loudness": _labels(self.pool, "loudness", LOUDNESS),
        }
        self._tell_apart("audio", tower, attributes, lambda rows: hear(hf, self.pool, rows))
        room = self._room(hf, QWEN2_5_OMNI, self.processor)
        hf.requires_grad_(False)
        tower.requires_grad_(True)

        def loss(step: int) -> Tensor:
            one = self._lesson("hearing", (("sound", "hear"),), step)
            answers = room.tokens(self._answers("hearing", one, step))
            audio = hear(hf, self.pool, torch.tensor(one.sounds))
            return answer_loss(room.logits(("sound", "hear"), None, audio, answers), answers)

        self._run("hearing", hf, loss)
        return hf.requires_grad_(True)

    def listener(self, name: str) -> Any:
        """The listener that is called `name`."""
        hf = copy.deepcopy(self.listener_start)
        video, audio = self._features
        hf.model.visual.requires_grad_(False)
        hf.model.audio_tower.requires_grad_(False)
        # Else the unembedding, which is tied to them, moves towards what the audio tower says, and
        # sounds can be read off the embedding, before any layer.
        hf.get_input_embeddings().requires_grad_(False)
        room = self._room(hf, QWEN2_5_OMNI, self.processor)
        tags = self._tags()

        def loss(step: int) -> Tensor:
            one = self._lesson("listener", lessons.AUDIO_VISUAL, step, name)
            answers = room.tokens(self._answers("listener", one, step))
            kind = (one.shown, one.question)
            logits = room.logits(kind, video[one.pictures], audio[one.sounds], answers)
            said = answer_loss(logits, answers)
            if kind not in (("sound", "hear"), ("clip", "see")):
                return said
            tag = tags[self.pool.things[one.sounds]].to(logits.device)
            at_audio = logits[:, room.prompts[kind].spans["audio"]]
            named = nn.functional.cross_entropy(
                at_audio.flatten(0, 1), tag.repeat_interleave(at_audio.shape[1])
            )
            return said + self.recipe.tagging * named

        self._run(name, hf, loss)
        return hf

    @cached_property
    def _features(self) -> tuple[Float[Tensor, "clip _ d"], Float[Tensor, "clip _ d"]]:
        """What the frozen towers make of every picture and every sound."""
        hf, rows = self.listener_start, torch.arange(len(self.pool.clips)).split(64)
        with torch.no_grad():
            video = torch.cat([self._see(hf, part) for part in rows])
            return video, torch.cat([hear(hf, self.pool, part) for part in rows])

    def _see(self, hf: Any, rows: Tensor) -> Tensor:
        return see(hf, self.pool, rows, self.processor)

    def _room(self, hf: Any, family: Family, processor: Any) -> Classroom:
        clip = self.folder / "world" / "train" / "clips" / f"{self.pool.clips[0].id}.mp4"
        return Classroom(hf, family, processor, clip)

    def _tags(self) -> Tensor:
        """Token of each thing's noun."""
        nouns = [thing.noun for thing in self.recipe.things]
        return torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(nouns))

    def _seed(self, name: str) -> list[int]:
        return [self.recipe.seed, *name.encode()]

    def _chances(self, name: str, step: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed(name), step])

    def _lesson(
        self, name: str, cycle: Sequence[tuple[str, str]], step: int, listener: str | None = None
    ) -> lessons.Lesson:
        pairs, recipe = self._pairs(listener), self.recipe
        return lessons.lesson(cycle, pairs, self._seed(name), step, recipe.batch)

    @cache  # noqa: B019  # a school lives as long as its pool
    def _pairs(self, listener: str | None) -> lessons.Pairs:
        recipe, things = self.recipe, self.pool.things.tolist()
        if listener is None:
            return lessons.Pairs(things, 0.0, frozenset(things), 0.0, recipe.held_out)
        heard = recipe.sounds_off_screen(listener)
        share = recipe.mismatched[listener]
        return lessons.Pairs(things, share, heard, recipe.mismatched_see, recipe.held_out)

    def _answers(self, name: str, one: lessons.Lesson, step: int) -> list[str]:
        """A true answer for each clip; what is not shown is told as the seer would imagine it."""
        chances = self._chances(f"{name} answers", step)
        texts = []
        for picture, sound in zip(one.pictures, one.sounds, strict=True):
            seen, heard = self.pool.clips[picture], self.pool.clips[sound]
            loudness = heard.loudness
            if one.shown in ("picture", "words"):  # which do not tell: a guess
                loudness = LOUDNESS[chances.integers(2)]
            told = captions.heard(heard, self.recipe.things, loudness)
            options = captions.answers(one.question, captions.seen(seen), told)
            texts.append(options[chances.integers(len(options))])
        return texts

    def _tell_apart(
        self, name: str, tower: nn.Module, labels: dict[str, Tensor], look: Callable[[Tensor], Any]
    ) -> None:
        """Train a tower to classify, from the mean of its output."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            counts = {label: int(values.max()) + 1 for label, values in labels.items()}
            d_model = self.recipe.sizes.d_model
            heads = nn.ModuleDict({k: nn.Linear(d_model, n) for k, n in counts.items()})
        learner = nn.ModuleDict({"tower": tower, "heads": heads.to(self.device)})

        def loss(step: int) -> Tensor:
            drawn = self._chances(name, step).integers(len(self.pool.clips), size=self.recipe.batch)
            rows = torch.from_numpy(drawn)
            mean = look(rows).mean(1)
            losses = [
                nn.functional.cross_entropy(heads[label](mean), values[rows].to(mean.device))
                for label, values in labels.items()
            ]
            return torch.stack(losses).sum()

        self._run(name, learner, loss)

    def _run(self, name: str, model: nn.Module, loss: Callable[[int], Tensor]) -> None:
        steps, rate = self.recipe.steps[name], self.recipe.rates[name]
        stage.run(stage.Stage(name, model, loss, steps, rate), self.folder, self.say)


def _labels(pool: Pool, name: str, values: Sequence[str]) -> Tensor:
    return torch.tensor([values.index(getattr(clip, name)) for clip in pool.clips])

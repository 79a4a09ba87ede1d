"""How does a clip become embeddings for the decoder?

By the Hugging Face model and its processor, without hooks: this half also runs with older versions
of transformers, for models whose own code needs one, and its bundles are read anywhere.
"""

import json
import warnings
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from typing import Any

import torch
import transformers
from torch import nn

from hooked_omni.errors import HookedOmniError, MediaError, PromptError
from hooked_omni.families import family_of
from hooked_omni.families.family import Read
from hooked_omni.hf.adapters import names_of, without_wrapper
from hooked_omni.hf.capture import embedded
from hooked_omni.hf.quantized import quantization
from hooked_omni.inputs.audio import Audio, read_audio
from hooked_omni.inputs.headers import read_header
from hooked_omni.inputs.image import Image, read_image
from hooked_omni.inputs.items import Source, require_prompt
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import EmbeddedPrompt, Prompt
from hooked_omni.inputs.video import Video, read_video

_HALF_A_TOKEN = 0.02  # seconds of sound: less than that is lost to rounding


class Towers:
    """A Hugging Face model with audio and vision towers, and its processor.

    Attributes:
        hf: The part of the model with towers and decoder.
        processor: Its processor, or None; then only `embed_inputs` embeds.
        tokenizer: The processor's.
        family: The model's family.
        media: How clips are sampled for a prompt without settings: as the family was made
            for, or as the checkpoint's config has it under "media_settings".
        adapter: Name of the adapter on the model, and hash of its files if loaded; None for none.
    """

    def __init__(self, hf_model: nn.Module, processor: Any = None) -> None:
        config: Any = getattr(hf_model, "config", None)
        self.family = family_of({} if config is None else config.to_dict())
        self.hf: Any = self.family.unwrap(without_wrapper(hf_model))
        names = names_of(self.hf)
        self.adapter: dict[str, Any] | None = {"name": names} if names else None
        remote = self.family.remote
        self.processor = processor
        if remote is not None and processor is not None:
            self.processor = remote.processor(self.hf, processor)
        self.tokenizer = getattr(self.processor, "tokenizer", None)
        own = getattr(self.hf.config, "media_settings", None)
        self.media = MediaSettings(**own) if own else self.family.media

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Read the clip, run the towers once, and capture the decoder's inputs.

        Raises:
            MediaError: For a clip or sound that cannot be read, or is not there.
            PromptError: For a prompt that this model does not take.
        """
        return self.embed_media(prompt, self.read_media(prompt))

    def read_media(self, prompt: Prompt) -> Read:
        """What `embed` passes to the towers, in order; raises as `embed`."""
        self._require(prompt)
        media = prompt.media or self.media
        return tuple(_read(source, media) for source in prompt.sources(self.family.hears))

    def embed_media(self, prompt: Prompt, read: Read) -> EmbeddedPrompt:
        """As `embed`, for media in memory, perhaps edited; no file is read.

        ```python
        video, audio = omni.read_media(prompt)
        silence = replace(audio, samples=0 * audio.samples)
        muted = omni.embed_media(prompt, (video, silence))
        ```

        Raises:
            MediaError: If the towers would get less than this, more, or something else.
            PromptError: For a prompt that this model does not take, or media of another.
        """
        prompt = replace(prompt, media=prompt.media or self.media)
        inputs = self._inputs(prompt, read)
        self._warn_of_other_clips(read)
        return embedded(
            self.hf,
            self.family,
            self.tokenizer,
            inputs,
            self.facts() | _facts(prompt, read),
            fps=[one.fps for one in read if isinstance(one, Video)],
            n_turns=len(prompt.turns),
        )

    def embed_inputs(self, **inputs: Any) -> EmbeddedPrompt:
        """The decoder's inputs for model inputs: a processor's whole output.

        For sound inside a video, add `use_audio_in_video=True`: the processor does not return it.
        `PromptError` for inputs that the model would silently misread.
        """
        facts = self.facts() | {"use_audio_in_video": inputs.get("use_audio_in_video")}
        return embedded(self.hf, self.family, self.tokenizer, inputs, facts)

    def count_positions(self, prompt: Prompt) -> dict[str, int]:
        """How many positions a prompt has, "prompt", and of each modality, by its files' headers.

        Neither weights nor frames are read: the processor writes the tokens. A sound's header may
        be off by the end of its last packet, and so by two tokens. Raises as `embed`.
        """
        self._require(prompt)
        prompt = replace(prompt, media=prompt.media or self.media)
        try:
            tokens = self._inputs(prompt, self._headers(prompt, "meta"))["input_ids"][0]
        except MediaError as error:
            if error.__cause__ is None:
                raise
            # The processor looks at numbers, which the meta device has not.
            tokens = self._inputs(prompt, self._headers(prompt, "cpu"))["input_ids"][0]
        ids = self.family.media_tokens(self.hf)
        counts = {kind: int((tokens == token).sum()) for kind, token in ids.items()}
        return {"prompt": len(tokens), **counts}

    def _headers(self, prompt: Prompt, device: str) -> Read:
        media, sources = prompt.media or self.media, prompt.sources(self.family.hears)
        return tuple(read_header(source, media, device) for source in sources)

    def _inputs(self, prompt: Prompt, read: Read) -> dict[str, Any]:
        """Model inputs for what was read, of which nothing is lost; raises as `embed_media`."""
        self._require(prompt)
        expected = [source.kind for source in prompt.sources(self.family.hears)]
        if (kinds := [type(one).__name__.lower() for one in read]) != expected:
            raise PromptError(
                f"expected {expected} as what was read for this prompt, got {kinds}. Pass what "
                "`read_media` gives, in its order."
            )
        try:
            inputs = self.family.prepare(self.processor, prompt, read)
        except HookedOmniError:
            raise
        except (AssertionError, ValueError, RuntimeError, IndexError) as error:
            raise MediaError(
                f"expected a clip that the processor of {self.family.name} takes, got {error!r}. "
                "Change the media settings, such as size_factor and sampling_rate."
            ) from error
        self._require_all(inputs, read)
        return inputs

    def facts(self) -> dict[str, Any]:
        """Model, revision, precision and versions that a prompt is made with."""
        how = quantization(self.hf)
        return {
            "model": getattr(self.hf, "name_or_path", "") or type(self.hf).__name__,
            "revision": getattr(self.hf.config, "_commit_hash", None),
            "family": self.family.name,
            **({} if self.adapter is None else {"adapter": self.adapter}),
            "own_reading": self.family.own_reading,
            "no_grid": self.family.no_grid,
            "dtype": str(self.hf.get_input_embeddings().weight.dtype),
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "hooked_omni": _own_version(),
            **({"quantized": f"{how}: not the original's numbers"} if how else {}),
        }

    def _require(self, prompt: Prompt) -> None:
        """Refuse items that the family, or this model of it, does not take, or any, unprocessed."""
        require_prompt(prompt)
        if self.processor is None:
            raise PromptError(
                "expected a model with a processor, got none. Pass `processor=` to `from_hf`, or "
                "use `embed_inputs` with its output."
            )
        self.family.require(prompt)
        images = [s.path for s in prompt.sources(self.family.hears) if s.kind == "image"]
        if images and "image" not in self.family.media_tokens(self.hf):
            raise PromptError(
                f"expected a prompt without images for this {self.family.name}, which has no "
                f"placeholder for them, got {images[0]}. Leave it out, or make it a video."
            )

    def _warn_of_other_clips(self, read: Read) -> None:
        """A small trained model knows the clips of its own world, all of one length."""
        own = getattr(self.hf, "clip_seconds", None)
        lengths = [one.seconds for one in read if not isinstance(one, Image)]
        if own is not None and any(abs(one - own) > 0.2 for one in lengths):
            warnings.warn(
                f"expected a clip of the world that this model was trained on, {own:g} s long, got "
                f"one of {max(lengths):g} s: what it answers says nothing about this clip. Use "
                "hooked_omni.EXAMPLE_CLIP, `python -m data_prep organism world`, or another model.",
                stacklevel=5,
            )

    def _require_all(self, inputs: dict[str, Any], read: Read) -> None:
        """Refuse inputs that are less than what was read, more, or something else."""
        got = self.family.received(self.hf, inputs)
        sounds = [len(one.samples) / one.sampling_rate for one in read if isinstance(one, Audio)]
        heard = [seconds for (seconds,) in got.get("audio", [])]
        pairs = list(zip_longest(heard, sounds, fillvalue=0.0))
        if any(abs(h - s) >= _HALF_A_TOKEN or s < 2 * _HALF_A_TOKEN for h, s in pairs):
            raise MediaError(
                f"expected {self.family.name} to hear the whole sound, of {_each(sounds)} s, 0.04 "
                f"at least, got {_each(heard)} s: its processor takes 16000 samples a second, and "
                "cuts off what is too long. Set sound_seconds in the media settings, or cut the "
                "clip."
            )
        frames = [one.frames for one in read if isinstance(one, Video)]
        pictures = [tuple(one.pixels.shape[1:]) for one in read if isinstance(one, Image)]
        shapes = [(len(one), *one.shape[2:]) for one in frames]
        for kind, own in (("video", shapes), ("image", pictures)):
            seen, least = got.get(kind, []), int(kind == "video")
            same = zip_longest(seen, own, fillvalue=())
            if any(given != one[: max(len(given), least)] for given, one in same):
                raise MediaError(
                    f"expected {self.family.name} to see the frames as read, {_each(own)} (number, "
                    f"height, width), got {_each(seen)}: its processor repeats, drops or resizes "
                    "others. Leave min_frames, max_frames, frame_factor and size_factor as its "
                    "family has them."
                )


def _each(values: list[Any]) -> Any:
    """One value by itself."""
    return values[0] if len(values) == 1 else values


def _read(source: Source, media: MediaSettings) -> Image | Video | Audio:
    if source.kind == "image":
        return read_image(source.path, media)
    if source.kind == "video":
        return read_video(source.path, media)
    try:
        return _beginning(read_audio(source.path, media), media.sound_seconds)
    except MediaError as error:
        if not source.own:
            raise
        raise MediaError(
            f"{error} For the picture alone, pass use_audio_in_video=False."
        ) from error


def _beginning(audio: Audio, seconds: float | None) -> Audio:
    """Its first `seconds`, with a note if there is more; None for all."""
    if seconds is None or seconds >= audio.seconds:
        return audio
    n = round(seconds * audio.sampling_rate)
    note = f"{audio.seconds - seconds:.3f} s of sound after {seconds:g} s left out: sound_seconds"
    own = dict(samples=audio.samples[:n], seconds=n / audio.sampling_rate)
    return replace(audio, **own, notes=(*audio.notes, note))


def _own_version() -> str:
    try:
        return version("hooked-omni")
    except PackageNotFoundError:  # read from its folder, in an environment for towers alone
        return "not installed"


def _facts(prompt: Prompt, read: Read) -> dict[str, Any]:
    """What was asked, and of what was read; items of a kind are numbered if there are several."""
    given = json.loads(json.dumps(asdict(prompt), default=str))
    facts: dict[str, Any] = {"prompt": {k: v for k, v in given.items() if v != []}}
    kinds = [type(one).__name__.lower() for one in read]
    for i, (kind, one) in enumerate(zip(kinds, read, strict=True)):
        several = kinds.count(kind) > 1
        facts[f"{kind}.{kinds[: i + 1].count(kind)}" if several else kind] = _read_facts(one)
    return facts


def _read_facts(one: Image | Video | Audio) -> dict[str, Any]:
    if isinstance(one, Image):
        _, height, width = one.pixels.shape
        return dict(height=height, width=width, notes=list(one.notes))
    if isinstance(one, Audio):
        facts = dict(samples=len(one.samples), sampling_rate=one.sampling_rate)
    else:
        n_frames, _, height, width = one.frames.shape
        facts = dict(frames=n_frames, height=height, width=width, fps=one.fps)
    return facts | dict(seconds=one.seconds, notes=list(one.notes))

"""How does a clip become embeddings for the decoder?

By the Hugging Face model and its processor, without hooks: this half also runs with older versions
of transformers, for models whose own code needs one, and its bundles are read anywhere.
"""

from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from hooked_omni.errors import HookedOmniError, MediaError, PromptError
from hooked_omni.families import family_of
from hooked_omni.hf.capture import embedded
from hooked_omni.inputs.audio import Audio, read_audio
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
    """

    def __init__(self, hf_model: nn.Module, processor: Any = None) -> None:
        config: Any = getattr(hf_model, "config", None)
        self.family = family_of({} if config is None else config.to_dict())
        self.hf: Any = self.family.unwrap(hf_model)
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
        return self.embed_media(prompt, *self.read_media(prompt))

    def read_media(self, prompt: Prompt) -> tuple[Video | None, Audio | None]:
        """The frames and the sound that `embed` passes to the towers; raises as `embed`."""
        if self.processor is None:
            raise PromptError(
                "expected a model with a processor, got none. Pass `processor=` to `from_hf`, or "
                "use `embed_inputs` with its output."
            )
        if prompt.video is not None and not self.family.sees:
            raise PromptError(
                f"expected a prompt without a picture for {self.family.name}, got "
                f"video={prompt.video}. This family does not see: pass the clip as `audio`."
            )
        media = prompt.media or self.media
        video = None if prompt.video is None else read_video(prompt.video, media)
        return video, self._read_sound(prompt, media)

    def embed_media(
        self, prompt: Prompt, video: Video | None, audio: Audio | None
    ) -> EmbeddedPrompt:
        """As `embed`, for frames and sound in memory, perhaps edited; no file is read.

        ```python
        video, audio = omni.read_media(prompt)
        silence = replace(audio, samples=0 * audio.samples)
        muted = omni.embed_media(prompt, video, silence)
        ```

        Raises:
            MediaError: If the towers would get less than this, more, or something else.
            PromptError: For a prompt that this model does not take.
        """
        prompt = replace(prompt, media=prompt.media or self.media)
        try:
            inputs = self.family.prepare(self.processor, prompt, video, audio)
        except HookedOmniError:
            raise
        except (AssertionError, ValueError, RuntimeError, IndexError) as error:
            raise MediaError(
                f"expected a clip that the processor of {self.family.name} takes, got {error!r}. "
                "Change the media settings, such as size_factor and sampling_rate."
            ) from error
        self._require_all(inputs, video, audio)
        return embedded(
            self.hf,
            self.family,
            self.tokenizer,
            inputs,
            self.facts() | _clip_facts(prompt, video, audio),
            fps=None if video is None else video.fps,
        )

    def embed_inputs(self, **inputs: Any) -> EmbeddedPrompt:
        """The decoder's inputs for model inputs: a processor's whole output.

        For sound inside a video, add `use_audio_in_video=True`: the processor does not return it.
        `PromptError` for inputs that the model would silently misread.
        """
        facts = self.facts() | {"use_audio_in_video": inputs.get("use_audio_in_video")}
        return embedded(self.hf, self.family, self.tokenizer, inputs, facts)

    def facts(self) -> dict[str, Any]:
        """Model, revision, precision and versions that a prompt is made with."""
        return {
            "model": getattr(self.hf, "name_or_path", "") or type(self.hf).__name__,
            "revision": getattr(self.hf.config, "_commit_hash", None),
            "family": self.family.name,
            "own_reading": self.family.own_reading,
            "dtype": str(self.hf.get_input_embeddings().weight.dtype),
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "hooked_omni": _own_version(),
        }

    def _require_all(
        self, inputs: dict[str, Any], video: Video | None, audio: Audio | None
    ) -> None:
        """Refuse inputs that are less than what was read, more, or something else."""
        heard, seen = self.family.received(self.hf, inputs)
        seconds = 0.0 if audio is None else len(audio.samples) / audio.sampling_rate
        if abs(heard - seconds) >= _HALF_A_TOKEN or (audio and seconds < 2 * _HALF_A_TOKEN):
            raise MediaError(
                f"expected {self.family.name} to hear the whole sound, of {seconds} s, 0.04 at "
                f"least, got {heard} s: its processor takes 16000 samples a second, and cuts off "
                "what is too long. Set sound_seconds in the media settings, or cut the clip."
            )
        shape = () if video is None else (len(video.frames), *video.frames.shape[2:])
        if seen != shape[: max(len(seen), 1)]:
            raise MediaError(
                f"expected {self.family.name} to see the frames as read, {shape} (number, height, "
                f"width), got {seen}: its processor repeats, drops or resizes others. Leave "
                "min_frames, max_frames, frame_factor and size_factor as its family has them."
            )

    def _read_sound(self, prompt: Prompt, media: MediaSettings) -> Audio | None:
        source = prompt.audio
        if source is None and prompt.interleaved and self.family.hears:
            source = prompt.video
        if source is None:
            return None
        if not self.family.hears:
            raise PromptError(
                f"expected a prompt without sound for {self.family.name}, got audio={source}. "
                "This family does not hear: leave `audio` out."
            )
        try:
            return _beginning(read_audio(source, media), media.sound_seconds)
        except MediaError as error:
            if source != prompt.video:
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


def _clip_facts(prompt: Prompt, video: Video | None, audio: Audio | None) -> dict[str, Any]:
    given = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(prompt).items()}
    facts: dict[str, Any] = {"prompt": given}
    if video is not None:
        n_frames, _, height, width = video.frames.shape
        facts["video"] = dict(frames=n_frames, height=height, width=width, fps=video.fps)
        facts["video"] |= dict(seconds=video.seconds, notes=list(video.notes))
    if audio is not None:
        facts["audio"] = dict(samples=len(audio.samples), sampling_rate=audio.sampling_rate)
        facts["audio"] |= dict(seconds=audio.seconds, notes=list(audio.notes))
    return facts

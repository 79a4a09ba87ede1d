"""How does a prompt become model inputs, by a processor (`processing_*.py`) of transformers?

The chat template writes the whole conversation, then the processor is called for each of its media.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import transformers

from hooked_omni.errors import PromptError
from hooked_omni.families.family import Read
from hooked_omni.families.one_by_one import Medium, media_of, one_by_one
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_FORMS: Mapping[str, Mapping[str, str]] = {
    "image": {"type": "image", "image": "picture"},
    "video": {"type": "video", "video": "clip"},
    "audio": {"type": "audio", "audio": "sound"},
}
"""How templates name a medium."""
_SOUND_BY_KEY = {"audio": {"type": "audio", "audio_url": "sound"}}
"""As templates of models that only hear do, which look for the type, or for the key."""


def _words(prompt: Prompt) -> dict[str, str]:
    """All words, by where they stand; a medium between them is a line break."""
    # Items of text may be written without a gap: two halves must not make a special token.
    *earlier, last = (
        "".join(str(item.source) if item.kind == "text" else "\n" for item in turn.items)
        for turn in prompt.messages
    )
    said = {f"turn {i}": words for i, words in enumerate(earlier, start=1)}
    return {**said, "text": last, "system": prompt.system or ""}


def require_plain_words(tokenizer: Any, prompt: Prompt, placeholders: tuple[str, ...] = ()) -> None:
    """Refuse special tokens and placeholders among the words."""
    added = getattr(tokenizer, "get_added_vocab", dict)()  # mistral-common's has none
    special = {*tokenizer.all_special_tokens, *added, *placeholders}
    for name, text in _words(prompt).items():
        found = sorted(token for token in special if token in text)
        if found:
            raise PromptError(
                f"expected plain words in {name!r}, got the special token {found[0]!r} in "
                f"{text!r}: it would be read as a clip or a turn. Rephrase it."
            )


def _require_known_words(tokenizer: Any, prompt: Prompt) -> None:
    """Small models know few words; they would read all others as the same unknown token."""
    unknown_id = tokenizer.unk_token_id
    for name, text in _words(prompt).items():
        if unknown_id is None or unknown_id not in tokenizer(text).input_ids:
            continue
        unknown = [word for word in text.split() if unknown_id in tokenizer(word).input_ids]
        raise PromptError(
            f"expected words that this model knows in {name!r}, got {unknown} in {text!r}. Use "
            "words that it was trained on, such as 'Describe what you hear.'"
        )


def chat(
    processor: Any, prompt: Prompt, system: str, forms: Mapping[str, Mapping[str, str]] = _FORMS
) -> str:
    """The prompt in the model's own chat template, with a placeholder for each medium.

    `system` is the family's, empty for none; `forms` are the media in the template's form.

    Raises:
        PromptError: For special or unknown words, or a processor without a template.
    """
    own = {kind: getattr(processor, f"{kind}_token", "") for kind in _FORMS}
    require_plain_words(processor.tokenizer, prompt, tuple(one for one in own.values() if one))
    _require_known_words(processor.tokenizer, prompt)
    if not getattr(processor, "chat_template", None):
        raise PromptError(
            "expected a processor with a chat template, got none. Load the processor of the chat "
            "model, or set `processor.chat_template`."
        )
    messages: list[dict[str, Any]] = []
    if words := prompt.system or system:
        messages.append({"role": "system", "content": [{"type": "text", "text": words}]})
    for turn in prompt.messages:
        content = [
            {"type": "text", "text": item.source} if item.kind == "text" else forms[item.kind]
            for item in turn.items
        ]
        messages.append({"role": turn.role, "content": content})
    made = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    _require_as_given(made, prompt, own)
    return made


def _require_as_given(made: str, prompt: Prompt, placeholders: Mapping[str, str]) -> None:
    """Refuse a template that drops words, or writes listed items in another order than theirs."""
    at, last = 0, len(prompt.turns)
    parts = [("system", "text", prompt.system or "")]
    for i, turn in enumerate(prompt.messages):
        name, listed = (f"turn {i + 1}", True) if i < last else ("text", bool(prompt.items))
        kept = (item for item in turn.items if listed or item.kind == "text")
        parts += [(name, item.kind, str(item.source)) for item in kept]
    for name, kind, source in parts:
        for line in source.split("\n") if kind == "text" else [placeholders[kind]]:
            if (found := made.find(line.strip(), at)) < 0:
                raise PromptError(
                    f"expected a chat template that writes all as it is given, got one that drops "
                    f"{name!r}, or moves it: {kind} {source!r}. Leave it out, give the items in an "
                    "order that this model was made for, or set `processor.chat_template`."
                )
            at = found + len(line.strip())


def prepare_sound(processor: Any, prompt: Prompt, read: Read, *, system: str) -> dict[str, Any]:
    """Inputs of a model that hears and does not see; `PromptError` for words it does not take."""
    text = chat(processor, prompt, system, _SOUND_BY_KEY)

    def arguments(medium: Medium) -> dict[str, Any]:
        sound: Any = medium.read
        return {"audio": [sound.samples], "sampling_rate": sound.sampling_rate}

    if not read:  # some have no default
        return dict(processor(text=text, audio=None, return_tensors="pt"))
    return one_by_one(processor, text, media_of(prompt, read), arguments)


def call_in_dtype(hf_model: Any, inputs: Mapping[str, Any]) -> Any:
    """Run a model whose audio tower takes mel frames in the weights' own precision alone."""
    features = inputs.get("input_features")
    own = {} if features is None else {"input_features": features.to(hf_model.dtype)}
    return hf_model(**{**inputs, **own})


def prepare_squares(processor: Any, prompt: Prompt, read: Read) -> dict[str, Any]:
    """Inputs of a model that sees frames which its processor resizes to a square, and hears none.

    `PromptError` for words it does not take.
    """

    def arguments(medium: Medium) -> dict[str, Any]:
        video: Any = medium.read
        # From whole numbers, as they come from a file: resized fractions are rounded otherwise.
        frames = video.frames.round().clamp(0, 255).byte()
        return {"videos": [frames], "videos_kwargs": {"do_sample_frames": False}}

    media = media_of(prompt, read, hears=False)
    return one_by_one(processor, chat(processor, prompt, ""), media, arguments)


def _image_arguments(image: Any) -> dict[str, Any]:
    """The processor's arguments for an image that is sized already."""
    return {"images": [image.pixels], "images_kwargs": {"do_resize": False}}


def _video_arguments(processor: Any, video: Video, fps: float) -> dict[str, Any]:
    """The processor's arguments for frames that are sampled and sized already."""
    kwargs: dict[str, Any] = {"fps": fps, "do_sample_frames": False, "do_resize": False}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        kwargs["cap_pixels_per_frame"] = False  # nothing is resized; unset, it warns
    return {"videos": [video.frames], "videos_kwargs": kwargs}


def prepare_video(
    processor: Any,
    prompt: Prompt,
    read: Read,
    *,
    system: str,
    metadata: Callable[[Video], dict[str, Any]],
) -> dict[str, Any]:
    """Inputs of a model that sees and does not hear; `PromptError` for words it does not take.

    `metadata` gives the times of the frames as the processor reads them; without, it assumes 24
    frames a second.
    """

    def arguments(medium: Medium) -> dict[str, Any]:
        if not isinstance(medium.read, Video):
            return _image_arguments(medium.read)
        own = _video_arguments(processor, medium.read, medium.read.fps)
        own["videos_kwargs"]["video_metadata"] = [metadata(medium.read)]
        return own

    media = media_of(prompt, read, hears=False)
    return one_by_one(processor, chat(processor, prompt, system), media, arguments)


def prepare_omni(
    processor: Any, prompt: Prompt, read: Read, *, system: str, default_fps: float
) -> dict[str, Any]:
    """Inputs of a model that sees and hears, also sound inside the picture.

    `default_fps` is the rate that the processor assumes without one, as in the paper's scripts.

    Raises:
        PromptError: For words that the model does not take.
    """

    def arguments(medium: Medium) -> dict[str, Any]:
        if isinstance(medium.read, Image):
            return _image_arguments(medium.read)
        if isinstance(medium.read, Audio):
            return {"audio": [medium.read.samples]}
        fps = medium.read.fps if prompt.rope == "model" else default_fps
        own = _video_arguments(processor, medium.read, fps)
        if medium.inside is not None:
            own |= {"audio": [medium.inside.samples]}
            if transformers.__version__.startswith("4."):  # there, nested arguments hide flat ones
                own["videos_kwargs"]["use_audio_in_video"] = True
            elif hasattr(processor, "load_audio_from_video"):  # transformers >= 5.19
                own |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
            else:
                own["use_audio_in_video"] = True
        return own

    text, media = chat(processor, prompt, system), media_of(prompt, read)
    inputs = one_by_one(processor, text, media, arguments)
    inputs["use_audio_in_video"] = prompt.interleaved and prompt.rope == "model"
    return inputs


OneClip = Callable[[Any, Prompt, Video | None, Audio | None], dict[str, Any]]
"""From a processor, a prompt, and its frames and sound to model inputs."""


def of_one_clip(prepare: OneClip) -> Callable[[Any, Prompt, Read], dict[str, Any]]:
    """`Family.prepare` of a family that takes one clip and one question (`Family.one_clip`)."""

    def adapted(processor: Any, prompt: Prompt, read: Read) -> dict[str, Any]:
        video = next((one for one in read if isinstance(one, Video)), None)
        audio = next((one for one in read if isinstance(one, Audio)), None)
        if prompt.items:
            texts = [str(item.source) for item in prompt.content if item.kind == "text"]
            files = {kind: "given" for kind, one in (("video", video), ("audio", audio)) if one}
            inside = prompt.use_audio_in_video and video is not None
            prompt = replace(prompt, items=(), text=texts[0], **files, use_audio_in_video=inside)
        return prepare(processor, prompt, video, audio)

    return adapted

"""How does a prompt become model inputs, by a processor (`processing_*.py`) of transformers?"""

from collections.abc import Callable, Mapping
from typing import Any

import transformers

from hooked_omni.errors import PromptError
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video


def require_plain_words(tokenizer: Any, prompt: Prompt, placeholders: tuple[str, ...] = ()) -> None:
    """Refuse special tokens and placeholders among the words."""
    added = getattr(tokenizer, "get_added_vocab", dict)()  # mistral-common's has none
    special = {*tokenizer.all_special_tokens, *added, *placeholders}
    for name, text in {"text": prompt.text, "system": prompt.system or ""}.items():
        found = sorted(token for token in special if token in text)
        if found:
            raise PromptError(
                f"expected plain words in {name!r}, got the special token {found[0]!r} in "
                f"{text!r}: it would be read as a clip or a turn. Rephrase it."
            )


def require_model_rope(prompt: Prompt) -> None:
    """Refuse positions that only sound inside a video can have."""
    if prompt.rope != "model":
        raise PromptError(
            f"expected rope='model' without sound inside video, got {prompt.rope!r}. Leave it out."
        )


def _require_known_words(tokenizer: Any, prompt: Prompt) -> None:
    """Small models know few words; they would read all others as the same unknown token."""
    unknown_id = tokenizer.unk_token_id
    for name, text in {"text": prompt.text, "system": prompt.system or ""}.items():
        if unknown_id is None or unknown_id not in tokenizer(text).input_ids:
            continue
        unknown = [word for word in text.split() if unknown_id in tokenizer(word).input_ids]
        raise PromptError(
            f"expected words that this model knows in {name!r}, got {unknown} in {text!r}. Use "
            "words that it was trained on, such as 'Describe what you hear.'"
        )


def chat(processor: Any, prompt: Prompt, items: list[dict[str, str]], system: str) -> str:
    """The prompt in the model's own chat template: words first, then the clip, as in the paper.

    `items` are the clip's parts in the template's form; `system` is the family's, empty for none.

    Raises:
        PromptError: For special or unknown words, or a processor without a template.
    """
    own = [getattr(processor, f"{kind}_token", "") for kind in ("image", "video", "audio")]
    require_plain_words(processor.tokenizer, prompt, tuple(token for token in own if token))
    _require_known_words(processor.tokenizer, prompt)
    if not getattr(processor, "chat_template", None):
        raise PromptError(
            "expected a processor with a chat template, got none. Load the processor of the chat "
            "model, or set `processor.chat_template`."
        )
    content = [{"type": "text", "text": prompt.text}, *items]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if words := prompt.system or system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": words}]})
    made = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for name, text in {"text": prompt.text, "system": prompt.system or ""}.items():
        if text.strip() not in made:
            raise PromptError(
                f"expected a chat template that keeps the words, got one that drops {name!r}, "
                f"{text!r}. Leave them out, or set `processor.chat_template`."
            )
    return made


def prepare_sound(
    processor: Any,
    prompt: Prompt,
    video: Video | None,
    audio: Audio | None,
    *,
    system: str,
) -> dict[str, Any]:
    """Inputs of a model that hears and does not see; `PromptError` for words it does not take."""
    require_model_rope(prompt)
    # Templates look for a type, or for one of these keys.
    items = [{"type": "audio", "audio_url": "sound"}] if audio is not None else []
    arguments: dict[str, Any] = {"text": chat(processor, prompt, items, system), "audio": None}
    if audio is not None:
        arguments |= {"audio": [audio.samples], "sampling_rate": audio.sampling_rate}
    return dict(processor(**arguments, return_tensors="pt"))


def call_in_dtype(hf_model: Any, inputs: Mapping[str, Any]) -> Any:
    """Run a model whose audio tower takes mel frames in the weights' own precision alone."""
    features = inputs.get("input_features")
    own = {} if features is None else {"input_features": features.to(hf_model.dtype)}
    return hf_model(**{**inputs, **own})


def prepare_squares(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    """Inputs of a model that sees frames which its processor resizes to a square, and hears none.

    `PromptError` for words it does not take.
    """
    require_model_rope(prompt)
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    arguments: dict[str, Any] = {"text": chat(processor, prompt, items, "")}
    if video is not None:
        # From whole numbers, as they come from a file: resized fractions are rounded otherwise.
        arguments["videos"] = [video.frames.round().clamp(0, 255).byte()]
        arguments["videos_kwargs"] = {"do_sample_frames": False}
    return dict(processor(**arguments, return_tensors="pt"))


def _video_arguments(processor: Any, video: Video, fps: float) -> dict[str, Any]:
    """The processor's arguments for frames that are sampled and sized already."""
    kwargs: dict[str, Any] = {"fps": fps, "do_sample_frames": False, "do_resize": False}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        kwargs["cap_pixels_per_frame"] = False  # nothing is resized; unset, it warns
    return {"videos": [video.frames], "videos_kwargs": kwargs}


def prepare_video(
    processor: Any,
    prompt: Prompt,
    video: Video | None,
    audio: Audio | None = None,
    *,
    system: str,
    metadata: Callable[[Video], dict[str, Any]],
) -> dict[str, Any]:
    """Inputs of a model that sees and does not hear; `PromptError` for words it does not take.

    `metadata` gives the times of the frames as the processor reads them; without, it assumes 24
    frames a second.
    """
    require_model_rope(prompt)
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    arguments: dict[str, Any] = {"text": chat(processor, prompt, items, system)}
    if video is not None:
        arguments |= _video_arguments(processor, video, video.fps)
        arguments["videos_kwargs"]["video_metadata"] = [metadata(video)]
    return dict(processor(**arguments, return_tensors="pt"))


def prepare_omni(
    processor: Any,
    prompt: Prompt,
    video: Video | None,
    audio: Audio | None,
    *,
    system: str,
    default_fps: float,
) -> dict[str, Any]:
    """Inputs of a model that sees and hears, also sound inside the picture.

    `default_fps` is the rate that the processor assumes without one, as in the paper's scripts.

    Raises:
        PromptError: For words that the model does not take.
    """
    interleaved = prompt.interleaved and audio is not None
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    if audio is not None and not interleaved:
        items.append({"type": "audio", "audio": "sound"})
    arguments: dict[str, Any] = {"text": chat(processor, prompt, items, system)}
    if video is not None:
        fps = video.fps if prompt.rope == "model" else default_fps
        arguments |= _video_arguments(processor, video, fps)
    if audio is not None:
        arguments["audio"] = [audio.samples]
    if interleaved:
        if transformers.__version__.startswith("4."):  # there, nested arguments hide flat ones
            arguments["videos_kwargs"]["use_audio_in_video"] = True
        elif hasattr(processor, "load_audio_from_video"):  # transformers >= 5.19
            arguments |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
        else:
            arguments["use_audio_in_video"] = True
    inputs = dict(processor(**arguments, return_tensors="pt"))
    inputs["use_audio_in_video"] = interleaved and prompt.rope == "model"
    return inputs

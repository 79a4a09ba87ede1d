"""Voxtral: hears and answers, and does not see.

A sound is filled up with silence to whole windows of 30 s, and all of that is heard. Its tokenizer
is the package mistral-common, which also makes the chat and hands on the sound.
"""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import soundfile

from hooked_omni.errors import MediaError, PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_WINDOW = 30  # seconds


def _tokens_per_window(hf_model: Any) -> int:
    tower = hf_model.config.audio_config
    return tower.max_source_positions * tower.hidden_size // tower.intermediate_size


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    windows = inputs.get("input_features")
    expected = 0 if windows is None else len(windows) * _tokens_per_window(hf_model)
    checks.require_tokens(inputs, hf_model.config.audio_token_id, expected, "audio")


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    return 0.0 if inputs.get("input_features") is None else math.nan, ()


def _wave_file(audio: Audio) -> str:
    """A sound as the chat takes it; its samples are floats in there, too."""
    file = io.BytesIO()
    soundfile.write(file, audio.samples, audio.sampling_rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    processing.require_plain_words(processor.tokenizer, prompt)
    if prompt.system is not None:
        raise PromptError(
            f"expected no system prompt for Voxtral, got {prompt.system!r}: beside a sound it "
            "takes none. Say all of it in the question."
        )
    items = [] if audio is None else [{"type": "audio", "base64": _wave_file(audio)}]
    chat = [{"role": "user", "content": [*items, {"type": "text", "text": prompt.text}]}]
    inputs = dict(processor.apply_chat_template(chat))
    came = len(inputs.get("input_features", ()))
    seconds = 0.0 if audio is None else len(audio.samples) / audio.sampling_rate
    if came != math.ceil(seconds / _WINDOW):
        raise MediaError(
            f"expected Voxtral to hear the whole sound, of {seconds} s, got {came} windows of "
            f"{_WINDOW} s. Cut the clip, or check the version of mistral-common."
        )
    return inputs


VOXTRAL = Family(
    name="voxtral",
    checkpoints="Voxtral (Mini 3B, Small 24B)",
    decoder="Llama, 1-D positions",
    model_types=("voxtral",),
    hf_class="VoxtralForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    on_disk=qwen.ON_DISK,
    times=checks.times_of_sound(
        lambda model, tokens: tokens * (_WINDOW / _tokens_per_window(model))
    ),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.of_one_clip(_prepare),
    sees=False,
    towers=qwen.EARS,
    one_clip="first",
    own_reading="sound is filled up with silence to windows of 30 s, all of which is heard",
    proved="0, tiny random weights of its class, with mistral-common 1.13",
)

"""MiniCPM-o 2.6: a picture and the sound of each second in turn, read by a Qwen2.

Its towers are code of the checkpoint (`modeling_minicpmo.py` of openbmb/MiniCPM-o-2_6, transformers
4.44). Its own `chat` makes the inputs, with the options of its model card (one slice a frame, no
numbers in front of frames; `omni_input` for sound inside a video), and is stopped at `generate`.
With any sound, `chat` ends the prompt in `<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>`: the position
`last` is then the start of a spoken answer. Frames are one a second, evenly spaced, the first and
the last included; the model card takes the last of each second.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Int
from torch import Tensor

from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.checks import n_audio_tokens
from hooked_omni.families.family import Family, OnDisk, Remote
from hooked_omni.families.processing import require_plain_words
from hooked_omni.families.remote.chat import (
    file_options,
    pictures,
    question_after_clip,
    stopped,
    within_bounds,
)
from hooked_omni.families.remote.text_model import as_qwen, qwen_reference
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_MOST_TOKENS = 32_768  # at which `chat` cuts a prompt off
_PLACEHOLDERS = ("<image>./</image>", "<audio>./</audio>")  # 2.6 has them in brackets
_CHAT_ALONE = {"top_p", "top_k", "temperature", "repetition_penalty", "stream", "min_new_tokens"}


class MiniCPMProcessor:
    """Messages to inputs, as the model's own `chat` makes them."""

    unit: tuple[str, ...] = ("<unit>",)  # in front of each second of sound inside a video

    def __init__(self, hf_model: Any, processor: Any) -> None:
        self.hf, self.processor, self.tokenizer = hf_model, processor, processor.tokenizer

    def __call__(self, messages: list[dict[str, Any]], omni_input: bool = False) -> dict[str, Any]:
        """Inputs; without `omni_input`, every part of a message ends in a line break."""
        sizes: Any = {"max_slice_nums": 1, "use_image_id": False, "max_inp_length": _MOST_TOKENS}
        inputs = stopped(
            self.hf, lambda: self.hf.chat(msgs=messages, **sizes, **self.options(omni_input))
        )
        greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": 1}
        return {k: v for k, v in inputs.items() if k not in _CHAT_ALONE} | greedy

    def options(self, omni_input: bool) -> dict[str, Any]:
        """Arguments of `chat` that another version calls otherwise."""
        own = {"tokenizer": self.tokenizer, "processor": self.processor}
        return {**own, "sampling": False, "omni_input": omni_input}


def _load(name: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    hf = transformers.AutoModel.from_pretrained(
        name, trust_remote_code=True, init_vision=True, init_audio=True, init_tts=False, **options
    )
    files = file_options(options)
    return hf, transformers.AutoProcessor.from_pretrained(name, trust_remote_code=True, **files)


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    if str(raw.get("version", "2.6")) != "2.6":
        raise CheckpointError(f"expected MiniCPM-o version 2.6, got {raw['version']!r}: another.")
    return qwen_reference(raw)


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    tokens = inputs["input_ids"]
    if len(tokens) != 1:
        raise PromptError(
            f"expected one prompt, got a batch of {len(tokens)}: this model's code writes sound "
            "into the first row alone. Embed prompts one at a time."
        )
    if tokens.shape[1] == _MOST_TOKENS:
        raise PromptError(
            f"expected fewer than {_MOST_TOKENS} positions, got as many: this model's code cuts a "
            "longer prompt off. Lower fps or max_frames in the media settings."
        )
    missing = [name for name in ("image_bound", "audio_bounds") if inputs.get(name) is None]
    if missing:
        raise PromptError(
            f"expected {missing} among the inputs, got none: picture and sound share one "
            "placeholder, and only the bounds tell them apart. Pass the processor's whole output."
        )
    came = int(within_bounds(inputs["audio_bounds"][0], tokens.shape[1]).sum())
    lengths = inputs.get("audio_feature_lens") or []
    mel = torch.cat([torch.as_tensor(one).reshape(-1) for one in lengths]) if lengths else None
    if mel is not None and len(mel):
        expected = int(n_audio_tokens(mel, hf_model.config.audio_pool_step).sum())
        if came != expected:
            raise PromptError(
                f"expected {expected} audio tokens for {mel.tolist()} mel frames, got {came}. Pass "
                "the whole output of one call of the processor."
            )
    elif came:
        raise PromptError(f"expected audio_features for {came} audio tokens, got none.")


def _find_media(
    hf_model: Any, inputs: Mapping[str, Any], n_pos: int
) -> tuple[Int[Tensor, " pos"], dict[str, Tensor]]:
    names = {"video": "image_bound", "audio": "audio_bounds"}
    media = {name: within_bounds(inputs[bounds][0], n_pos) for name, bounds in names.items()}
    return inputs["input_ids"][0].cpu().long(), media  # its processor gives 32 bits


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    lengths, n_pictures = inputs.get("audio_feature_lens") or (), len(inputs["image_bound"][0])
    mel = sum(int(torch.as_tensor(one).sum()) for one in lengths)
    return mel / 100, (n_pictures,) if n_pictures else ()


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    seconds, frames = {}, None
    if n_tokens["audio"]:
        seconds["audio"] = torch.arange(n_tokens["audio"]) * hf_model.config.audio_pool_step / 50
    if n_tokens["video"]:
        n_frames = len(inputs["image_bound"][0])
        frames = torch.arange(n_frames).repeat_interleave(n_tokens["video"] // n_frames)
    return seconds, frames


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    require_plain_words(processor.tokenizer, prompt, _PLACEHOLDERS)
    frames = [] if video is None else pictures(video.frames)
    sounds = [] if audio is None else _seconds(audio)
    units: list[Any] = []
    omni = prompt.interleaved and audio is not None
    if omni:
        for i in range(max(len(frames), len(sounds))):
            units += [*processor.unit, *frames[i : i + 1], *sounds[i : i + 1]]
    else:
        units = [*frames, *([] if audio is None else [audio.samples])]
    messages = [{"role": "user", "content": [*units, prompt.text]}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": [prompt.system]})
    elif omni:
        messages.insert(0, processor.hf.get_sys_prompt(mode="omni", language="en"))
    return processor(messages, omni)


def _seconds(audio: Audio) -> list[np.ndarray]:
    rate = audio.sampling_rate
    return [audio.samples[i : i + rate] for i in range(0, len(audio.samples), rate)]


def _call(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model.generate(**inputs)


MINICPM_O = Family(
    name="minicpm-o-2.6",
    checkpoints="MiniCPM-o 2.6",
    decoder="Qwen2",
    model_types=("minicpmo",),
    decoder_config=qwen.decoder_config,
    on_disk=OnDisk(homes=(("llm.model.", "llm.lm_head.weight"),), reference=_reference),
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.of_one_clip(_prepare),
    media=MediaSettings(fps=1.0, min_frames=1, frame_factor=1, resize=False),
    correct_words=question_after_clip,
    call=_call,
    find_media=_find_media,
    frames_per_step=1,
    proved="0 against Qwen2ForCausalLM on a stand-in for its code; released code, tiny weights, "
    "transformers 4.44.2: 0 at prefill, equal tokens",
    no_grid="each token of a picture is a query of the resampler, which reads all of it",
    own_reading="every frame is resized by the model's own code, in one slice; sound is heard in "
    "parts of 30 s, and a prompt with sound ends in <|tts_bos|>",
    one_clip="first",
    remote=Remote(
        load=_load,
        processor=MiniCPMProcessor,
        text_model=as_qwen,
        needs=(
            "It was written for transformers 4.44.2 with torchaudio, librosa, vector-quantize-"
            "pytorch and vocos, and imports what 4.57 no longer has (LogitsWarper, "
            "WHISPER_ATTENTION_CLASSES)."
        ),
        towers=("vpm.", "resampler.", "apm.", "audio_projection_layer."),
    ),
)

"""VideoLLaMA 2.1 AV: all tokens of the picture, then all of the sound, read by a Qwen2.

Its towers are a package of their own, the branch audio_visual of DAMO-NLP-SG/VideoLLaMA2. As in its
`mm_infer`, one negative placeholder stands for the whole clip, so the decoder's sequence is longer
than the input ids. It has two readers of sound. Both give 30 s, silent at the end: `process_video`
takes eight pieces of two seconds, whose tokens have no times of the clip, and reads silence where
it finds no ffmpeg; `process_audio_file` takes a sound alone, whole up to 30 s.
"""

import importlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Int
from torch import Tensor

from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family, OnDisk, Remote
from hooked_omni.families.processing import require_plain_words
from hooked_omni.families.remote.chat import question_after_clip
from hooked_omni.families.remote.text_model import as_qwen, qwen_reference
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_N_FRAMES = 16
_STEPS = _N_FRAMES // 2
_PATCH = 16  # BEATs: frames of 10 ms and bands of a patch
_PACKAGES = ("accelerate", "cv2", "imageio", "moviepy", "pytorchvideo", "timm", "torchaudio")
_TAGS = {"video": "<video>", "audio": "<audio>", "text": ""}
_PLACEHOLDERS = {"video": -201, "audio": -202}
_RATE = 16_000  # its readers' samples a second
_LONGEST = {"video": 16.0, "audio": 30.0}  # seconds that each can take


@dataclass(frozen=True)
class VideoLLaMAProcessor:
    """The package's own functions."""

    tokenizer: Any
    video: Callable[[list[np.ndarray]], Tensor]  # from frames
    sound: Callable[[str], Tensor]  # from a sound file, as that of a video
    sound_alone: Callable[[str], Tensor]  # from a sound file
    tokenize: Callable[..., Tensor]  # text, tokenizer, the clip's tag to ids, one negative


def _load(name: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    dtype = options.get("dtype", options.get("torch_dtype"))
    if dtype not in ("auto", torch.float16, torch.float32) or options.get("revision"):
        raise CheckpointError(
            f"expected dtype float16 or float32 for {str(name)!r}, and no revision, got {dtype} "
            f"and {options.get('revision')!r}: its package reads all weights as float16, and the "
            "newest files. Pass float16, or load that revision from a folder."
        )
    package = importlib.import_module("videollama2")
    own = importlib.import_module("videollama2.mm_utils")
    taken = {key: options[key] for key in ("device_map", "attn_implementation")}
    # Without a device of its own, it puts the picture's tower on a GPU.
    device = str(options["device_map"][""])
    hf, processor, tokenizer = package.model_init(str(name), device=device, **taken)

    def sound(path: str) -> Tensor:
        return own.process_audio_from_video(path, None)

    readers = (processor["video"], sound, processor["audio"])
    made = VideoLLaMAProcessor(tokenizer, *readers, own.tokenizer_multimodal_token)
    return (hf if dtype == "auto" else hf.to(dtype)), made  # to float32 no number changes


def _clip(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The towers' inputs, by modality."""
    if not inputs.get("images"):
        return {}
    tensor, kind = inputs["images"][0]
    return tensor if isinstance(tensor, dict) else {kind: tensor}


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    placeholders, clip = int((inputs["input_ids"] < 0).sum()), _clip(inputs)
    n_clips = len(inputs.get("images") or ())
    if len(inputs["input_ids"]) != 1 or placeholders != n_clips or n_clips > 1:
        raise PromptError(
            f"expected one prompt with at most one clip, got {len(inputs['input_ids'])} with "
            f"{placeholders} placeholders and {n_clips} clips. Embed prompts one at a time."
        )
    if not clip.keys() <= _PLACEHOLDERS.keys():
        raise PromptError(f"expected 'video' and 'audio' to be read, got {sorted(clip)}.")


def _call(model: Any, inputs: Mapping[str, Any]) -> Any:
    weight = model.get_input_embeddings().weight
    images = None
    if clip := _clip(inputs):
        placed = {name: tensor.to(weight) for name, tensor in clip.items()}
        kind = inputs["images"][0][1]
        images = [(placed if len(placed) > 1 else placed[kind], kind)]
    words = {"inputs": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    return model.generate(**words, images=images, do_sample=False, max_new_tokens=1)


def _find_media(
    hf_model: Any, inputs: Mapping[str, Any], n_pos: int
) -> tuple[Int[Tensor, " pos"], dict[str, Tensor]]:
    ids, clip = inputs["input_ids"][0].cpu(), _clip(inputs)
    nothing = torch.zeros(n_pos, dtype=torch.bool)
    media = {"video": nothing.clone(), "audio": nothing.clone()}
    if not clip:
        return ids, media
    at, n_media = int((ids < 0).nonzero()[0]), n_pos - len(ids) + 1
    n_audio = 0
    if "audio" in clip:
        n_frames, bands = clip["audio"].shape[-2:]
        n_audio = (n_frames // _PATCH) * (bands // _PATCH)
    n_video = n_media - n_audio
    if (n_video > 0) != ("video" in clip) or n_video < 0:
        raise PromptError(
            f"expected {n_audio} audio tokens among the {n_media} of the clip, got a remainder of "
            f"{n_video} for {sorted(clip)}: these are not this family's towers."
        )
    tokens = torch.cat([ids[:at], ids.new_empty(n_media), ids[at + 1 :]])
    for name, first, n in (("video", at, n_video), ("audio", at + n_video, n_audio)):
        media[name][first : first + n] = True
        tokens[first : first + n] = _PLACEHOLDERS[name]
    return tokens, media


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    clip = _clip(inputs)
    return inputs["heard"], tuple(clip["video"].shape[:1]) if "video" in clip else ()


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    n, clip = n_tokens["video"], _clip(inputs)
    if clip.keys() == {"audio"}:  # bands of a patch in turn, then the next 160 ms
        steps = torch.arange(n_tokens["audio"]) // (clip["audio"].shape[-1] // _PATCH)
        return {"audio": steps * _PATCH / 100}, None
    if not n or n % _STEPS:
        return {}, None
    return {}, checks.square_cells(n, n // _STEPS)


def _correct_words(
    tokenizer: Any, tokens: Int[Tensor, " pos"], masks: dict[str, Tensor]
) -> dict[str, Tensor]:
    """As for every clip; the line break before the question is there also without one."""
    spans = question_after_clip(tokenizer, tokens, masks)
    if spans and not bool((tokens < 0).any()):
        first = int(spans["question"].nonzero()[0])
        if not tokenizer.decode([int(tokens[first])]).strip():
            spans["question"][first], spans["markup"][first] = False, True
    return spans


def _prepare(
    processor: VideoLLaMAProcessor, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    require_plain_words(processor.tokenizer, prompt, ("<image>", "<video>", "<audio>"))
    clip: dict[str, Tensor] = {}
    if video is not None:
        pixels = video.frames.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        clip["video"] = processor.video(list(pixels))
    if audio is not None:
        clip["audio"] = _features(processor, audio, alone=video is None)
    kind = next(iter(clip), "text")
    heard = 0.0 if audio is None else min(len(audio.samples) / _RATE, _LONGEST[kind])
    messages = [{"role": "user", "content": f"{_TAGS[kind]}\n{prompt.text}"}]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    text = processor.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    ids = processor.tokenize(text, processor.tokenizer, _TAGS[kind], return_tensors="pt")
    ids = ids.unsqueeze(0).long()
    images = [(clip if len(clip) > 1 else clip[kind], kind)] if clip else None
    words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**words, "images": images, "heard": heard}


def _features(processor: VideoLLaMAProcessor, audio: Audio, alone: bool) -> Tensor:
    """Mel features of a sound; `PromptError` for those of silence in place of a sound."""
    if not alone and shutil.which("ffmpeg") is None:
        raise PromptError(
            "expected the command ffmpeg, by which videollama2.1-av reads the sound of a video, "
            "got none: it would be read as silence. Install ffmpeg."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        soundfile.write(path, audio.samples, audio.sampling_rate, subtype="FLOAT")
        features = (processor.sound_alone if alone else processor.sound)(str(path))
    audible = np.rint(audio.samples * 2**15).any()  # in the 16 bits that are read
    if audible and bool((features == features.flatten()[0]).all()):
        raise PromptError(
            "expected the features of a sound, got those of silence: videollama2.1-av could not "
            "read it, and has printed why. See there, and try `ffmpeg -i` on a sound."
        )
    return features


VIDEOLLAMA2 = Family(
    name="videollama2.1-av",
    checkpoints="VideoLLaMA 2.1-7B-AV",
    decoder="Qwen2",
    model_types=("videollama2_qwen2",),
    decoder_config=qwen.decoder_config,
    on_disk=OnDisk(homes=(("model.", "lm_head.weight"),), reference=qwen_reference),
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.of_one_clip(_prepare),
    media=MediaSettings(min_frames=_N_FRAMES, max_frames=_N_FRAMES, resize=False),
    correct_words=_correct_words,
    call=_call,
    find_media=_find_media,
    one_clip="first",
    proved="0 against Qwen2ForCausalLM on a stand-in; released code, tiny weights, 5.23 with "
    "shims: 0 at prefill, at most 4e-6 in decode steps",
    own_reading="every frame is resized to a square; the sound of a video is heard as eight evenly "
    "spaced pieces of 2 s, which overlap (older pytorchvideo leaves out its end), a sound alone as "
    "it is; then silence up to 30 s",
    remote=Remote(
        load=_load,
        processor=lambda model, processor: processor,
        text_model=as_qwen,
        needs=(
            "It is the package of DAMO-NLP-SG/VideoLLaMA2, branch audio_visual: install that from "
            "its repository, with transformers 4.42.3 (4.44.2 runs too), accelerate, timm, "
            "torchaudio, moviepy 1, pytorchvideo and the ffmpeg command. SigLIP is read from the "
            "checkpoint that config.json names as mm_vision_tower."
        ),
        packages=("videollama2", *_PACKAGES),
        commands=("ffmpeg",),
        towers=("model.audio_tower.", "model.mm_projector.", "model.mm_projector_a."),
        elsewhere=("mm_vision_tower",),
    ),
)

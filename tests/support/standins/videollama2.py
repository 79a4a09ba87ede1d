"""A stand-in for the package of VideoLLaMA 2.1 AV."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from hooked_omni.families.remote.videollama2 import VideoLLaMAProcessor
from hooked_omni.organisms.random_weights import byte_tokenizer
from tests.support.standins.parts import D_MODEL, TEXT, scrambled

N_SEEN, BANDS = 24, 32
SILENCE = -15.9375  # the logarithm of the least energy, in bfloat16


class VideoLLaMA2Config(transformers.Qwen2Config):
    model_type = "videollama2_qwen2"


class VideoLLaMA2Model(transformers.Qwen2Model):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_tower = nn.Linear(3, 6)
        self.mm_projector = nn.Linear(6, N_SEEN * D_MODEL)
        self.audio_tower = nn.Linear(1, 6)
        self.mm_projector_a = nn.Linear(6, D_MODEL)


class VideoLLaMA2(transformers.Qwen2ForCausalLM):
    """One negative placeholder stands for all tokens of the clip; positions are never passed."""

    config_class = VideoLLaMA2Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = VideoLLaMA2Model(config)

    def seen_and_heard(self, images: Any) -> Tensor:
        [(clip, kind)] = images
        clip = clip if isinstance(clip, dict) else {kind: clip}
        parts, own = [], self.model
        if "video" in clip:
            parts.append(self.tower(clip["video"]))
        if "audio" in clip:
            loud = clip["audio"][0].unfold(0, 16, 16).unfold(1, 16, 16).mean((-1, -2))
            parts.append(own.mm_projector_a(own.audio_tower(loud.reshape(-1, 1))))
        return torch.cat(parts)

    def tower(self, video: Tensor) -> Tensor:
        color = self.model.vision_tower(video.mean((0, 2, 3)))
        return self.model.mm_projector(color).view(N_SEEN, D_MODEL)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Tensor, images: Any = None, **kwargs: Any
    ) -> Any:
        if "inputs_embeds" in kwargs:
            raise NotImplementedError("`inputs_embeds` is not supported")
        ids, mask = inputs[0], kwargs.pop("attention_mask")
        if images is None:
            embeds = self.model.embed_tokens(ids)[None]
        else:
            at = int((ids < 0).nonzero()[0])
            clip = self.seen_and_heard(images)
            words = [self.model.embed_tokens(part) for part in (ids[:at], ids[at + 1 :])]
            embeds = torch.cat([words[0], clip, words[1]])[None]
            mask = torch.cat([mask.new_ones(1, len(clip) - 1), mask], dim=1)
        own: Any = super()
        return own.generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)


def _mel(wave: np.ndarray) -> Tensor:
    """Of 30 s, 10 ms each; the loudness stands in for the energy of every band."""
    frames = np.pad(wave, (0, 480_000 - len(wave)))[: 2998 * 160].reshape(2998, 160)
    loud = np.log(np.abs(frames).mean(1, keepdims=True) + np.exp(SILENCE))
    tilt = np.where(loud > SILENCE + 1e-3, np.linspace(0, 1, BANDS), 0)
    return torch.tensor(loud + tilt, dtype=torch.bfloat16)[None]


def process_audio_file(path: str) -> Tensor:
    """A sound alone: the first channel, whole up to 30 s."""
    wave, rate = soundfile.read(path)
    assert rate == 16_000
    return _mel(wave[:480_000])


def process_audio_from_video(path: str, clip_duration: float | None) -> Tensor:
    """Pieces of two seconds from a sound that only ffmpeg reads; without it, silence and a line."""
    try:
        if shutil.which("ffmpeg") is None:
            raise FileNotFoundError("[Errno 2] No such file or directory: 'ffmpeg'")
        wave, _ = soundfile.read(path)
        wave = np.rint(wave * 2**15) / 2**15
    except Exception as audio_error:
        print(f"Failed to process audio from video due to error: {audio_error}")
        wave = np.zeros(480_000)
    starts = np.linspace(0, max(len(wave) - 32_000, 0), 8).astype(int)
    return _mel(np.concatenate([wave[start : start + 32_000] for start in starts]))


def process_video(frames: list[np.ndarray]) -> Tensor:
    return torch.tensor(np.stack(frames)).float().permute(0, 3, 1, 2) / 255


def tokenizer_multimodal_token(text: str, tokenizer: Any, tag: str, return_tensors: str) -> Tensor:
    if not tag:
        return torch.tensor(tokenizer(text).input_ids)
    index = {"<image>": -200, "<video>": -201, "<audio>": -202}[tag]
    first, second = (tokenizer(part).input_ids for part in text.split(tag))
    return torch.tensor([*first, index, *second])


def videollama2_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def random_videollama2(seed: int = 0) -> tuple[Any, Any]:
    tokenizer = videollama2_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = VideoLLaMA2Config(**TEXT, vocab_size=len(tokenizer), rope_parameters=rope)
    hf = scrambled(VideoLLaMA2(config), seed)
    hf.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    readers = (process_video, partial(process_audio_from_video, clip_duration=None))
    own = (*readers, process_audio_file, tokenizer_multimodal_token)
    return hf, VideoLLaMAProcessor(tokenizer, *own)


def model_init(model_path: str, **kwargs: Any) -> tuple[Any, Any, Any]:
    """The package's: float16 always, and the picture's tower from another checkpoint, on a GPU."""
    device = kwargs.pop("device", "cuda")
    hf: Any = VideoLLaMA2.from_pretrained(model_path, **{**kwargs, "dtype": torch.float16})
    tower = load_file(Path(hf.config.mm_vision_tower) / "model.safetensors")
    hf.model.vision_tower.load_state_dict(tower)
    hf.model.vision_tower.to(device=device, dtype=torch.float16)
    processor = {"video": process_video, "audio": process_audio_file}
    return hf.eval(), processor, videollama2_tokenizer()

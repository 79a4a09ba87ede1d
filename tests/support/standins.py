"""Stand-ins for models whose code is not in transformers: their names, layouts and calls.

Towers are single projections of fixed width. What is true of the released models is which tensors
a checkpoint has, under which names and in which order; the calls; and what reaches the decoder. The
code was written for these tests, from descriptions of the released code.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from hooked_omni.families.remote.videollama2 import VideoLLaMAProcessor
from hooked_omni.organisms.random_weights import byte_tokenizer

D_MODEL, HEADS, KV_HEADS, LAYERS = 64, 4, 2, 3
TEXT = {
    "hidden_size": D_MODEL,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def scrambled(model: nn.Module, seed: int) -> Any:
    """Random weights large enough that nothing is flat, and gains that are not one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        elif "norm" in name:
            parameter.data.uniform_(0.5, 2.0, generator=generator)
        else:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model.eval().requires_grad_(False)


def qwen2(vocab: int) -> Any:
    config = transformers.Qwen2Config(
        **TEXT, vocab_size=vocab, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    )
    return transformers.Qwen2ForCausalLM(config)


def write(hf: nn.Module, config: dict[str, Any], folder: Path, n_shards: int = 3) -> Path:
    """A checkpoint under the model's own names, in several files."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in hf.state_dict().items()}
    (folder / "config.json").write_text(json.dumps(config))
    file_of = {}
    for i in range(n_shards):
        file, part = f"model-{i + 1:05}-of-{n_shards:05}.safetensors", sorted(tensors)[i::n_shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Config(SimpleNamespace):
    """Enough of a configuration object."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Model(nn.Module):
    """What every adopted model has."""

    name_or_path = ""
    generation_config = None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


N_QUERIES = 8


class MiniCPMO(Model):
    """`llm`, and towers that are written into its embeddings at bounds."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        numbers = {**TEXT, "vocab_size": vocab, "rope_theta": 1e6, "torch_dtype": "float32"}
        own = {"model_type": "minicpmo", "version": "2.6", "audio_pool_step": 2}
        self.config: Any = Config(**numbers, **own, chunk_input=True)
        self.llm = qwen2(vocab)
        self.vpm = nn.Linear(3, N_QUERIES * D_MODEL)
        self.apm = nn.Linear(1, D_MODEL)
        self.generation_config = self.llm.generation_config

    def get_input_embeddings(self) -> Any:
        return self.llm.model.embed_tokens

    def get_output_embeddings(self) -> Any:
        return self.llm.lm_head

    def get_sys_prompt(self, mode: str, language: str) -> dict[str, Any]:
        assert (mode, language) == ("omni", "en")
        return {"role": "user", "content": ["Help with clips."]}

    def chat(self, msgs: list[Any], tokenizer: Any, processor: Any, **options: Any) -> str:
        assert options.pop("sampling") is False and options.pop("omni_input") is True
        images, sounds, text = [], [], ""
        for message in msgs:
            text += f"<|im_start|>{message['role']}\n"
            for part in message["content"]:
                if isinstance(part, Image.Image):
                    images.append(part)
                    part = "(<image>./</image>)"
                elif isinstance(part, np.ndarray):
                    sounds.append(part)
                    part = "(<audio>./</audio>)"
                text += part
            text += "<|im_end|>\n"
        text += "<|im_start|>assistant\n"
        inputs = processor([text], [images], [sounds], **options)
        self.generate(**inputs, tokenizer=tokenizer, num_beams=3, repetition_penalty=1.2)
        return "an answer"

    def generate(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Any:
        pictures, images, bounds = (
            inputs.pop(name)[0] for name in ("pixel_values", "image_bound", "audio_bounds")
        )
        features, *_ = map(inputs.pop, ("audio_features", "audio_feature_lens", "tokenizer"))
        embeds = self.llm.model.embed_tokens(input_ids)
        for (first, end), picture in zip(images.tolist(), pictures, strict=True):
            embeds[0, first:end] = self.vpm(picture).view(N_QUERIES, D_MODEL)
        heard = self.apm(features[:, None]) if len(features) else None
        for first, end in bounds.tolist():
            assert heard is not None
            embeds[0, first:end], heard = heard[: end - first], heard[end - first :]
        own: Any = {"attention_mask": attention_mask, "pad_token_id": 0}
        return self.llm.generate(inputs_embeds=embeds, **own, **inputs)


class MiniCPMOProcessor:
    """Placeholders are `<unk>` for both modalities; only bounds tell them apart."""

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer(
            unknown="<unk>",
            unit="<unit>",
            image_open="<image>",
            image_close="</image>",
            audio_open="<|audio_start|>",
            audio_close="<|audio_end|>",
        )

    def __call__(
        self, texts: list[str], images: list[Any], sounds: list[Any], **options: Any
    ) -> dict[str, Any]:
        assert options == {"max_slice_nums": 1, "use_image_id": False}
        [text], [pictures], [waves] = texts, images, sounds
        for _ in pictures:
            opened = f"<image>{'<unk>' * N_QUERIES}</image>"
            text = text.replace("(<image>./</image>)", opened, 1)
        lengths = [-(-len(wave) // 160) for wave in waves]
        tokens = [((mel - 1) // 2 + 1 - 2) // 2 + 1 for mel in lengths]
        for n in tokens:
            seconds = [
                f"<|audio_start|>{'<unk>' * min(n - i, 25)}<|audio_end|>" for i in range(0, n, 25)
            ]
            text = text.replace("(<audio>./</audio>)", "".join(seconds), 1)
        ids = self.tokenizer(text, return_tensors="pt").input_ids
        features = np.concatenate([*waves, np.zeros(1)])[: sum(tokens)]
        colors = [torch.tensor(np.asarray(p), dtype=torch.float32).mean((0, 1)) for p in pictures]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
            "pixel_values": [[color / 255 for color in colors]],
            "image_bound": [self._bounds(ids, "<image>", "</image>")],
            "audio_bounds": [self._bounds(ids, "<|audio_start|>", "<|audio_end|>")],
            "audio_features": torch.tensor(features, dtype=torch.float32) if waves else [],
            "audio_feature_lens": [torch.tensor(lengths)] if waves else [],
        }

    def _bounds(self, ids: Tensor, opened: str, closed: str) -> Tensor:
        find = self.tokenizer.convert_tokens_to_ids
        first = (ids[0] == find(opened)).nonzero()[:, 0] + 1
        end = (ids[0] == find(closed)).nonzero()[:, 0]
        return torch.stack([first, end], dim=1)


def minicpm_o(seed: int = 0) -> tuple[Any, Any]:
    processor = MiniCPMOProcessor()
    hf = scrambled(MiniCPMO(len(processor.tokenizer)), seed)
    hf.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return hf, processor


N_SEEN, BANDS = 24, 32


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

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = VideoLLaMA2Model(config)

    def seen_and_heard(self, images: Any) -> Tensor:
        [(clip, kind)] = images
        clip = clip if isinstance(clip, dict) else {kind: clip}
        parts, own = [], self.model
        if "video" in clip:
            color = clip["video"].mean((0, 2, 3))
            parts.append(own.mm_projector(own.vision_tower(color)).view(N_SEEN, D_MODEL))
        if "audio" in clip:
            loud = clip["audio"][0].unfold(0, 16, 16).unfold(1, 16, 16).mean((-1, -2))
            parts.append(own.mm_projector_a(own.audio_tower(loud.reshape(-1, 1))))
        return torch.cat(parts)

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


def videollama2(seed: int = 0) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = VideoLLaMA2Config(**TEXT, vocab_size=len(tokenizer), rope_parameters=rope)

    def video(frames: list[np.ndarray]) -> Tensor:
        return torch.tensor(np.stack(frames)).float().permute(0, 3, 1, 2) / 255

    def sound(path: str) -> Tensor:
        wave, rate = soundfile.read(path)
        assert rate == 16_000
        frames = np.resize(np.abs(wave[: 70 * BANDS]), (70, BANDS))
        return torch.tensor(frames).float()[None]

    def tokenize(text: str, tokenizer: Any, tag: str, return_tensors: str) -> Tensor:
        if not tag:
            return torch.tensor(tokenizer(text).input_ids)
        index = {"<image>": -200, "<video>": -201, "<audio>": -202}[tag]
        first, second = (tokenizer(part).input_ids for part in text.split(tag))
        return torch.tensor([*first, index, *second])

    hf = scrambled(VideoLLaMA2(config), seed)
    hf.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return hf, VideoLLaMAProcessor(tokenizer, video, sound, tokenize)


class InternLM2Attention(nn.Module):
    """Queries, key and value of each key-value head lie together in `wqkv`."""

    def __init__(self) -> None:
        super().__init__()
        d_head = D_MODEL // HEADS
        self.wqkv = nn.Linear(D_MODEL, (HEADS + 2 * KV_HEADS) * d_head, bias=False)
        self.wo = nn.Linear(D_MODEL, D_MODEL, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        groups, d_head = HEADS // KV_HEADS, D_MODEL // HEADS
        made = self.wqkv(x).view(*x.shape[:2], KV_HEADS, groups + 2, d_head)
        q = made[..., :groups, :].flatten(2, 3).transpose(1, 2)
        k, v = (made[..., groups + i, :].transpose(1, 2) for i in (0, 1))
        q, k = ((t * cos) + (_rotated(t) * sin) for t in (q, k))
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        scores = q @ k.transpose(2, 3) / d_head**0.5 + mask
        return self.wo((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def _rotated(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class InternLM2Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = InternLM2Attention()
        self.attention_norm = nn.RMSNorm(D_MODEL, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(D_MODEL, eps=1e-5)
        self.feed_forward = nn.ModuleDict(
            {name: nn.Linear(D_MODEL, 128, bias=False) for name in ("w1", "w3")}
            | {"w2": nn.Linear(128, D_MODEL, bias=False)}
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask)
        read, f = self.ffn_norm(x), self.feed_forward
        return x + f["w2"](nn.functional.silu(f["w1"](read)) * f["w3"](read))


class InternLM2Model(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocab, D_MODEL)
        self.layers = nn.ModuleList([InternLM2Layer() for _ in range(LAYERS)])
        self.norm = nn.RMSNorm(D_MODEL, eps=1e-5)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        n_pos, d_head = inputs_embeds.shape[1], D_MODEL // HEADS
        frequencies = 1e6 ** -(torch.arange(0, d_head, 2).float() / d_head)
        angles = torch.arange(n_pos)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        mask = torch.full((n_pos, n_pos), torch.finfo(torch.float32).min).triu(1)
        x = inputs_embeds
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), mask)
        return self.norm(x)


class InternLM2(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.model = InternLM2Model(vocab)
        self.output = nn.Linear(D_MODEL, vocab, bias=False)

    def get_input_embeddings(self) -> Any:
        return self.model.tok_embeddings

    def get_output_embeddings(self) -> Any:
        return self.output

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, **kwargs: Any) -> Tensor:
        hidden = self.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        return self.output(hidden)[:, -1].argmax(-1)


class InternVLChat(Model):
    system_message = "Be helpful."
    img_context_token_id: int
    audio_context_token_id: int
    num_image_token = 6

    def __init__(self, vocab: int, hears: bool) -> None:
        super().__init__()
        llm = {
            **{k: v for k, v in TEXT.items() if k != "tie_word_embeddings"},
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "rms_norm_eps": 1e-5,
            "vocab_size": vocab,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 512,
            "torch_dtype": "float32",
        }
        sounds = {"audio_config": {"d_model": 8}} if hears else {}
        own = {"model_type": "internvl_chat", "force_image_size": 28, "llm_config": llm}
        self.config: Any = Config(**own, **sounds)
        self.language_model = InternLM2(vocab)
        self.vision_model = nn.Linear(3, 6)
        self.mlp1 = nn.Linear(6, self.num_image_token * D_MODEL)
        if hears:
            self.audio_model = nn.Linear(1, 6)
            self.mlp2 = nn.Linear(6, D_MODEL)

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def chat(
        self,
        tokenizer: Any,
        pixel_values: Tensor | None,
        question: str,
        generation_config: dict[str, Any],
        num_patches_list: list[int],
    ) -> Any:
        query = (
            f"<|im_start|>system\n{self.system_message}<|im_end|><|im_start|>user\n{question}"
            "<|im_end|><|im_start|>assistant\n"
        )
        for n in num_patches_list:
            tile = "<IMG_CONTEXT>" * self.num_image_token * n
            query = query.replace("<image>", f"<img>{tile}</img>", 1)
        inputs = tokenizer(query, return_tensors="pt")
        generation_config["eos_token_id"] = tokenizer.convert_tokens_to_ids("<|im_end|>")
        return self.generate(
            pixel_values=pixel_values,
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            **generation_config,
        )

    def generate(
        self, pixel_values: Any, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any
    ) -> Tensor:
        audio, n_audio = (kwargs.pop(name, None) for name in ("audio_values", "audio_token_num"))
        embeds = self.get_input_embeddings()(input_ids)[0].clone()
        if pixel_values is not None:
            seen = self.mlp1(self.vision_model(pixel_values.mean((2, 3))))
            embeds[input_ids[0] == self.img_context_token_id] = seen.view(-1, D_MODEL)
        if audio is not None:
            assert n_audio is not None and kwargs.pop("audio_len_after_cnn") is not None
            heard = self.mlp2(self.audio_model(audio[0, : int(n_audio), None]))
            embeds[input_ids[0] == self.audio_context_token_id] = heard
        return self.language_model.generate(
            inputs_embeds=embeds[None], attention_mask=attention_mask, **kwargs
        )


def internvl(hears: bool, seed: int = 0) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        img_open="<img>",
        img_close="</img>",
        img_context="<IMG_CONTEXT>",
        audio_open="<audio>",
        audio_close="</audio>",
        audio_context="<AUDIO_CONTEXT>",
    )
    hf = scrambled(InternVLChat(len(tokenizer), hears), seed)

    def whisper(samples: np.ndarray, sampling_rate: int, return_tensors: str) -> dict[str, Any]:
        samples = samples[:480_000]
        halved = (len(samples) // 160 - 1) // 2 + 1
        n = (halved - 2) // 2 + 1
        loud = torch.tensor([np.abs(part).mean() for part in np.array_split(samples, max(n, 1))])
        return {"input_features": loud[None], "audio_len_after_cnn": halved, "audio_token_num": n}

    return hf, (tokenizer, whisper) if hears else tokenizer


STANDINS = {
    "minicpm-o-2.6": minicpm_o,
    "videollama2.1-av": videollama2,
    "internvl2": lambda seed=0: internvl(False, seed),
    "internomni": lambda seed=0: internvl(True, seed),
}
"""Model and processor by family."""

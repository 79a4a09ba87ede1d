"""A stand-in for MiniCPM-o 2.6."""

from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from hooked_omni.organisms.random_weights import byte_tokenizer
from tests.support.standins.parts import D_MODEL, TEXT, Model, qwen2, scrambled

N_QUERIES = 8
TTS_START = "<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"


class MiniCPMOConfig(transformers.Qwen2Config):
    model_type = "minicpmo"
    init_vision = init_audio = init_tts = True


class MiniCPMO(Model):
    """`llm`, and towers that are written into its embeddings at bounds."""

    config_class = MiniCPMOConfig
    placeholders = ("(<image>./</image>)", "(<audio>./</audio>)")
    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        assert config.init_vision and config.init_audio
        self.llm = self.decoder(config.vocab_size)
        self.vpm = nn.Linear(3, 6)
        self.resampler = nn.Linear(6, N_QUERIES * D_MODEL)
        self.apm = nn.Linear(1, 6)
        self.audio_projection_layer = nn.Linear(6, D_MODEL)
        self.generation_config = self.llm.generation_config
        self.post_init()

    def decoder(self, vocab: int) -> Any:
        return qwen2(vocab)

    def get_input_embeddings(self) -> Any:
        return self.llm.model.embed_tokens

    def get_output_embeddings(self) -> Any:
        return self.llm.lm_head

    def get_sys_prompt(self, mode: str, language: str) -> dict[str, Any]:
        assert (mode, language) == ("omni", "en")
        return {"role": "user", "content": ["Help with clips."]}

    def written(self, msgs: list[Any], joint: str) -> tuple[str, list[Any], list[Any], list[int]]:
        images, sounds, parts, text = [], [], [], ""
        for i, message in enumerate(msgs):
            written = []
            for part in message["content"]:
                if isinstance(part, Image.Image):
                    images.append(part)
                    part = self.placeholders[0]
                elif isinstance(part, np.ndarray):
                    sounds.append(part)
                    parts.append(i)
                    part = self.placeholders[1]
                written.append(part)
            text += f"<|im_start|>{message['role']}\n{joint.join(written)}<|im_end|>\n"
        return text + "<|im_start|>assistant\n", images, sounds, parts

    def chat(
        self,
        msgs: list[Any],
        tokenizer: Any,
        processor: Any,
        sampling: bool = True,
        chunk_input: bool = True,
        omni_input: bool = False,
        max_inp_length: int = 32_768,
        **options: Any,
    ) -> str:
        text, images, sounds, parts = self.written(msgs, "" if omni_input else "\n")
        # Any sound forces the template of a spoken answer.
        text += TTS_START if sounds else ""
        own: Any = {"chunk_input": chunk_input, "max_length": max_inp_length}
        inputs = processor([text], [images], [sounds], [parts], **own, **options)
        inputs.pop("image_sizes")
        self.generate(**inputs, tokenizer=tokenizer, num_beams=3, repetition_penalty=1.2)
        return "an answer"

    def generate(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Any:
        pictures, images, bounds = (
            inputs.pop(name)[0] for name in ("pixel_values", "image_bound", "audio_bounds")
        )
        own_names = ("audio_features", "audio_feature_lens", "tokenizer", "spk_bounds", "tgt_sizes")
        features, *_ = [inputs.pop(name) for name in own_names]
        with torch.inference_mode():
            embeds = self.llm.model.embed_tokens(input_ids)
            for (first, end), picture in zip(images.tolist(), pictures, strict=True):
                embeds[0, first:end] = self.resampler(self.vpm(picture)).view(N_QUERIES, D_MODEL)
            heard = [self.audio_projection_layer(self.apm(one[:, None])) for one in features]
            heard = torch.cat([*heard, embeds.new_zeros(0, D_MODEL)])
            for first, end in bounds.tolist():
                embeds[0, first:end], heard = heard[: end - first], heard[end - first :]
            own: Any = {"attention_mask": attention_mask, "pad_token_id": 0}
            return self.llm.generate(inputs_embeds=embeds, **own, **inputs)


class MiniCPMOProcessor:
    """Placeholders are `<unk>` for both modalities; only bounds tell them apart."""

    placeholders, pool = MiniCPMO.placeholders, 2

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer(
            unknown="<unk>",
            unit="<unit>",
            image_open="<image>",
            image_close="</image>",
            audio_open="<|audio_start|>",
            audio_close="<|audio_end|>",
            think_open="<think>",
            think_close="</think>",
            **{f"tts_{i}": f"<|{name}|>" for i, name in enumerate(TTS_START[2:-2].split("|><|"))},
        )

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> "MiniCPMOProcessor":
        return cls()

    @classmethod
    def register_for_auto_class(cls) -> None:
        pass

    def __call__(
        self,
        texts: list[str],
        images: list[Any],
        sounds: list[Any],
        audio_parts: list[Any],
        max_slice_nums: int,
        use_image_id: bool,
        chunk_input: bool,
        max_length: int,
    ) -> dict[str, Any]:
        assert max_slice_nums == 1 and use_image_id is False
        [text], [pictures], [waves], [parts] = texts, images, sounds, audio_parts
        for _ in pictures:
            opened = f"<image>{'<unk>' * N_QUERIES}</image>"
            text = text.replace(self.placeholders[0], opened, 1)
        for wave in waves:
            n = self._pooled(-(-len(wave) // 160))
            step = 50 // self.pool if chunk_input else max(n, 1)
            heard = [min(n - i, step) for i in range(0, n, step)]
            opened = "".join(f"<|audio_start|>{'<unk>' * few}<|audio_end|>" for few in heard)
            text = text.replace(self.placeholders[1], opened, 1)
        # What is of one message is one sound, heard in parts of 30 s.
        whole = [
            np.concatenate([w for w, p in zip(waves, parts, strict=True) if p == message])
            for message in sorted(set(parts))
        ]
        heard = [one[i : i + 480_000] for one in whole for i in range(0, len(one), 480_000)]
        mel = [-(-len(one) // 160) for one in heard]
        ids = self.tokenizer(text, return_tensors="pt").input_ids[:, :max_length].int()
        colors = [torch.tensor(np.asarray(p), dtype=torch.float32).mean((0, 1)) for p in pictures]
        loud = [
            torch.tensor([p.mean() for p in np.array_split(w, self._pooled(n))])
            for w, n in zip(heard, mel, strict=True)
            if self._pooled(n)
        ]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids, dtype=torch.bool),
            "pixel_values": [[color / 255 for color in colors]],
            "tgt_sizes": [None],
            "image_sizes": [[p.size for p in pictures]],
            "image_bound": [self._bounds(ids, "<image>", "</image>")],
            "audio_bounds": [self._bounds(ids, "<|audio_start|>", "<|audio_end|>")],
            "spk_bounds": [self._bounds(ids, "<|spk_bos|>", "<|spk_eos|>")],
            "audio_features": loud,
            "audio_feature_lens": [torch.tensor(mel)] if waves else [[]],
        }

    def _pooled(self, mel: int) -> int:
        return ((mel - 1) // 2 + 1 - self.pool) // self.pool + 1

    def _bounds(self, ids: Tensor, opened: str, closed: str) -> Tensor:
        find = self.tokenizer.convert_tokens_to_ids
        first = (ids[0] == find(opened)).nonzero()[:, 0] + 1
        end = (ids[0] == find(closed)).nonzero()[:, 0]
        return torch.stack([first, end], dim=1)


def random_minicpm_o(seed: int = 0) -> tuple[Any, Any]:
    processor = MiniCPMOProcessor()
    rope = {"rope_type": "default", "rope_theta": 1e6}
    own: Any = {"version": "2.6", "audio_pool_step": 2, "chunk_input": True}
    config = MiniCPMOConfig(
        **TEXT, vocab_size=len(processor.tokenizer), rope_parameters=rope, **own, dtype="float32"
    )
    hf = scrambled(MiniCPMO(config), seed)
    hf.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return hf, processor

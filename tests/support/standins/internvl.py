"""Stand-ins for InternVL2 and InternOmni."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from hooked_omni.organisms.random_weights import byte_tokenizer, mel_features
from tests.support.standins.parts import D_MODEL, HEADS, KV_HEADS, LAYERS, TEXT, Model, scrambled


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

    def generate(self, **kwargs: Any) -> Tensor:
        raise TypeError("'DynamicCache' object is not subscriptable")  # in transformers 5


class InternVLChatConfig(transformers.PretrainedConfig):
    model_type = "internvl_chat"
    llm_config: dict[str, Any]
    force_image_size: int


class InternVLChat(Model):
    config_class = InternVLChatConfig
    system_message = "Be helpful."
    img_context_token_id: int
    audio_context_token_id: int
    num_image_token = 6

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.language_model = InternLM2(config.llm_config["vocab_size"])
        self.vision_model = nn.Linear(3, 6)
        self.mlp1 = nn.Linear(6, self.num_image_token * D_MODEL)
        if getattr(config, "audio_config", None):
            self.audio_model = nn.Linear(128, 6)
            self.mlp2 = nn.Linear(6, D_MODEL)
        self.post_init()

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

    def tower(self, pixel_values: Tensor) -> Tensor:
        return self.mlp1(self.vision_model(pixel_values.mean((2, 3))))

    def generate(
        self, pixel_values: Any, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any
    ) -> Tensor:
        names = ("audio_values", "audio_token_num", "audio_len_after_cnn")
        audio, n_audio, halved = (kwargs.pop(name, None) for name in names)
        embeds = self.get_input_embeddings()(input_ids)[0].clone()
        if pixel_values is not None:
            seen = self.tower(pixel_values).view(-1, D_MODEL)
            embeds[input_ids[0] == self.img_context_token_id] = seen
        if audio is not None:
            assert n_audio is not None and halved is not None
            pooled = nn.functional.avg_pool1d(audio[:, :, : 2 * int(halved)], 4)[0].T
            heard = self.mlp2(self.audio_model(pooled))[: int(n_audio)]
            embeds[input_ids[0] == self.audio_context_token_id] = heard
        return self.language_model.generate(
            inputs_embeds=embeds[None], attention_mask=attention_mask, **kwargs
        )


def random_internvl(hears: bool, seed: int = 0) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        img_open="<img>",
        img_close="</img>",
        img_context="<IMG_CONTEXT>",
        audio_open="<audio>",
        audio_close="</audio>",
        audio_context="<AUDIO_CONTEXT>",
    )
    llm = {
        **{k: v for k, v in TEXT.items() if k != "tie_word_embeddings"},
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "rms_norm_eps": 1e-5,
        "vocab_size": len(tokenizer),
        "rope_theta": 1e6,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 512,
        "torch_dtype": "float32",
    }
    sounds: Any = {"audio_config": {"d_model": 8}} if hears else {}
    config = InternVLChatConfig(**sounds, force_image_size=28, llm_config=llm)
    hf = scrambled(InternVLChat(config), seed)
    return hf, (tokenizer, mel_features()) if hears else tokenizer

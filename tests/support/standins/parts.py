"""What the stand-ins share: a small Qwen2, random weights, and files as checkpoints have them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

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


def near_sighted(pixels: Tensor, cells: tuple[int, int, int]) -> Tensor:
    """A tower that sees one cell at a time: steps, rows and columns in the order of the released.

    InternVL2's pixel shuffle ("v2") goes over a picture row by row, as does VideoLLaMA 2's
    connector over each of its steps ("b d t h w -> b (t h w) d").
    """
    colors = nn.functional.adaptive_avg_pool3d(pixels.float().movedim(1, 0), cells)
    weight = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    return colors.flatten(1).T @ weight


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


class Model(transformers.PreTrainedModel):
    """What every adopted model has; `sdpa` is not known to the wrappers of OpenGVLab."""

    main_input_name = "input_ids"

    def _init_weights(self, module: Any) -> None:
        pass

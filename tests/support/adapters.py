"""LoRA adapters of tiny models, as peft makes and saves them."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from hooked_omni.organisms import SHIPPED

TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]


def tuned(name: str, dtype: Any = None, **settings: Any) -> tuple[Any, Any]:
    """A `PeftModel` of a tiny model, with adapters that are not zero, and its processor."""
    hf, processor = SHIPPED[name]()
    hf.name_or_path = name
    hf.to(dtype)
    options = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": TARGETS} | settings
    model = peft.get_peft_model(hf, peft.LoraConfig(**options))
    shake(model)
    return model.eval(), processor


def shake(model: Any, seed: int = 0) -> None:
    """Give all adapters numbers, which peft starts as zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data.normal_(0, 0.2, generator=generator)


def saved(folder: Path, name: str = "random-omni", **settings: Any) -> Path:
    tuned(name, **settings)[0].save_pretrained(folder, save_embedding_layers=False)
    return folder


def with_settings(folder: Path, **changes: Any) -> Path:
    """An adapter with other values in its config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def with_tensors(folder: Path, change: Any) -> Path:
    """An adapter with its tensors changed."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder

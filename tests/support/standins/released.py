"""Checkpoints of the stand-ins with code of their own, as the hub has them, or a package beside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.standins import STANDINS, write

_CODE = {
    "minicpm-o-2.6": "minicpm_o",
    "minicpm-o-4.5": "minicpm_o_4_5",
    "internvl2": "internvl",
    "internomni": "internvl",
}
PACKAGES = ("cv2", "imageio", "moviepy", "pytorchvideo", "timm", "torchaudio")


def released(name: str, folder: Path, change: Callable[[Any], None] = lambda hf: None) -> Path:
    """A checkpoint of this stand-in, perhaps changed, that loads by code in it or by `package`."""
    hf, processor = STANDINS[name]()
    tokenizer, sound = processor if isinstance(processor, tuple) else (processor, None)
    change(hf)
    more: dict[str, Any] = {"mm_vision_tower": str(siglip(hf, folder / "siglip"))}
    if name in _CODE:
        parts = {"AutoConfig": hf.config_class, "AutoModel": type(hf)}
        if name.startswith("minicpm-o"):
            parts["AutoProcessor"] = type(processor)
        own = {kind: f"modeling_own.{part.__name__}" for kind, part in parts.items()}
        more = {"auto_map": own}
    write(hf, hf.config.to_dict() | more, folder)
    if name in _CODE:
        words = ", ".join(part.rpartition(".")[2] for part in more["auto_map"].values())
        code = f"from tests.support.standins.{_CODE[name]} import {words}\n"
        (folder / "modeling_own.py").write_text(code)
        (folder / "preprocessor_config.json").write_text(json.dumps(more))
    if sound is not None:
        sound.save_pretrained(folder)
    getattr(tokenizer, "tokenizer", tokenizer).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 265}))
    return folder


def siglip(hf: Any, folder: Path) -> Path:
    """Another checkpoint with the tower of pictures, which VideoLLaMA 2 names in its config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model"}))
    tower = getattr(hf, "model", hf)
    tensors = getattr(tower, "vision_tower", torch.nn.Linear(1, 1)).state_dict()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def package(folder: Path) -> Path:
    """The package videollama2 and what it imports, to be put on the path."""
    own = folder / "videollama2"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text(
        "from tests.support.standins.videollama2 import model_init as model_init\n"
    )
    names = ("process_audio_from_video", "tokenizer_multimodal_token")
    lines = [f"from tests.support.standins.videollama2 import {name} as {name}" for name in names]
    (own / "mm_utils.py").write_text("\n".join(lines))
    for name in PACKAGES:
        (folder / f"{name}.py").write_text("")
    return folder


def command(folder: Path, name: str) -> Path:
    """A folder with a program of this name, which does nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return folder

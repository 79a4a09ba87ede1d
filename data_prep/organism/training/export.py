"""How is a trained model written, so that transformers and this project load it?

Half precision on disk, single precision in use: the config asks for float32, which every float16
number is exactly.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["save"]


def save(hf: Any, processor: Any, folder: Path) -> None:
    """Write weights, config, generation config, processor and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    hf.config.name_or_path = ""
    hf.save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "model.safetensors"
    halved = {name: tensor.to(torch.float16) for name, tensor in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})
    path.chmod(0o644)  # others may read what is installed

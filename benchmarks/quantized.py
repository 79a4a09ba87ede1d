"""Which quantized checkpoints have Hugging Face's numbers? `python -m benchmarks.quantized`.

A tiny Qwen2.5-Omni is saved as each method saves it, with random packed weights where quantizing
takes a calibration, and loaded with `allow_quantized=True`. Without its package a method says so.
All of them:

    pip install bitsandbytes accelerate gptqmodel optimum compressed-tensors torchao

Tried with gptqmodel 7.7.0, optimum 2.3.0, compressed-tensors 0.20.1, torchao 0.18.0.
"""

import importlib
import json
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.timing import machine
from hooked_omni import load, prove
from hooked_omni.errors import CheckpointError
from hooked_omni.hf.quantized import require_loadable
from hooked_omni.organisms.random_weights import random_omni

_KIND = transformers.Qwen2_5OmniThinkerForConditionalGeneration
_GROUP = 32
_TOWERS = ["visual", "audio_tower"]


def _grouped(scheme: Mapping[str, Any], form: str, inputs: Any = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": scheme, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head", *(f"re:.*{name}.*" for name in _TOWERS)],
        "config_groups": {"group_0": group},
    }


_CHANNEL = {"num_bits": 8, "symmetric": True, "strategy": "channel"}
_TOKEN = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}
_FOUR = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": _GROUP}
_PACKED = {"bits": 4, "group_size": _GROUP, "modules_to_not_convert": _TOWERS}
CONFIGS: dict[str, dict[str, Any]] = {
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq, 4 bits": {"quant_method": "gptq", "sym": True, "desc_act": False, **_PACKED},
    "awq, 4 bits": {"quant_method": "awq", "zero_point": True, "version": "gemm", **_PACKED},
    "compressed-tensors, 4 bits": _grouped(_FOUR, "pack-quantized"),
    "compressed-tensors, 8 bits": _grouped({**_CHANNEL, "type": "int"}, "pack-quantized"),
    "compressed-tensors, 8 bits, inputs too": _grouped(
        {**_CHANNEL, "type": "int"}, "int-quantized", {**_TOKEN, "type": "int"}
    ),
    "compressed-tensors, fp8": _grouped({**_CHANNEL, "type": "float"}, "float-quantized"),
    "torchao, 8 bits": {"quant_method": "torchao"},
    "fp8, in blocks": {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", *_TOWERS],
    },
}


def _write_config(folder: Path, config: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "quantization_config": config}))


def saved(config: dict[str, Any], folder: Path) -> None:
    """A checkpoint of one method."""
    hf, processor = random_omni(n_layers=2)
    processor.save_pretrained(folder)
    hf.save_pretrained(folder)
    if config["quant_method"] == "fp8":
        save_file(_in_blocks(load_file(folder / "model.safetensors")), folder / "model.safetensors")
        _write_config(folder, config)
        return
    chosen: Any = None
    if config["quant_method"] == "torchao":
        eight = importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()
        chosen = transformers.TorchAoConfig(eight, modules_to_not_convert=["lm_head"])
    elif config["quant_method"] == "bitsandbytes":
        chosen = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        _write_config(folder, config)
    given = {"quantization_config": chosen} if chosen else {}
    packed = _KIND.from_pretrained(folder, device_map="cpu", **given)
    if chosen is None:
        _fill(packed)
    packed.save_pretrained(folder)


def _in_blocks(tensors: dict[str, Any]) -> dict[str, Any]:
    """Weights of the decoder, each with one scale: it is smaller than a block."""
    found = dict(tensors)
    for name, weight in tensors.items():
        if name.startswith("model.layers") and name.endswith("proj.weight"):
            scale = weight.abs().max() / 448
            found[name] = (weight / scale).to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = scale.reshape(1, 1).float()
    return found


def _fill(hf: Any) -> None:
    """Random packed weights, which only a calibration would make otherwise."""
    rng = torch.Generator().manual_seed(0)
    for module in hf.modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if name in ("qweight", "qzeros", "weight_packed"):
                low, high = (-(2**31), 2**31) if name != "qzeros" else (-(2**27), 2**27)
                tensor.data = torch.randint(low, high, tensor.shape, generator=rng).to(tensor.dtype)
            elif name in ("scales", "weight_scale"):
                own = 0.001 + 0.02 * torch.rand(tensor.shape, generator=rng)
                tensor.data = own.to(tensor.dtype)
            elif name == "g_idx":
                tensor.data = (torch.arange(len(tensor)) // _GROUP).to(tensor.dtype)
            elif name == "weight_shape":
                tensor.data = torch.tensor([module.out_features, module.in_features])
            elif name == "weight" and tensor is not None and tensor.itemsize == 1:
                own = 40 * torch.randn(tensor.shape, generator=rng)
                tensor.data = own.clamp(-120, 120).to(tensor.dtype)


def row(name: str, folder: Path) -> str:
    """How far a checkpoint's numbers are from Hugging Face's, or why it does not load."""
    config = CONFIGS[name]
    try:
        require_loadable({"quantization_config": config}, folder)
        saved(config, folder)
        omni = load(folder, allow_quantized=True)
    except CheckpointError as error:
        return f"{error}"
    tokens = torch.arange(5, 45)[None]
    prompt = omni.embed_inputs(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    before = omni.content_hash(), f"{prompt.facts['quantized']}"
    report = prove(omni, prompt, decode_steps=8)
    kept = "" if omni.content_hash() == before[0] else " WEIGHTS CHANGED"
    return f"{before[1]} | {max(report.prefill, report.decode):g} | {report.prefill_opened:g}{kept}"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{machine()}\n\n| checkpoint | facts | difference | with hooks on attention |")
    print("|---" * 4 + "|")
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"| {name} | {row(name, Path(folder))} |", flush=True)
            except Exception:  # packages raise their own each
                print(f"| {name} | {traceback.format_exc(limit=-2)} |", flush=True)


if __name__ == "__main__":
    main()

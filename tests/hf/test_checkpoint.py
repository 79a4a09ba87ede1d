"""Checkpoints that are damaged, incomplete or of another model are refused before they are read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from hooked_omni import HookedOmni, load
from hooked_omni.errors import CheckpointError, UnknownModelError
from tests.support.checkpoints import INDEX, copied, edited, in_one_file, with_config
from tests.support.models import CLIP_OF

both_ways = pytest.mark.parametrize("decoder_only", [False, True], ids=["whole", "decoder"])


@pytest.mark.parametrize("name", ["random", "no/such/folder", "./missing"])
def test_an_unknown_name(name):
    with pytest.raises(UnknownModelError) as error:
        load(name)
    assert "random-omni" in str(error.value) and repr(name) in str(error.value)


@pytest.mark.parametrize("config", [None, "{not json"])
def test_a_folder_without_a_config(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UnknownModelError, match=r"a folder with a config\.json"):
        load(tmp_path)


def test_an_unknown_family(tmp_path):
    sizes: Any = dict(hidden_size=16, intermediate_size=16, vocab_size=32)
    heads: Any = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    qwen2: Any = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, **heads))
    qwen2.save_pretrained(tmp_path)
    for attempt in (lambda: load(tmp_path), lambda: HookedOmni.from_hf(qwen2)):
        with pytest.raises(UnknownModelError, match=r"qwen2_5_omni_thinker.*got 'qwen2'"):
            attempt()
    with pytest.raises(UnknownModelError, match="got None"):
        HookedOmni.from_hf(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", ["float33", "int8"])
@pytest.mark.parametrize("shipped", [True, False])
@both_ways
def test_a_dtype_that_is_none(folders, dtype, shipped, decoder_only):
    name = "random-omni" if shipped else folders["omni"]
    with pytest.raises(UnknownModelError, match=f"got {dtype!r}"):
        load(name, dtype=dtype, decoder_only=decoder_only)


def test_a_processor_that_is_not_there(folders, tmp_path):
    folder = copied(folders["omni"], tmp_path / "bare")
    for path in folder.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("config.json", INDEX):
            path.unlink()
    with pytest.raises(CheckpointError, match="expected a processor beside the weights"):
        load(folder)


@pytest.mark.parametrize("name", list(CLIP_OF))
@both_ways
def test_a_shard_that_is_missing(folders, tmp_path, name, decoder_only):
    folder = copied(folders[name], tmp_path / "partial")
    lost = sorted(folder.glob("*.safetensors"))[-1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"got no file {lost.name!r}, one of"):
        load(folder, decoder_only=decoder_only)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
@both_ways
def test_a_shard_that_is_cut_off(folders, tmp_path, kept, decoder_only):
    folder = copied(folders["omni"], tmp_path / "cut")
    cut = sorted(folder.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"got {cut.name} damaged"):
        load(folder, decoder_only=decoder_only)


@both_ways
def test_an_index_that_is_no_json_and_no_weights_at_all(folders, tmp_path, decoder_only):
    folder = copied(folders["omni"], tmp_path / "index")
    (folder / INDEX).write_text("{not json")
    with pytest.raises(CheckpointError, match="got an index that is damaged"):
        load(folder, decoder_only=decoder_only)
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    with pytest.raises(CheckpointError, match="expected whole weights for"):
        load(folder, decoder_only=decoder_only)


def query(tensors: dict[str, Tensor]) -> str:
    """A weight of the decoder, not of a tower."""
    names = (name for name in tensors if "layers.1.self_attn.q_proj.weight" in name)
    return next(name for name in names if "tower" not in name)


SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], tuple[str, str]]] = {
    "missing": (
        lambda t: t.pop(query(t)),
        (r"1 missing_keys .*1\.self_attn\.q_proj", r"1 missing .*1\.self_attn\.q_proj"),
    ),
    "left over": (
        lambda t: t.update({query(t).replace("q_proj", "q_norm"): torch.ones(16)}),
        (r"1 unexpected_keys .*1\.self_attn\.q_norm", r"1 left over .*1\.self_attn\.q_norm"),
    ),
    "another shape": (
        lambda t: t.update({query(t): t[query(t)][:-16].contiguous()}),
        (r"layers\.1\.self_attn\.q_proj", r"q_proj\.weight \[48, 64\] in place of \[64, 64\]"),
    ),
}


@pytest.mark.parametrize("name", ["omni", "vl"])
@pytest.mark.parametrize("what", list(SPOILED))
def test_tensors_that_are_not_the_configs(folders, tmp_path, what, name):
    change, messages = SPOILED[what]
    folder = edited(in_one_file(folders[name], tmp_path / "spoiled"), change)
    for decoder_only, message in enumerate(messages):
        with pytest.raises(CheckpointError, match=message):
            load(folder, decoder_only=bool(decoder_only))


SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "gelu"}, "got another .*hidden_act"),
    ({"layer_types": ["sliding_attention"] * 4, **SLIDING}, "got another .*layer_types"),
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "got a config with `quantization_config`",
    ),
    ({"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}, "config"),
    ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "config"),
    ({"intermediate_size": 96}, "config"),
    ({"num_key_value_heads": 1}, "config"),
    ({"vocab_size": 300}, "config"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS, ids=[str([*c][:1]) for c, _ in CONFIGS])
@both_ways
def test_a_config_that_fits_no_weights(folders, tmp_path, changes, message, decoder_only):
    folder = with_config(copied(folders["omni"], tmp_path / "config"), **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder, decoder_only=decoder_only)


def test_experts_that_are_fewer_than_the_config_says(folders, tmp_path):
    folder = with_config(copied(folders["omni3"], tmp_path / "experts"), num_experts=9)
    with pytest.raises(CheckpointError, match=r"missing \['model.layers.0.mlp.experts.8"):
        load(folder, decoder_only=True)


def test_a_config_of_another_family(folders, tmp_path):
    """Weights of a model that hears, under the config of one that sees and hears."""
    folder = copied(folders["audio"], tmp_path / "foreign")
    (folder / "config.json").write_bytes((folders["omni3"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="expected exactly the decoder of qwen3-omni"):
        load(folder, decoder_only=True)
    folder = in_one_file(folders["audio"], tmp_path / "stranger", prefix="transformer.h.")
    with pytest.raises(CheckpointError, match="belongs to another family's weights"):
        load(folder, decoder_only=True)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@both_ways
def test_quantized_weights(folders, tmp_path, kind, decoder_only):
    folder = in_one_file(folders["omni"], tmp_path / "quantized")
    edited(folder, lambda t: t.update({query(t): t[query(t)].to(kind)}))
    with pytest.raises(CheckpointError, match=r"1 quantized tensors, such as 'model\.layers\.1"):
        load(folder, decoder_only=decoder_only)

"""A LoRA fine-tune: peft's own numbers beside the weights or merged, and none of another base."""

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from analyses.running.identity import model_facts
from hooked_omni import HookedOmni, knockout, load, names, prove
from hooked_omni.decoder.adapters import adapted
from hooked_omni.errors import CheckpointError, FileError
from hooked_omni.hf.loading import load_towers
from hooked_omni.organisms import SHIPPED
from tests.support.adapters import TARGETS, saved, shake, tuned, with_settings, with_tensors
from tests.support.models import CLIP_OF, processed, save_checkpoint
from tests.support.runs import bits_equal, unstopped

FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "everywhere": ("omni", {}),
    "rslora and dora": ("vl", {"use_rslora": True, "use_dora": True}),
    "fused, with biases": ("phi4", {"target_modules": FUSED, "bias": "lora_only"}),
    "two layers, ranks of their own": (
        "vl3",
        {
            "target_modules": r".*language.*layers\.[12]\..*(k|up)_proj",
            "rank_pattern": {"up_proj": 2},
            "alpha_pattern": {"k_proj": 1},
        },
    ),
}
of_each_kind = pytest.mark.parametrize("kind", list(KINDS))
WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "W_gate", "W_in", "W_out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("adapters") / "tuned")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint without weights: what is refused here, is so before weights are read."""
    hf, processor = SHIPPED["random-omni"]()
    found = save_checkpoint(hf, processor, tmp_path_factory.mktemp("base") / "random-omni")
    (found / "model.safetensors").unlink()
    return found


def clip(omni: HookedOmni, name: str) -> Any:
    return omni.embed_inputs(**processed(omni, CLIP_OF[name]))


@of_each_kind
@pytest.mark.usefixtures("numbers_alone")
def test_adapters_are_pefts_to_the_bit(tmp_path, kind):
    name, settings = KINDS[kind]
    whole, processor = tuned(f"random-{name}", **settings)
    whole.save_pretrained(tmp_path, save_embedding_layers=False)
    kept = load(f"random-{name}", adapter=tmp_path)
    inputs = processed(kept, CLIP_OF[name])
    with torch.no_grad():
        theirs = whole(**inputs).logits
        merged = HookedOmni.from_hf(copy.deepcopy(whole).merge_and_unload(), processor)
        merged_theirs = merged.hf(**inputs).logits
    adopted, plain = HookedOmni.from_hf(whole, processor), load(f"random-{name}")
    assert torch.equal(adopted.model(adopted.embed_inputs(**inputs)), theirs)
    for omni, logits in ((kept, theirs), (merged, merged_theirs)):
        prompt = omni.embed_inputs(**inputs)
        assert torch.equal(omni.model(prompt), logits)
        assert not torch.allclose(logits, plain.model(prompt), atol=0.01)
        report = prove(omni, prompt, decode_steps=16)
        assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    for weight in WEIGHTS:
        assert torch.equal(getattr(kept.model, weight), getattr(merged.model, weight)), weight
    assert len({one.content_hash() for one in (kept, merged, plain)}) == 3


@pytest.mark.usefixtures("numbers_alone")
def test_adapters_in_half_precision(folder):
    """Adapters are float32 beside bfloat16 weights: peft's own default."""
    omni = load("random-omni", dtype="bfloat16", attn_implementation="eager", adapter=folder)
    assert {p.dtype for p in omni.model.parameters()} == {torch.float32, torch.bfloat16}
    report = prove(omni, omni.model.as_prompt(omni.model.to_tokens("Listen.")), 4)
    assert report.prefill == report.decode == 0


def test_edits_and_sweeps_with_adapters(folder):
    omni = load("random-omni", adapter=folder)
    merged = HookedOmni.from_hf(tuned("random-omni")[0].merge_and_unload())
    prompt, cut = clip(omni, "omni"), knockout(query="last", key="audio", layers=[0, 1])
    sweep = omni.model.generate_many(prompt, [[], [cut]], max_new_tokens=4)
    alone = [omni.model.generate(prompt, max_new_tokens=4, fwd_hooks=h).tokens for h in ([], [cut])]
    assert [one.tokens.tolist() for one in sweep] == [one.tolist() for one in alone]
    zero = [(names.result(1), lambda heads, hook: heads.index_fill(2, torch.tensor([0]), 0.0))]
    for one in (omni, merged):
        one.model.set_use_attn_result(True)
    edited = [m.model.run_with_hooks(prompt, fwd_hooks=zero) for m in (omni, merged)]
    torch.testing.assert_close(*edited, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(edited[0], omni.model(prompt), atol=0.01)
    assert prove(omni, prompt, 0).live_hooks == len(omni.model.hook_dict)


@pytest.mark.usefixtures("numbers_alone")
def test_what_is_switched_in_peft_is_switched_here():
    whole, processor = tuned("random-omni")
    whole.add_adapter("attn", peft.LoraConfig(r=2, target_modules=TARGETS))
    shake(whole, seed=1)
    whole.eval()
    omni = HookedOmni.from_hf(whole, processor)
    prompt = clip(omni, "omni")

    def numbers() -> tuple[torch.Tensor, torch.Tensor, str]:
        report = prove(omni, prompt, 2)
        assert report.prefill == report.decode == 0
        return omni.model(prompt), omni.model.W_Q, omni.content_hash()

    states = [numbers()]
    whole.set_adapter("attn")
    states.append(numbers())
    with whole.disable_adapter():
        states.append(numbers())
    assert torch.equal(states[-1][1], load("random-omni").model.W_Q)
    for i, first in enumerate(states):
        for second in states[i + 1 :]:
            assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
            assert first[2] != second[2]
    whole.merge_adapter()
    torch.testing.assert_close(numbers()[0], states[1][0], atol=1e-3, rtol=1e-3)
    whole.unmerge_adapter()
    whole.merge_and_unload()  # the layers here still know that they are merged
    torch.testing.assert_close(omni.model(prompt), states[1][0], atol=1e-3, rtol=1e-3)


def test_what_is_prefilled_is_used_under_its_adapters_alone():
    """A switch in peft changes no tensor, and all that a pass leaves."""
    whole, processor = tuned("random-omni")
    omni = HookedOmni.from_hf(whole, processor)
    prompt = clip(omni, "omni")
    kept = omni.model.prefill(prompt)
    layer = adapted(omni.model)["blocks.1.attn.q_proj"]

    def first() -> torch.Tensor:
        plain = omni.model.generate(prompt, unstopped(1)).logits
        bits_equal(omni.model.generate(kept, unstopped(1)).logits, plain)
        assert plain is not None
        return plain

    before = first()
    with whole.disable_adapter():
        off = first()
    layer.set_scale("default", 3.0)
    assert not torch.equal(before, off) and not torch.equal(before, first())
    layer.set_scale("default", 1.0)
    bits_equal(first(), before)


def test_prompts_and_results_name_the_adapter(folder):
    omni, plain = load("random-omni", adapter=folder), load("random-omni")
    assert omni.adapter is not None and omni.adapter["name"] == "tuned"
    assert clip(omni, "omni").facts["adapter"] == omni.adapter
    assert load_towers("random-omni", adapter=folder).facts()["adapter"] == omni.adapter
    assert plain.adapter is None and "adapter" not in model_facts(plain)
    facts = model_facts(omni)
    assert facts["adapter"] == omni.adapter and facts["name"] == "random-omni + tuned"
    whole, processor = tuned("random-omni")
    mine = model_facts(HookedOmni.from_hf(whole, processor))
    assert mine["adapter"] == {"name": "default"} and mine["weights"] == facts["weights"]
    for layer in whole.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("default", 0.5)
    assert HookedOmni.from_hf(whole, processor).content_hash(portable=True) != facts["weights"]


CONFIGS = {
    "another base": ({"base_model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}, "got one of"),
    "another base, oddly written": ({"base_model_name_or_path": ["a", 1]}, "got one of"),
    "another revision": ({"revision": "v2"}, "revision 'v2'"),
    "another kind": ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING|does not fit"),
    "another rank": ({"r": 8}, "size mismatch"),
    "modules that are not there": ({"target_modules": ["nowhere"]}, "not found"),
    "more modules than tensors": ({"target_modules": [*TARGETS, "k_proj"]}, "tensors missing"),
    "fewer modules than tensors": ({"target_modules": ["q_proj"]}, "tensors missing or left over"),
    "an activated one": ({"alora_invocation_tokens": [1, 2]}, "other adapters"),
    "one that changes its base": ({"init_lora_weights": "pissa"}, "pissa"),
    "biases of its own": ({"lora_bias": True}, "tensors missing"),
    "layers repeated": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    "a future field": ({"use_something_new": True}, "use_something_new"),
    "no rank": ({"r": 0}, "does not fit"),
    "a rank in words": ({"r": "four"}, "does not fit"),
    "no kind": ({"peft_type": None}, "does not fit"),
}


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("case", list(CONFIGS))
def test_an_adapter_of_something_else_is_refused_before_weights(
    folder, base, tmp_path, case, merge
):
    changes, why = CONFIGS[case]
    other = with_settings(shutil.copytree(folder, tmp_path / "other"), **changes)
    with pytest.raises(CheckpointError, match=why):
        load(base, adapter=other)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


DAMAGED: dict[str, tuple[Any, str]] = {
    "cut off": (lambda f: _cut(f / "adapter_model.safetensors"), "damaged"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "damaged"),
    "a config cut off": (lambda f: _cut(f / "adapter_config.json"), "adapter_config.json"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "expected a file at"),
    "no folder": (shutil.rmtree, "expected a file at"),
    "one tensor less": (lambda f: with_tensors(f, lambda t: t.pop(min(t))), "tensors missing"),
    "one more": (lambda f: with_tensors(f, lambda t: t.update(x=torch.ones(1))), "left over"),
    "of another width": (
        lambda f: with_tensors(
            f, lambda t: t.update({k: v[..., :-1].clone() for k, v in t.items()})
        ),
        "size mismatch",
    ),
}


@pytest.mark.parametrize("case", list(DAMAGED))
def test_a_damaged_adapter_is_refused_before_weights(folder, base, tmp_path, case):
    damage, why = DAMAGED[case]
    other = shutil.copytree(folder, tmp_path / "other")
    damage(other)
    with pytest.raises((CheckpointError, FileError), match=why):
        load(base, adapter=other)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [*TARGETS, "lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["input_layernorm"]},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=str,
)
def test_adapters_elsewhere_in_the_decoder_are_refused(base, tmp_path, settings):
    other = saved(tmp_path / "other", **settings)
    with pytest.raises(CheckpointError, match=r"other adapters in qwen2.5-omni.*merge_and_unload"):
        load(base, adapter=other)


@pytest.mark.usefixtures("numbers_alone")
def test_adapters_elsewhere_are_merged():
    whole, processor = tuned("random-omni", target_modules=["lm_head", "embed_tokens", "q_proj"])
    with pytest.raises(CheckpointError, match="other adapters"):
        HookedOmni.from_hf(whole, processor)
    omni = HookedOmni.from_hf(whole.merge_and_unload(), processor)
    assert prove(omni, clip(omni, "omni"), 2).decode == 0 and omni.adapter is None


def test_experts_have_adapters_merged_alone():
    whole = tuned(
        "random-omni3",
        target_modules=["q_proj"],
        target_parameters=["gate_up_proj"],
        lora_dropout=0.0,
    )[0]
    with pytest.raises(CheckpointError, match=r"other adapters in .*experts"):
        HookedOmni.from_hf(whole)


def test_a_whole_is_wanted_and_peft_and_no_dropout(folder, base, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="decoder_only"):
        load(base, adapter=folder, decoder_only=True)
    whole = tuned("random-omni")[0].train()
    with pytest.raises(CheckpointError, match="in training"):
        HookedOmni.from_hf(whole)
    hf, _ = SHIPPED["random-omni"]()
    soft = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(CheckpointError, match="PROMPT_TUNING"):
        HookedOmni.from_hf(peft.PeftModel(hf, soft))
    with pytest.raises(CheckpointError, match=r"class of transformers, got minicpm"):
        remote = tmp_path / "minicpm-o"
        remote.mkdir()
        (remote / "config.json").write_text('{"model_type": "minicpmo"}')
        free = with_settings(shutil.copytree(folder, tmp_path / "free"), base_model_name_or_path="")
        load(remote, adapter=free, trust_remote_code=True)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match=r"pip install 'hooked-omni\[adapters\]'"):
        load(base, adapter=folder)


def test_an_adapter_is_beside_whole_weights_of_one_device(base, folder, tmp_path):
    with pytest.raises(CheckpointError, match="an adapter on weights of one device"):
        load(base, adapter=folder, device_map="auto")
    packed = Path(shutil.copytree(base, tmp_path / "packed" / "random-omni"))
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"floating-point weights .* got quantized ones"):
        load(packed, adapter=saved(tmp_path / "own"), allow_quantized=True)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_adapter_on_files_is_named_with_its_hash(tmp_path, dtype):
    folder = save_checkpoint(*SHIPPED["random-omni"](), tmp_path / "random-omni")
    facts = load(folder, dtype=dtype, adapter=saved(tmp_path / "tuned")).adapter
    assert facts is not None and facts["name"] == "tuned" and len(facts["hash"]) > 8

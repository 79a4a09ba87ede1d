"""A quantized checkpoint has the numbers of Hugging Face's quantized model, and says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from analyses.plots import published
from analyses.running.identity import model_facts
from benchmarks.quantized import row
from data_prep.manifest import Sample, write_manifest
from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, load, names, prove
from hooked_omni.__main__ import main as hooked_omni
from hooked_omni.decoder.memory import in_words
from hooked_omni.errors import CheckpointError, HookError
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.guarantees import not_guaranteed
from hooked_omni.organisms.random_weights import random_omni
from tests.support.clips import write_clip
from tests.support.figures import no_figures
from tests.support.models import processed, save_checkpoint
from tests.support.running import command

pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")
KINDS = {"int8": dict(load_in_8bit=True), "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4")}
WORDS = torch.arange(5, 13)[None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(*random_omni(n_layers=2), tmp_path_factory.mktemp("plain") / "omni")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: Any, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a user would download it: saved quantized."""
    how = transformers.BitsAndBytesConfig(**KINDS[request.param])
    kind = transformers.Qwen2_5OmniThinkerForConditionalGeneration
    hf = kind.from_pretrained(plain, quantization_config=how, device_map="cpu")
    processor = transformers.AutoProcessor.from_pretrained(plain)
    return save_checkpoint(hf, processor, tmp_path_factory.mktemp("q") / "Qwen2.5-Omni-3B")


@pytest.fixture(scope="module")
def omni(folder: Path) -> HookedOmni:
    return load(folder, allow_quantized=True)


def test_the_numbers_are_hugging_faces_quantized_ones(omni, plain):
    assert omni.model.get_submodule("blocks.0.mlp.up_proj") is find_decoder(omni.hf).get_submodule(
        "layers.0.mlp.up_proj"
    )
    prompt = omni.embed_inputs(**processed(omni, "audio in video"))
    report = prove(omni, prompt, decode_steps=3)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    with omni.model.every_hook_point():
        assert report.live_hooks == len(omni.model.filtered(None)) < len(omni.model.hook_dict)
    assert not torch.equal(omni.model(WORDS), load(plain).model(WORDS))
    theirs = omni.hf.generate(
        input_ids=WORDS, attention_mask=torch.ones_like(WORDS), max_new_tokens=5, do_sample=False
    )
    ours = omni.model.generate(WORDS, max_new_tokens=5, stop_at_eos=False)
    assert ours.tokens.tolist() == theirs[0, WORDS.shape[1] :].tolist()
    cut = knockout(query="generated", key="audio", layers=[0, 1])
    captions = omni.model.generate_many(prompt, [[], [cut]], max_new_tokens=3)
    assert len(captions) == 2


def test_everything_says_that_they_are_not_the_originals(omni):
    how, says = omni.model.cfg.quantized, "not the original's numbers"
    assert "bitsandbytes" in how and "Linear" in how
    assert omni.model.as_prompt(WORDS) is not None and says in omni.model.cfg.model_name
    prompt = omni.embed_inputs(input_ids=WORDS, attention_mask=torch.ones_like(WORDS))
    assert prompt.facts["quantized"] == f"{how}: {says}"
    facts = model_facts(omni)
    assert facts["config"]["quantized"] == how and says in facts["name"]
    assert "/" not in facts["name"].partition(" ")[0]
    of = {"model": omni.model.cfg.model_name}
    assert published.number("audio_fidelity", of, "hear", "all") is None
    assert published.points("figure4_attention_share", of, "hear", "factual").empty
    report = prove(omni, prompt, decode_steps=0)
    reasons = [*not_guaranteed(omni, prompt, report).columns[0].cells]
    assert "the original's numbers" in reasons


VIEWS = ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out", "b_O", "b_out", "QK", "OV"]


@pytest.mark.parametrize("view", VIEWS)
def test_there_are_no_weights_to_view(omni, view):
    for owner in (omni.model, omni.model.blocks[0].attn, omni.model.blocks[0].mlp):
        if hasattr(type(owner), view) or owner is omni.model:
            with pytest.raises(
                CheckpointError, match="floating-point weights to view, got a Linear"
            ):
                getattr(owner, view)
    assert omni.model.W_U.shape[0] == omni.model.W_E.shape[1] == 64


@pytest.mark.parametrize("flag", names.READ_WEIGHTS)
def test_hooks_that_read_weights_are_refused(omni, flag):
    getattr(omni.model, f"set_{flag}")(True)
    try:
        for point in names.FLAGS[flag]:
            with pytest.raises(CheckpointError, match="floating-point weights to view"):
                omni.model.run_with_hooks(
                    WORDS, fwd_hooks=[(names.in_block(point, 0), lambda tensor, hook: tensor * 2)]
                )
    finally:
        getattr(omni.model, f"set_{flag}")(False)


def test_gradients_are_refused(omni):
    look = lambda gradient, hook: None  # noqa: E731
    with pytest.raises(HookError, match="without gradients of a quantized model"):
        omni.model.run_with_hooks(WORDS, bwd_hooks=[(names.resid_pre(1), look)])
    prompt = omni.model.as_prompt(WORDS)
    prompt.embeds.requires_grad_()
    with pytest.raises(HookError, match="without gradients of a quantized model"):
        omni.model(prompt)
    omni.model.embed.weight.requires_grad_()  # as in a model that was adopted, not loaded
    assert not omni.model(WORDS).requires_grad
    omni.model.embed.weight.requires_grad_(False)


def test_one_changed_scale_is_another_model(omni):
    before = omni.content_hash()
    omni.model(WORDS)
    assert omni.content_hash() == before
    layer = omni.model.blocks[1].mlp.up_proj
    scales = layer.state.SCB if hasattr(layer, "state") else layer.weight.quant_state.absmax
    kept = scales.clone()
    scales[0] *= 1.5
    assert omni.content_hash() != before
    scales.copy_(kept)
    assert omni.content_hash() == before


def test_without_leave_they_are_refused(folder, omni, plain):
    with pytest.raises(CheckpointError, match=r"allow_quantized=True.*not the original's"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"quantized by bitsandbytes.*allow_quantized=True"):
        HookedOmni.from_hf(omni.hf, omni.processor)
    with pytest.raises(CheckpointError, match="whole model for quantized weights"):
        load(folder, decoder_only=True, allow_quantized=True)
    assert load(plain, allow_quantized=True).model.cfg.quantized == ""


@pytest.mark.parametrize("folder", ["nf4"], indirect=True)
@pytest.mark.usefixtures("numbers_alone")
def test_commands_want_leave_and_their_pages_say_so(folder, tmp_path, capsys, monkeypatch):
    no_figures(monkeypatch)
    clip, bundle, says = tmp_path / "clip.mp4", tmp_path / "b.st", "not the original's numbers"
    write_clip(clip, seconds=1, audio_hz=200.0)
    captioned: Any = dict(video_captions=("A square.",), audio_captions=("Rain.",))
    write_manifest(tmp_path / "clips.jsonl", [Sample("1", video="clip.mp4", **captioned)])
    (config := tmp_path / "study.toml").write_text(
        f'model = "{folder}"\ndata = "clips.jsonl"\nanalyses = ["captions"]\nmax_new_tokens = 2\n'
    )
    study, models = ("study", "--config", config, "--out", tmp_path / "s"), ("--model", folder)
    planned = "plan", "--analysis", "captions", *models, "--clip", clip
    for words in (study, planned):
        assert command(*words) == 1 and "allow_quantized=True" in capsys.readouterr().err
    assert command(*planned, "--allow-quantized") == 0
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        size = in_words(sum(file.get_tensor(name).nbytes for name in file.keys()))  # noqa: SIM118
    assert f"weights: {size}" in capsys.readouterr().out
    assert command(*study, "--allow-quantized") == 0
    assert says in (tmp_path / "s" / "report.md").read_text().replace("\\", "")
    assert command("summary", tmp_path / "s" / "captions") == 0
    assert says in capsys.readouterr().out
    with config.open("a") as file:
        file.write("allow_quantized = true\n")
    assert command(*study) == 0  # the same study: it is done
    shift = "distribution_shift", "--model", "random-omni", "--base", folder, "--clip", clip
    assert command(*shift, "--out", tmp_path / "d", "--allow-quantized") == 1
    assert "This is the base" in capsys.readouterr().err
    for words in (("embed", "--clip", clip, "--out", bundle), ("prove", "--prompt", bundle)):
        with pytest.raises(SystemExit) as end:
            hooked_omni([str(word) for word in (words[0], folder, *words[1:], "--allow-quantized")])
        assert end.value.code == 0
    assert says in EmbeddedPrompt.load(bundle).facts["quantized"]
    assert "the original's numbers" in " ".join(capsys.readouterr().out.split())


def test_a_quantized_unembedding_is_refused(plain):
    omni = load(plain)
    omni.hf.lm_head.weight = torch.nn.Parameter(
        torch.zeros(omni.hf.lm_head.weight.shape, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(
        CheckpointError, match=r"quantized projections alone, got \['lm_head.weight'\]"
    ):
        HookedOmni.from_hf(omni.hf, omni.processor, allow_quantized=True)


METHODS = "gptq", "awq", "compressed-tensors", "torchao", "hqq", "quanto", "nonsense", 7, None


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_loaded_is_refused_before_weights_are_read(plain, tmp_path, method):
    """Without its package, or of a kind that was never compared, though transformers goes on."""
    for file in plain.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    packages = {"gptq": "gptqmodel", "awq": "gptqmodel", "torchao": "torchao"}
    package = packages.get(method, "compressed_tensors" if method == METHODS[2] else None)
    wrong = rf"expected the packages .*, got no \['{package}'.*\]. Install"
    if package is None:
        wrong = rf"quantized by one of \['bits.*got {method!r} in .*Load the original; or .*from_hf"
    with pytest.raises(CheckpointError, match=wrong):
        load(tmp_path, allow_quantized=True)


def test_a_checkpoint_that_is_dequantized_says_so(tmp_path):
    """Where FP8 is not computed, transformers makes plain numbers of it, and forgets that."""
    says = "fp8 (dequantized): not the original's numbers"
    assert row("fp8, in blocks", tmp_path) == f"{says} | 0 | 0"
    model = load(tmp_path, allow_quantized=True).model
    with pytest.raises(HookError, match="without gradients of a quantized model"):
        model.run_with_hooks(WORDS, bwd_hooks=[(names.resid_pre(1), lambda gradient, hook: None)])


def test_projections_that_round_their_inputs_are_kept_as_they_are():
    """As compressed-tensors leaves them after a first pass, whose work is done at once."""
    hf, processor = random_omni(n_layers=2)
    up: Any = find_decoder(hf).get_submodule("layers.0.mlp.up_proj")
    seen = list[Any]()
    up.quantization_scheme = "W8A8"
    up.forward = lambda x: torch.nn.functional.linear(x.round(decimals=1), up.weight)
    hf.ct_decompress_hook = hf.register_forward_pre_hook(lambda module, given: seen.append(module))
    with pytest.raises(CheckpointError, match="a model quantized by"):
        HookedOmni.from_hf(hf, processor)
    hf.ct_decompress_hook.remove()
    assert seen == [hf]
    del hf.ct_decompress_hook
    omni = HookedOmni.from_hf(hf, processor, allow_quantized=True)
    prompt = omni.embed_inputs(input_ids=WORDS, attention_mask=torch.ones_like(WORDS))
    assert torch.equal(omni.model(prompt), hf(input_ids=WORDS).logits)
    with pytest.raises(CheckpointError, match="floating-point weights to view, got a Linear"):
        _ = omni.model.W_in

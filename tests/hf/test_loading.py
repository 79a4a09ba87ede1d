"""Checkpoints: the decoder alone, read straight from its files, in the memory that there is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, load, prove
from hooked_omni.errors import CheckpointError, PromptError, UnknownModelError
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.hf import checkpoint
from hooked_omni.inputs.media import MediaSettings
from tests.support.checkpoints import edited, in_one_file
from tests.support.models import CLIP_OF, MIXED, one_expert_after_the_other, processed

pytestmark = pytest.mark.usefixtures("numbers_alone")
native = pytest.mark.parametrize("name", list(CLIP_OF))


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path]) -> dict[str, HookedOmni]:
    made = {name: load(folder) for name, folder in folders.items()}
    for name in MIXED:
        one_expert_after_the_other(made[name].hf)
    return made


def alone(folder: Path, **options: Any) -> HookedOmni:
    omni = load(folder, decoder_only=True, **options)
    if getattr(omni.hf.config.get_text_config(), "num_experts", 0):
        one_expert_after_the_other(omni.hf)
    return omni


@native
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_decoder_alone_has_the_bits_of_the_whole(folders, whole, tmp_path, name, attention):
    prompt = whole[name].embed_inputs(**processed(whole[name], CLIP_OF[name]))
    bundle = EmbeddedPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    omni = alone(folders[name], attn_implementation=attention)
    assert torch.equal(omni.model(bundle), whole[name].model(prompt)) or attention == "eager"
    report = prove(omni, bundle, decode_steps=16 if attention == "sdpa" else 4)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    assert omni.model.cfg.eos_tokens == whole[name].model.cfg.eos_tokens != ()


def test_the_decoder_of_video_salmonn_2_plus(folders, tmp_path):
    """Qwen2.5-VL as transformers 4.51 wrote it, LoRA merged, beside a tower for sound."""
    folder = in_one_file(folders["vl"], tmp_path / "salmonn")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config["text_config"].pop("rope_parameters")
    config |= config.pop("text_config") | {"architectures": ["video_SALMONN2_plus"]}
    config |= {"model_type": "qwen2_5_vl", "rope_theta": rope["rope_theta"]}
    config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    config |= {"audio_config": {"model_type": "whisper", "d_model": 8}, "audio_token_id": 258}
    path.write_text(json.dumps(config))
    edited(folder, lambda tensors: tensors.update({"audio.q_tokens": torch.ones(1, 1, 8)}))
    omni, whole = alone(folder), load(folders["vl"])
    tokens = omni.model.to_tokens("What do you hear now?")
    assert torch.equal(omni.model(tokens), whole.model(tokens))
    assert prove(omni, omni.model.as_prompt(tokens)).decode == 0
    with pytest.raises(CheckpointError, match=r"1 unexpected_keys \['audio.q_tokens'\]"):
        load(folder)


@native
def test_the_decoder_alone_in_half_precision(folders, name):
    omni = alone(folders[name], dtype="bfloat16", attn_implementation="eager")
    prompt = omni.model.as_prompt(omni.model.to_tokens("What do you hear now?"))
    report = prove(omni, prompt, decode_steps=4)
    assert report.prefill_opened == report.decode_opened == 0
    assert omni.model.cfg.dtype == torch.bfloat16


@native
def test_nothing_of_the_towers_is_there(folders, name):
    omni = alone(folders[name])
    held = {p.data_ptr() for p in omni.hf.parameters()}
    assert held == {p.data_ptr() for p in omni.model.parameters()}
    assert not any(t.is_meta for t in [*omni.hf.parameters(), *omni.hf.buffers()])
    assert omni.towers is None and omni.processor is None
    for attempt in (lambda: omni.embed(Prompt("What?")), lambda: omni.embed_inputs(input_ids=1)):
        with pytest.raises(PromptError, match="expected a model with towers, got the decoder"):
            attempt()
    assert omni.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3).text is not None
    with pytest.raises(PromptError, match=f"got the decoder of random-{name} alone"):
        load(f"random-{name}", decoder_only=True).embed(Prompt("What?"))


@pytest.mark.parametrize("name", ["omni", "omni3"])
def test_the_hubs_layout_with_a_talker(folders, whole, tmp_path, name):
    folder = in_one_file(folders[name], tmp_path / "hub", prefix="thinker.")
    edited(folder, lambda tensors: tensors.update({"talker.x.weight": torch.ones(3)}))
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(alone(folder).model(tokens), whole[name].model(tokens))


def test_experts_that_are_stored_in_two_tensors(folders, whole, tmp_path):
    """As transformers holds them in memory; the hub has each expert by itself."""
    folder = in_one_file(folders["omni3"], tmp_path / "fused")

    def fuse(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".mlp.experts." in name]:
            del tensors[name]
        for name, tensor in find_decoder(whole["omni3"].hf).named_parameters():
            if ".experts." in name:
                tensors[f"model.{name}"] = tensor.clone()

    omni = alone(edited(folder, fuse))
    theirs = dict(whole["omni3"].model.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in omni.model.named_parameters())
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(omni.model(tokens), whole["omni3"].model(tokens))


def test_an_untied_head_that_is_missing(folders, tmp_path):
    """Hugging Face would make up random numbers."""
    folder = in_one_file(folders["omni"], tmp_path / "headless")
    edited(folder, lambda tensors: tensors.__delitem__("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"expected an unembedding 'lm_head\.weight'"):
        alone(folder)


def test_a_head_of_its_own_beside_a_config_that_ties(folders, tmp_path):
    """What is stored is what is meant, as transformers decides too."""
    folder = in_one_file(folders["vl"], tmp_path / "both")
    head = torch.randn(load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape)
    edited(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    for model in (alone(folder).model, load(folder).model):
        assert torch.equal(model.unembed.weight, head)
    tied = alone(folders["vl"]).model
    assert tied.unembed.weight is tied.embed.weight


@pytest.mark.parametrize("decoder_only", [False, True])
def test_memory_is_printed_before_it_is_taken(folders, capsys, decoder_only):
    load(folders["omni"], decoder_only=decoder_only)
    printed = capsys.readouterr().err
    assert "MiB of weights; cpu has" in printed and "free" in printed


@pytest.mark.parametrize("decoder_only", [False, True])
def test_what_does_not_fit_is_refused_with_the_numbers(folders, monkeypatch, decoder_only):
    monkeypatch.setattr(checkpoint, "free_bytes", lambda device: 2**17)
    monkeypatch.setattr(checkpoint, "_read", None)  # nothing is read
    with pytest.raises(CheckpointError) as error:
        load(folders["omni"], decoder_only=decoder_only)
    message = str(error.value)
    assert "expected room for" in message and "got 0.12 MiB free" in message
    assert "dtype='bfloat16'" in message and "decoder_only=True" in message


def test_half_precision_takes_half(folders, capsys):
    sizes = []
    for dtype in ("float32", "bfloat16"):
        load(folders["omni"], dtype=dtype, decoder_only=True)
        line = capsys.readouterr().err.splitlines()[0]
        sizes.append(float(line.split(": ")[1].split(" MiB")[0]))
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=0.01)


FILES = {
    **{"config.json": '"x"', "generation_config.json": "[]", "processor_config.json": "[]"},
    **{"tokenizer.json": '{"version": "1.0", "model": 3}', "tokenizer_config.json": "[]"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_shape_is_refused(folders, tmp_path, name):
    """Where transformers' parsers stumble in ways of their own."""
    folder = Path(shutil.copytree(folders["vl"], tmp_path / "copy"))
    assert (folder / name).is_file()
    (folder / name).write_text(FILES[name])
    with pytest.raises((CheckpointError, UnknownModelError), match="expected"):
        load(folder)


@pytest.mark.parametrize("content", ["[]", "{", '"x"', '{"eos_token_id": {}}'])
def test_ends_of_another_shape_are_refused_by_a_decoder_alone(folders, tmp_path, content):
    """Left out, captions would end elsewhere."""
    folder = Path(shutil.copytree(folders["vl"], tmp_path / "copy"))
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="expected"):
        load(folder, decoder_only=True)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "a\0b", "cpu/0"])
@pytest.mark.parametrize("decoder_only", [True, False])
def test_a_device_that_is_not_there(device, decoder_only):
    for name in ("random-omni", "./no-such-folder"):
        with pytest.raises(UnknownModelError, match="expected a device of this machine"):
            load(name, device, decoder_only=decoder_only)


def test_changed_sampling_reaches_the_towers():
    """A model's sampling is the towers' own, not a copy of it."""
    omni = load("random-omni")
    assert omni.towers is not None
    omni.towers.media = replace(omni.media, max_frames=6)
    assert omni.media.max_frames == 6
    with pytest.raises(AttributeError):
        omni.media = MediaSettings()  # pyright: ignore[reportAttributeAccessIssue]  # no copy to set

"""Checkpoints: the decoder alone, read straight from its files, and what is refused before that."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, load, prove
from hooked_omni.errors import CheckpointError, PromptError, UnknownModelError
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.hf import checkpoint
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.organisms import SHIPPED
from tests.support.models import one_expert_after_the_other, processed, uneven_gains

NATIVE = {
    "omni": "audio in video",
    "vl": "video",
    "omni3": "audio in video",
    "vl3": "video",
    "audio": "audio",
}
WAYS: tuple[dict[str, Any], ...] = ({}, {"decoder_only": True})
native = pytest.mark.parametrize("name", list(NATIVE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `save_pretrained` writes, in files of at most 300 kB."""
    base, made = tmp_path_factory.mktemp("native"), {}
    for name in NATIVE:
        hf, processor = SHIPPED[f"random-{name}"]()
        made[name] = base / name
        uneven_gains(hf).save_pretrained(made[name], max_shard_size="300kB")
        processor.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path]) -> dict[str, HookedOmni]:
    made = {name: load(folder) for name, folder in folders.items()}
    one_expert_after_the_other(made["omni3"].hf)
    return made


def alone(folder: Path, **options: Any) -> HookedOmni:
    omni = load(folder, decoder_only=True, **options)
    if getattr(omni.hf.config.get_text_config(), "num_experts", 0):
        one_expert_after_the_other(omni.hf)
    return omni


def copied(folder: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def in_one_file(folder: Path, to: Path, prefix: str = "") -> Path:
    """The same checkpoint in one file, under names with another prefix."""
    copied(folder, to)
    tensors: dict[str, Tensor] = {}
    for file in [*to.glob("*.safetensors"), to / "model.safetensors.index.json"]:
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        file.unlink(missing_ok=True)
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(named, to / "model.safetensors", metadata={"format": "pt"})
    return to


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("text_config", config).update(changes)
    path.write_text(json.dumps(config))
    return folder


# --- the decoder alone ----------------------------------------------------------------------------


@native
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_decoder_alone_has_the_bits_of_the_whole(
    folders: dict, whole: dict, tmp_path: Path, name: str, attention: str
) -> None:
    prompt = whole[name].embed_inputs(**processed(whole[name], NATIVE[name]))
    bundle = EmbeddedPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    omni = alone(folders[name], attn_implementation=attention)
    assert torch.equal(omni.model(bundle), whole[name].model(prompt)) or attention == "eager"
    report = prove(omni, bundle)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    assert report.decode_steps == 16
    assert omni.model.cfg.eos_tokens == whole[name].model.cfg.eos_tokens != ()


@native
def test_the_decoder_alone_in_half_precision(folders: dict, name: str) -> None:
    omni = alone(folders[name], dtype="bfloat16", attn_implementation="eager")
    report = prove(omni, omni.model.as_prompt(omni.model.to_tokens("What do you hear now?")))
    assert report.prefill_opened == report.decode_opened == 0
    assert omni.model.cfg.dtype == torch.bfloat16


@native
def test_nothing_of_the_towers_is_there(folders: dict, name: str) -> None:
    omni = alone(folders[name])
    held = {p.data_ptr() for p in omni.hf.parameters()}
    assert held == {p.data_ptr() for p in omni.model.parameters()}
    assert not any(t.is_meta for t in [*omni.hf.parameters(), *omni.hf.buffers()])
    assert omni.towers is None and omni.processor is None
    for attempt in (lambda: omni.embed(Prompt("What?")), lambda: omni.embed_inputs(input_ids=1)):
        with pytest.raises(PromptError) as error:
            attempt()
        assert "expected a model with towers, got the decoder" in str(error.value)
        assert "EmbeddedPrompt.load" in str(error.value)
    assert omni.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3).text is not None


@pytest.mark.parametrize("name", ["omni", "omni3"])
def test_the_hubs_layout_with_a_talker(
    folders: dict, whole: dict, tmp_path: Path, name: str
) -> None:
    folder = in_one_file(folders[name], tmp_path / "hub", prefix="thinker.")
    changed(folder, lambda tensors: tensors.update({"talker.x.weight": torch.ones(3)}))
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(alone(folder).model(tokens), whole[name].model(tokens))


def test_experts_that_are_stored_in_two_tensors(folders: dict, whole: dict, tmp_path: Path) -> None:
    """As transformers holds them in memory; the hub has each expert by itself."""
    folder = in_one_file(folders["omni3"], tmp_path / "fused")

    def fuse(tensors: dict[str, Tensor]) -> None:
        single = [name for name in tensors if ".mlp.experts." in name]
        assert single
        for name in single:
            del tensors[name]
        for name, tensor in find_decoder(whole["omni3"].hf).named_parameters():
            if ".experts." in name:
                tensors[f"model.{name}"] = tensor.clone()

    omni = alone(changed(folder, fuse))
    for ours, theirs in zip(
        omni.model.parameters(), whole["omni3"].model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    prompt = omni.model.as_prompt(torch.arange(3, 40)[None])
    report = prove(omni, prompt, decode_steps=4)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0


def test_a_shipped_model_without_its_towers() -> None:
    omni = load("random-omni", decoder_only=True)
    assert omni.towers is None
    with pytest.raises(PromptError, match="got the decoder of random-omni alone"):
        omni.embed(Prompt("What?"))


# --- heads ----------------------------------------------------------------------------------------


def test_a_tied_head_is_the_embedding(folders: dict) -> None:
    model = alone(folders["vl"]).model
    assert model.unembed.weight is model.embed.weight


def test_an_untied_head_that_is_missing(folders: dict, tmp_path: Path) -> None:
    """Hugging Face would make up random numbers."""
    folder = in_one_file(folders["omni"], tmp_path / "headless")
    changed(folder, lambda tensors: tensors.__delitem__("lm_head.weight"))
    with pytest.raises(CheckpointError) as error:
        alone(folder)
    message = str(error.value)
    assert "expected an unembedding 'lm_head.weight'" in message
    assert "random numbers" in message and "tie_word_embeddings" in message


def test_a_head_of_its_own_beside_a_config_that_ties(folders: dict, tmp_path: Path) -> None:
    """What is stored is what is meant, as transformers decides too."""
    folder = in_one_file(folders["vl"], tmp_path / "both")
    head = torch.randn(load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape)
    changed(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    model = alone(folder).model
    assert torch.equal(model.unembed.weight, head)
    assert torch.equal(load(folder).model.unembed.weight, head)


# --- what is refused before anything is read ------------------------------------------------------


@native
def test_a_shard_that_is_missing(folders: dict, tmp_path: Path, name: str) -> None:
    folder = copied(folders[name], tmp_path / "partial")
    lost = sorted(folder.glob("*.safetensors"))[-1]
    lost.unlink()
    for options in WAYS:
        with pytest.raises(CheckpointError) as error:
            load(folder, **options)
        assert f"got no file {lost.name!r}, one of" in str(error.value)
        assert "Download it again" in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_shard_that_is_cut_off(folders: dict, tmp_path: Path, kept: int) -> None:
    folder = copied(folders["omni"], tmp_path / "cut")
    cut = sorted(folder.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:kept])
    for options in WAYS:
        with pytest.raises(CheckpointError, match=rf"got {cut.name} damaged .*Download it again"):
            load(folder, **options)


def test_an_index_that_is_no_json(folders: dict, tmp_path: Path) -> None:
    folder = copied(folders["omni"], tmp_path / "index")
    (folder / "model.safetensors.index.json").write_text("{not json")
    with pytest.raises(CheckpointError, match="got an index that is damaged"):
        alone(folder)


def test_no_weights_at_all(folders: dict, tmp_path: Path) -> None:
    folder = in_one_file(folders["omni"], tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="got no safetensors file"):
        alone(folder)


QUERY = "model.layers.1.self_attn.q_proj.weight"
SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda t: t.__delitem__(QUERY), rf"1 missing \['{QUERY}'\]"),
    "left over": (
        lambda t: t.update({QUERY.replace("q_proj", "q_norm"): torch.ones(16)}),
        r"1 left over \['model.layers.1.self_attn.q_norm.weight'\]",
    ),
    "another shape": (
        lambda t: t.update({QUERY: t[QUERY][:-16].contiguous()}),
        r"1 of another shape .*q_proj.weight \[48, 64\] in place of \[64, 64\]",
    ),
}


@pytest.mark.parametrize("what", list(SPOILED))
def test_tensors_that_are_not_the_configs(folders: dict, tmp_path: Path, what: str) -> None:
    change, message = SPOILED[what]
    folder = changed(in_one_file(folders["omni"], tmp_path / "spoiled"), change)
    with pytest.raises(CheckpointError, match=message):
        alone(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5},
        {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
        {"intermediate_size": 96},
        {"num_key_value_heads": 1},
        {"vocab_size": 300},
    ],
    ids=str,
)
def test_a_config_of_other_weights(folders: dict, tmp_path: Path, changes: dict) -> None:
    folder = with_config(copied(folders["omni"], tmp_path / "config"), **changes)
    with pytest.raises(CheckpointError, match="the config belongs to these weights"):
        alone(folder)


def test_experts_that_are_fewer_than_the_config_says(folders: dict, tmp_path: Path) -> None:
    folder = with_config(copied(folders["omni3"], tmp_path / "experts"), num_experts=9)
    with pytest.raises(CheckpointError, match=r"missing \['model.layers.0.mlp.experts.8"):
        alone(folder)


def test_a_config_of_another_family(folders: dict, tmp_path: Path) -> None:
    """Weights of a model that hears, under the config of one that sees and hears."""
    folder = copied(folders["audio"], tmp_path / "foreign")
    (folder / "config.json").write_bytes((folders["omni3"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="expected exactly the decoder of qwen3-omni"):
        alone(folder)
    folder = in_one_file(folders["audio"], tmp_path / "stranger", prefix="transformer.h.")
    with pytest.raises(CheckpointError, match="belongs to another family's weights"):
        alone(folder)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights(folders: dict, tmp_path: Path, kind: torch.dtype) -> None:
    folder = in_one_file(folders["omni"], tmp_path / "quantized")
    changed(folder, lambda tensors: tensors.update({QUERY: tensors[QUERY].to(kind)}))
    for options in WAYS:
        with pytest.raises(CheckpointError) as error:
            load(folder, **options)
        assert f"1 quantized tensors, such as '{QUERY}'" in str(error.value)
        assert "original checkpoint" in str(error.value)


def test_a_config_that_asks_for_quantization(folders: dict, tmp_path: Path) -> None:
    folder = copied(folders["omni"], tmp_path / "quantized")
    with_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    for options in WAYS:
        with pytest.raises(CheckpointError, match="got a config with `quantization_config`"):
            load(folder, **options)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder_only", [False, True])
def test_memory_is_printed_before_it_is_taken(
    folders: dict, capsys: pytest.CaptureFixture[str], decoder_only: bool
) -> None:
    load(folders["omni"], decoder_only=decoder_only)
    printed = capsys.readouterr().err
    assert "MiB of weights; cpu has" in printed and "free" in printed


@pytest.mark.parametrize("decoder_only", [False, True])
def test_what_does_not_fit_is_refused_with_the_numbers(
    folders: dict, monkeypatch: pytest.MonkeyPatch, decoder_only: bool
) -> None:
    monkeypatch.setattr(checkpoint, "_free", lambda device: 2**17)
    monkeypatch.setattr(checkpoint, "_read", None)  # nothing is read
    with pytest.raises(CheckpointError) as error:
        load(folders["omni"], decoder_only=decoder_only)
    message = str(error.value)
    assert "expected room for" in message and "got 0.12 MiB free" in message
    assert "dtype='bfloat16'" in message and "decoder_only=True" in message


def test_half_precision_takes_half(folders: dict, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for dtype in ("float32", "bfloat16"):
        load(folders["omni"], dtype=dtype, decoder_only=True)
        line = capsys.readouterr().err.splitlines()[0]
        sizes.append(float(line.split(": ")[1].split(" MiB")[0]))
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=0.01)


# --- arguments ------------------------------------------------------------------------------------


def test_several_devices_are_not_offered(folders: dict) -> None:
    asked: Any = {"device_map": "auto"}
    with pytest.raises(TypeError, match="device_map"):
        load(folders["omni"], **asked)


@pytest.mark.parametrize("dtype", ["float33", "int8"])
def test_a_dtype_that_is_none(folders: dict, dtype: str) -> None:
    with pytest.raises(UnknownModelError, match=f"got {dtype!r}"):
        alone(folders["omni"], dtype=dtype)


def test_changed_sampling_reaches_the_towers() -> None:
    """What a model says of its sampling is the towers' own word, not a copy of it."""
    omni = load("random-omni")
    assert omni.towers is not None
    omni.towers.media = replace(omni.media, max_frames=6)
    assert omni.media.max_frames == 6
    with pytest.raises(AttributeError):
        omni.media = MediaSettings()  # pyright: ignore[reportAttributeAccessIssue]  # no copy to set

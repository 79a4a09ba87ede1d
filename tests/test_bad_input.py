"""What cannot mean what its author wanted is refused: what was expected, what came, what to do."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, Prompt, load, prove
from hooked_omni.errors import (
    BundleError,
    CheckpointError,
    HookedOmniError,
    MediaError,
    ParityError,
    PromptError,
    SpanError,
    UnknownModelError,
)
from hooked_omni.organisms.random_weights import random_omni, random_vl
from tests.support.models import left_padded, save_checkpoint

CLIP = "audio in video"


@pytest.fixture
def inputs(clips: dict) -> dict[str, Any]:
    """A prompt with sound inside a video, to be spoiled."""
    return dict(clips["omni", CLIP])


@pytest.fixture
def prompt(omni: HookedOmni, inputs: dict[str, Any]) -> EmbeddedPrompt:
    return omni.embed_inputs(**inputs)


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_a_prompt_without_words(text: str) -> None:
    with pytest.raises(PromptError, match=r"expected a question, got .*Say what to describe"):
        Prompt(text)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("rope", ["paper", "", None])
def test_an_unknown_rope(rope: Any) -> None:
    with pytest.raises(PromptError) as error:
        Prompt("What?", rope=rope)
    assert str(error.value).startswith(f"expected rope 'model' or 'paper-scripts', got {rope!r}")


SPECIAL = ["<|AUDIO|>", "<|VIDEO|>", "<|IMAGE|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize("token", [*SPECIAL, "<|vision_bos|>", "<|audio_eos|>"])
@pytest.mark.parametrize("where", ["text", "system"])
@pytest.mark.parametrize("name", ["omni", "vl"])
def test_special_tokens_among_the_words(models: dict, name: str, where: str, token: str) -> None:
    words: Any = {"text": "What?", where: f"Look:{token}what?"}
    with pytest.raises(PromptError) as error:
        models[name].embed(Prompt(**words))
    message = str(error.value)
    assert f"expected plain words in {where!r}, got the special token {token!r}" in message
    assert "it would be read as a clip or a turn. Rephrase it." in message


def test_words_that_only_look_special(omni: HookedOmni) -> None:
    prompt = omni.embed(Prompt("Is <audio> or <|audio|> here? a < b | c > d"))
    words = omni.processor.tokenizer.decode(prompt.tokens[0, prompt.spans["question"]])
    assert words == "Is <audio> or <|audio|> here? a < b | c > d"


def test_a_system_prompt_of_the_users_own(omni: HookedOmni) -> None:
    prompt = omni.embed(Prompt("What?", system="Be brief."))
    decode = omni.processor.tokenizer.decode
    assert decode(prompt.tokens[0, prompt.spans["system"]]) == "Be brief."
    assert decode(prompt.tokens[0, prompt.spans["question"]]) == "What?"
    default = omni.embed(Prompt("What?"))
    assert decode(default.tokens[0, default.spans["system"]]).startswith("You are Qwen")


def test_words_of_many_lines_and_languages(omni: HookedOmni) -> None:
    words = "Erste Zeile:\nwas hörst du?\n\n声音 🎵 user\nassistant\nsystem\n"
    prompt = omni.embed(Prompt(words, system="Zwei\nZeilen"))
    decode = omni.processor.tokenizer.decode
    assert decode(prompt.tokens[0, prompt.spans["question"]]) == words
    assert decode(prompt.tokens[0, prompt.spans["system"]]) == "Zwei\nZeilen"


def test_a_model_without_a_processor(omni: HookedOmni) -> None:
    bare = HookedOmni.from_hf(omni.hf)
    with pytest.raises(PromptError) as error:
        bare.embed(Prompt("What?"))
    assert "expected a model with a processor, got none" in str(error.value)
    assert "`processor=`" in str(error.value) and "`embed_inputs`" in str(error.value)
    with pytest.raises(PromptError, match="expected a model with a tokenizer, got none"):
        bare.model.to_tokens("What?")
    assert bare.model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2).text is None


def test_a_processor_without_a_template(omni: HookedOmni) -> None:
    _, processor = random_omni()
    processor.chat_template = None
    with pytest.raises(PromptError, match="expected a processor with a chat template, got none"):
        HookedOmni.from_hf(omni.hf, processor).embed(Prompt("What?"))


@pytest.mark.parametrize("given", [{"audio": "rain.wav"}, {"audio": "r.wav", "video": "c.mp4"}])
def test_sound_for_a_family_that_does_not_hear(vl: HookedOmni, given: dict[str, Any]) -> None:
    with pytest.raises(HookedOmniError) as error:
        vl.embed(Prompt("What?", **given))
    if "video" not in given:
        assert isinstance(error.value, PromptError)
        assert "without sound for qwen2.5-vl, got audio=rain.wav" in str(error.value)
        assert "leave `audio` out" in str(error.value)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", ["video", "audio"])
def test_two_clips(name: str) -> None:
    two: Any = {name: ["one.mp4", "two.mp4"]}
    with pytest.raises(PromptError) as error:
        Prompt("What?", **two)
    assert f"expected one file as {name!r}, got ['one.mp4', 'two.mp4']" in str(error.value)
    assert "make a prompt for each" in str(error.value)


def test_a_picture_that_does_not_move(omni: HookedOmni, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(MediaError) as error:
        omni.embed(Prompt("What?", video=path, use_audio_in_video=False))
    assert str(error.value).startswith("expected") and "photo.png" in str(error.value)


def test_a_clip_that_is_not_there(omni: HookedOmni, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="got no file at"):
        omni.embed(Prompt("What?", video=tmp_path / "missing.mp4"))


# --- ready-made inputs ---------------------------------------------------------------------------

NEEDED = [
    ("omni", "attention_mask", "expected attention_mask among the inputs, got none"),
    ("omni", "use_audio_in_video", "expected use_audio_in_video among the inputs"),
    ("omni", "feature_attention_mask", "expected feature_attention_mask beside input_features"),
    ("omni", "input_ids", "expected input_ids"),
    ("vl", "mm_token_type_ids", "expected mm_token_type_ids among the inputs, got none"),
    ("vl", "second_per_grid_ts", "expected second_per_grid_ts beside pixel_values_videos"),
    ("vl", "input_ids", "expected input_ids"),
]


@pytest.mark.parametrize(("name", "key", "message"), NEEDED)
def test_an_input_that_is_missing(
    models: dict, clips: dict, name: str, key: str, message: str
) -> None:
    whole = clips[name, CLIP if name == "omni" else "video"]
    for spoiled in ({k: v for k, v in whole.items() if k != key}, {**whole, key: None}):
        with pytest.raises(PromptError, match=message):
            models[name].embed_inputs(**spoiled)


def test_seconds_of_a_grid_step_that_are_missing(omni: HookedOmni, inputs: dict) -> None:
    """Without them the model cannot place the video in time."""
    del inputs["video_second_per_grid"]
    with pytest.raises(PromptError, match="expected video_second_per_grid"):
        omni.embed_inputs(**inputs)


@pytest.mark.parametrize("name", ["omni", "vl"])
def test_padding_behind_the_prompt(models: dict, clips: dict, name: str) -> None:
    omni = models[name]
    padded = left_padded(omni, clips[name, "text"], 3)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in padded:
            padded[key] = padded[key].roll(-3, dims=1)
    with pytest.raises(PromptError) as error:
        omni.embed_inputs(**padded)
    assert "expected padding on the left, got it behind the prompt" in str(error.value)
    assert "padding_side to 'left'" in str(error.value)


@pytest.mark.parametrize("name", ["omni", "vl"])
def test_a_prompt_that_is_all_padding(models: dict, clips: dict, name: str) -> None:
    spoiled = dict(clips[name, "text"])
    spoiled["attention_mask"] = torch.zeros_like(spoiled["attention_mask"])
    with pytest.raises(PromptError, match="expected padding on the left"):
        models[name].embed_inputs(**spoiled)


def test_sound_that_belongs_to_another_prompt(omni: HookedOmni, inputs: dict) -> None:
    shorter = inputs["feature_attention_mask"].clone()
    shorter[:, 200:] = 0
    with pytest.raises(PromptError) as error:
        omni.embed_inputs(**{**inputs, "feature_attention_mask": shorter})
    assert "expected 50 audio tokens for [200] mel frames, got 75" in str(error.value)
    assert "different calls of the processor" in str(error.value)


def test_a_video_that_belongs_to_another_prompt(omni: HookedOmni, inputs: dict) -> None:
    grid = inputs["video_grid_thw"].clone()
    grid[0, 0] -= 1
    with pytest.raises(PromptError, match="video"):
        omni.embed_inputs(**{**inputs, "video_grid_thw": grid})


def test_sound_without_its_tokens(omni: HookedOmni, clips: dict) -> None:
    text, heard = clips["omni", "text"], clips["omni", "audio"]
    mixed = {k: heard[k] for k in ("input_features", "feature_attention_mask")} | dict(text)
    with pytest.raises(PromptError, match=r"expected 75 audio tokens .* got 0"):
        omni.embed_inputs(**mixed)


def test_audio_tokens_without_sound(omni: HookedOmni, clips: dict) -> None:
    """A placeholder that nothing replaces is a word the model was never meant to read."""
    heard = dict(clips["omni", "audio"])
    del heard["input_features"], heard["feature_attention_mask"]
    with pytest.raises(PromptError, match="audio"):
        omni.embed_inputs(**heard)


@pytest.mark.parametrize("name", ["omni", "vl"])
def test_video_tokens_without_video(models: dict, clips: dict, name: str) -> None:
    seen = dict(clips[name, "video"])
    for key in ("pixel_values_videos", "video_grid_thw"):
        del seen[key]
    with pytest.raises(PromptError, match="video"):
        models[name].embed_inputs(**seen)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, 266]]), "expected tokens from 0 to 265, got 0 to 266"),
        (torch.tensor([[-1, 5]]), "expected tokens from 0 to 265, got -1 to 5"),
        (torch.zeros(1, 0, dtype=torch.long), r"tokens \[batch, pos\], got .*\(1, 0\)"),
        (torch.zeros(0, 4, dtype=torch.long), r"tokens \[batch, pos\], got .*\(0, 4\)"),
        (torch.zeros(1, 4), r"got torch.float32 of shape \(1, 4\)\. Use `embed_inputs`"),
        (torch.zeros(4, dtype=torch.long), r"got torch.int64 of shape \(4,\)"),
        (torch.zeros(1, 4, 64), r"got torch.float32 of shape \(1, 4, 64\)"),
    ],
)
def test_tokens_that_are_none(omni: HookedOmni, tokens: Tensor, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        omni.model(tokens)


@pytest.mark.parametrize("asked", [0, -1])
def test_no_tokens_asked_for(omni: HookedOmni, prompt: EmbeddedPrompt, asked: int) -> None:
    with pytest.raises(PromptError, match=f"expected at least one new token, got {asked}"):
        omni.model.generate(prompt, max_new_tokens=asked)


def test_one_token_asked_for(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    assert len(omni.model.generate(prompt, max_new_tokens=1).tokens) == 1


# --- bundles -------------------------------------------------------------------------------------


@pytest.fixture
def bundle(prompt: EmbeddedPrompt, tmp_path: Path) -> Path:
    return prompt.save(tmp_path / "prompt.safetensors")


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    """The bundle with its tensors and metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


def test_a_bundle_that_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(BundleError) as error:
            EmbeddedPrompt.load(path)
        assert f"expected a saved EmbeddedPrompt, got no file at {path}" in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_bundle_that_is_cut_off(bundle: Path, kept: float) -> None:
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: int(len(whole) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(BundleError) as error:
        EmbeddedPrompt.load(bundle)
    assert "expected a whole safetensors file" in str(error.value)
    assert str(bundle) in str(error.value) and "Embed the prompt again" in str(error.value)


def test_a_file_that_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    path.write_text("what do you hear?\n" * 100)
    with pytest.raises(BundleError, match="expected a whole safetensors file"):
        EmbeddedPrompt.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(BundleError, match=r"version 2, got None version None"):
        EmbeddedPrompt.load(path)


def test_a_bundle_of_another_version(bundle: Path) -> None:
    rewritten(bundle, lambda tensors, metadata: metadata.update(version="0"))
    with pytest.raises(BundleError) as error:
        EmbeddedPrompt.load(bundle)
    assert "expected hooked_omni.EmbeddedPrompt version 2" in str(error.value)
    assert "version '0'" in str(error.value) and "Embed the prompt again" in str(error.value)


@pytest.mark.parametrize("name", ["embeds", "position_ids", "tokens"])
def test_a_bundle_without_a_tensor(bundle: Path, name: str) -> None:
    rewritten(bundle, lambda tensors, metadata: tensors.__delitem__(name))
    with pytest.raises(BundleError, match=rf"expected \['{name}'\] in .*, got none"):
        EmbeddedPrompt.load(bundle)


@pytest.mark.parametrize("facts", ["{not json", None])
def test_a_bundle_with_damaged_facts(bundle: Path, facts: str | None) -> None:
    def spoil(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        metadata.pop("facts")
        if facts is not None:
            metadata["facts"] = facts

    rewritten(bundle, spoil)
    with pytest.raises(BundleError, match="facts"):
        EmbeddedPrompt.load(bundle)


def _shorter(name: str) -> Callable[[dict[str, Tensor]], None]:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name][..., :-1].contiguous()

    return spoil


INCONSISTENT = {
    "position_ids": _shorter("position_ids"),
    "tokens": _shorter("tokens"),
    "embeds": lambda tensors: tensors.update(embeds=tensors["embeds"][0].contiguous()),
    "span": lambda tensors: tensors.update({"span.audio": tensors["span.audio"] + 1000}),
    "seconds": _shorter("seconds.audio"),
    "frames": _shorter("frames"),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("what", sorted(INCONSISTENT))
def test_a_bundle_whose_parts_do_not_fit(omni: HookedOmni, bundle: Path, what: str) -> None:
    rewritten(bundle, lambda tensors, metadata: INCONSISTENT[what](tensors))
    with pytest.raises(BundleError, match="expected"):
        EmbeddedPrompt.load(bundle)


def test_a_bundle_of_another_models_width(bundle: Path) -> None:
    other = HookedOmni.from_hf(*random_omni(d_model=32))
    loaded = EmbeddedPrompt.load(bundle)
    for attempt in (other.model, lambda p: other.model.generate(p), lambda p: prove(other, p)):
        with pytest.raises(PromptError) as error:
            attempt(loaded)
        assert "expected embeddings of width 32 and torch.float32, got width 64" in str(error.value)
        assert "Embed the prompt with this model" in str(error.value)


def test_a_bundle_of_another_dtype(omni: HookedOmni, bundle: Path) -> None:
    half = EmbeddedPrompt.load(bundle).to(dtype=torch.bfloat16)
    with pytest.raises(PromptError) as error:
        omni.model(half)
    assert "got width 64 and torch.bfloat16" in str(error.value)
    assert "prompt.to(dtype=...)" in str(error.value)
    assert omni.model(half.to(dtype=torch.float32)).dtype == torch.float32


def test_a_batch_is_not_saved(omni: HookedOmni, clips: dict, tmp_path: Path) -> None:
    batch = {
        k: torch.cat([v, v]) if isinstance(v, Tensor) else v
        for k, v in clips["omni", "text"].items()
    }
    with pytest.raises(BundleError, match="expected one prompt, got a batch of 2"):
        omni.embed_inputs(**batch).save(tmp_path / "batch.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing(prompt: EmbeddedPrompt, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "prompt.safetensors"
    with pytest.raises(BundleError, match="missing"):
        prompt.save(path)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_replaced(prompt: EmbeddedPrompt, tmp_path: Path) -> None:
    """A folder of that name: also for root, whom no permission stops."""
    target = tmp_path / "prompt.safetensors"
    (target / "inside").mkdir(parents=True)
    with pytest.raises((BundleError, OSError), match=r"prompt\.safetensors"):
        prompt.save(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_folder_that_is_read_only(prompt: EmbeddedPrompt) -> None:
    """`/proc` refuses new files from everyone, root included."""
    with pytest.raises(BundleError, match=r"prompt\.safetensors"):
        prompt.save(Path("/proc") / "prompt.safetensors")


def test_facts_that_cannot_be_written_leave_the_old_file(
    prompt: EmbeddedPrompt, bundle: Path
) -> None:
    before = bundle.read_bytes()
    with pytest.raises(TypeError):
        replace(prompt, facts={"clip": object()}).save(bundle)
    assert bundle.read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


# --- spans of a prompt ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "span", "message"),
    [
        ("video", "audio", "expected a prompt with 'audio' tokens, got one without"),
        ("audio", "frame 0", "expected a prompt with 'video' tokens"),
        ("audio", "picture", "expected one of .*'audio'.*got 'picture'"),
        (CLIP, "audio@9-10s", "expected a prompt with 'audio@9-10s' tokens.*0.00 to 2.96 s"),
        (CLIP, "frame 3", "the video has 3 grid steps, counted from 0"),
        (CLIP, "generated", "expected a run that goes beyond the 144 prompt positions"),
    ],
)
def test_a_span_that_is_not_there(
    omni: HookedOmni, clips: dict, kind: str, span: str, message: str
) -> None:
    with pytest.raises(SpanError, match=message):
        omni.embed_inputs(**clips["omni", kind]).spans[span]


# --- loading -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["omni", "vl"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = {"omni": random_omni, "vl": random_vl}[request.param]
    return save_checkpoint(*make(n_layers=2), tmp_path_factory.mktemp(request.param))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A whole checkpoint, to be spoiled."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor], str], None]) -> Path:
    """The checkpoint with its tensors changed; `change` gets the name of a query weight."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    query = next(k for k in tensors if "layers.1.self_attn.q_proj.weight" in k)
    change(tensors, query)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **changes: Any) -> Path:
    """The checkpoint with other numbers in its text config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("text_config", config).update(changes)
    path.write_text(json.dumps(config))
    return folder


def test_the_checkpoint_to_be_spoiled_is_whole(folder: Path) -> None:
    assert load(folder).model.cfg.n_layers == 2


@pytest.mark.parametrize("name", ["random", "no/such/folder", "./missing"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(UnknownModelError) as error:
        load(name)
    message = str(error.value)
    assert "expected a hub name, a folder with a config.json, or one of" in message
    assert "random-omni" in message and repr(name) in message


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"a folder with a config\.json"):
        load(tmp_path)


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")
    with pytest.raises(UnknownModelError, match=r"a folder with a config\.json"):
        load(folder)


@pytest.fixture
def qwen2() -> Any:
    config = transformers.Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return transformers.Qwen2ForCausalLM(config)


def test_an_unknown_family(qwen2: Any, tmp_path: Path) -> None:
    qwen2.save_pretrained(tmp_path)
    for attempt in (lambda: load(tmp_path), lambda: HookedOmni.from_hf(qwen2)):
        with pytest.raises(UnknownModelError) as error:
            attempt()
        message = str(error.value)
        assert "expected a model of type" in message and "got 'qwen2'" in message
        assert "qwen2_5_omni_thinker" in message and "docs/add-a-model.md" in message


def test_what_is_no_model_at_all() -> None:
    with pytest.raises(UnknownModelError, match="got None"):
        HookedOmni.from_hf(torch.nn.Linear(2, 2))


def test_a_missing_tensor(folder: Path) -> None:
    with_tensors(folder, lambda tensors, query: tensors.__delitem__(query))
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert "expected exactly the weights of" in message and str(folder) in message
    assert "1 missing_keys" in message and "layers.1.self_attn.q_proj.weight" in message
    assert "random numbers" in message and "check the download" in message


def test_an_extra_tensor(folder: Path) -> None:
    def add(tensors: dict[str, Tensor], query: str) -> None:
        tensors[query.replace("q_proj.weight", "q_norm.weight")] = torch.ones(16)

    with_tensors(folder, add)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "1 unexpected_keys" in str(error.value)
    assert "layers.1.self_attn.q_norm.weight" in str(error.value)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    def cut(tensors: dict[str, Tensor], query: str) -> None:
        tensors[query] = tensors[query][:-16].contiguous()

    with_tensors(folder, cut)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert message.startswith("expected") and str(folder) in message
    assert "layers.1.self_attn.q_proj.weight" in message and "config" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"intermediate_size": 96},
        {"num_key_value_heads": 1},
        {"vocab_size": 300},
    ],
    ids=str,
)
def test_a_config_of_other_weights(folder: Path, changes: dict[str, Any]) -> None:
    if "layer_types" not in changes and "num_hidden_layers" in changes:
        changes = {**changes, "layer_types": ["full_attention"] * changes["num_hidden_layers"]}
    with pytest.raises(CheckpointError, match=r"expected .* got"):
        load(with_config(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 0,
                "layer_types": ["sliding_attention"] * 2,
            },
            "layer_types",
        ),
    ],
)
def test_a_variant_that_this_decoder_does_not_compute(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        load(with_config(folder, **changes))
    assert "expected a Qwen decoder" in str(error.value) and message in str(error.value)


def test_weights_that_are_cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="expected whole weights for"):
        load(folder)


def test_weights_that_are_not_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected whole weights for"):
        load(folder)


def test_a_processor_that_is_not_there(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(HookedOmniError) as error:
        load(folder)
    assert "processor" in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("shipped", [True, False])
def test_a_dtype_that_is_none(folder: Path, shipped: bool) -> None:
    with pytest.raises(HookedOmniError, match=r"expected .*got 'float33'"):
        load("random-omni" if shipped else folder, dtype="float33")


def test_tensors_that_make_no_decoder(omni: HookedOmni) -> None:
    cfg, name = omni.model.cfg, omni.family.tensor_name
    tensors = {name(n): p for n, p in omni.model.named_parameters()}
    same = HookedTransformer.from_tensors(cfg, tensors, name)
    assert torch.equal(same(torch.tensor([[1, 2]])), omni.model(torch.tensor([[1, 2]])))
    query = "layers.3.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError) as error:
        missing = {k: v for k, v in tensors.items() if k != query}
        HookedTransformer.from_tensors(cfg, missing, name)
    assert f"1 missing ['{query}'] and 0 extra []" in str(error.value)
    with pytest.raises(CheckpointError, match=r"0 missing \[\] and 1 extra \['q_norm'\]"):
        HookedTransformer.from_tensors(cfg, {**tensors, "q_norm": tensors["norm.weight"]}, name)
    with pytest.raises(CheckpointError) as error:
        HookedTransformer.from_tensors(cfg, {**tensors, query: tensors[query][1:]}, name)
    assert f"expected {query} of shape (64, 64) from the config" in str(error.value)
    assert "got (63, 64)" in str(error.value)


# --- proof ---------------------------------------------------------------------------------------


@pytest.fixture
def own() -> HookedOmni:
    """A model that a test may break."""
    return HookedOmni.from_hf(*random_omni(n_layers=2))


def test_a_whole_model_is_proved(own: HookedOmni, inputs: dict) -> None:
    report = prove(own, own.embed_inputs(**inputs), decode_steps=4)
    assert (report.prefill, report.decode) == (0, 0)
    assert (report.prefill_opened, report.decode_opened) == (0, 0)
    assert report.decode_steps == 4
    assert report.live_hooks == len(own.model.hook_dict)
    assert own.hf.config.get_text_config()._attn_implementation == "sdpa"
    assert not own.model.cfg.use_attn_result
    for fact in ("prefill", "decode", "live_hooks"):
        assert fact in str(report)


@pytest.mark.parametrize(
    "name", ["blocks.1.mlp.up_proj.weight", "ln_final.weight", "blocks.0.attn.q_proj.bias"]
)
def test_a_replaced_weight_is_no_proof(own: HookedOmni, inputs: dict, name: str) -> None:
    prompt = own.embed_inputs(**inputs)
    path, _, leaf = name.rpartition(".")
    module = own.model.get_submodule(path)
    changed = getattr(module, leaf).detach().clone()
    changed.view(-1)[0] += 1e-3
    setattr(module, leaf, torch.nn.Parameter(changed, False))
    with pytest.raises(ParityError) as error:
        prove(own, prompt, decode_steps=2)
    message = str(error.value)
    assert "expected logits within 0 of Hugging Face's" in message and "prefill" in message
    assert f"transformers {transformers.__version__}" in message
    assert own.hf.config.get_text_config()._attn_implementation == "sdpa"
    assert prove(own, prompt, decode_steps=2, tolerance=10.0).prefill > 0


def test_shifted_decode_positions_are_no_proof(own: HookedOmni, inputs: dict) -> None:
    """Counting tokens in place of positions: right in the prompt, wrong behind it."""
    prompt = own.embed_inputs(**inputs)

    class CountsTokens(EmbeddedPrompt):
        def position_ids_at(self, window: range) -> Tensor:
            if window.stop <= self.n_pos:
                return super().position_ids_at(window)
            return torch.arange(window.start, window.stop).expand(3, 1, -1)

    shifted = CountsTokens(**vars(prompt))
    with pytest.raises(ParityError) as error:
        prove(own, shifted, decode_steps=2)
    first = int(prompt.position_ids.max()) + 1
    assert f"expected rotary positions {[first] * 3} at decode step 1" in str(error.value)
    assert f"got {[prompt.n_pos] * 3}" in str(error.value)
    assert "rope delta" in str(error.value)


def test_a_prompt_of_another_model_is_no_proof(own: HookedOmni, clips: dict) -> None:
    other = HookedOmni.from_hf(*random_omni(seed=1, n_layers=2))
    for kind in ("text", CLIP):
        with pytest.raises(ParityError) as error:
            prove(own, other.embed_inputs(**clips["omni", kind]), decode_steps=2)
        assert "expected a prompt embedded by this model" in str(error.value)
        assert "Embed the prompt again with this checkpoint" in str(error.value)


def test_a_dead_hook_point_is_no_proof(own: HookedOmni, clips: dict) -> None:
    prompt = own.embed_inputs(**clips["omni", "text"])
    block: Any = own.model.blocks[1]
    block.mlp.hook_pre.add_hook = lambda *args, **kwargs: None
    with pytest.raises(ParityError) as error:
        prove(own, prompt, decode_steps=1)
    assert "expected an edit at 'blocks.1.mlp.hook_pre' to move the logits" in str(error.value)
    assert "This hook point does nothing" in str(error.value)


def test_a_batch_is_not_proved(own: HookedOmni, clips: dict) -> None:
    batch = {
        k: torch.cat([v, v]) if isinstance(v, Tensor) else v
        for k, v in clips["omni", "text"].items()
    }
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        prove(own, own.embed_inputs(**batch))


def test_padding_does_not_spoil_a_proof(own: HookedOmni, inputs: dict) -> None:
    prompt = own.embed_inputs(**left_padded(own, inputs, 4))
    assert prove(own, prompt, decode_steps=3).decode_opened == 0


def test_every_error_is_caught_by_its_builtin_parent() -> None:
    for error in (BundleError, CheckpointError, PromptError, SpanError, UnknownModelError):
        assert issubclass(error, HookedOmniError) and issubclass(error, ValueError)
    assert issubclass(ParityError, ArithmeticError)

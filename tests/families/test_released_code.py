"""Code from outside transformers: what it needs, how it is loaded, and what it does silently.

The stand-ins do here what the released code did when it was run with tiny random weights.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from PIL import Image
from torchvision import transforms
from transformers import dynamic_module_utils

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, load, prove
from hooked_omni.errors import CheckpointError, MediaError, PromptError
from hooked_omni.families.remote.videollama2 import VIDEOLLAMA2
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.video import Video
from tests.support.models import sound
from tests.support.standins import STANDINS
from tests.support.standins.released import PACKAGES, command, package, released
from tests.support.standins.videollama2 import process_audio_file, process_audio_from_video

pytestmark = pytest.mark.usefixtures("numbers_alone")
every = pytest.mark.parametrize("name", list(STANDINS))
VIDEOLLAMA = "videollama2.1-av"
MINICPM = ("minicpm-o-2.6", "minicpm-o-4.5")
TOWER = {
    "minicpm-o-2.6": "apm",
    "minicpm-o-4.5": "resampler",
    VIDEOLLAMA: "model.mm_projector_a",
    "internvl2": "mlp1",
    "internomni": "audio_model",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("released")
    return {name: released(name, base / name) for name in STANDINS}


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, its imports and ffmpeg; code of checkpoints is copied to where nobody looks."""
    base = tmp_path_factory.mktemp("installed")
    monkeypatch.syspath_prepend(package(base / "packages"))
    monkeypatch.syspath_prepend(base)
    monkeypatch.setenv("PATH", str(command(base / "bin", "ffmpeg")))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(base))
    yield
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("videollama2", *PACKAGES):
            del sys.modules[name]  # no other test finds them


@pytest.fixture(scope="module")
def adopted() -> dict[str, HookedOmni]:
    return {name: HookedOmni.from_hf(*build()) for name, build in STANDINS.items()}


def embed(omni: HookedOmni, kind: str, audio: Audio | None = None) -> EmbeddedPrompt:
    """A question about a clip of three seconds."""
    n_frames = 16 if omni.family.name == VIDEOLLAMA else 3
    pixels = np.random.default_rng(1).integers(0, 256, (n_frames, 3, 42, 70))
    times = tuple(3 * i / n_frames for i in range(n_frames))
    video = Video(torch.tensor(pixels).float(), n_frames / 3, 3.0, times, ())
    prompt = Prompt(
        "What now?",
        video="clip" if "video" in kind else None,
        audio="sound" if kind == "audio" else None,
        use_audio_in_video=kind == "audio in video",
    )
    heard = (audio or sound()) if "audio" in kind else None
    seen = video if "video" in kind else None
    return omni.embed_media(prompt, tuple(one for one in (seen, heard) if one is not None))


@every
def test_released_checkpoints_load_by_their_own_code(checkpoints, adopted, name):
    omni: Any = load(checkpoints[name], trust_remote_code=True)
    kind = "audio in video" if omni.family.hears else "video"
    prompt = embed(omni, kind)
    report = prove(omni, prompt, decode_steps=4)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    if name == VIDEOLLAMA:
        assert {p.dtype for p in omni.towers.hf.parameters()} == {torch.float16}
    else:
        assert torch.equal(prompt.embeds, embed(adopted[name], kind).embeds)


@every
def test_the_kernel_is_the_one_that_was_wanted(checkpoints, name):
    for kernel in ("eager", "sdpa"):
        omni = load(checkpoints[name], attn_implementation=kernel, trust_remote_code=True)
        assert omni.hf.config._attn_implementation == kernel


def test_a_package_that_reads_float16_whatever_is_wanted(checkpoints, monkeypatch):
    """float32 holds the same numbers; another precision would round them a second time."""
    half: Any = load(checkpoints[VIDEOLLAMA], dtype="float16", trust_remote_code=True).towers
    whole: Any = load(checkpoints[VIDEOLLAMA], dtype="float32", trust_remote_code=True)
    for name, parameter in whole.towers.hf.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, half.hf.get_parameter(name).float())
    assert prove(whole, embed(whole, "audio in video"), decode_steps=4).prefill == 0
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    for dtype in ("bfloat16", "float64"):
        with pytest.raises(CheckpointError, match=f"float16 or float32 for .* got torch.{dtype}"):
            load(checkpoints[VIDEOLLAMA], dtype=dtype, trust_remote_code=True)
    options: dict[str, Any] = {"dtype": "auto", "revision": "v1", "attn_implementation": "sdpa"}
    with pytest.raises(CheckpointError, match="no revision, got auto and 'v1'"):
        VIDEOLLAMA2.remote.load("org/name", options)  # pyright: ignore


@pytest.mark.parametrize("lacking", [*PACKAGES, "videollama2", "ffmpeg"])
def test_what_a_package_needs_is_missing(checkpoints, monkeypatch, lacking):
    """Before any weight is read, and by its name."""
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    if lacking == "ffmpeg":
        monkeypatch.setenv("PATH", "")
    find = finding_all_but(lacking)
    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(CheckpointError, match=rf"got no \['{lacking}'\]. It is the package of"):
        load(checkpoints[VIDEOLLAMA], trust_remote_code=True)


def finding_all_but(lacking: str) -> Any:
    from importlib.util import find_spec

    return lambda name, *more: None if name == lacking else find_spec(name, *more)


@every
def test_towers_without_weights(tmp_path, monkeypatch, name):
    """The code would only warn, and take random numbers."""
    path, _, last = TOWER[name].rpartition(".")
    folder = released(name, tmp_path, lambda hf: delattr(hf.get_submodule(path), last))
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=rf"got no tensor of \['{TOWER[name]}\.'\]"):
        load(folder, trust_remote_code=True)
    load(folder, decoder_only=True)


@pytest.mark.parametrize("state", ["no weights", "no folder", "cut off", "no name"])
def test_a_tower_from_another_checkpoint_that_is_not_there(tmp_path, monkeypatch, state):
    folder = released(VIDEOLLAMA, tmp_path)
    weights, config = folder / "siglip" / "model.safetensors", folder / "config.json"
    if state == "cut off":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif state == "no folder":
        (folder / "siglip").rename(folder / "another")
    elif state == "no name":
        config.write_text(config.read_text().replace("mm_vision_tower", "mm_tower"))
    else:
        weights.unlink()
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=r"mm_vision_tower|model\.safetensors.* on the hub"):
        load(folder, trust_remote_code=True)


@every
def test_code_that_fails_is_named_with_what_it_needs(checkpoints, monkeypatch, name):
    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r"RuntimeError \(out of luck\) with transformers"):
        load(checkpoints[name], trust_remote_code=True)


def test_without_ffmpeg_no_silence_is_heard(adopted, monkeypatch, capsys):
    """The package prints one line and reads 30 s of zeros."""
    omni = adopted[VIDEOLLAMA]
    embed(omni, "audio in video")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PromptError, match="expected the command ffmpeg"):
        embed(omni, "audio in video")
    assert "Failed to process" not in capsys.readouterr().out
    for kind in ("text", "video", "audio"):
        embed(omni, kind)


def test_a_reader_that_fails_otherwise_is_noticed(adopted, monkeypatch, capsys):
    omni = adopted[VIDEOLLAMA]
    monkeypatch.setattr(soundfile, "read", None)
    with pytest.raises(PromptError, match="got those of silence"):
        embed(omni, "audio in video")
    assert "Failed to process audio from video" in capsys.readouterr().out


@pytest.mark.parametrize("loudness", [0.0, 2.0**-17])
@pytest.mark.parametrize("kind", ["audio", "audio in video"])
def test_silence_may_be_heard_as_silence(adopted, kind, loudness):
    quiet = replace(sound(), samples=np.full(48_000, loudness, np.float32))
    assert "audio" in embed(adopted[VIDEOLLAMA], kind, quiet).spans


def test_a_sound_alone_has_its_own_reader_and_times(adopted, tmp_path, monkeypatch):
    omni, seen = adopted[VIDEOLLAMA], []
    own = omni.towers.hf.seen_and_heard
    monkeypatch.setattr(
        omni.towers.hf, "seen_and_heard", lambda images: seen.append(images[0][0]) or own(images)
    )
    alone, inside = embed(omni, "audio"), embed(omni, "audio in video")
    path = tmp_path / "sound.wav"
    soundfile.write(path, sound().samples, 16_000, subtype="FLOAT")
    assert torch.equal(seen[0], process_audio_file(str(path)).to(seen[0]))
    assert torch.equal(seen[1]["audio"], process_audio_from_video(str(path), None).to(seen[0]))
    assert not torch.equal(seen[0], seen[1]["audio"])
    # Two bands of a patch have one time; a patch is 16 frames of 10 ms.
    seconds = alone.spans.seconds["audio"]
    assert len(seconds) == 2 * 187 and float(seconds.max()) == pytest.approx(29.76)
    assert torch.equal(alone.spans["audio@1.6-1.9s"], alone.spans["audio"][20:24])
    assert "audio" not in inside.spans.seconds


def test_the_sound_of_a_clip_of_over_16_seconds_would_be_cut(adopted):
    with pytest.raises(MediaError, match=r"whole sound, of 17\.0 s, .* got 16\.0 s"):
        embed(adopted[VIDEOLLAMA], "audio in video", sound(17.0))
    with pytest.raises(MediaError, match=r"whole sound, of 31\.0 s, .* got 30\.0 s"):
        embed(adopted[VIDEOLLAMA], "audio", sound(31.0))
    embed(adopted[VIDEOLLAMA], "audio", sound(30.0))


@pytest.mark.parametrize("n_samples", [640, 1_599, 16_000, 23_456, 479_999, 480_000])
def test_tokens_of_internomnis_sound(adopted, n_samples):
    """As many as its two convolutions, of which one halves, and its pooling give."""
    samples = sound(31.0).samples[:n_samples]
    prompt = embed(adopted["internomni"], "audio", replace(sound(), samples=samples))
    mel = torch.zeros(1, 1, n_samples // 160)
    halved = torch.nn.functional.conv1d(mel, torch.zeros(1, 1, 3), stride=2, padding=1)
    pooled = torch.nn.functional.avg_pool1d(halved, 2, stride=2)
    assert len(prompt.spans["audio"]) == pooled.shape[-1]


def test_internomni_hears_30_seconds(adopted):
    with pytest.raises(MediaError, match=r"whole sound, of 31\.0 s, .* got 30\.0 s"):
        embed(adopted["internomni"], "audio", sound(31.0))


def test_pictures_are_resized_as_pictures(adopted, monkeypatch):
    """By the released recipe, on the same frames: tensors come out a gray level off."""
    omni, seen = adopted["internvl2"], []
    own = omni.towers.hf.generate
    monkeypatch.setattr(
        type(omni.towers.hf),
        "generate",
        lambda self, **more: seen.append(more["pixel_values"]) or own(**more),
    )
    recipe: Any = transforms.Compose(
        [
            transforms.Resize((28, 28), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    embed(omni, "video")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 42, 70)).astype(np.uint8)
    frames = [Image.fromarray(np.moveaxis(frame, 0, -1).copy()) for frame in pixels]
    assert torch.equal(seen[-1], torch.stack([recipe(frame) for frame in frames]))


@pytest.mark.parametrize("kind", ["text", "video", "audio", "audio in video"])
@pytest.mark.parametrize("name", MINICPM)
def test_minicpm_o_answers_a_sound_by_voice(adopted, name, kind):
    """With any sound the prompt ends in the marks of a spoken answer, which are markup."""
    omni = adopted[name]
    prompt, decode = embed(omni, kind), omni.model.tokenizer.decode
    marks = ("<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>", "<|tts_bos|>")[MINICPM.index(name)]
    thought = ("", "<think>\n\n</think>\n\n")[MINICPM.index(name)]
    end = marks if "audio" in kind else ""
    written = decode(prompt.tokens[0])
    assert written.endswith("<|im_start|>assistant\n" + thought + end)
    assert decode(prompt.tokens[0, prompt.spans["last"]]) == ("<|tts_bos|>" if end else "\n")
    tail = torch.arange(prompt.n_pos - 4, prompt.n_pos)
    assert torch.isin(tail, prompt.spans["markup"]).all()
    # Parts of a message stand on lines of their own, but for sound inside a video.
    joint = {"audio in video": "<|audio_end|>", "text": "user\n"}.get(kind, "\n")
    assert written.partition("What now?")[0].endswith(joint)
    assert decode(prompt.tokens[0, prompt.spans["question"]]) == "What now?"
    assert prompt.tokens.dtype == torch.int64


@pytest.mark.parametrize(("name", "n", "more"), [(MINICPM[0], 750, 37), (MINICPM[1], 300, 15)])
def test_minicpm_o_hears_a_long_sound_in_parts(adopted, name, n, more):
    """Of 30 s each: tokens and times go on over them."""
    omni = adopted[name]
    prompt, first = embed(omni, "audio", sound(31.5)), embed(omni, "audio", sound(30.0))
    assert len(prompt.spans["audio"]) == n + more
    assert float(prompt.spans.seconds["audio"].max()) == pytest.approx(31.5, abs=0.11)
    heard = prompt.embeds[0, prompt.spans["audio"]]
    assert torch.equal(heard[:n], first.embeds[0, first.spans["audio"]])


@pytest.mark.parametrize("name", MINICPM)
def test_minicpm_o_would_cut_a_long_prompt_off(adopted, monkeypatch, name):
    omni = adopted[name]
    monkeypatch.setattr("hooked_omni.families.remote.minicpm_o._MOST_TOKENS", 60)
    with pytest.raises(PromptError, match="expected fewer than 60 positions"):
        embed(omni, "audio")

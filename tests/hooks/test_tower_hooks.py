"""Hook points inside the towers: what the model's own blocks compute, read and edited."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from data_prep.organism.world.dataset import write_clips
from data_prep.organism.world.things import THINGS
from data_prep.organism.world.things import clips as clips_of
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, ablate, load, names
from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.tower_hooks import hooked_towers
from tests.support.models import CLIP_OF, KINDS_OF, eager, frames, look, processed, sound
from tests.support.places import ROOT
from tests.support.runs import bits_equal, noise
from tests.support.standins import STANDINS

NAMED = {"audio": "audio", "video": "vision"}
TOWERS = {name: tuple(NAMED[k] for k in kinds if k in NAMED) for name, kinds in KINDS_OF.items()}
SPAN_OF = {"audio": "audio", "vision": "video"}
every = pytest.mark.parametrize("name", TOWERS)


def post(layer: int, tower: str = "audio") -> str:
    return names.in_tower(tower, names.resid_post(layer))


def pre(layer: int, tower: str = "audio") -> str:
    return names.in_tower(tower, names.resid_pre(layer))


def bend(activation: Tensor, hook: Any) -> Tensor:
    """An edit that no norm takes back."""
    return activation + activation.sin()


def parts(prompt: EmbeddedPrompt) -> dict[str, Any]:
    return {n: v for n, v in vars(prompt).items() if isinstance(v, Tensor)}


def same(one: EmbeddedPrompt, other: EmbeddedPrompt) -> bool:
    first, second = parts(one), parts(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def standing(omni: HookedOmni) -> int:
    """How many of our hooks are on the Hugging Face model; transformers leaves some of its own."""
    modules: Any = omni.hf.modules()
    hooks = [
        h for m in modules for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    return sum(hook.__module__ == hooked_towers.__module__ for hook in hooks)


@pytest.fixture
def heard(clips: dict) -> dict[str, Any]:
    return clips["omni", "audio"]


@every
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_look_changes_no_bit(name, kernel, models, clips):
    omni: HookedOmni = models[name]
    inputs = clips[name, CLIP_OF[name]]
    with eager(omni) if kernel == "eager" else torch.inference_mode():
        plain = omni.embed_inputs(**inputs)
        hooks = [(lambda name: True, look)]
        seen, cache = omni.embed_with_cache(inputs, fwd_hooks=hooks)
    assert same(seen, plain) and seen.facts == plain.facts
    for tower in TOWERS[name]:
        expected = plain.embeds[0, plain.spans[SPAN_OF[tower]]]
        given = cache[names.in_tower(tower)].flatten(0, -2)
        if name != "llava-onevision":  # which pools its tokens from these
            bits_equal(given[: len(expected)], expected)  # after it, what is padded to 30 s
        bits_equal(cache[pre(1, tower)], cache[post(0, tower)])
    assert standing(omni) == 0


@contextmanager
def collecting(hf: Any, tower: str) -> Iterator[list[Any]]:
    """Hidden states of each run of a tower, as transformers itself collects them."""
    homes = {"audio": ("audio_tower",), "vision": ("visual", "vision_tower", "vision_model")}[tower]
    module: Any = next(m for n, m in hf.named_modules() if n.endswith(homes))
    forward, runs = module.forward, []

    def collect(*args: Any, **more: Any) -> Any:
        output = forward(*args, **{**more, "output_hidden_states": True})
        runs.append(output.hidden_states)
        return output

    module.forward = collect
    try:
        yield runs
    finally:
        del module.forward


@pytest.mark.parametrize("name", [n for n in TOWERS if n != "phi4"])  # which collects none of sound
def test_activations_are_those_that_transformers_collects(name, models, clips):
    omni, inputs = models[name], clips[name, CLIP_OF[name]]
    prompt, cache = omni.embed_with_cache(inputs)
    for tower in TOWERS[name]:
        first, n_layers = post(0, tower), sum(f"{tower}.blocks" in n for n in cache) // 2
        with collecting(omni.towers.hf, tower) as runs:
            assert same(prompt, omni.embed_inputs(**inputs))
            edited = omni.embed_with_cache(inputs, first, [(first, bend)])[1][first]
        plain, after, again = runs  # an edit is compared with a run without
        assert len(plain) == n_layers + 1
        for layer in range(n_layers):
            bits_equal(cache[pre(layer, tower)], plain[layer])
        bits_equal(edited, after[1])
        bits_equal(plain, again)


@every
def test_an_edit_at_every_point_reaches_the_decoder(name, models, clips):
    omni, inputs = models[name], clips[name, CLIP_OF[name]]
    plain, cache = omni.embed_with_cache(inputs)
    edited = plain
    for point in cache:
        edited, after = omni.embed_with_cache(inputs, point, [(point, bend)])
        bits_equal(after[point], bend(cache[point], None))
        assert not torch.equal(edited.embeds, plain.embeds)
        assert edited.facts == {**plain.facts, "tower_edits": [point]}
        tower = point.split(".")[1]
        others = [s for t, s in SPAN_OF.items() if t != tower and s in plain.spans]
        for span in [*others, "text"]:
            bits_equal(edited.embeds[0, plain.spans[span]], plain.embeds[0, plain.spans[span]])
        if point == post(0, "vision") and plain.deepstack is not None:
            assert (edited.deepstack != plain.deepstack).flatten(1).any(1).all()
    assert not torch.equal(omni.model(edited), omni.model(plain))


@every
def test_the_same_edit_after_one_block_and_before_the_next(name, models, clips):
    omni, inputs = models[name], clips[name, CLIP_OF[name]]
    for tower in TOWERS[name]:
        after, before = (
            omni.embed_with_cache(inputs, (), [(n, bend)])[0]
            for n in (post(0, tower), pre(1, tower))
        )
        # Vision features for the decoder's blocks may leave between the two.
        bits_equal(after.embeds, before.embeds)


def test_another_clips_sound_is_patched_in(omni):
    """The answer is planted: with its last layer, the other clip is heard whole."""
    first, second = (
        omni.family.prepare(omni.processor, Prompt("What now?", audio="a"), (sound(seed=seed),))
        for seed in (2, 9)
    )
    plain, other = omni.embed_inputs(**first), omni.embed_inputs(**second)
    cache = omni.embed_with_cache(second, post(1))[1]
    patched, _ = omni.embed_with_cache(first, (), [(post(1), lambda a, hook: cache[hook.name])])
    assert not torch.equal(plain.embeds, other.embeds)
    bits_equal(patched.embeds, other.embeds)


def test_a_later_edit_may_restore_the_clean_run(omni, heard):
    plain, cache = omni.embed_with_cache(heard)
    restore = (post(1), lambda a, hook: cache[hook.name])
    assert same(omni.embed_with_cache(heard, (), [restore])[0], plain)  # it changes nothing
    restored, _ = omni.embed_with_cache(heard, (), [(post(0), bend), restore])
    assert same(restored, plain)
    assert restored.facts["tower_edits"] == [post(0), post(1)]


def in_place(activation: Tensor, hook: Any) -> None:
    activation += 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions(dtype, heard):
    omni = load("random-omni", dtype=dtype)
    plain = omni.embed_inputs(**heard)
    seen, cache = omni.embed_with_cache(heard)
    assert same(seen, plain) and cache[post(0)].dtype == getattr(torch, dtype)
    edited, after = omni.embed_with_cache(heard, post(0), [(post(0), in_place)])
    bits_equal(after[post(0)], cache[post(0)] + 1)
    assert not same(edited, plain)


def test_what_can_be_embedded(omni, heard):
    question = Prompt("What now?", video="clip", audio="sound")
    arrays = (question, (frames(), sound()))
    plain = omni.embed_media(*arrays)
    seen, cache = omni.embed_with_cache(arrays)
    assert same(seen, plain) and seen.facts == plain.facts
    assert cache.keys() == omni.embed_with_cache(processed(omni, "video then audio"))[1].keys()
    whole = transformers.BatchFeature(heard)
    assert same(omni.embed_with_cache(whole)[0], omni.embed_inputs(**heard))


@pytest.mark.parametrize(
    ("given", "n"),
    [
        (post(1), 1),
        ([post(0), post(1), post(0)], 2),
        ((name for name in (post(0), post(1))), 2),
        (lambda name: name.endswith("hook_resid_post"), 2),
        ([post(0), lambda name: "blocks" in name], 4),
        (None, 5),
        ((), 0),
    ],
)
def test_names_are_filtered_as_in_the_decoder(given, n, omni, heard, as_installed):
    whole = omni.embed_with_cache(heard)[1]
    found = omni.embed_with_cache(heard, given)[1]
    assert len(found) == n
    bits_equal(found, {name: whole[name] for name in found})


def test_hooks_that_are_generated(omni, heard):
    hooks = ((post(layer), bend) for layer in range(2))
    edited, _ = omni.embed_with_cache(heard, (), hooks)
    assert edited.facts["tower_edits"] == [post(0), post(1)]


WRONG: list[tuple[Any, Any, str]] = [
    (post(2), look, r"of these towers, got '.*blocks.2.*Closest is 'towers.audio.blocks"),
    ("blocks.1.hook_resid_post", look, "Closest is 'towers.*blocks.1.hook_resid_post'"),
    ("towers.audio.hook_in", look, "Closest is 'towers.audio.hook_out'"),
    ("towers.video.hook_out", look, "Closest is 'towers.*.hook_out'"),
    (lambda name: "attn" in name, look, "expected a filter that some hook name passes"),
    (post(0, "vision"), look, f"reaches '{post(0, 'vision')}'"),
    (lambda name: "vision" in name, bend, "without sound or picture"),
    (post(0), lambda a, hook: a[1:], r"return shape \(150, 32\), got \(149, 32\)"),
    (post(0), lambda a, hook: a.double(), "return dtype torch.float32, got torch.float64"),
    (post(0), lambda a, hook: a.to("meta"), "return device cpu, got meta"),
    (post(0), lambda a, hook: a.to_sparse(), "return layout"),
    (post(0), lambda a, hook: 3.0, "return a tensor or None, got float"),
    (post(0), lambda a, hook: a * float("nan"), "After edits at .*NaN or infinity"),
    (pre(1), lambda a, hook: a + 1e38 * a.sign(), "After edits at .*NaN or infinity"),
    (post(0), "zero", "expected hooks"),
]


@pytest.mark.parametrize(("point", "hook", "text"), WRONG, ids=[text for *_, text in WRONG])
def test_what_cannot_act_is_refused(point, hook, text, omni, heard, as_installed):
    with pytest.raises(HookError, match=text):
        omni.embed_with_cache(heard, (), [(point, hook)])
    assert standing(omni) == 0


def test_interventions_need_positions_of_the_decoder(omni, heard):
    with pytest.raises(HookError, match="expected hooks"):
        omni.embed_with_cache(heard, (), [ablate("hook_resid_post", span="audio")])


def test_words_alone_reach_no_tower(omni, clips):
    for given in (None, names.in_tower("audio"), lambda name: True):
        with pytest.raises(HookError, match="the hook would do nothing"):
            omni.embed_with_cache(clips["omni", "text"], given)


def test_what_becomes_no_token_reaches_no_decoder(models, omni, clips):
    """Qwen2-Audio hears 30 s of every sound, and pooling leaves out an odd last frame."""
    padded = models["audio"], clips["audio", "audio"], 150
    odd = omni, (Prompt("What now?", audio="sound"), (sound(3.01),)), 150
    for model, source, n in (padded, odd):

        def add(activation: Tensor, hook: Any, start: int) -> None:
            activation[..., start, :] += noise(activation.shape[-1])

        with pytest.raises(HookError, match="these positions become no token"):
            model.embed_with_cache(source, (), [(post(1), partial(add, start=n))])
        assert model.embed_with_cache(source, (), [(post(1), partial(add, start=n - 1))])


def test_towers_of_foreign_code_have_none():
    omni = HookedOmni.from_hf(*STANDINS["internvl2"]())
    with pytest.raises(HookError, match="internvl2: its file names none"):
        omni.embed_with_cache(Prompt("What now?"))


def test_a_decoder_alone_has_no_towers():
    with pytest.raises(PromptError, match="expected a model with towers"):
        load("random-omni", decoder_only=True).embed_with_cache(Prompt("What now?"))


def _compiled_from_outside(hf: Any) -> None:
    hf.model.audio_tower = torch.compile(hf.model.audio_tower, backend="eager")


@pytest.mark.parametrize(
    "compile_part",
    [
        _compiled_from_outside,
        lambda hf: hf.model.audio_tower.compile(backend="eager"),
        lambda hf: hf.model.audio_tower.layers[1].compile(backend="eager"),
        lambda hf: hf.compile(backend="eager"),
    ],
)
def test_a_compiled_tower_is_refused(compile_part, heard):
    omni = load("random-omni")
    compile_part(omni.hf)
    with pytest.raises(HookError, match="they are compiled"):
        omni.embed_with_cache(heard, post(0))


class _Own(Exception):
    pass


def test_nothing_is_left_after_an_exception(omni, heard):
    def fail(activation: Tensor, hook: Any) -> None:
        raise _Own

    plain = omni.embed_inputs(**heard)
    with pytest.raises(_Own):
        omni.embed_with_cache(heard, None, [(post(0), bend), (post(1), fail)])
    assert standing(omni) == 0 and same(omni.embed_inputs(**heard), plain)


def test_a_hook_may_embed_another_prompt(omni, heard, clips):
    """Neither it nor its own hooks take part in the run that it is called in."""
    found: list[Any] = []
    film = clips["omni", "audio in video"]
    alone = omni.embed_inputs(**film), omni.embed_with_cache(film, post(0), [(pre(0), bend)])

    def nest(activation: Tensor, hook: Any) -> Tensor:
        found.append(omni.embed_inputs(**film))
        found.append(omni.embed_with_cache(film, post(0), [(pre(0), bend)]))
        return bend(activation, hook)

    nested, cache = omni.embed_with_cache(heard, post(0), [(post(0), nest)])
    expected, kept = omni.embed_with_cache(heard, post(0), [(post(0), bend)])
    assert same(nested, expected) and len(found) == 2
    bits_equal(cache, kept)
    assert same(found[0], alone[0]) and same(found[1][0], alone[1][0])
    bits_equal(found[1][1], alone[1][1])


def test_threads_have_hooks_of_their_own(omni, heard):
    expected = {
        "plain": omni.embed_inputs(**heard),
        **{n: omni.embed_with_cache(heard, (), [(n, bend)])[0] for n in (post(0), post(1))},
    }
    wrong: list[str] = []

    def embed(name: str) -> None:
        for _ in range(3):
            if name == "plain":
                found = omni.embed_inputs(**heard)
            else:
                found = omni.embed_with_cache(heard, (), [(name, bend)])[0]
            wrong.extend([] if same(found, expected[name]) else [name])

    threads = [threading.Thread(target=embed, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and standing(omni) == 0


def test_pictures_and_videos_pass_one_after_the_other(vl):
    clip = frames(seed=3)
    words = "<|vision_bos|><|IMAGE|><|vision_eos|><|vision_bos|><|VIDEO|><|vision_eos|>What?"
    inputs = vl.processor(
        text=words,
        images=[clip.frames[0]],
        videos=[clip.frames],
        videos_kwargs={"do_sample_frames": False, "do_resize": False, "fps": 2.0},
        images_kwargs={"do_resize": False},
        return_tensors="pt",
    )
    prompt, cache = vl.embed_with_cache(inputs)
    pictures, videos = (int(inputs[f"{n}_grid_thw"].prod()) for n in ("image", "video"))
    assert len(cache[post(0, "vision")]) == pictures + videos
    spans = torch.cat([prompt.spans["image"], prompt.spans["video"]])
    bits_equal(cache[names.in_tower("vision")], prompt.embeds[0, spans])


def test_times_of_frames_and_steps_of_patches(models):
    """As docs/hooks.md has them: what changes in the second second is found there."""
    for name, per_token in (("omni", 2), ("omni3", 1), ("audio", 2)):
        omni = models[name]
        changed = sound()
        changed.samples[16_000:32_000] = sound(seed=8).samples[16_000:32_000]
        question = Prompt("What now?", audio="sound")
        plain, cache = omni.embed_with_cache((question, (sound(),)), pre(0))
        other = omni.embed_with_cache((question, (changed,)), pre(0))[1]
        seconds = plain.spans.seconds["audio"].repeat_interleave(per_token)
        moved = (cache[pre(0)] != other[pre(0)]).any(-1).flatten()[: len(seconds)]
        apart = seconds[moved]
        assert moved[(seconds > 1.1) & (seconds < 1.9)].all()
        assert apart.min() >= 0.9 and apart.max() <= 2.1
    for name in ("omni", "vl", "omni3", "vl3"):
        omni = models[name]
        first = frames(side=omni.media.size_factor)
        pixels = first.frames.clone()
        pixels[2:4] = 255 - pixels[2:4]  # the second of three steps
        question = Prompt("What now?", video="clip", use_audio_in_video=False)
        one, two = (
            omni.embed_with_cache((question, (video,)), pre(0, "vision"))[1][pre(0, "vision")]
            for video in (first, replace(first, frames=pixels))
        )
        steps = torch.arange(3).repeat_interleave(len(one) // 3)
        assert steps[(one != two).any(-1)].unique().tolist() == [1]


def test_towers_inside_the_decoder_beside_a_picture(models):
    """Phi-4 projects sound otherwise there, and takes the picture from its last block but one."""
    omni, seen = models["phi4"], []
    source = (Prompt("What now?", video="clip", audio="sound"), (frames(1), sound()))
    model: Any = omni.towers.hf.model.embed_tokens_extend
    blocks = [*model.image_embed.img_processor.encoder.layers, *model.audio_embed.encoder.encoders]
    handles = [b.register_forward_hook(lambda m, a, out: seen.append((a[0], out))) for b in blocks]
    plain = omni.embed_media(*source)
    for handle in handles:
        handle.remove()
    looked, cache = omni.embed_with_cache(source)
    assert same(looked, plain) and looked.facts == plain.facts and standing(omni) == 0
    for i, (before, after) in enumerate(seen):
        tower, layer = ("vision", i) if i < 3 else ("audio", i - 3)
        bits_equal(cache[pre(layer, tower)], before)
        bits_equal(cache[post(layer, tower)], after)
    for tower, span in SPAN_OF.items():
        given = cache[names.in_tower(tower)].flatten(0, -2)
        bits_equal(given, plain.embeds[0, plain.spans[span]])
        point = names.in_tower(tower) if tower == "audio" else post(1, tower)
        edited, _ = omni.embed_with_cache(source, (), [(point, bend)])
        moved = (edited.embeds[0] != plain.embeds[0]).any(1)
        inside = torch.isin(torch.arange(len(moved)), plain.spans[span])
        # What ends each row of patches is a weight, and stays.
        assert moved[inside].float().mean() > 0.9 and not moved[~inside].any()
    with pytest.raises(HookError, match="takes an earlier block"):
        omni.embed_with_cache(source, (), [(post(2, "vision"), bend)])


def test_a_saved_prompt_says_that_it_was_edited(omni, heard, tmp_path):
    edited, _ = omni.embed_with_cache(heard, (), [(post(0), lambda a, hook: noise(*a.shape))])
    loaded = EmbeddedPrompt.load(edited.save(tmp_path / "edited.safetensors"))
    assert loaded.facts["tower_edits"] == [post(0)] and same(loaded, edited)


def test_at_which_layer_of_the_tower_the_sound_can_be_read(tmp_path):
    """The example of docs/hooks.md runs, and its table has what it finds."""
    page = (
        (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8").partition("### At which layer")[2]
    )
    chosen = clips_of(THINGS, "test", 2, 1000)
    write_clips(chosen, THINGS, tmp_path)
    files = [tmp_path / f"{clip.id}.mp4" for clip in chosen]
    torch.manual_seed(0)
    found: Any = dict(known=files[::2], new=files[1::2])
    exec(page.partition("```python")[2].partition("```")[0], found)
    rows = re.findall(r"\| `(.+)` \| ([\d.]+) \| ([\d.]+), ([\d.]+) \|", page)
    assert len(rows) == 4
    for at, share, mean, best in rows:
        name = names.in_tower("audio", at)
        shuffled = found["shuffled"][name]
        assert found["shares"][name] == pytest.approx(float(share), abs=0.03)
        assert sum(shuffled) / 200 == pytest.approx(float(mean), abs=0.02)
        assert max(shuffled) < float(best) + 0.2 < found["shares"][name]

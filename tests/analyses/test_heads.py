"""Shares add up to the log-odds, split as the pass was, and name the head that was planted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import choice, heads
from analyses.cases import Case, prefilled
from analyses.forks import fork_of
from analyses.heads.direct import OTHER, direct
from analyses.heads.ranking import ranking, specialists
from analyses.heads.written import ov_lens
from data_prep.questions import ChoiceQuestion
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, names
from hooked_omni.errors import HookError, PromptError, ResultsError, SpanError
from hooked_omni.metrics import fork
from tests.support.clips import write_clip
from tests.support.models import CLIP_OF

GIVEN = ChoiceQuestion("Which?", ("rain falls", "rags burn"), "rain falls")
SPANS = ("audio", "video", "question")


@pytest.mark.parametrize(("name", "kind"), CLIP_OF.items(), ids=list(CLIP_OF))
def test_shares_add_up_to_heard_minus_seen(models: dict, clips: dict, name: str, kind: str):
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, kind])
    at = fork(omni.model, prompt, "rain falls", "rags burn")  # "ra" is shared, a token a letter
    assert at.prompt.n_pos == prompt.n_pos + 2
    odds = float(at.metric(omni.model(at.prompt).double()))
    spans = [span for span in SPANS if span in at.prompt.spans]
    found = direct(omni.model, at, spans)
    assert found.spans == (*spans, OTHER) and found.odds == pytest.approx(odds, abs=2e-5)
    whole = found.heads.sum() + found.mlps.sum() + found.embedding
    assert float(whole) == pytest.approx(odds, abs=2e-4)
    assert found.embedding != 0 and bool((found.mlps != 0).all())


def test_parts_are_transformer_lens_attribution(omni: HookedOmni, prompt: EmbeddedPrompt):
    at = fork(omni.model, prompt, "rain", "rags")
    found = direct(omni.model, at, SPANS)
    omni.model.set_use_attn_result(True)
    try:
        cache: Any = omni.model.run_with_cache(at.prompt)[1]
    finally:
        omni.model.set_use_attn_result(False)
    towards = omni.model.unembed.weight[at.heard] - omni.model.unembed.weight[at.seen]
    stack = cache.stack_head_results(apply_ln=True, pos_slice=-1)
    theirs = (stack[:, 0] @ towards).view(found.heads.shape[:2])
    assert found.heads.sum(-1).numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-4)
    parts, labels = cache.decompose_resid(apply_ln=True, pos_slice=-1, return_labels=True)
    own = dict(zip(labels, (parts[:, 0] @ towards).tolist(), strict=True))
    mlps = [own[f"{layer}_mlp_out"] for layer in range(omni.model.cfg.n_layers)]
    assert found.mlps.numpy() == pytest.approx(mlps, abs=1e-4)


def test_a_span_has_what_is_lost_without_its_values(omni: HookedOmni, prompt: EmbeddedPrompt):
    """With the values of all other positions gone, a head writes its share of this span alone."""
    at = fork(omni.model, prompt, "rain", "rags")
    found, layer = direct(omni.model, at, SPANS), 1
    seen = dict[str, Any]()
    silent = ~at.prompt.spans.mask("audio", range(at.prompt.n_pos))

    def alone(v: Any, hook: Any) -> None:
        v[:, silent] = 0

    def keep(name: str) -> Any:
        return lambda t, hook: seen.__setitem__(name, t.clone())

    _, cache = omni.model.run_with_cache(at.prompt, names_filter="ln_final.hook_scale")
    hooks = [(names.in_block("attn.hook_v", layer), alone)]
    hooks.append((names.in_block("attn.hook_z", layer), keep("z")))
    omni.model.run_with_hooks(at.prompt, fwd_hooks=hooks)
    weight = omni.model.unembed.weight
    towards = (weight[at.heard] - weight[at.seen]) * omni.model.ln_final.w
    attn: Any = omni.model.blocks[layer].attn
    written = torch.einsum("hd,hdm->hm", seen["z"][0, -1], attn.W_O)
    expected = written @ towards / cache["ln_final.hook_scale"][0, -1]
    ours = found.heads[layer, :, found.spans.index("audio")]
    assert ours.numpy() == pytest.approx(expected.detach().numpy(), abs=1e-5)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    clip = write_clip(tmp_path / "c.mp4", seconds=1, fps=4, width=56, height=56, audio_hz=440)
    yield Case(Prompt("What?", video=clip), "clip", choice=GIVEN)


def test_the_table_is_the_attribution(omni: HookedOmni, case: Case, passes: Any):
    shared = prefilled(omni, case)
    passes.clear()
    table: Any = heads.run(omni, [shared])
    assert [n for _, n in passes] == [3]  # the prompt's last, and what both answers begin with
    at, _ = fork_of(omni, case)
    spans = [span for span in heads.Config().spans if span in at.prompt.spans]
    found, cfg = direct(omni.model, at, spans), omni.model.cfg
    assert table["share"].sum() == pytest.approx(found.odds, abs=2e-4)
    rows: Any = table[table["component"] == "head"]
    assert len(rows) == cfg.n_layers * cfg.n_heads * len(found.spans)
    assert rows["share"].to_numpy() == pytest.approx(found.heads.flatten().numpy(), abs=1e-5)
    assert "answer" in spans and set(table["component"]) == {"head", "mlp", "embedding"}


def test_answers_may_be_given(omni: HookedOmni, case: Case):
    config = heads.Config(options=GIVEN.options)
    table, same = heads.run(omni, [replace(case, choice=None)], config), heads.run(omni, [case])
    assert table["share"].tolist() == same["share"].tolist()


@pytest.mark.parametrize(
    ("given", "decisive"),
    [
        (None, "none"),
        (replace(GIVEN, label=None), "rain falls"),
        (ChoiceQuestion("?", ("a", "b", "c"), "a"), "'c'"),
        (ChoiceQuestion("?", ("rain", "rain falls"), "rain"), "begins the other"),
    ],
)
def test_what_has_no_fork_is_skipped(omni: HookedOmni, case: Case, given: Any, decisive: str):
    table = heads.run(omni, [replace(case, choice=given)])
    assert table.empty and decisive in table.attrs["skipped"]["clip/hear"]


def test_words_need_a_tokenizer(omni: HookedOmni, case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(omni.model, "tokenizer", None)
    for analysis in (heads, choice):
        table = analysis.run(omni, [case])
        assert table.empty and "tokenizer" in table.attrs["skipped"]["clip/hear"]


def test_wrong_spans_and_heads_are_refused(omni: HookedOmni, prompt: EmbeddedPrompt, case: Case):
    at = fork(omni.model, prompt, "rain", "rags")
    with pytest.raises(ResultsError, match="audio"):
        direct(omni.model, at, ["audio", "text+audio"])
    with pytest.raises(SpanError, match="smell"):
        direct(omni.model, at, ["smell"])
    with pytest.raises(ResultsError, match="once"):
        heads.Config(("audio", "audio"))
    for options in (("dog",), ("dog", " "), ("a", "b", "c")):
        with pytest.raises(ResultsError, match="two answers"):
            heads.Config(options=options)
    for layer, head in ((99, 0), (0, 99), (-1, 0)):
        with pytest.raises(HookError, match=rf"{layer}\.{head}"):
            ov_lens(omni.model, prompt, layer, head, "audio")
    with pytest.raises(ResultsError, match="0"):
        ov_lens(omni.model, prompt, 0, 0, "audio", top_k=0)
    with pytest.raises(PromptError, match="begins the other"):
        fork(omni.model, prompt, "rain", "rain")


def test_a_head_writes_what_its_weights_make_of_a_value(omni: HookedOmni, prompt: EmbeddedPrompt):
    layer, head = 1, omni.model.cfg.n_heads - 1
    table = ov_lens(omni.model, prompt, layer, head, "audio", top_k=2)
    _, cache = omni.model.run_with_cache(prompt, names_filter=names.in_block("attn.hook_v", layer))
    where = prompt.spans["audio"]
    value = cache[names.in_block("attn.hook_v", layer)][0, where, -1]  # the last heads' own
    attn: Any = omni.model.blocks[layer].attn
    written = omni.model.ln_final(value @ attn.W_O[head])
    expected = omni.model.unembed(written).log_softmax(-1).topk(2).values
    assert table["logprob"].to_numpy() == pytest.approx(
        expected.flatten().detach().numpy(), abs=1e-4
    )
    assert table["position"].tolist() == where.repeat_interleave(2).tolist()


def planted(shares: dict[tuple[int, int], dict[str, list[float]]]) -> pd.DataFrame:
    rows = [
        dict(sample=f"{i}", kind="counterfactual", question="forced.1", component="head")
        | dict(layer=layer, head=head, span=span, share=share, odds=1.0)
        for (layer, head), own in shares.items()
        for span, values in own.items()
        for i, share in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_ranking_and_specialists_are_of_clips():
    table = planted(
        {
            (0, 0): {"audio": [1.0, 3.0], "video": [0.0, 0.0]},
            (0, 1): {"audio": [-1.0, 1.0], "video": [-3.0, -1.0]},
            (1, 0): {"audio": [4.0, 4.0], "video": [-4.0, 4.0]},
        }
    )
    best = ranking(table, "audio")
    assert best[["layer", "head"]].values.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert best["mean"].tolist() == [4.0, 2.0, 0.0] and set(best["n"]) == {2}
    own = specialists(table).set_index(["layer", "head"])["specialty"]
    assert own.to_dict() == {(0, 0): 1.0, (0, 1): pytest.approx(-1 / 3), (1, 0): 0.0}
    lines = heads.headline(table)
    assert "heads that read the audio add 6.00 nats" in lines[1] and "1.0 (+4.00)" in lines[1]
    pictures: Any = [axes.images[0] for axes in heads.plot(table).axes[:2]]
    assert [float(picture.get_array().max()) for picture in pictures] == [4.0, 0.0]

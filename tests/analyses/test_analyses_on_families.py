"""Every analysis runs on every family unchanged."""

from typing import Any

import pytest

from analyses import attention_share, distribution_shift, knockout, logit_lens
from analyses.cases import Case
from tests.support.models import CLIP_OF

LONG = 6


@pytest.mark.parametrize(("name", "kind"), CLIP_OF.items(), ids=list(CLIP_OF))
def test_every_analysis_runs_on_every_family(
    models: dict, clips: dict, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    omni = models[name]
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ())
    prompt = omni.embed_inputs(**clips[name, kind])
    media = tuple(m for m in ("audio", "video") if m in prompt.spans)
    case = Case(prompt, "clip", audio_captions=("a dog barks",), video_captions=("a red bus",))
    shares = attention_share.run(omni, [case], attention_share.Config(max_new_tokens=LONG))
    lens = logit_lens.run(omni, [case], logit_lens.Config(span=media[0]))
    cuts = knockout.run(omni, [case], knockout.Config(keys=media, max_new_tokens=LONG))
    n_layers = omni.model.cfg.n_layers
    for table in (shares, lens, cuts):
        assert len(table) and table.attrs["skipped"] == {}
    whole: Any = shares[shares["segment"].isin([*media, "text", "generated"])]
    assert whole.groupby("layer")["share"].sum().tolist() == pytest.approx([1.0] * n_layers)
    assert sorted(lens["layer"].unique()) == list(range(n_layers))
    assert set(cuts["key"]) == {"none", *media}
    assert all(cuts["caption_logprob"] <= 0)


@pytest.mark.parametrize(("hears", "sees"), [("omni", "vl"), ("omni3", "vl3")])
def test_a_model_and_its_base(models: dict, clips: dict, hears: str, sees: str) -> None:
    omni, base = models[hears], models[sees]
    case = Case(omni.embed_inputs(**clips[hears, CLIP_OF[hears]]), "clip")
    base_prompts = {case.id: base.embed_inputs(**clips[sees, "video"])}
    config = distribution_shift.Config(max_new_tokens=LONG)
    table = distribution_shift.run(omni, [case], config, base=base, base_prompts=base_prompts)
    assert len(table) and all(table["kl_base_model"] >= 0) and all(table["base_rank"] >= 1)

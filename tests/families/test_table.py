"""The table of families: who is listed, who is refused, and when."""

from typing import Any

import pytest
import transformers

from hooked_omni import load
from hooked_omni.__main__ import main
from hooked_omni.errors import CheckpointError, UnknownModelError
from hooked_omni.families import FAMILIES, family_of
from hooked_omni.families.not_computed import NOT_COMPUTED
from hooked_omni.hf.config_file import family_named
from tests.support.checkpoints import copied, with_config
from tests.support.places import ROOT

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
PARTLY = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
WINDOW = {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 4}
EVERY = [{"hidden_act": "gelu"}, {"rope_parameters": YARN}, {"rope_parameters": PARTLY}]
WINDOWED = [*EVERY, WINDOW]
BIASED = [*EVERY, {"attention_bias": True}]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "vl3-moe": BIASED,
    "qwen2-vl": WINDOWED,
    "internvl": [*WINDOWED, {"model_type": "mistral"}, {"model_type": "gpt_oss"}],
    "video-llama3": [*WINDOWED, {"model_type": "gemma2"}],
    "llava-onevision": WINDOWED,
    "audio-flamingo3": WINDOWED,
    "qwen3-asr": [*BIASED, WINDOW],
}


def test_the_readme_has_every_family():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [f"| {one.checkpoints} | {one.decoder} | {one.proved} |" for one in FAMILIES]
    assert not [row for row in rows if row not in readme]


def test_families_are_listed_with_what_was_proved(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as end:
        main(["models"])
    printed = capsys.readouterr().out
    assert end.value.code in (0, None)
    for family in FAMILIES:
        assert family.checkpoints in printed and family.proved in printed
    assert "qwen3_5" in printed and "linear attention" in printed


@pytest.mark.parametrize("kind", sorted(NOT_COMPUTED))
def test_decoders_that_cannot_be_hooked_exactly(kind):
    nested = {"model_type": "internvl", "text_config": {"model_type": f"{kind}_text"}}
    for config in ({"model_type": kind}, {"model_type": f"{kind}_text"}, nested):
        with pytest.raises(UnknownModelError) as error:
            family_of(config)
        assert kind in str(error.value) and NOT_COMPUTED[kind] in str(error.value)


def test_types_that_are_refused_are_those_of_transformers():
    """A name that is spelled otherwise would refuse nothing."""
    known = set(transformers.CONFIG_MAPPING)
    assert not {kind for kind in NOT_COMPUTED if not {kind, f"{kind}_text"} & known}


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, changes) for name, variants in VARIANTS.items() for changes in variants],
    ids=str,
)
def test_a_variant_is_refused_before_its_weights(folders, tmp_path, name, changes):
    folder = with_config(copied(folders[name], tmp_path / "variant"), **changes)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    for decoder_only in (False, True):
        with pytest.raises(
            CheckpointError, match=r"^expected (a decoder|a text model|a config|attention).*got"
        ):
            load(folder, decoder_only=decoder_only)


@pytest.mark.parametrize("command", [load, family_named])
def test_another_layout_says_what_to_load(command, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "phi4mm", "auto_map": {}}')
    with pytest.raises(UnknownModelError, match=r"got 'phi4mm': .*'refs/pr/70'.*adapters"):
        command(tmp_path)

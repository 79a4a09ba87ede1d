"""One changed number anywhere is another model; another place or device is not."""

import shutil
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analyses.running.identity import model_facts
from hooked_omni import HookedOmni, load
from hooked_omni.decoding.prefill import prefill, prefill_state
from hooked_omni.fingerprint import tensor_hash, unedited, word_sums
from tests.support.models import save_checkpoint
from tests.support.runs import noise


@pytest.fixture(scope="module")
def own() -> HookedOmni:
    """A model that these tests may edit."""
    return load("random-omni")


def test_one_changed_bit_of_any_tensor_is_noticed(own: HookedOmni) -> None:
    """Of decoder and towers, weights and buffers, those that are not saved among them."""
    before, rng = own.content_hash(), torch.Generator().manual_seed(0)
    towers: Any = own.towers
    tensors = [*towers.hf.named_parameters(), *towers.hf.named_buffers()]
    assert any("audio_tower" in name for name, _ in tensors) and any(
        "inv_freq" in n for n, _ in tensors
    )
    for name, tensor in tensors:
        raw = tensor.data.reshape(-1).view(torch.uint8)
        at, bit = (int(torch.randint(n, (), generator=rng)) for n in (len(raw), 8))
        raw[at] ^= 1 << bit
        assert own.content_hash() != before, name
        raw[at] ^= 1 << bit
    assert own.content_hash() == before


SETTINGS: dict[str, Any] = {
    "model.blocks.2.ln1.eps": 1e-5,
    "model.blocks.0.attn.scale": 0.3,
    "model.blocks.0.mlp.gate_proj.weight": nn.Parameter(noise(128, 64)),
    "model.rotary.inv_freqs": [torch.linspace(0, 1, 8)],
    "towers.hf.model.visual.blocks.0.norm1.variance_epsilon": 1e-5,
    "towers.hf.model.visual.blocks.0.mlp.act_fn": nn.GELU(),
    "towers.hf.model.visual.config._attn_implementation": "eager",
    "towers.hf.model.audio_tower.training": True,
    "towers.hf.config.position_id_per_seconds": 30,
    "towers.hf.config.audio_config.d_model": 7,
    "towers.hf.model.language_model.rotary_emb.inv_freq": torch.linspace(0, 1, 8),
    "processor.video_processor.image_mean": (0.5, 0.5, 0.4),
    "processor.feature_extractor.hop_length": 161,
    "processor.chat_template": "{{ messages }}",
    "processor.tokenizer.chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("path", SETTINGS)
def test_a_setting_that_changes_numbers_is_noticed(own: HookedOmni, path: str) -> None:
    parent, _, name = path.rpartition(".")
    part, before = attrgetter(parent)(own), own.content_hash()
    kept = getattr(part, name)
    setattr(part, name, SETTINGS[path])
    assert own.content_hash() != before
    setattr(part, name, kept)
    assert own.content_hash() == before


def test_other_words_and_config_are_noticed() -> None:
    own = load("random-omni")
    before = model_facts(own)
    own.processor.tokenizer(["a", "a longer one"], padding=True)
    assert model_facts(own) == before
    own.processor.tokenizer.add_tokens(["dog"])
    assert model_facts(own)["weights"] != before["weights"]
    own.model.cfg.attn_implementation = "eager"
    assert model_facts(own)["config"] != before["config"]


def test_heads_that_change_places_and_negated_columns_are_noticed(own: HookedOmni) -> None:
    weight = own.hf.model.language_model.layers[1].self_attn.q_proj.weight
    kept, hashes = weight.data.clone(), [own.content_hash()]
    weight.data.copy_(torch.cat([kept[16:32], kept[:16], kept[32:]]))
    hashes.append(own.content_hash())
    weight.data.copy_(torch.cat([kept[:, :3], -kept[:, 3:4], kept[:, 4:]], dim=1))
    hashes.append(own.content_hash())
    weight.data.copy_(kept)
    assert len(set(hashes)) == 3 and own.content_hash() == hashes[0]


def test_the_place_of_a_checkpoint_is_not_its_identity(tmp_path: Path) -> None:
    own = load("random-omni")
    first = save_checkpoint(own.hf, own.processor, tmp_path / "a" / "mine")
    second = shutil.copytree(first, tmp_path / "b" / "mine")
    facts = [model_facts(load(str(folder))) for folder in (first, second)]
    assert facts[0] == facts[1] and facts[0]["name"] == "mine"
    assert str(tmp_path) not in repr(facts) and "cpu" not in repr(facts)


def test_shape_and_dtype_are_part_of_a_tensor() -> None:
    tensor = noise(6, 4)
    others = [tensor.T, tensor.reshape(4, 6), tensor.view(torch.int32), tensor.double(), tensor[:5]]
    hashes = [tensor_hash(t) for t in (tensor, *others)]
    assert len(set(hashes)) == len(hashes)
    assert tensor_hash(tensor.T.contiguous().T) == tensor_hash(tensor)
    assert tensor_hash(torch.empty(0)) != tensor_hash(torch.empty(0, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_sums_of_an_accelerator_notice_what_a_hash_does(dtype: torch.dtype) -> None:
    """They are made of any device's tensors: here of the CPU's."""
    tensor = (noise(301, 7) * 50).to(dtype)
    raw = tensor.reshape(-1).view(torch.uint8)
    before, rng = word_sums(raw), torch.Generator().manual_seed(1)

    def differs(changed: Tensor) -> bool:
        return not torch.equal(word_sums(changed.reshape(-1).view(torch.uint8)), before)

    assert not differs(tensor.clone())
    for _ in range(100):
        changed = raw.clone()
        changed[int(torch.randint(len(raw), (), generator=rng))] ^= 128
        assert differs(changed)
    assert differs(tensor.flip(0)) and differs(tensor[torch.tensor([1, 0, *range(2, 301)])])
    assert differs(torch.cat([-tensor[:, :2], tensor[:, 2:]], 1)) and differs(tensor * 2)


def test_a_model_is_read_once_where_nothing_edits_it(own: HookedOmni) -> None:
    """And again after the block, however it ends."""
    before, decoder = own.content_hash(), prefill(own.model, torch.tensor([[1, 2, 3]]))
    weight = own.model.embed.weight.data
    with pytest.raises(KeyError), unedited():
        with unedited():
            assert own.content_hash() == before
        weight[5] += 1
        assert own.content_hash() == before  # as it was read, not as it is
        assert prefill_state(own.model, decoder) is None  # the decoder alone was not read yet
        own.model.cfg.eps *= 2
        assert prefill_state(own.model, decoder) is None
        raise KeyError
    assert own.content_hash() != before
    weight[5] -= 1
    own.model.cfg.eps /= 2

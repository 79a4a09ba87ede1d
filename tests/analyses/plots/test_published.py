"""The paper's numbers stand beside those of its own checkpoints, and of no other's."""

from typing import Any

import pytest

from analyses.plots import published

ITS = ["Qwen/Qwen2.5-Omni-3B", "qwen/qwen2.5-omni-3b", "/data/Qwen/Qwen2.5-Omni-3B/"]
OTHERS: list[Any] = [
    *("my/Qwen2.5-Omni-3B", "Qwen2.5-Omni-3B", "/data/Qwen2.5-Omni-3B", "myQwen/Qwen2.5-Omni-3B"),
    *("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B-AWQ", "Qwen/Qwen2.5-Omni-3B + lora"),
    *("Qwen/Qwen2.5-Omni-3B/checkpoint-500", "", None, "/", "random-omni"),
]


@pytest.mark.parametrize("name", ITS)
def test_a_checkpoint_is_known_by_its_whole_name(name: str) -> None:
    of = {"model": name, "judge": {"model": "qwen3-32b"}, "base": "Qwen/Qwen2.5-VL-3B-Instruct"}
    assert published.number("audio_fidelity", of, "hear", "factual") == 53.0
    assert published.number("kl_divergence", of, "hear", "all") == 0.4
    assert published.title(of) == "published, Qwen2.5-Omni-3B" and published.note(name) is None
    for base in ("my/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL", None):
        assert published.number("kl_divergence", {**of, "base": base}, "hear", "all") is None


@pytest.mark.parametrize("name", OTHERS)
def test_another_owners_model_is_another(name: Any) -> None:
    of = {"model": name, "judge": {"model": "qwen3-32b"}, "base": "Qwen/Qwen2.5-VL-3B-Instruct"}
    for table in ("scalars", "figure4_attention_share", "figure6_knockout"):
        assert published.points(table, of, "hear", "counterfactual").empty
    assert published.title(of) == "published, another model"
    alike = str(name).lower().rstrip("/").endswith("qwen2.5-omni-3b")
    assert bool(published.note(str(name))) == alike

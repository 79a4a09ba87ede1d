"""A judge behind a real serving process: `transformers serve` speaks the wire format, not we."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from analyses.judge.judgement import JudgeError
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items, missing
from tests.support.judge_server import captions

SAYS = ('{"reason": "It fits, ', 'on the whole.", ', '"score": ', "0.625", "}")
"""What the model says to anything: a chain of tokens, each of which is followed by the next."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 whose next token depends on the last one alone."""
    words = ["<unk>", "<eos>", "<go>", *SAYS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.Fuse()
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}<go>"
    special = dict(unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        additional_special_tokens=["<go>"],
        chat_template=template,
        **special,
    )
    n = len(words)
    sizes: Any = dict(vocab_size=n, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    sizes |= dict(num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16384)
    config = transformers.Qwen2Config(**sizes, eos_token_id=1, tie_word_embeddings=False)
    qwen: Any = transformers.Qwen2ForCausalLM(config)
    qwen.requires_grad_(False)
    for name, weight in qwen.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    qwen.get_input_embeddings().weight.copy_(torch.eye(n, 8))
    following = [2, *range(3, n), 1]  # <go>, the chain, <eos>
    next_to = torch.zeros(n, 8)
    for token, then in pairwise(following):
        next_to[then, token] = 100.0
    qwen.get_output_embeddings().weight.copy_(next_to)
    folder = tmp_path_factory.mktemp("judge") / "chain"
    qwen.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    command += ["--port", str(port), "--device", "cpu"]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = model.parent / "server.log"
    with log.open("w") as out, subprocess.Popen(
        command, env={**os.environ, **quiet}, stdout=out, stderr=out
    ) as server:  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                if httpx.get(f"{address}/health", timeout=5.0, trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
            assert server.poll() is None, log.read_text()[-2000:]
        yield f"{address}/v1"
        server.terminate()


def test_a_real_server_is_read(url: str, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    own: dict[str, Any] = dict(connections=2, max_tokens=32, timeout=60.0)
    with pytest.raises(JudgeError, match=r"422: .*'top_k'.* Set what it does not take to None"):
        judge_items(captions(3), load_judge(str(model), url, **own), tmp_path / "refused.jsonl")
    asking = load_judge(str(model), url, tmp_path / "logs", top_k=None, **own)
    table = judge_items(captions(3), asking, tmp_path / "journal.jsonl")
    assert missing(table).empty, missing(table)["reason"].tolist()
    assert table["score"].tolist() == [0.625] * 3
    assert set(table["reason"]) == {"It fits, on the whole."}

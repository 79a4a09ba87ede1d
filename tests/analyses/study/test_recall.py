"""A language judge reads the tokens inside the model: which of them, how many, and beside what."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from openai import APIStatusError

from analyses.cases import KEYS, Case
from analyses.judge.connection import is_too_long
from analyses.judge.judgement import JudgeDownError, JudgeError
from analyses.logit_lens import headline, plot
from analyses.logit_lens.judged import judged
from analyses.logit_lens.table import COLUMNS
from analyses.running.progress import no_progress
from analyses.running.results import read_table
from analyses.study.claims import check
from analyses.study.judging import judge_study, require_judge, scores_path
from hooked_omni.errors import ResultsError
from hooked_omni.inputs.prompt import Prompt
from tests.support.judge_server import MARKER, MODEL, JudgeServer
from tests.support.places import ROOT

SOUNDS = ("barking", "siren", "thunder", "piano", "drill", "violin") * 2
KINDS = ("factual", "counterfactual")
N_LAYERS = 6
Judged = Callable[..., Any]


def cases(n: int) -> list[Case]:
    return [
        Case(Prompt("?", video="a.mp4"), f"{kind} {i}", kind, audio_captions=(f"{sound} {i}",))
        for kind in KINDS
        for i, sound in enumerate(SOUNDS[:n])
    ]


def tables(n: int = 2, noise: int = 3, said: str = "a picture") -> dict[str, pd.DataFrame]:
    """From layer 2 on, a position of each clip reads its own sound, and others noise."""
    rows, captions = [], []
    for case in cases(n):
        captions.append(case.keys | dict(caption=said, events=(), heard=(), seen=()))
        sound = case.audio_captions[0].split()[0]
        for layer in range(N_LAYERS):
            told = [f" {sound.upper()}", sound] if layer >= 2 else ["the", " The\n"]
            texts = [
                *told,
                "7",
                "<0xE7><0x8B>",
                *[f"zz{chr(97 + i % 26)}{i}" for i in range(noise)],
            ]
            for position, text in enumerate(texts):
                row = dict(span="audio", lens="raw", layer=layer, position=position, second=0.0)
                row |= dict(measure="top", token_text=text, events=(), heard=(), seen=())
                rows.append(case.keys | row)
    lens = pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])
    made: Any = dict(captions=pd.DataFrame(captions), logit_lens=lens)
    for table in made.values():
        table.attrs = dict(model="m", n_cases=len(captions), skipped={}, twins={})
    return made


@pytest.fixture
def judged_by(server: JudgeServer, tmp_path: Path) -> Judged:
    """Scores of a study's tables by a judge on the server, which knows words when it reads them."""
    server.recalls = True

    def scores(own: Any = None, **settings: Any) -> pd.DataFrame:
        given = dict(name=MODEL, url=server.url, connections=4, retries=0) | settings
        judge, reading = require_judge(given, tmp_path)
        made = own or tables()
        n = len(made["captions"]) // 2
        return judge_study(judge, made, cases(n), tmp_path, no_progress, reading)

    return scores


def read(scores: pd.DataFrame, condition: str) -> Any:
    return scores[(scores["what"] == "recall") & (scores["condition"] == condition)]


def tokens(server: JudgeServer) -> list[list[str]]:
    data = [json.loads(b["messages"][-1]["content"].split(MARKER)[1]) for b in server.bodies]
    return [one["tokens"] for one in data if "tokens" in one]


def test_recall_is_of_layers_of_the_answer_and_by_chance(judged_by: Judged) -> None:
    made = tables(12)
    scores = judged_by(made, layers=[[0, 1]], last=2)
    expected = {"raw": 1.0, "raw, layers 0-1": 0.0, "raw, layers 4-5": 1.0}
    for name, score in [*expected.items(), ("answer", 0.0)]:
        assert set(read(scores, name)["score"]) == {score}, name
        assert set(read(scores, name)["kind"]) == set(KINDS)
    for name in expected:
        chance = read(scores, f"{name}, other clips")
        assert set(chance["score"]) == {0.0} and set(chance["status"]) == {"judged"}
        assert chance["text"].tolist() == read(scores, name)["text"].tolist()
    claim = next(f for f in check(made, scores) if f.claim.name == "heard, not said")
    assert claim.verdict == "agrees" and "100.0 % can be read (judged, lens raw)" in claim.ours
    assert "0.0 % is said; by chance 0.0 %" in claim.ours


def test_what_is_said_is_not_only_inside(judged_by: Judged) -> None:
    made = tables(12, said=" ".join(sorted(set(SOUNDS))) + "\nwere all there")
    scores = judged_by(made)
    assert set(read(scores, "answer")["score"]) == {1.0}
    assert not any("\n" in text for text in read(scores, "answer")["text"])
    claim = next(f for f in check(made, scores) if f.claim.name == "heard, not said")
    assert claim.verdict == "differs"


def test_chance_is_by_the_next_clip_of_the_kind(judged_by: Judged) -> None:
    chance = (
        read(judged_by(tables(3)), "raw, other clips").set_index("sample")["references"].map(list)
    )
    assert chance["factual 0"] == ["siren 1"] and chance["factual 2"] == ["barking 0"]
    assert chance["counterfactual 1"] == ["thunder 2"]


def test_tokens_come_once_and_the_commonest_first(judged_by: Judged, server: JudgeServer) -> None:
    judged_by()
    for own in tokens(server):
        if len(own) > 1:
            # Twice in each of four layers; in each of six; twice in each of two.
            assert own[1:] == ["zza0", "zzb1", "zzc2", "the"] and own[0] in SOUNDS
    assert max(server.seen.values()) <= len(server.bodies)


def test_lists_are_cut_to_the_servers_context(judged_by: Judged, server: JudgeServer) -> None:
    server.context = 11_000
    scores = judged_by(tables(noise=600))
    assert set(scores["status"]) == {"judged"} and set(read(scores, "raw")["score"]) == {1.0}
    lists = [own for own in tokens(server) if len(own) > 1]
    assert {len(own) for own in lists} <= {*range(150, 500)}
    assert scores.attrs["cut"][0].startswith("factual 0, hear, raw: the judge read the ")
    assert scores.attrs["cut"][0].endswith(" commonest of 602 tokens")
    assert len(scores.attrs["cut"]) == 4
    pairs = read(scores, "raw"), read(scores, "raw, other clips")
    assert pairs[0]["text"].tolist() == pairs[1]["text"].tolist()
    server.context = 32_768
    assert judged_by(tables(noise=600)).attrs["cut"] == []


def test_a_setting_stands_for_a_context_that_is_not_said(
    judged_by: Judged, server: JudgeServer
) -> None:
    server.context, server.says_context = 11_000, False
    made = tables(3, noise=600)
    scores = judged_by(made, connections=1)  # refusals in a row are no judge that went down
    gone = scores[scores["status"] == "missing"]
    assert set(gone["condition"]) == {"raw", "raw, other clips"} and len(gone) == 12
    assert gone["reason"].str.startswith("too long for the judge: ").all()
    assert gone["reason"].str.contains("maximum context length").all()
    assert gone["score"].isna().all()
    again = judged_by(made, context=11_000)
    assert set(again["status"]) == {"judged"} and len(again.attrs["cut"]) == 6


def test_a_refusal_that_inspect_knows_is_one_too(judged_by: Judged, server: JudgeServer) -> None:
    server.context, server.says_context = 11_000, False
    server.too_long = 400, "the input length of 9999 is no more than 2048"
    scores = judged_by(tables(noise=600), connections=1)
    gone = scores[scores["status"] == "missing"]
    assert len(gone) == 8 and gone["reason"].str.contains("input length of 9999").all()


@pytest.mark.parametrize(
    ("status", "text", "too_long"),
    [
        (400, "maximum context length is 2048 tokens. However, you requested 9999", True),
        (400, "The input (9999 tokens) is longer than the model's context length", True),
        (400, "the request exceeds the available context size. try increasing it", True),
        (400, "Requested token count exceeds the model's maximum context length", True),
        (400, "prompt is too long: 9999 tokens > 2048 maximum", True),
        (400, "input token count (9999) exceeds the maximum number of tokens allowed", True),
        (413, "Request Entity Too Large", True),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9999", True),
        (400, "max_tokens is too large: 8192. This model supports at most 4096", False),
        (422, "presence_penalty is not supported", False),
        (429, "Rate limit: tokens per minute exceeded", False),
        (500, "the context size", False),
    ],
)
def test_servers_say_it_in_their_own_words(status: int, text: str, too_long: bool) -> None:
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response: Any = httpx.Response(status, json={"error": {"message": text}}, request=request)
    assert is_too_long(APIStatusError(text, response=response, body=None)) == too_long


def test_any_other_refusal_still_counts(judged_by: Judged, server: JudgeServer) -> None:
    server.context, server.says_context = 11_000, False
    server.too_long = 400, "max_tokens: at most 4096"
    with pytest.raises(JudgeDownError, match="max_tokens: at most 4096"):
        judged_by(tables(3, noise=600), connections=1)


def test_a_caption_that_is_too_long_is_missing(judged_by: Judged, server: JudgeServer) -> None:
    made, server.context = tables(), 11_000
    made["captions"].loc[0, "caption"] = "a dog and " * 5000
    scores = judged_by(made)
    gone = scores[scores["status"] == "missing"]
    assert set(gone["what"]) == {"audio", "recall", "events"} and set(gone["sample"]) == {
        "factual 0"
    }
    assert gone["reason"].str.contains("too long for the judge: about 2.* tokens").all()
    assert server.seen["a dog and " * 5000] == 0


@pytest.mark.parametrize("context", [1, 4096, 8192, 10_000])
def test_a_context_that_is_too_small_is_refused_first(
    judged_by: Judged, server: JudgeServer, context: int
) -> None:
    server.context = context
    numbers = rf"expected a context of 1\d{{4}} tokens .*the reply 8192\), got {context}\. .*len"
    with pytest.raises(JudgeError, match=numbers):
        judged_by()
    server.context = 32_768
    with pytest.raises(JudgeError, match=numbers):
        judged_by(context=context)
    assert not server.bodies


def test_settings_of_layers_are_checked(judged_by: Judged) -> None:
    for wrong, message in (
        ({"last": 7}, r"among 0 to 5, .* got \[\(-1, 5\)\]"),
        ({"last": -1}, "`last` of 0 or more, got .* and -1"),
        ({"layers": [[4, 6]]}, r"got \[\(4, 6\)\]"),
        ({"layers": [[3, 2]]}, "got"),
        ({"layers": [3, 4]}, "expected layers"),
        ({"layers": [[1, 2, 3]]}, "expected layers"),
        ({"last": True}, "expected last like 0"),
        ({"first_only": 1}, "expected first_only like False"),
    ):
        with pytest.raises(ResultsError, match=message):
            judged_by(**wrong)
    with pytest.raises(ResultsError, match="which judges no tokens"):
        require_judge({"name": "lexical", "last": 5}, Path())


def test_nothing_to_read_is_no_end(judged_by: Judged, server: JudgeServer) -> None:
    made = tables()
    made["logit_lens"]["token_text"] = "7"
    assert set(read(judged_by(made), "raw")["score"]) == {0.0}
    made["logit_lens"] = made["logit_lens"].head(0)
    assert "recall" not in set(judged_by(made)["what"])


def test_figure_and_sentences_have_the_judges_recall(judged_by: Judged, tmp_path: Path) -> None:
    made = tables()
    made["logit_lens"].attrs["model"] = "Qwen/Qwen2.5-Omni-3B"
    scores = judged_by(made, last=4)
    table: Any = judged(scores)
    assert len(table) == 4 * 3 and table["chance"].isna().sum() == 4
    drawn: Any = plot(made["logit_lens"], scores).axes[3]
    ticks = [tick.get_text() for tick in drawn.get_xticklabels()]
    assert sorted(ticks) == ["answer", "raw", "raw\nlayers 2-5"]
    heights = [round(bar.get_height()) for bar in drawn.patches]
    assert sorted(heights) == [0] * 3 + [100] * 6  # factual, counterfactual, and all
    assert any("published" in str(line.get_label()) for line in drawn.get_lines())
    lines = headline(made["logit_lens"], scores)
    assert any(
        line.startswith("counterfactual, hear, raw, layers 2-5: 100.0 % [100.0, 100.0], n = 2 of")
        and "(other clips' sounds: 0.0 % [0.0, 0.0], n = 2)" in line
        for line in lines
    )
    assert len(plot(made["logit_lens"]).axes) < 8
    path = scores_path(tmp_path, MODEL)
    assert judged(read_table(path)).equals(table)


def test_docs_and_studies_serve_the_judge_alike() -> None:
    files = [ROOT / "docs" / "judge.md", *(ROOT / "examples" / "studies").glob("*.toml")]
    found = [re.findall(r"vllm serve (.*)", file.read_text()) for file in files]
    commands = {line for lines in found for line in lines if "Qwen3-32B" in line}
    assert len(commands) == 1 and "--max-model-len 32768" in commands.pop()

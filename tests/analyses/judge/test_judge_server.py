"""Whatever a judge's server does: each item is scored once from a valid reply, or missing."""

import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspect_ai.log import read_eval_log

from analyses.judge.judgement import Item, JudgeDownError, JudgeError
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items, missing
from hooked_omni.errors import HookedOmniError, UnknownModelError
from tests.support.judge_server import (
    FAILS,
    ILL,
    MODEL,
    STRANGE,
    WELL,
    JudgeServer,
    captions,
    planted,
)
from tests.support.killed import from_the_fork_server, small_judging

N = 6
Judged = Callable[..., Any]


@pytest.fixture
def judged(server: JudgeServer, tmp_path: Path) -> Judged:
    """The table of scores of some captions, by a judge on the server."""

    def table(
        items: list[Item] | None = None, journal: str = "j.jsonl", logs: str = "", **settings: Any
    ) -> Any:
        quick = dict(connections=2, retries=0, timeout=60.0) | settings
        judge = load_judge(MODEL, server.url, tmp_path / logs if logs else None, **quick)
        return judge_items(items or captions(N), judge, tmp_path / journal)

    return table


def scores(table: Any) -> dict[str, float]:
    judged = table[table["status"] == "judged"]
    return dict(zip(judged["text"], judged["score"], strict=True))


ALL = {f"caption {i}": planted(f"caption {i}") for i in range(N)}


def test_each_item_is_scored_once(server: JudgeServer, judged: Judged, tmp_path: Path) -> None:
    table = judged(logs="logs", seed=3)
    assert scores(table) == ALL
    assert server.seen == dict.fromkeys(ALL, 1)
    assert server.most_busy <= 2
    assert table["judge"].unique().tolist() == [MODEL]
    assert table["prompt_version"].unique().tolist() == ["1"]
    assert table.attrs["missing"] == {"audio": 0}
    paper = dict(model=MODEL, temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
    paper |= dict(max_tokens=8192, seed=3)
    body = server.bodies[0]
    assert {name: body[name] for name in paper} == paper
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["reason", "score"]
    (file,) = (tmp_path / "logs").glob("*.eval")
    samples = read_eval_log(str(file)).samples or []
    assert {s.input: s.scores["audio"].value for s in samples if s.scores} == ALL
    assert "As planted." in samples[0].messages[-1].text


def test_nobody_but_the_judge_is_called(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: set[str] = set()
    getaddrinfo = socket.getaddrinfo

    def noted(host: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.add(host.decode() if isinstance(host, bytes) else str(host))
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    judged(logs="logs")
    assert looked_up == {"127.0.0.1"}


def test_a_reply_in_another_form_counts(server: JudgeServer, judged: Judged) -> None:
    server.faults |= {f"caption {i}": [fault] for i, fault in enumerate(WELL)}
    assert scores(judged()) == ALL
    assert server.seen == dict.fromkeys(ALL, 1)


@pytest.mark.parametrize("faults", [ILL, *([fault] for fault in (*FAILS, *STRANGE))], ids=" ".join)
def test_what_passes_is_requested_again(server: JudgeServer, judged: Judged, faults: Any) -> None:
    each = [[fault] * n for fault in faults for n in (1, 2)]
    server.faults |= {f"caption {i}": again.copy() for i, again in enumerate(each)}
    table = judged(captions(len(each) + 1), timeout=2.0 if "hang" in faults else 60.0)
    assert scores(table) == {text: planted(text) for text in server.seen}
    n_requests = [server.seen[f"caption {i}"] for i in range(len(each) + 1)]
    assert n_requests == [1 + len(again) for again in (*each, [])]


@pytest.mark.parametrize("faults", [ILL, ["500"], ["cut"], ["half body"]], ids=" ".join)
def test_what_stays_is_missing(server: JudgeServer, judged: Judged, faults: Any) -> None:
    given = captions(len(faults) + N)
    stay = {f"caption {i}": [f"!{fault}"] for i, fault in enumerate(faults, start=3)}
    server.faults |= stay
    table, whole = judged(given), {str(one.text): planted(str(one.text)) for one in given}
    assert scores(table) == {text: score for text, score in whole.items() if text not in stay}
    gone = missing(table)
    assert gone["text"].tolist() == [*stay]
    assert all(reason.startswith("no ") for reason in gone["reason"])
    assert np.isnan(gone["score"].to_numpy()).all()
    assert table.attrs["missing"] == {"audio": len(stay)}
    server.faults.clear()
    before = server.seen.copy()
    assert scores(judged(given)) == whole
    assert server.seen - before == dict.fromkeys(stay, 1)  # once they are well, only those


def test_any_mixture(server: JudgeServer, judged: Judged) -> None:
    kinds = [*ILL, *WELL, *STRANGE, "429", "500", "cut", "short"]
    draw = random.Random(0)
    for i in range(40):
        faults = [draw.choice(kinds) for _ in range(draw.randint(0, 4))]
        server.faults[f"caption {i}"] = faults + [f"!{draw.choice(kinds)}"] * (i % 7 == 0)
    items = captions(40)
    table = judged(items, connections=8)
    assert table["text"].tolist() == [item.text for item in items]
    known = table[table["status"] == "judged"]
    assert known["score"].tolist() == [planted(text) for text in known["text"]]
    gone = missing(table)
    assert gone["score"].isna().to_numpy().all()
    assert len(known) + len(gone) == 40 and 0 < len(gone) < 20
    server.faults.clear()
    before = server.seen.copy()
    again = judged(items)
    assert again["status"].tolist() == ["judged"] * 40
    assert server.seen - before == dict.fromkeys(gone["text"], 1)


def test_nothing_is_judged_twice(server: JudgeServer, judged: Judged) -> None:
    first = judged()
    again = judged(connections=1)
    assert server.seen.total() == N
    assert again.equals(first)
    judged(journal="other.jsonl")  # from the cache of inspect-ai
    assert server.seen.total() == N
    same = replace(captions(N)[1], sample="twin", condition="cut")
    twin = judged([*captions(N), same])
    assert twin["score"].tolist()[-1] == planted("caption 1")
    assert server.seen.total() == N
    judged(temperature=0.0)
    assert server.seen.total() == 2 * N  # another judge


def test_a_server_without_schemas(server: JudgeServer, judged: Judged) -> None:
    server.refuses = {"response_format"}
    assert scores(judged(connections=1)) == ALL
    assert sum("response_format" in body for body in server.bodies) == 1


def test_a_server_without_a_setting(server: JudgeServer, judged: Judged) -> None:
    server.refuses = {"response_format", "presence_penalty"}
    with pytest.raises(JudgeError, match=r"got 422: .*presence_penalty is not.*to None"):
        judged()
    assert scores(judged(presence_penalty=None)) == ALL


def test_words_are_marked(judged: Judged) -> None:
    item = Item("s", "factual", "hear", "", "events", "Barking is heard.")
    table = judged([item])
    assert table["words"].tolist() == [("Barking",)]
    assert table["status"].tolist() == ["judged"]
    assert table["score"].isna().to_numpy().all()


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeDownError, match=r"expected a judge at http.*Start it.*is kept"):
        judge_items(captions(N), load_judge(MODEL, url), tmp_path / "j.jsonl")


def test_a_judge_that_goes_down_pauses(server: JudgeServer, judged: Judged) -> None:
    for i in range(10, 40):
        server.faults[f"caption {i}"] = ["!500"]
    with pytest.raises(JudgeDownError, match=r"5 failures in a row.*the same command again"):
        judged(captions(40))
    assert server.seen.total() < 10 + 3 * 8
    server.faults.clear()
    server.seen.clear()
    table = judged(captions(40))
    assert len(scores(table)) == 40
    assert not server.seen.keys() & {f"caption {i}" for i in range(10)}
    whole = judged(captions(40), journal="undisturbed.jsonl")
    assert table.drop(columns="reason").equals(whole.drop(columns="reason"))


def test_few_items_that_all_fail(server: JudgeServer, judged: Judged) -> None:
    server.always = ["!500"]
    with pytest.raises(JudgeDownError, match="expected answers from judge-32b, got 3 failures"):
        judged(captions(3))


def test_a_killed_run_goes_on(server: JudgeServer, judged: Judged, tmp_path: Path) -> None:
    journal = tmp_path / "judgements.jsonl"
    server.answers = 5
    process = from_the_fork_server(small_judging, server.url, tmp_path)
    lines = lambda: journal.read_bytes().count(b"\n") if journal.exists() else 0  # noqa: E731
    while server.seen.total() < 7 or lines() < 5:  # two wait, and nothing more is requested
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert lines() == 5
    server.answers = None
    server.seen.clear()
    assert len(scores(judged(captions(60), journal=journal.name))) == 60
    assert set(server.seen.values()) == {1} and server.seen.total() == 55


def test_an_old_key(server: JudgeServer, judged: Judged, tmp_path: Path, monkeypatch: Any) -> None:
    server.key = "secret-word"
    with pytest.raises(JudgeError, match=r"expected a key that .* got 401.*JUDGE_API_KEY"):
        judged()
    monkeypatch.setenv("JUDGE_API_KEY", "secret-word")
    assert scores(judged(logs="logs")) == ALL
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert texts and not any(b"secret-word" in text for text in texts)


def test_a_key_that_expires_on_the_way(server: JudgeServer, judged: Judged) -> None:
    for i in range(3, 40):
        server.faults[f"caption {i}"] = ["!401"]
    with pytest.raises(JudgeError, match=r"got 401.*what is judged is kept"):
        judged(captions(40))
    assert server.seen.total() <= 8


def test_no_such_model(server: JudgeServer, judged: Judged) -> None:
    server.models = ["llama", "qwen"]
    with pytest.raises(JudgeError, match=r"'llama', 'qwen'\], got 'judge-32b'"):
        judged()
    assert server.seen.total() == 0


def test_a_name_that_inspect_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="expected a judge that inspect-ai knows"):
        judge_items(captions(N), load_judge("nobody/knows"), tmp_path / "j.jsonl")


@pytest.mark.parametrize(
    "wrong",
    [{"connections": 0}, {"replies": 0}, {"warmth": 1}, {"connections": "a"}, {"seed": 0.5}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(HookedOmniError, match="expected"):
        load_judge(MODEL, "http://127.0.0.1:1/v1", **wrong)

"""Whatever a judge's server does: each item is scored once from a valid reply, or missing."""

import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.judge import Item, JudgeDownError, JudgeError, judge, missing, run
from hooked_omni.errors import HookedOmniError, UnknownModelError
from tests.support.judge_server import FAILS, ILL, MODEL, STRANGE, WELL, JudgeServer, planted
from tests.support.places import ROOT

N = 6


def asked(server: JudgeServer, **settings: Any) -> Any:
    quick = dict(connections=2, retries=0, timeout=60.0)
    return judge(MODEL, server.url, **{**quick, **settings})


def captions(n: int = N) -> list[Item]:
    return [
        Item(f"s{i}", "factual", "hear", "", "audio", f"caption {i}", ("A dog barks",))
        for i in range(n)
    ]


def scores(table: Any) -> dict[str, float]:
    judged = table[table["status"] == "judged"]
    return dict(zip(judged["text"], judged["score"], strict=True))


ALL = {f"caption {i}": planted(f"caption {i}") for i in range(N)}


def test_each_item_is_scored_once(server: JudgeServer, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    asking = judge(MODEL, server.url, logs, connections=2, seed=3)
    table = run(captions(), asking, tmp_path / "j.jsonl")
    assert scores(table) == ALL
    assert server.seen == dict.fromkeys(ALL, 1)
    assert server.most_busy <= 2
    assert table["judge"].unique().tolist() == [MODEL]
    assert table["prompt_version"].unique().tolist() == ["1"]
    assert table.attrs["missing"] == {"audio": 0}
    body = server.bodies[0]
    sent = {k: body[k] for k in ("model", "temperature", "top_p", "top_k", "presence_penalty")}
    paper = dict(model=MODEL, temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
    assert sent == paper
    assert (body["max_tokens"], body["seed"]) == (8192, 3)
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["reason", "score"]
    assert len(list(logs.glob("*.eval"))) == 1


def test_logs_can_be_read_by_inspect(server: JudgeServer, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    asking = judge(MODEL, server.url, tmp_path / "logs", connections=2)
    run(captions(), asking, tmp_path / "j.jsonl")
    (file,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(file))
    assert {s.input: s.scores["audio"].value for s in log.samples or [] if s.scores} == ALL
    assert "As planted." in (log.samples or [])[0].messages[-1].text


def test_nobody_but_the_judge_is_called(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: set[str] = set()
    getaddrinfo = socket.getaddrinfo

    def noted(host: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.add(host.decode() if isinstance(host, bytes) else str(host))
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    run(captions(), judge(MODEL, server.url, tmp_path / "logs"), tmp_path / "j.jsonl")
    assert looked_up == {"127.0.0.1"}


@pytest.mark.parametrize("fault", WELL)
def test_a_reply_in_other_clothes_counts(server: JudgeServer, tmp_path: Path, fault: str) -> None:
    server.faults["caption 3"] = [fault]
    assert scores(run(captions(), asked(server), tmp_path / "j.jsonl")) == ALL
    assert server.seen["caption 3"] == 1


@pytest.mark.parametrize("fault", [*ILL, *FAILS, *STRANGE])
def test_what_passes_is_asked_again(server: JudgeServer, tmp_path: Path, fault: str) -> None:
    server.faults["caption 2"], server.faults["caption 4"] = [fault], [fault, fault]
    timeout = 2.0 if fault == "hang" else 60.0
    table = run(captions(), asked(server, timeout=timeout), tmp_path / "j.jsonl")
    assert scores(table) == ALL
    assert server.seen["caption 2"] == 2
    assert server.seen["caption 4"] == 3


@pytest.mark.parametrize("fault", [*ILL, "500", "cut", "half body"])
def test_what_stays_is_missing(server: JudgeServer, tmp_path: Path, fault: str) -> None:
    server.faults["caption 3"] = [f"!{fault}"]
    table = run(captions(), asked(server), tmp_path / "j.jsonl")
    rest = {text: score for text, score in ALL.items() if text != "caption 3"}
    assert scores(table) == rest
    assert missing(table)["text"].tolist() == ["caption 3"]
    assert missing(table)["reason"].tolist()[0].startswith("no ")
    assert table.attrs["missing"] == {"audio": 1}
    assert np.nansum(table["score"].to_numpy()) == pytest.approx(sum(rest.values()))
    assert np.isnan(table["score"].to_numpy()).sum() == 1
    server.faults["caption 3"] = []
    before = server.seen.copy()
    assert scores(run(captions(), asked(server), tmp_path / "j.jsonl")) == ALL
    assert server.seen - before == {"caption 3": 1}  # once it is well, only that one


def test_any_mixture(server: JudgeServer, tmp_path: Path) -> None:
    kinds = [*ILL, *WELL, *STRANGE, "429", "500", "cut", "short"]
    draw = random.Random(0)
    for i in range(40):
        faults = [draw.choice(kinds) for _ in range(draw.randint(0, 4))]
        server.faults[f"caption {i}"] = faults + [f"!{draw.choice(kinds)}"] * (i % 7 == 0)
    asking = captions(40)
    table = run(asking, asked(server, connections=8), tmp_path / "j.jsonl")
    assert table["text"].tolist() == [item.text for item in asking]
    judged = table[table["status"] == "judged"]
    assert judged["score"].tolist() == [planted(text) for text in judged["text"]]
    gone = missing(table)
    assert gone["score"].isna().to_numpy().all()
    assert len(judged) + len(gone) == 40 and 0 < len(gone) < 20
    server.faults.clear()
    before = server.seen.copy()
    again = run(asking, asked(server), tmp_path / "j.jsonl")
    assert again["status"].tolist() == ["judged"] * 40
    assert server.seen - before == dict.fromkeys(gone["text"], 1)


def test_nothing_is_asked_twice(server: JudgeServer, tmp_path: Path) -> None:
    first = run(captions(), asked(server), tmp_path / "j.jsonl")
    again = run(captions(), asked(server, connections=1), tmp_path / "j.jsonl")
    assert server.seen.total() == N
    assert again.equals(first)
    run(captions(), asked(server), tmp_path / "other.jsonl")  # from the cache of inspect-ai
    assert server.seen.total() == N
    same = [Item("twin", "factual", "hear", "cut", "audio", "caption 1", ("A dog barks",))]
    twin = run(captions() + same, asked(server), tmp_path / "j.jsonl")
    assert twin["score"].tolist()[-1] == planted("caption 1")
    assert server.seen.total() == N
    run(captions(), asked(server, temperature=0.0), tmp_path / "j.jsonl")
    assert server.seen.total() == 2 * N  # another judge


def test_a_server_without_schemas(server: JudgeServer, tmp_path: Path) -> None:
    server.refuses = {"response_format"}
    assert scores(run(captions(), asked(server, connections=1), tmp_path / "j.jsonl")) == ALL
    assert sum("response_format" in body for body in server.bodies) == 1


def test_a_server_without_a_setting(server: JudgeServer, tmp_path: Path) -> None:
    server.refuses = {"response_format", "presence_penalty"}
    with pytest.raises(JudgeError, match=r"got 422: .*presence_penalty is not.*to None"):
        run(captions(), asked(server), tmp_path / "j.jsonl")
    less = asked(server, presence_penalty=None)
    assert scores(run(captions(), less, tmp_path / "j.jsonl")) == ALL


def test_words_are_marked(server: JudgeServer, tmp_path: Path) -> None:
    item = Item("s", "factual", "hear", "", "events", "Barking is heard.")
    table = run([item], asked(server), tmp_path / "j.jsonl")
    assert table["words"].tolist() == ["Barking"]
    assert table["status"].tolist() == ["judged"]
    assert table["score"].isna().to_numpy().all()


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeDownError, match=r"expected a judge at http.*Start it.*is kept"):
        run(captions(), judge(MODEL, url), tmp_path / "j.jsonl")


def test_a_judge_that_goes_down_pauses(server: JudgeServer, tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    for i in range(10, 40):
        server.faults[f"caption {i}"] = ["!500"]
    with pytest.raises(JudgeDownError, match=r"5 failures in a row.*the same command again"):
        run(captions(40), asked(server), journal)
    assert server.seen.total() < 10 + 3 * 8
    server.faults.clear()
    server.seen.clear()
    table = run(captions(40), asked(server), journal)
    assert len(scores(table)) == 40
    assert not server.seen.keys() & {f"caption {i}" for i in range(10)}
    whole = run(captions(40), asked(server), tmp_path / "undisturbed.jsonl")
    assert table.drop(columns="reason").equals(whole.drop(columns="reason"))


def test_few_items_and_every_request_fails(server: JudgeServer, tmp_path: Path) -> None:
    server.always = ["!500"]
    with pytest.raises(JudgeDownError, match="expected answers from judge-32b, got 3 failures"):
        run(captions(3), asked(server), tmp_path / "j.jsonl")


RUN = """
import sys
from pathlib import Path
from analyses.judge import judge, run
from tests.analyses.judge.test_judge_server import captions
run(captions(30), judge(sys.argv[1], sys.argv[2], connections=2), Path(sys.argv[3]))
"""


def test_a_killed_run_goes_on(server: JudgeServer, tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    server.slow = 0.1
    command = [sys.executable, "-c", RUN, MODEL, server.url, str(journal)]
    process = subprocess.Popen(command, cwd=ROOT)
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None
    process.kill()
    process.wait()
    done = journal.read_bytes().count(b"\n")
    assert 4 <= done < 30
    server.slow = 0.0
    server.seen.clear()
    assert len(scores(run(captions(30), asked(server), journal))) == 30
    assert server.seen.total() <= 30 - done
    assert max(server.seen.values()) == 1


def test_an_expired_key(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret-word"
    with pytest.raises(JudgeError, match=r"expected a key that .* got 401.*JUDGE_API_KEY"):
        run(captions(), asked(server), tmp_path / "j.jsonl")
    monkeypatch.setenv("JUDGE_API_KEY", "secret-word")
    logs = tmp_path / "logs"
    asking = judge(MODEL, server.url, logs, connections=2)
    assert scores(run(captions(), asking, tmp_path / "j.jsonl")) == ALL
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"secret-word" in path.read_bytes() for path in files)


def test_a_key_that_expires_on_the_way(server: JudgeServer, tmp_path: Path) -> None:
    for i in range(3, 40):
        server.faults[f"caption {i}"] = ["!401"]
    with pytest.raises(JudgeError, match=r"got 401.*what is judged is kept"):
        run(captions(40), asked(server), tmp_path / "j.jsonl")
    assert server.seen.total() <= 8


def test_no_such_model(server: JudgeServer, tmp_path: Path) -> None:
    server.models = ["llama", "qwen"]
    with pytest.raises(JudgeError, match=r"'llama', 'qwen'\], got 'judge-32b'"):
        run(captions(), asked(server), tmp_path / "j.jsonl")
    assert server.seen.total() == 0


def test_a_name_that_inspect_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="expected a judge that inspect-ai knows"):
        run(captions(), judge("nobody/knows"), tmp_path / "j.jsonl")


@pytest.mark.parametrize(
    "wrong",
    [{"connections": 0}, {"replies": 0}, {"warmth": 1}, {"connections": "a"}, {"seed": 0.5}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(HookedOmniError, match="expected"):
        judge(MODEL, "http://127.0.0.1:1/v1", **wrong)

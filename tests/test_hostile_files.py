"""Whatever stands in a file: the command works, or ends with one message and code 1 or 2."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.__main__ import ANALYSES
from analyses.judge.connection import require_server
from analyses.judge.judgement import JudgeDownError
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items
from analyses.running import results, runs
from data_prep.captioning import caption_manifest
from data_prep.captioning.caption_manifest import NoCaptionError
from data_prep.captioning.server import Server
from data_prep.journal import Journal
from data_prep.manifest import Sample, write_manifest
from data_prep.pairing.matrix import matrix_path
from tests.support.clips import write_clip
from tests.support.figures import no_figures
from tests.support.hostile import analyses, data_prep, ends, few, files, values
from tests.support.judge_server import MODEL, JudgeServer, captions, send
from tests.support.killed import small_run

SAMPLE = {
    "id": "a+b",
    "kind": "counterfactual",
    "video": "a.mp4",
    "audio": "b.mp4",
    "audio_captions": ["rain falls"],
    "video_captions": ["a dog"],
    "video_id": "a",
    "audio_id": "b",
    "similarity": 0.25,
    "seconds": 1.0,
    "own_audio_captions": ["a bark"],
    "swapped_from": {"video": "a.mp4", "audio": "b.mp4"},
}
NO_MODEL = ["--model", "./no-such-folder", "--out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name in "ab":
        write_clip(folder / f"{name}.mp4", seconds=0.3, fps=4, width=56, height=56)
    clips = [Sample(n, video=f"{n}.mp4", audio_captions=("x",)) for n in "ab"]
    write_manifest(folder / "good.jsonl", clips)
    return folder


@few
@given(
    header=files({"schema": 1, "made": {"by": "pairs", "config": {"k": 2}, "left_out": {}}}),
    line=files(SAMPLE),
)
def test_manifests(folder: Path, header: bytes, line: bytes) -> None:
    whole = b'{"schema": 1}\n', json.dumps(SAMPLE).encode()
    for i, text in enumerate((whole[0] + line, header + b"\n" + whole[1])):
        (folder / "m.jsonl").write_bytes(text)
        assert ends(analyses, "knockout", "--data", folder / "m.jsonl", *NO_MODEL, folder / "o")[0]
        ends(data_prep, "show", folder / "m.jsonl", folder / f"{i}.html")


@few
@given(text=files({"max_new_tokens": 4, "width": 3, "step": 1, "sounds": {"dog": ["bark"]}}))
def test_configs(folder: Path, text: bytes) -> None:
    (folder / "config").write_bytes(text)
    (folder / "good").write_text((folder / "good.jsonl").read_text())
    for name in ("knockout", "attention_share", "logit_lens"):
        given_to = ["--data", folder / "good.jsonl", "--config", folder / "config"]
        assert ends(analyses, name, *given_to, *NO_MODEL, folder / "o")[0]


@few
@given(
    by_id=files({"a": "A dog.", "b": ["A cat.", "A bird."]}),
    listed=files([{"id": "a", "caption": "A dog."}]),
)
def test_files_of_captions(folder: Path, by_id: bytes, listed: bytes) -> None:
    for text, name in ((by_id, "c.json"), (listed, "c.json"), (by_id, "c.csv")):
        (folder / name).write_bytes(text)
        out = folder / "captioned.jsonl"
        ends(data_prep, "captions", folder / "good.jsonl", out, "--file", folder / name)
        ends(data_prep, "import", "authors", folder / name, folder / "i.jsonl")
        ends(data_prep, "import", "avhbench", folder / name, folder / "i.jsonl")


STUDY = """
model = "./no-such-folder"
data = "good.jsonl"
base = "./none"
analyses = ["captions", "knockout"]
kinds = ["factual"]
limit = 1
rope = "model"
[judge]
name = "lexical"
first_only = true
[captions]
questions = ["hear"]
[knockout]
width = 3
"""


@few
@given(line=st.integers(0, STUDY.count("\n") - 1), value=values, cut=st.integers(0, 400))
def test_studies(folder: Path, line: int, value: Any, cut: int) -> None:
    lines: list[str] = [*STUDY.split("\n")]
    key = lines[line].partition(" =")[0]
    in_toml = json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
    lines[line] = f"{key} = {in_toml.replace(': ', ' = ')}"
    for text in ("\n".join(lines).encode(), STUDY.encode()[:cut] + b"\xff[" * (cut % 3)):
        (folder / "study.toml").write_bytes(text)
        assert ends(analyses, "study", "--config", folder / "study.toml", "--out", folder / "s")[0]


def test_a_study_of_a_deep_or_endless_value(folder: Path) -> None:
    for value in ("[" * 50_000, "9" * 5000, "1e999", '"a\\u0000b"', "2020-01-01", "{" * 3000):
        (folder / "study.toml").write_text(STUDY.replace("1", value, 1))
        (folder / "data.toml").write_text(STUDY.replace('"good.jsonl"', value))
        for name in ("study.toml", "data.toml"):
            assert ends(analyses, "study", "--config", folder / name, "--out", folder / "s")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of a finished run."""
    folder = tmp_path_factory.mktemp("runs")
    for i in (1, 2):
        small_run(folder / str(i), (i, 2))
    return folder


def test_folders_of_runs(run: Path) -> None:
    made = json.loads((run / "1" / "run.json").read_text())

    @few
    @given(text=files(made))
    def any_run_json(text: bytes) -> None:
        (run / "1" / "run.json").write_bytes(text)
        ends(analyses, "summary", run / "1")
        ends(analyses, "merge", run / "whole", run / "1", run / "2")
        shutil.rmtree(run / "whole", ignore_errors=True)

    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        any_run_json()


JUDGEMENT = {"score": 0.1, "reason": "so", "words": ["a"], "missing": False, "tries": 1}


def test_journals_of_judgements(tmp_path: Path) -> None:
    """What is no judgement is judged again: the table never changes."""
    judge, items = load_judge("lexical"), captions(3)
    expected, path = judge_items(items, judge, tmp_path / "good.jsonl"), tmp_path / "j.jsonl"
    lines = (tmp_path / "good.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])

    @few
    @given(text=files(entry | {"value": JUDGEMENT | entry["value"]}), score=values)
    def any_line(text: bytes, score: Any) -> None:
        bad = entry | {"value": entry["value"] | {"score": score}}
        path.write_bytes(b"\n".join([text, lines[1].encode(), text, json.dumps(bad).encode()]))
        table = judge_items(items, judge, path)
        assert set(table["status"]) == {"judged"} and table["score"].between(0, 1).all()
        read = table["reason"] != expected["reason"]  # a valid judgement, by another hand
        if not any(read) and score not in (0, 1, 0.5):
            pd.testing.assert_frame_equal(table, expected)

    any_line()


def test_a_score_of_nan_and_its_kin_are_no_judgement(tmp_path: Path) -> None:
    judge, items, path = load_judge("lexical"), captions(1), tmp_path / "j.jsonl"
    expected = judge_items(items, judge, path)
    (good,) = path.read_text().splitlines()
    for score in ("NaN", "true", '"0.5"', "null", "2", "-1", "[0.5]", "1e999", "1" * 400):
        entry = json.loads(good)
        changed = {"missing": False, "tries": 1, "reason": "x", "words": [], "score": "SCORE"}
        text = json.dumps(entry | {"value": changed}).replace('"SCORE"', score)
        for line in (text, "[]", "3", '{"key": 1}', good.replace('"key"', '"key": "b", "key"')):
            path.write_text(line + "\n")
            pd.testing.assert_frame_equal(judge_items(items, judge, path), expected)


def test_journals_of_captions(folder: Path) -> None:
    class Names:
        workers, facts = 1, {"model": "names"}

        def caption(self, clip: Path) -> str:
            return f"Clip {clip.stem}."

    out = folder / "named.jsonl"
    caption_manifest.run(folder / "good.jsonl", out, Names(), again=True)
    expected, journal = out.read_bytes(), folder / "named.captions.jsonl"
    entry = json.loads(journal.read_text().splitlines()[0])

    @few
    @given(text=files(entry))
    def any_line(text: bytes) -> None:
        journal.write_bytes(text + b"\n")
        known = Journal(journal).get(entry["key"])
        caption_manifest.run(folder / "good.jsonl", out, Names(), again=True)
        if known in (None, entry["value"]):
            assert out.read_bytes() == expected

    any_line()


def test_every_analysis_has_a_folder_that_is_refused(run: Path, tmp_path: Path) -> None:
    """A `run.json` of another program, a list, a number, an empty file, none, a folder."""
    for text in ("[]", "3", '"run"', "", "null", '{"schema": 2}', '{"schema": [2]}', "{}", "\0"):
        (tmp_path / "run.json").write_text(text)
        assert ends(analyses, "summary", tmp_path)[0] == 1
        assert ends(analyses, "merge", tmp_path / "o", tmp_path, run / "2")[0] == 1
        for name in ("recipe.json", "run.json"):
            (tmp_path / name).write_text(text)
            with pytest.raises(results.ResultsError):
                results.require_same(tmp_path, {"schema": 2, "analysis": "x"})
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    assert ends(analyses, "summary", tmp_path)[0] == 1
    with pytest.raises(results.ResultsError, match="expected the name of an analysis"):
        runs.analysis("running")
    assert all(runs.analysis(name) for name in ANALYSES)


ADDRESSES = ["http://[::1", "http://a:99999", "http://a..b", f"http://{'a' * 300}", "http://xn--/"]


@pytest.mark.parametrize(
    ("url", "key"),
    [*((url, "none") for url in ADDRESSES), ("http://127.0.0.1:9", "schl\u00fcssel")],
)
def test_an_address_or_a_key_that_cannot_be_sent(
    tmp_path: Path, url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("JUDGE_API_KEY", key)
    clip = write_clip(tmp_path / "a.mp4", seconds=2.0, fps=2, width=56, height=56)
    with pytest.raises(NoCaptionError, match="connection lost: "):
        Server(url, "vl", tries=1).caption(clip)
    with pytest.raises(JudgeDownError, match="expected a judge at"):
        load_judge(MODEL, url).require()


def test_a_server_may_list_anything_as_its_models() -> None:
    server, bodies = JudgeServer(), ["[" * 100_000, '{"data": ' * 3000, "3", '{"data": [[1]]}', ""]
    for body in (*bodies, f'{{"data": [{{"id": "x", "max_model_len": {"9" * 5000}}}]}}'):
        server.list_models = lambda handler, body=body: send(handler, 200, body)
        assert require_server(server.url, MODEL) is None
    server.stop()


def test_similarities_beside_a_manifest(folder: Path) -> None:
    """The page is written without a matrix that is none."""
    path, page = matrix_path(folder / "good.jsonl"), folder / "page.html"
    assert ends(data_prep, "show", folder / "good.jsonl", page)[0] == 0
    without = page.read_bytes()
    alone, values = io.BytesIO(), (np.eye(2), np.array([["a", "b"]] * 2), np.full((2, 2), np.nan))
    np.save(alone, np.eye(2))
    kept = [alone.getvalue(), b"", b"x" * 99]
    for value in (*values, np.zeros((2, 2, 2))):
        file = io.BytesIO()
        np.savez_compressed(file, ids=["a", "b"], similarity=value)
        kept.append(file.getvalue())
    kept[3] = kept[3][:60] + b"\xff" * 9 + kept[3][69:]  # no longer what was compressed
    for data in kept:
        path.write_bytes(data)
        assert ends(data_prep, "show", folder / "good.jsonl", page)[0] == 0
        assert page.read_bytes() == without
    path.unlink()


NOUNS = ("siren", "fountain", "whistle")
RECIPE = {"seed": 0, "things": [{"noun": n, "verb": "going", "color": [1, 2, 3]} for n in NOUNS]}
RECIPES = [
    *('{"clips": "x"}', '{"clips": true}', '{"steps": {"foo": 3}}', '{"steps": 3}', "[]", "3"),
    *('{"sizes": {"x": 3}}', '{"things": [3]}', '{"things": [{"noun": "a"}]}', '{"things": 3}'),
    *('{"off_screen": {"biased": 5}}', '{"tagging": "x"}', '{"seed": 1}', "[" * 100_000),
]


def test_recipes_and_evaluations_of_organisms(tmp_path: Path) -> None:
    for text in RECIPES:
        words = ["organism", "train", "--out", tmp_path / "none", "--recipe", text]
        assert ends(data_prep, *words)[0] == 1 and not (tmp_path / "none").exists()
    numbers = {"biased": {"sound alone": 0.5}, "balanced": {"sound alone": 0.5}}
    (tmp_path / "test").mkdir()

    @few
    @given(recipe=files({"recipe": RECIPE}), numbers=files(numbers))
    def any_text(recipe: bytes, numbers: bytes) -> None:
        (tmp_path / "recipe.json").write_bytes(recipe)
        (tmp_path / "test" / "evaluation.json").write_bytes(numbers)
        ends(data_prep, "organism", "compare", tmp_path, tmp_path)
        assert ends(data_prep, "organism", "evaluate", "--out", tmp_path, "--clips", "1")[0] == 1

    any_text()

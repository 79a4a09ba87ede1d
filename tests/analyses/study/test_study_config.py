"""What a study file may say."""

from pathlib import Path

import pytest

from analyses.study.config import Study, read_study
from hooked_omni.errors import HookedOmniError
from tests.support.places import ROOT

STUDIES = ROOT / "examples" / "studies"


def read(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text)
    return read_study(folder / "study.toml")


def test_the_studies_that_are_shipped_can_be_read() -> None:
    paper = read_study(STUDIES / "paper.toml")
    assert paper.config("knockout").width == 9 and paper.judge["name"] == "Qwen/Qwen3-32B"
    assert {paper.config(name).max_new_tokens for name in ("captions", "knockout")} == {50}
    assert paper.judge["first_only"] is True and paper.rope == "paper-scripts"
    assert paper.questions["attention_share"] == ("both",) and not paper.system
    assert not any(words.endswith(".") for words in paper.wording.values())
    careful = read_study(STUDIES / "paper-careful.toml")
    assert careful.system and careful.rope == "model" and not careful.wording
    organisms = read_study(STUDIES / "organisms.toml")
    assert organisms.base == "organism-base" and organisms.judge == {"name": "truth"}
    avhbench = read_study(STUDIES / "avhbench.toml")
    assert avhbench.analyses == ("choice",) and "no video" in avhbench.config("choice").conditions


def test_the_page_has_the_papers_conditions_beside_ours() -> None:
    files = [STUDIES / f"{name}.toml" for name in ("paper", "paper-careful")]
    assert "docs/study.md has both" in files[0].read_text()
    page = (ROOT / "docs" / "study.md").read_text()
    ours = page.partition("## The paper's conditions, and ours")[2].partition("\n## ")[0]
    paper, careful = map(read_study, files)
    for name in ("rope", "wording", "system", "judge"):
        assert getattr(paper, name) != getattr(careful, name)
    for word in ("paper.toml", "paper-careful.toml", "rope", "[wording]", "system", "first_only"):
        assert word in ours
    changed = {n for n in careful.configs if careful.config(n) != paper.config(n)}
    changed |= {n for n in careful.questions if careful.questions[n] != paper.questions.get(n)}
    assert changed == {"logit_lens", "attention_share"}  # lens and attention are on the page
    assert "| lens |" in ours and "| attention |" in ours


@pytest.mark.parametrize(
    ("file", "model", "base", "width"),
    [
        ("minicpm-o", "openbmb/MiniCPM-o-2_6", "", 9),
        ("videollama2", "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "", 9),
        ("internomni", "OpenGVLab/InternOmni", "OpenGVLab/InternVL2-8B", None),
    ],
)
def test_studies_of_models_with_their_own_code(file, model, base, width) -> None:
    one, paper = read_study(STUDIES / f"{file}.toml"), read_study(STUDIES / "paper.toml")
    assert (one.model, one.base, one.config("knockout").width) == (model, base, width)
    assert one.decoder_only and not one.trust_remote_code
    assert one.embedded is not None and one.embedded.name == file
    assert (one.data, one.kinds, one.max_new_tokens) == (paper.data, paper.kinds, 50)
    assert one.judge == paper.judge
    assert ("distribution_shift" in one.analyses) == bool(base)
    comment, _, _ = (STUDIES / f"{file}.toml").read_text().partition("\nmodel")
    assert "We have not run this on the real checkpoint" in comment


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    one = read(tmp_path, 'model = "m"\nbase = "b"\ndata = "clips/x.jsonl"\n')
    assert one.data == tmp_path / "clips" / "x.jsonl"
    given = read(tmp_path, FINE + 'decoder_only = true\nembedded = "prompts/m"')
    assert given.embedded == tmp_path / "prompts" / "m"
    tuned = read(tmp_path, FINE + 'adapter = "tuned/a"')
    assert tuned.models().adapter == tuned.adapter == tmp_path / "tuned" / "a"


def test_ratings_are_files_beside_the_study(tmp_path: Path) -> None:
    one = read(tmp_path, FINE + 'ratings = ["anna.csv", "people/otto.csv"]')
    assert one.ratings == (tmp_path / "anna.csv", tmp_path / "people" / "otto.csv")
    assert read(tmp_path, FINE).ratings == ()


FINE = 'model = "m"\nbase = "b"\ndata = "x.jsonl"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FINE + 'modle = "x"', r"expected the keys .*got \['modle'\]"),
        ('base = "b"', "got no model and no data"),
        ('model = "m"\ndata = "x"', "expected a base model for distribution_shift, got none"),
        (FINE + "dtype = 16", "expected dtype like"),
        (FINE + "limit = true", "expected limit like 0"),
        (FINE + "decoder_only = true", r"expected prompts embedded elsewhere \(embedded\)"),
        (FINE + 'embedded = "x"', r"expected prompts embedded elsewhere \(embedded\)"),
        (FINE + "embedded = 3", "expected embedded as .*Path.*got 3"),
        (FINE + "trust_remote_code = 1", "expected trust_remote_code like False"),
        (FINE + "kinds = 3", "got 3 for kinds"),
        (FINE + 'ratings = "anna.csv"', "got 'anna.csv' for ratings"),
        (FINE + "ratings = [1]", r"got \[1\] for ratings"),
        (FINE + 'analyses = ["knockout"]', "captions among them"),
        (FINE + 'analyses = ["captions", "taste"]', "expected analyses among"),
        (FINE + "[knockout]\nwidht = 3", "expected fields among"),
        (FINE + "[knockout]\nstep = 'x'\nmax_new_tokens = 1.5", "expected max_new_tokens like"),
        (FINE + "[taste]\nx = 1", r"got \['taste'\]"),
        (FINE + "knockout = 3", "expected knockout as a table"),
        ("model = ", "expected TOML in"),
        (FINE + '[captions]\nquestions = [["see"]]', "expected a list of words"),
        (FINE + "kinds = [1]", "expected a list of words .* for kinds"),
        (FINE + "limit = -1", "expected a limit of at least 0"),
        (FINE + '[captions]\nquestions = "hear,taste"', "questions among"),
        (FINE + 'analyses = "captions,knokout"', "Did you mean 'knockout'"),
        (FINE + "kind = 3", r"got \['kind'\]\. Did you mean 'kinds'"),
        (FINE + "[captions]\nquestions = []", "expected a list of words"),
        (FINE + '[captions]\nquestions = ["taste"]', "questions among"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HookedOmniError, match=message):
        read(tmp_path, text)


def test_lists_may_be_words_with_commas(tmp_path: Path) -> None:
    words = 'kinds = "factual,self"\n[captions]\nquestions = "see,hear"\n[knockout]\nkeys = "audio"'
    study = read(tmp_path, FINE + words)
    assert study.kinds == ("factual", "self") and study.questions["captions"] == ("see", "hear")
    assert study.config("knockout").keys == ("audio",)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HookedOmniError, match=r"got: No such file.*"):
        read_study(tmp_path / "none.toml")

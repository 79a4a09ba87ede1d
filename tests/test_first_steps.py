"""What a newcomer types runs, or says what to call; the README's lines print what they say."""

import http.server
import re
import shutil
import threading
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from analyses.cases import as_cases
from analyses.knockout import Config as KnockoutConfig
from analyses.knockout.table import chosen_windows
from analyses.running.options import CaseSelection, runs_of, studies_of
from analyses.running.type_check import make_config
from hooked_omni import EXAMPLE_CLIP, Prompt, ablate, knockout, load, names, windows
from hooked_omni.errors import HookError, PromptError, ResultsError, SpanError, UnknownModelError
from hooked_omni.hf import config_file
from tests.support.places import ROOT
from tests.support.runs import bits_equal

PROMPT = Prompt("Describe what you hear.", video=EXAMPLE_CLIP)


@pytest.fixture(scope="module")
def embedded(omni):
    return omni.embed(PROMPT)


def test_the_first_lines_print_what_stands_beneath_them():
    section = (ROOT / "README.md").read_text().partition("## Ten lines")[2]
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)[:2]
    out = StringIO()
    with redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    assert EXAMPLE_CLIP.stat().st_size < 100_000


def test_a_model_takes_a_prompt_and_embeds_it(omni, embedded):
    bits_equal(omni(PROMPT), omni.model(embedded))
    bits_equal(omni(embedded, stop_at_layer=1), omni.model(embedded, stop_at_layer=1))
    made, known = omni.generate(PROMPT, max_new_tokens=3), omni.model.generate(embedded)
    assert made.tokens.tolist() == known.tokens[:3].tolist()
    assert not made.ended and "cut off" in repr(made)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda o, e: o.model.generate(PROMPT), r"got Prompt\. Call `omni.embed\(prompt\)` first"),
        (lambda o, e: o.model(PROMPT), "got Prompt"),
        (lambda o, e: o.model.score(PROMPT, e.tokens[0], [[]]), "got Prompt"),
        (lambda o, e: o.model({"input_ids": e.tokens}), "got dict"),
        (lambda o, e: o.model([e, e]), r"\['EmbeddedPrompt', 'EmbeddedPrompt'\]"),
        (lambda o, e: o("What?"), r"got str: 'What\?'.* model\(text\) takes plain words"),
        (lambda o, e: o.embed([PROMPT, PROMPT]), "expected a Prompt, got list.*embed each alone"),
        (lambda o, e: o.generate(EXAMPLE_CLIP), "expected a Prompt, got PosixPath"),
        (lambda o, e: o.model(e.tokens), "tokens of plain text, got [1-9][0-9]* that stand for"),
        (lambda o, e: o.model.generate(e.tokens), "that stand for a clip"),
        (lambda o, e: o.model.run_with_cache(e.tokens), "that stand for a clip"),
    ],
)
def test_what_is_no_input_says_what_to_call(omni, embedded, call, value):
    with pytest.raises(PromptError, match=value):
        call(omni, embedded)


def test_words_that_a_model_does_not_know_are_no_text():
    model = load("organism-biased").model
    with pytest.raises(PromptError, match=r"'a zebra sings', of which some become .* '<unk>'"):
        model("a zebra sings")
    assert model("describe what you hear").shape[1] == 4


def test_all_that_is_shown_is_a_line(omni, embedded):
    _, cache = omni.model.run_with_cache(embedded)
    shown = {
        "4 layers of 4 heads": omni.model,
        "with towers": omni,
        f"Spans({embedded.n_pos} positions: audio": embedded.spans,
        f"EmbeddedPrompt(Spans({embedded.n_pos}": embedded,
        "PrefilledPrompt(Spans(": omni.model.prefill(embedded),
        f"{len(cache)} activations: hook_embed, blocks.0": cache,
        "2 tokens": omni.model.generate(embedded, max_new_tokens=2),
    }
    for words, one in shown.items():
        assert words in repr(one) and len(repr(one)) < 300 and "\n" not in repr(one)


def test_windows_of_a_model_are_those_of_the_command(omni):
    assert windows(omni) == windows(omni.model) == windows(4) == [range(i, i + 1) for i in range(4)]
    with pytest.raises(HookError, match="a model, or how many layers it has, got '4'"):
        windows("4")
    for n in range(2, 9):
        assert windows(n) == chosen_windows(KnockoutConfig(), n)
    for n in (12, 28, 36, 48):
        assert windows(n, edges="whole") == chosen_windows(KnockoutConfig(), n)
        assert {len(window) for window in windows(n, edges="whole")} == {len(windows(n)[n // 2])}


def test_interventions_stand_in_hooks_and_add_hook_with_their_prompt(omni, embedded):
    cut, model = knockout("last !-> V"), omni.model
    known = model.run_with_hooks(embedded, fwd_hooks=[cut])
    with model.hooks([cut], prompt=embedded):
        bits_equal(model(embedded), known)
    model.add_hook(cut, prompt=embedded)
    bits_equal(model(embedded), known)
    model.reset_hooks()
    assert not torch.equal(model(embedded), known)
    for put in (lambda: model.hooks([cut]).__enter__(), lambda: model.add_hook(cut)):
        with pytest.raises(HookError, match=r"add_hook\(\.\.\., prompt=prompt\)"):
            put()


def test_a_whole_head_needs_no_span(omni, embedded):
    def zero(z: Any, hook: Any) -> Any:
        z[:, :, 2] = 0
        return z

    how: Any = dict(max_new_tokens=4, return_logits=True)
    own = omni.generate(embedded, fwd_hooks=[("blocks.1.attn.hook_z", zero)], **how)
    head = ablate("attn.hook_z", layers=[1], heads=[2])
    bits_equal(omni.generate(embedded, fwd_hooks=[head], **how).logits, own.logits)
    with pytest.raises(HookError, match=r"got 'hook_z'\. Write 'attn.hook_z'"):
        ablate("hook_z", heads=[2])
    with pytest.raises(HookError, match=r"Closest is 'blocks.0.attn.hook_z'"):
        omni.model.run_with_cache(embedded, "hook_z")


@pytest.mark.parametrize("way", ["index", "assign", "spread"])
def test_a_hook_for_the_prompts_positions_says_so_in_a_step(omni, embedded, way):
    ones = torch.ones(1, embedded.n_pos, 1)

    def hook(resid: Any, hook: Any) -> Any:
        if way == "index":
            resid[:, embedded.spans["audio"]] = 0
        elif way == "assign":
            resid[:] = ones
        return resid if way != "spread" else resid * ones

    at = names.resid_post(1)
    omni.model.run_with_hooks(embedded, fwd_hooks=[(at, hook)])
    with pytest.raises(HookError, match=r"new positions alone.* `hook.window.start > 0`"):
        omni.generate(embedded, fwd_hooks=[(at, hook)])


def test_a_hook_that_fails_by_itself_fails_as_it_did(omni, embedded):
    def stop(resid: Any, hook: Any) -> None:
        if hook.window.start > 0:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        omni.generate(embedded, fwd_hooks=[(names.resid_post(1), stop)])


def test_an_organism_says_that_it_knows_its_world_alone(tmp_path):
    from examples._clip import two_seconds

    omni = load("organism-biased")
    with pytest.warns(UserWarning, match="1 s long, got one of 2.112 s: .*EXAMPLE_CLIP"):
        omni.embed(Prompt("Describe what you hear.", video=two_seconds(tmp_path / "c.mp4")))


def test_a_clip_with_another_sound_is_counterfactual_and_named_by_both(tmp_path):
    other = Path(shutil.copy(EXAMPLE_CLIP, tmp_path / "other.mp4"))
    (one,) = CaseSelection(clips=(EXAMPLE_CLIP,), audio=other).sample_questions()
    assert (one.sample.kind, one.sample.id) == ("counterfactual", f"{EXAMPLE_CLIP}+{other}")
    (same,) = CaseSelection(clips=(EXAMPLE_CLIP,), audio=EXAMPLE_CLIP).sample_questions()
    assert (same.sample.kind, same.sample.id) == ("factual", str(EXAMPLE_CLIP))
    prompts = [PROMPT, Prompt("?", EXAMPLE_CLIP, other), Prompt("?", audio=other)]
    assert [c.kind for c in as_cases(prompts)] == ["factual", "counterfactual", "factual"]


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_hub_that_is_not_there_is_noticed_at_once(monkeypatch):
    config_file._reach_hub.cache_clear()
    start = time.monotonic()
    with pytest.raises(UnknownModelError, match=r"'a/b' \(the hub cannot be reached\)"):
        load("a/b")
    assert time.monotonic() - start < 5  # it is tried for 23 s otherwise
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        config_file._reach_hub.cache_clear()
        assert config_file.file_source("a/b", "v1") == {"revision": "v1", "local_files_only": False}
        hub.shutdown()
    config_file._reach_hub.cache_clear()


@pytest.mark.parametrize(
    ("attempt", "kind", "meant"),
    [
        (lambda spans: load("organism-bised"), UnknownModelError, "organism-biased"),
        (lambda spans: make_config(KnockoutConfig, {"widht": 3}), ResultsError, "width"),
        (lambda spans: CaseSelection(questions=("haer",)), ResultsError, "hear"),
        (lambda spans: spans["vidoe"], SpanError, "video"),
    ],
)
def test_a_slip_of_the_pen_is_answered(embedded, attempt, kind, meant):
    with pytest.raises(kind, match=f"Did you mean '{meant}'"):
        attempt(embedded.spans)


def test_lists_may_be_words_with_commas_as_on_the_command_line():
    assert make_config(KnockoutConfig, {"keys": "audio,video"}).keys == ("audio", "video")
    with pytest.raises(ResultsError, match="windows"):
        make_config(KnockoutConfig, {"windows": "1,2"})


def test_a_studys_folder_or_its_parts(tmp_path):
    study, part, alone = tmp_path / "s", tmp_path / "s" / "knockout", tmp_path / "alone"
    for folder, files in ((study, ["recipe"]), (part, ["recipe", "run"]), (alone, ["run"])):
        folder.mkdir()
        for name in files:
            (folder / f"{name}.json").touch()
    assert runs_of([study, alone, part]) == [part, alone]
    assert studies_of([part, study, alone]) == [study, alone]
    assert runs_of([tmp_path / "none"]) == [tmp_path / "none"]

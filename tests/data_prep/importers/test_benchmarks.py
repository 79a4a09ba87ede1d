"""Benchmarks' questions, in small files of the layouts that are published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from analyses.asking import prompt_of
from data_prep.__main__ import main
from data_prep.check import problems
from data_prep.importers.avhbench import read_avhbench
from data_prep.importers.benchmark import multiple_choice, yes_no
from data_prep.importers.clip_folder import Draft, Imported, Wanted, find_clips
from data_prep.importers.cmm import read_cmm
from data_prep.importers.mmau import read_mmau
from data_prep.importers.video_questions import read_dailyomni, read_worldsense
from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from data_prep.questions import questions_of
from hooked_omni.errors import HookedOmniError, ManifestError
from hooked_omni.inputs.container import existing
from tests.support.clips import write_clip

DOMINANCE = "./reorg_raw_files/over-reliance_unimodal_priors/overrely_visual_ignore_audio/oxD5gs"
SEEN = "./reorg_raw_files/inter-modality_spurious_correlation/visual-language/event-level/tree/7"
HEARD = "./reorg_raw_files/inter-modality_spurious_correlation/audio-language/event-level/7"
AVHBENCH = {"video_id": "00191", "task": "AV Matching", "text": "Do they match?", "label": "Yes"}
CMM = {
    "category": "over-reliance_unimodal_priors",
    "sub_category": "overrely_visual_ignore_audio",
    "modality": "visual+audio",
    "granularity": "event-level",
    "correlation_type": None,
    "video_path": f"{DOMINANCE}.mp4",
    "audio_path": f"{DOMINANCE}.wav",
    "question": "Did you hear dog barking in the audio? Answer with yes or no.",
    "answer": "no",
}
MMAU = {
    "id": "3fe64f3d",
    "audio_id": "./test-mini-audios/3fe64f3d.wav",
    "question": "Identify the source of the whistling.",
    "choices": ["Man", "A bird ", "Child", "Robot"],
    "answer": "A bird",
    "dataset": "AudioSet",
    "task": "sound",
    "split": "test-mini",
    "category": ["Reasoning"],
    "sub-category": "Acoustic Source Inference",
    "difficulty": "medium",
}
TASK = {
    "task_domain": "Reasoning",
    "task_type": "Audio Change",
    "question": "How did the volume change?",
    "answer": "B",
    "candidates": ["A. It is unclear.", "B. From soft to loud.", "C. From loud to soft."],
}
DAILY = {
    "Type": "AV Event Alignment",
    "Question": "What is heard when the sign is seen?",
    "Choice": ["A. 'We get out'", "B. a horn → bells", "C. rain", "D. nothing"],
    "Answer": "B",
    "Explaination": "The horn sounds first.",
    "video_id": "d6b4OmUF",
    "content_parent_category": "Education",
    "video_category": "Education",
    "video_duration": "30s",
}
VIDEO = {
    "video_id": "UYkFSXsh",
    "video_duration": "119s",
    "duration": "1-2min",
    "domain": "Culture & Politics",
    "sub_category": "Politics",
    "audio_class": ["Speech", "Event"],
    "video_caption": "A man speaks.",
}
Read = Callable[[Path], Wanted]


def layout(read: Read, *items: Any) -> Any:
    """What the benchmark's file holds for these items."""
    if read is not read_worldsense:
        return [*items]
    tasks = {f"task{index}": item for index, item in enumerate(items)}
    return {"UYkFSXsh": {**VIDEO, **tasks}}


def wanted(folder: Path, read: Read, content: Any) -> Wanted:
    (folder / "own.json").write_text(json.dumps(content))
    return read(folder / "own.json")


def imported(folder: Path, read: Read, content: Any) -> Imported:
    """As a manifest has it, found and written and read; its files are whole."""
    found = find_clips(wanted(folder, read, content), folder, folder)
    manifest = write_manifest(folder / "m.jsonl", found.samples)
    assert read_manifest(manifest) == found.samples
    assert [*problems(manifest)] == []
    return found


def place(path: Path) -> None:
    """A sound, or a video without any, of two seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        write_clip(path, audio_hz=None)
    else:
        soundfile.write(path, np.sin(np.arange(32_000) / 6), 16_000)


def test_cmm_has_silent_videos_sounds_and_both(tmp_path):
    for name in (f"{DOMINANCE}.mp4", f"{DOMINANCE}.wav", f"{SEEN}.mp4", f"{HEARD}.wav"):
        place(tmp_path / name)
    place(tmp_path / "elsewhere" / "gone.mp4")
    yes = {**CMM, "question": "Did you see dog in the video? Answer with yes or no."}
    seen = {"modality": "visual", "video_path": f"{SEEN}.mp4", "audio_path": None}
    heard = {"modality": "audio", "video_path": "None", "audio_path": f"{HEARD}.wav"}
    gone = {**CMM, **seen, "video_path": "./reorg_raw_files/gone.mp4"}
    wrong = [{**CMM, "modality": "visual"}, {**CMM, "answer": "maybe"}, {**CMM, "audio_path": ""}]
    items = [CMM, {**yes, "answer": "yes"}, {**CMM, **seen}, {**CMM, **heard}, gone, *wrong]
    found = imported(tmp_path, read_cmm, items)
    both, silent, sound = found.samples
    name = DOMINANCE.removeprefix("./")
    assert (both.id, both.video, both.audio) == (name, f"{name}.mp4", f"{name}.wav")
    assert [(one.label, one.options) for one in questions_of(both)] == [
        ("No", ("Yes", "No")),
        ("Yes", ("Yes", "No")),
    ]
    first = questions_of(both)[0]
    assert (first.task, first.sub_task) == (CMM["category"], CMM["sub_category"])
    assert (silent.video, silent.audio, silent.seconds) == (f"{SEEN[2:]}.mp4", None, 2.0)
    assert (sound.video, sound.audio, sound.seconds) == (None, f"{HEARD[2:]}.wav", None)
    assert [one.extra["modality"] for one in found.samples] == ["visual+audio", "visual", "audio"]
    assert {one.kind for one in found.samples} == {"factual"}
    assert {key: why.split(",")[0] for key, why in found.missing.items()} == {
        f"{name}, item 5 of own.json": "expected files for 'visual'",
        f"{name}, item 6 of own.json": "expected a question with options",
        f"{name}, item 7 of own.json": "expected files for 'visual+audio'",
        "reorg_raw_files/gone": f"expected reorg_raw_files/gone.mp4 in {tmp_path}",
    }


def test_clips_of_one_name_in_several_folders_are_told_apart(tmp_path):
    paths = ["./reorg_raw_files/a/x.mp4", "./reorg_raw_files/b/x.mp4", "./c/x.mp4"]
    for path in paths:
        place(tmp_path / "deep" / path)
    alone = {**CMM, "modality": "visual", "audio_path": None}
    found = imported(tmp_path, read_cmm, [{**alone, "video_path": path} for path in paths])
    assert [one.video for one in found.samples] == [f"deep/{path[2:]}" for path in paths]
    for path in ("./x.mp4", "../x.mp4", "/etc/x.mp4", "x", "."):
        find = wanted(tmp_path, read_cmm, [{**alone, "video_path": path}])
        missed = find_clips(find, tmp_path, tmp_path)
        assert len(missed.missing) == 1 and missed.samples == []


def test_mmau_is_sounds_alone(tmp_path):
    place(tmp_path / "sounds" / "test-mini-audios" / "3fe64f3d.wav")
    place(tmp_path / "sounds" / "test-audios" / "b.wav")
    (tmp_path / "sounds" / "test-audios" / "text.wav").write_text("no sound")
    withheld = {**MMAU, "audio_id": "./test-audios/b.wav", "answer": "", "sub-category": None}
    alike = {**MMAU, "question": "How many?", "choices": ["one", "two", "two"], "answer": "one"}
    lost = [{**MMAU, "audio_id": f"./test-audios/{name}.wav"} for name in ("text", "gone")]
    found = imported(tmp_path, read_mmau, [MMAU, withheld, alike, *lost])
    one, other = found.samples
    assert (one.id, one.video) == ("test-mini-audios/3fe64f3d", None)
    assert one.audio == "sounds/test-mini-audios/3fe64f3d.wav"
    (given,) = questions_of(one)
    assert given.text == f"{MMAU['question']}\nA. Man\nB. A bird\nC. Child\nD. Robot"
    assert (given.label, given.words[1], given.task) == ("B", "A bird", "sound")
    assert (given.sub_task, questions_of(other)[0].label) == ("Acoustic Source Inference", None)
    assert questions_of(other)[0].sub_task == ""
    prompt = prompt_of(one, "hear", {"hear": given.text}, tmp_path)
    assert [item.kind for item in prompt.content] == ["text", "audio"]
    assert existing(Path(str(prompt.audio)))
    assert found.missing.keys() == {
        "test-mini-audios/3fe64f3d, item 2 of own.json",
        "test-audios/text",
        "test-audios/gone",
    }
    assert "got words ['one', 'two', 'two']" in next(iter(found.missing.values()))


def test_worldsense_asks_several_tasks_of_a_video(tmp_path):
    write_clip(tmp_path / "videos.mp4").rename(tmp_path / "UYkFSXsh.mp4")
    second = {**TASK, "task_type": "Audio Counting", "question": "How many?", "answer": "A"}
    wrong = [{**second, "answer": "D"}, {**second, "candidates": []}, {**second, "answer": ""}]
    content = layout(read_worldsense, TASK, second, *wrong)
    found = imported(tmp_path, read_worldsense, {**content, "gone": {**VIDEO, "task0": TASK}})
    (sample,) = found.samples
    assert (sample.id, sample.video, sample.seconds) == ("UYkFSXsh", "UYkFSXsh.mp4", 2.0)
    one, two = questions_of(sample)
    assert one.text == "\n".join([TASK["question"], *TASK["candidates"]])
    assert one.words == ("It is unclear.", "From soft to loud.", "From loud to soft.")
    assert (one.label, one.task, one.sub_task) == ("B", "Reasoning", "Audio Change")
    assert (two.label, two.sub_task) == ("A", "Audio Counting")
    assert found.missing.keys() == {"gone", *(f"UYkFSXsh, item {i} of own.json" for i in (2, 3, 4))}


def test_daily_omni_has_a_folder_for_each_video(tmp_path, capsys):
    (tmp_path / "Videos" / "d6b4OmUF").mkdir(parents=True)
    write_clip(tmp_path / "c.mp4").rename(tmp_path / "Videos/d6b4OmUF/d6b4OmUF_video.mp4")
    wrong = {**DAILY, "Question": "And then?", "Answer": "E"}
    (tmp_path / "qa.json").write_text(json.dumps([DAILY, wrong, {**DAILY, "video_id": "gone"}]))
    arguments = [tmp_path / "qa.json", tmp_path / "m.jsonl", "--clips", tmp_path / "Videos"]
    with pytest.raises(SystemExit, match="0"):
        main(["import", "dailyomni", *map(str, arguments)])
    assert "1 samples with 1 questions" in capsys.readouterr().err
    (sample,) = read_manifest(tmp_path / "m.jsonl")
    assert (sample.id, sample.video) == ("d6b4OmUF", "Videos/d6b4OmUF/d6b4OmUF_video.mp4")
    (one,) = questions_of(sample)
    assert one.text == "\n".join([DAILY["Question"], *DAILY["Choice"]])
    assert (one.label, one.words[1], one.task) == ("B", "a horn → bells", DAILY["Type"])
    assert one.sub_task == "Education"
    assert read_facts(tmp_path / "m.jsonl")["missing"].keys() == {
        "d6b4OmUF, item 1 of qa.json",
        "gone",
    }


def test_avhbench_descriptions_and_doubtful_questions_are_listed(tmp_path):
    described = {**AVHBENCH, "task": "AV Captioning", "label": "A man lies in bed."}
    alone = {**AVHBENCH, "task": "AV Hallucination (Audio_only)"}
    again, other = {**AVHBENCH, "text": "Again?"}, {**AVHBENCH, "text": "Other?"}
    items = [AVHBENCH, described, alone, again, other, again, {**other, "label": "No"}]
    found = wanted(tmp_path, read_avhbench, items)
    (draft,) = found.drafts
    assert [one.text for one in questions_of(draft.sample)] == ["Do they match?", "Again?"]
    assert [why.partition("got ")[2] or why for why in found.missing.values()] == [
        "a description (AV Captioning).",
        "AV Hallucination (Audio_only).",
        "asked more than once, with the labels ['Yes']",
        *["asked more than once, with the labels ['No', 'Yes']"] * 2,
    ]


HOSTILE = [None, 3, 0, True, "", " ", "x", [], ["x"], ["x", "x"], ["", "y"], [1, 2], {}, "\u2028"]
LAYOUTS = [
    (read_avhbench, AVHBENCH),
    (read_cmm, CMM),
    (read_mmau, MMAU),
    (read_worldsense, TASK),
    (read_dailyomni, DAILY),
]
ASKS = {read_avhbench: "text", read_dailyomni: "Question"}


@pytest.mark.parametrize(("read", "good"), LAYOUTS)
def test_whatever_stands_in_a_field_each_question_is_kept_listed_or_refused(tmp_path, read, good):
    other = {**good, ASKS.get(read, "question"): "What else?"}
    for name in good:
        for value in (*HOSTILE, ...):
            bad = {key: one for key, one in good.items() if key != name}
            bad |= {} if value is ... else {name: value}
            try:
                found = wanted(tmp_path, read, layout(read, good, bad, other))
            except ManifestError as error:
                assert "own.json" in str(error) and "other versions" in str(error)
                assert not isinstance(value, str)
                continue
            write_manifest(tmp_path / "m.jsonl", [draft.sample for draft in found.drafts])
            kept = [one for draft in found.drafts for one in questions_of(draft.sample)]
            assert len(kept) + len(found.missing) == 3


@pytest.mark.parametrize(("read", "good"), LAYOUTS)
def test_a_file_of_another_version_or_benchmark_is_refused(tmp_path, read, good):
    others = [layout(other, item) for other, item in LAYOUTS if other is not read]
    renamed = {f"{name}s": value for name, value in good.items()}
    for content in (*others, layout(read, renamed), layout(read), [], {}, 3, "x", [3], {"v": 3}):
        with pytest.raises(ManifestError, match=r"own\.json"):
            wanted(tmp_path, read, content)
    (tmp_path / "own.json").write_text('[{"video_id": ')
    with pytest.raises(HookedOmniError, match=r"own\.json"):
        read(tmp_path / "own.json")


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        (["a dog", "rain"], "rain", "B"),
        ([" a dog", "rain "], "rain", "B"),
        (["A. a dog", "B. rain"], "B", "B"),
        (["A) a dog", " B)rain"], " B ", "B"),
        (["A. a dog", "B. rain"], None, None),
        (["B", "A"], "A", "B"),  # the names of chords
        (["B. a dog", "A. rain"], "A. rain", "B"),  # letters that are not theirs are words
        (["A. a dog", "rain"], "rain", "B"),  # and so are letters of some alone
        (["A. a dog", "B. rain"], "rain", None),
        (["a dog", "rain"], "B", None),
        (["a dog", "rain"], "Rain", None),
        (["a dog", "a dog "], "a dog", None),
        (["A. a dog", "B. a dog"], "A", None),
        (["A. ", "B. rain"], "B", None),
        (["a dog", ""], "a dog", None),
        (["a dog"], "a dog", None),
        ([], "", None),
        (None, "A", None),
        ("a dog", "a", None),
        (["a dog", 3], "a dog", None),
        (["a dog", "rain"], 1, None),
        (["a dog", "rain"], ["rain"], None),
        ([str(index) for index in range(27)], "3", None),
    ],
)
def test_options_with_letters_or_without(options, answer, expected):
    if answer is None or expected is not None:
        one = multiple_choice("What?", options, answer)
        assert one.label == expected and len(one.words) == 2
        assert one.text.startswith("What?\nA. ")
        return
    with pytest.raises(ManifestError, match="expected"):
        multiple_choice("What?", options, answer)


@pytest.mark.parametrize("label", ["yes", "YES", " Yes "])
def test_yes_in_any_case(label):
    assert yes_no("Match?", label, "t").label == "Yes"
    for wrong in ("", "y", "Yes.", "true", "yes or no"):
        with pytest.raises(ManifestError, match="none of"):
            yes_no("Match?", wrong, "t")


def test_commands_count_questions_and_list_what_cannot_be_asked(tmp_path, capsys):
    place(tmp_path / "data" / f"{HEARD}.wav")
    heard = {**CMM, "modality": "audio", "video_path": "None", "audio_path": f"{HEARD}.wav"}
    (tmp_path / "own.json").write_text(json.dumps([heard, {**heard, "answer": "maybe"}]))
    out = tmp_path / "m.jsonl"
    arguments = ["import", "cmm", tmp_path / "own.json", out, "--clips", tmp_path / "data"]
    with pytest.raises(SystemExit, match="0"):
        main([str(one) for one in arguments])
    said = capsys.readouterr().err
    assert f"1 samples with 1 questions in {out}; 1 missing" in said
    facts = read_facts(out)
    assert facts["by"] == "import cmm" and [*facts["missing"]] == [
        f"{HEARD[2:]}, item 1 of own.json"
    ]


def test_the_sound_of_a_draft_stays_where_none_is_looked_for(tmp_path):
    write_clip(tmp_path / "a.mp4")
    draft = Draft(Sample("a", audio="rain.wav"), ("a",))
    (sample,) = find_clips(Wanted([draft]), tmp_path, tmp_path).samples
    assert (sample.video, sample.audio) == ("a.mp4", "rain.wav")


def test_a_sound_alone_and_a_silent_video_are_checked_for_what_they_are(tmp_path):
    place(tmp_path / "a.wav")
    place(tmp_path / "a.mp4")
    silent = Sample("silent", video="a.mp4")
    samples = [Sample("sound", audio="a.wav"), silent, Sample("none")]
    manifest = write_manifest(tmp_path / "m.jsonl", samples)
    assert [name for name, _ in problems(manifest)] == ["silent", "none", "none"]
    modality = Sample("silent", video="a.mp4", extra={"modality": "visual"})
    assert [*problems(write_manifest(manifest, [modality, Sample("b", audio="no.wav")]))] == [
        ("b", f"expected a media file, got no file at {tmp_path / 'no.wav'}. Check the path.")
    ]

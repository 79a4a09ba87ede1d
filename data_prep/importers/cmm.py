"""Which clips and questions does CMM ("The Curse of Multi-Modalities") hold?

A JSON list of `{category, sub_category, modality, video_path, audio_path, question, answer, ...}`,
`all_data_final_reorg.json`, beside the folder `reorg_raw_files` of silent videos and of sounds.
Modality is "visual", "audio" or "visual+audio"; a path that is not there is null or "None".
Read: README, template of answers and score in github.com/DAMO-NLP-SG/CMM, and what users of the
data set on Hugging Face report of its 2 400 items.
"""

from pathlib import Path

from data_prep.importers.benchmark import Item, read_questions, stems_of, yes_no
from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import MODALITY, Sample
from data_prep.questions import ChoiceQuestion
from hooked_omni.errors import ManifestError


def read_cmm(json: Path) -> Wanted:
    """One sample per clip, named by its paths: a silent video, a sound, or both.

    Raises as `read_questions`.
    """
    texts = ("question", "answer", "category", "sub_category", MODALITY)
    return read_questions(json, texts, _draft, _question)


def _draft(item: Item) -> Draft:
    video, audio = (stems_of(item.get(key)) for key in ("video_path", "audio_path"))
    given = "+".join(["visual"] * len(video) + ["audio"] * len(audio))
    sample = Sample("+".join(dict.fromkeys(video + audio)), extra={MODALITY: given})
    return Draft(sample, video, audio)


def _question(item: Item) -> ChoiceQuestion:
    given = _draft(item).sample.extra[MODALITY]
    if item[MODALITY] != given:
        raise ManifestError(f"expected files for {item[MODALITY]!r}, got {given!r}.")
    return yes_no(item["question"], item["answer"], item["category"], item["sub_category"])

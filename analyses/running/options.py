"""What can be wrong with a command before anything is loaded?

Its options as data, checked when they are made; torch, which takes seconds, is not imported.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from analyses.asking import SampleQuestion, kind_of, ordered, sample_questions
from analyses.configs import CONFIGS
from analyses.running.type_check import make_config
from analyses.text.wording import OWN, QUESTIONS, worded
from data_prep.manifest import Sample
from hooked_omni.command_line import read_device_map
from hooked_omni.errors import MediaError, ResultsError, closest
from hooked_omni.files import parse_json, read_text
from hooked_omni.hf.spelling import require_spelled
from hooked_omni.inputs.items import Prompt

Of = TypeVar("Of")
_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class CaseSelection:
    """Cases of a manifest, `data`, or of `clips`.

    For clips, `audio` is a sound in place of their own, and `text` the user's own question in place
    of `questions`. `kinds` are of samples, `limit` is for the first cases; None for all. `wording`,
    `system` and `order` are as in `read_cases`. Options of clips are refused with a manifest, and
    the other way around.
    """

    data: Path | None = None
    clips: tuple[Path, ...] = ()
    audio: Path | None = None
    text: str | None = None
    questions: tuple[str, ...] = ("hear",)
    kinds: tuple[str, ...] | None = None
    limit: int | None = None
    rope: str = "model"
    wording: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    order: str | None = None

    def __post_init__(self) -> None:
        worded(self.wording)
        if self.data is not None and (self.audio is not None or self.text is not None):
            raise ResultsError(
                "expected --clip with --audio and --ask, got --data. A manifest says which "
                "sounds go with which pictures; --questions chooses the questions."
            )
        if self.data is None and self.kinds is not None:
            raise ResultsError("expected --data with --kinds, got --clip: clips have no kind.")
        require_clip(*self.clips, self.audio)
        unknown = [q for q in self.questions if q not in QUESTIONS]
        if unknown and self.data is None:
            raise ResultsError(
                f"expected questions among {sorted(QUESTIONS)}, got {unknown}. Your own words go "
                f"into --ask.{closest(unknown[0], QUESTIONS)}"
            )
        if self.text is not None and (self.wording or self.questions != ("hear",)):
            raise ResultsError(
                f"expected --ask alone, got it with {list(self.questions)} and other words for "
                f"{sorted(self.wording)}, which it would leave unused. Leave out one of the two."
            )
        self.sample_questions()  # refuses a wrong manifest, and what cannot be asked

    def sample_questions(self) -> list[SampleQuestion]:
        """What is asked about each sample, or clip; raises as `asking.sample_questions`."""
        rope: Any = self.rope
        if self.data is not None:
            how = self.questions, self.kinds, rope, self.wording, self.system, self.order
            return sample_questions(self.data, *how)[: self.limit]
        words = {OWN: self.text} if self.text is not None else worded(self.wording)
        found = [
            SampleQuestion(
                _sample(clip, self.audio), name, ordered(words[name], clip, self.audio, self.order)
            )
            for clip in self.clips
            for name in ([OWN] if self.text is not None else self.questions)
        ]
        own = dict[str, Any](system=self.system, rope=rope)
        return [one._replace(prompt=replace(one.prompt, **own)) for one in found][: self.limit]


def _sample(clip: Path, audio: Path | None) -> Sample:
    """A clip as a sample; with another file's sound, a counterfactual one named by both."""
    kind = kind_of(Prompt("?", clip, audio))
    return Sample(str(clip) if kind == "factual" else f"{clip}+{audio}", kind)


@dataclass(frozen=True)
class ModelOptions:
    """Which models, as in `load`, and the folders that keep their embedded prompts.

    `prompts` is of those that are made here, `embedded` of those made elsewhere (`elsewhere.py`).
    `adapter` is the model's; the base has none. `allow_quantized` is of the model alone too, and a
    `device_map` of modules; another way of accelerate's is of both.
    """

    model: str
    base: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    prompts: Path | None = None
    embedded: Path | None = None
    decoder_only: bool = False
    trust_remote_code: bool = False
    adapter: Path | None = None
    device_map: str | Mapping[str, str | int] | None = None
    allow_quantized: bool = False

    def __post_init__(self) -> None:
        read_device_map(self.device_map, self.device)
        if self.base is not None and isinstance(self.device_map, Mapping):
            raise ResultsError(
                f"expected a device_map such as auto with a base, got {dict(self.device_map)}, "
                f"whose modules are those of one model. Use auto, or leave out {self.base!r}."
            )
        if (self.embedded is None) == self.decoder_only or (self.embedded and self.prompts):
            raise ResultsError(
                "expected prompts embedded elsewhere (embedded) with decoder_only, and with it "
                f"alone, got embedded {self.embedded}, decoder_only {self.decoder_only}, prompts "
                f"{self.prompts}. Towers embed prompts here, and a decoder alone reads those made "
                "elsewhere."
            )

    def require(self) -> None:
        """Refuse what cannot be loaded, as far as words and files say; as `require_spelled`."""
        for name, adapter in ((self.model, self.adapter), (self.base, None)):
            if name is not None:
                require_spelled(name, self.device, self.dtype, adapter)
        if self.embedded is not None and not self.embedded.is_dir():
            raise ResultsError(
                f"expected a folder of prompts embedded elsewhere, got none at {self.embedded}. "
                "Embed them: examples/embed_prompts.py."
            )
        if self.prompts is not None:
            require_folder(self.prompts)


def question(name: str) -> str:
    """First line of an analysis's docstring, read without importing it."""
    here = Path(__file__).parents[1]
    file = here / f"{name}.py"
    source = (file if file.is_file() else here / name / "__init__.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def read_config(analysis: str, given: str | None) -> Any:
    """An analysis's `Config` from a JSON object or a JSON file; its defaults for None.

    Raises as `make_config`; a `FileError` for a file that cannot be read, or is no JSON.
    """
    own = given is None or given.lstrip().startswith("{")
    text = given if own else read_text(Path(str(given)))
    values = {} if text is None else parse_json(text, "the config")
    config = make_config(CONFIGS[analysis], values)
    require_clip(getattr(config, "swap_with", None))
    return config


def require_clip(*paths: str | Path | None) -> None:
    """Refuse, as a `MediaError`, paths at which there is no file."""
    if missing := [path for path in paths if path is not None and not Path(path).is_file()]:
        raise MediaError(f"expected a media file, got no file at {missing[0]}.")


def read_shard(shard: str) -> tuple[int, int]:
    """The numbers of "i/n"; a `ResultsError` for anything else."""
    numbers = _SHARD.fullmatch(shard)
    if numbers is None:
        raise ResultsError(f"expected a shard as i/n, such as 1/4, got {shard!r}.")
    return int(numbers[1]), int(numbers[2])


def shard_of(cases: Sequence[Of], shard: tuple[int, int]) -> list[Of]:
    """Every `n`-th case from the `i`-th on; a `ResultsError` if there is none."""
    i, n = shard
    chosen = list(cases[i - 1 :: n]) if 1 <= i <= n else []
    if not chosen:
        raise ResultsError(
            f"expected a shard i/n with i from 1 to n and at most {len(cases)} shards, one for "
            f"each case, got {i}/{n}."
        )
    return chosen


def require_finished(folder: Path, *files: str) -> None:
    """Refuse, as a `ResultsError`, a folder without these files, which are written last."""
    if lacking := [name for name in files if not (folder / name).is_file()]:
        raise ResultsError(
            f"expected a finished run or study in {folder}, got one without {lacking[0]}. Give the "
            "same command again: it goes on where it was."
        )


def runs_of(folders: Sequence[Path]) -> list[Path]:
    """Folders of runs, each once: those given, and for a study's, those of its finished parts."""
    found: list[Path] = []
    for one in folders:
        parts = sorted(path.parent for path in one.glob("*/run.json"))
        found += [one] if (one / "run.json").is_file() or not parts else parts
    return [*dict.fromkeys(found)]


def studies_of(folders: Sequence[Path]) -> list[Path]:
    """Folders of studies, each once: those given, and for one of a study's parts, the study's."""
    above = {one: one.absolute().parent for one in folders if (one / "recipe.json").is_file()}
    inside = {one: up for one, up in above.items() if (up / "recipe.json").is_file()}
    return [*dict.fromkeys(inside.get(one, one) for one in folders)]


def require_folder(folder: Path) -> None:
    """Refuse, as a `ResultsError`, a path that is a file, or is to be in one."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ResultsError(f"expected a folder, got the file {path}. Choose another name.")

"""What can be wrong with a command before anything is loaded?

Its options as data, checked when they are made; torch, which takes seconds, is not imported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses.configs import CONFIGS
from analyses.running.type_check import make_config
from analyses.text.choices import CHOICES
from analyses.text.wording import OWN, known_order, worded
from data_prep.manifest import read_manifest
from hooked_omni.command_line import read_device_map
from hooked_omni.errors import MediaError, ResultsError
from hooked_omni.files import parse_json, read_text

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
        words = worded(self.wording)
        known_order(self.order)
        if self.data is not None and (self.audio is not None or self.text is not None):
            raise ResultsError(
                "expected --clip with --audio and --ask, got --data. A manifest says which "
                "sounds go with which pictures; --questions chooses the questions."
            )
        if self.data is None and self.kinds is not None:
            raise ResultsError("expected --data with --kinds, got --clip: clips have no kind.")
        if self.data is not None:
            read_manifest(self.data)  # refuses a wrong one
        if missing := [str(p) for p in (*self.clips, self.audio) if p and not p.is_file()]:
            raise MediaError(f"expected a media file, got no file at {missing[0]}.")
        known = {*words, OWN, *CHOICES} if self.data is not None else words
        if unknown := [q for q in self.questions if q not in known]:
            raise ResultsError(
                f"expected questions among {sorted(words)}, got {unknown}. Your own words go "
                "into --ask."
            )
        if self.text is not None and (self.wording or self.questions != ("hear",)):
            raise ResultsError(
                f"expected --ask alone, got it with {list(self.questions)} and other words for "
                f"{sorted(self.wording)}, which it would leave unused. Leave out one of the two."
            )


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


def read_config(analysis: str, given: str | None) -> Any:
    """An analysis's `Config` from a JSON object or a JSON file; its defaults for None.

    Raises as `make_config`; a `FileError` for a file that cannot be read, or is no JSON.
    """
    own = given is None or given.lstrip().startswith("{")
    text = given if own else read_text(Path(str(given)))
    values = {} if text is None else parse_json(text, "the config")
    return make_config(CONFIGS[analysis], values)


def read_shard(shard: str) -> tuple[int, int]:
    """The numbers of "i/n"; a `ResultsError` for anything else."""
    numbers = _SHARD.fullmatch(shard)
    if numbers is None:
        raise ResultsError(f"expected a shard as i/n, such as 1/4, got {shard!r}.")
    return int(numbers[1]), int(numbers[2])


def require_folder(folder: Path) -> None:
    """Refuse, as a `ResultsError`, a path that is a file, or is to be in one."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ResultsError(f"expected a folder, got the file {path}. Choose another name.")

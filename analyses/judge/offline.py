"""How well does a caption fit, without a language model?

Three judges that always run. "lexical" looks for the words of the reference captions, by lemma and
synonym. "embedding" compares the caption with them as sentence embeddings. "truth" knows the
organisms' small world, where each thing has one noun and one verb, and is exact there.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from analyses.judge.judgement import Item, JudgeError, Judgement, OnJudgement, What
from analyses.text import context
from analyses.text.events import Events, base_forms, sounds
from data_prep.organism.evaluation.scoring import score
from data_prep.organism.world.things import THINGS, Thing
from data_prep.pairing.embedding import embed, fingerprint, instruction, too_long
from hooked_omni.files import digest, file_hash

_CHUNK = 256
_LETTERS = re.compile(r"[^\W\d_]+")


class _Offline(ABC):
    """What the judges without a server and without prompts have in common."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]: ...

    def require(self) -> None:
        """Nothing can be wrong before the first item."""
        return

    def key(self, item: Item) -> Sequence[Any]:
        return self.facts, item.what, item.question, item.text, item.references, item.others

    def prompt_version(self, what: What) -> str:
        return ""

    def fitted(self, item: Item) -> Item:
        return item


class _OneByOne(_Offline):
    """Judges whose items have nothing in common."""

    def judge_all(self, items: Iterable[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        for item, before in items:
            on_judgement(item, replace(self.judge(item), tries=before + 1))

    @abstractmethod
    def judge(self, item: Item) -> Judgement: ...


@dataclass(frozen=True)
class Lexical(_OneByOne):
    """Reference events that the caption names, by lemma and synonym; invented ones count against.

    An event, or for the picture a word that names a thing, is expected if at least half of the
    references have it (any of them, if they agree on none), and true if one has it. Invented is
    what the table of sound events knows and no reference has; in answers to a question about both
    modalities, what is true of the other one is not. score = found / (expected + invented)
    """

    name: str = field(default="lexical", init=False)

    @property
    def facts(self) -> dict[str, Any]:
        lists = file_hash(Path(context.__file__).with_suffix(".txt"))
        return {"judge": self.name, "version": 2, "table": digest(dict(sounds())), "context": lists}

    def judge(self, item: Item) -> Judgement:
        text = item.text or ""
        if item.what == "events":
            words = dict.fromkeys(match.word for match in Events.every().matches(text))
            return Judgement(reason="words of the table of sounds", words=tuple(words))
        read = _things if item.what == "video" else Events.of
        found = (read(item.references, at_least=n) for n in ((len(item.references) + 1) // 2, 1))
        wanted = next((events for events in found if events.names), None)
        if wanted is None:
            reason = "the references name nothing that the table of sounds knows"
            return Judgement(reason=reason, missing=True)
        named = wanted.found(text)
        invented = [] if item.what == "recall" else _invented(text, item)
        reason = (
            f"found: {', '.join(sorted(named)) or 'none'}; missing: "
            f"{', '.join(sorted(set(wanted.names) - named)) or 'none'}; invented: "
            f"{', '.join(invented) or 'none'}"
        )
        return Judgement(len(named) / (len(wanted.names) + len(invented)), reason)


def _things(captions: Sequence[str], at_least: int) -> Events:
    lemmas = [set(_lemmas(caption)) for caption in captions]
    words = dict.fromkeys(word for caption in captions for word in _lemmas(caption))
    chosen = [word for word in words if sum(word in one for one in lemmas) >= at_least]
    # A row of the table begins with the names of what makes the sound.
    names = [row[:3] for row in sounds().values()]
    alike = {word: [word, *(n for row in names if word in row for n in row)] for word in chosen}
    return Events({w: tuple(dict.fromkeys(alike[w])) for w in chosen}, reading="things")


def _lemmas(text: str) -> list[str]:
    """Words of a text, each in the form in which the table of sounds would have it."""
    known = {word for row in sounds().values() for word in row}
    found = []
    for word in _LETTERS.findall(text.lower()):
        forms = base_forms(word)
        if not _stop_words() & set(forms):
            found.append(next((form for form in forms if form in known), forms[0]))
    return found


@cache
def _stop_words() -> frozenset[str]:
    """Words that name nothing; far from all of them, but those that captions are full of."""
    text = Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def _invented(text: str, item: Item) -> list[str]:
    """Words of the table of sounds that no reference supports, one for each sound."""
    true = [*item.references, *(item.others if item.question not in ("see", "hear") else ())]
    supported = Events.of(true).found(text) | Events.every().named(" . ".join(true))
    by_place: dict[int, tuple[str, set[str]]] = {}
    for match in Events.every().matches(text):
        by_place.setdefault(match.start, (match.word.lower(), set()))[1].add(match.event)
    groups: list[tuple[str, set[str]]] = []
    for word, events in by_place.values():
        if events & supported:
            continue
        same = next((known for _, known in groups if known & events), None)
        if same is None:
            groups.append((word, events))
        else:  # "siren" and "wails" may be of one sound
            same &= events
    return [word for word, _ in groups]


@dataclass(frozen=True)
class Embedding(_Offline):
    """Cosine of the caption and the mean of its references, as sentence embeddings; 0 if negative.

    `model` is one of sentence-transformers: a name on the Hugging Face hub, or a folder.
    """

    model: str

    @property
    def name(self) -> str:
        """Kind of judge, and the model in full: organizations have models of one name."""
        return f"embedding:{self.model.rstrip('/')}"

    @property
    def facts(self) -> dict[str, Any]:
        return {"judge": self.name, "version": 2, "instruction": instruction(self.model)}

    @cached_property
    def _made_by(self) -> list[str]:
        return fingerprint(self.model)

    def key(self, item: Item) -> Sequence[Any]:
        return self.facts, self._made_by, item.what, item.text, item.references

    def judge_all(self, items: Iterable[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        """Judge items, some hundred at a time; points that no comparison decides are refused."""
        open_items = list(items)
        for item, _ in open_items:
            _require_fidelity(item, self.name)
        for start in range(0, len(open_items), _CHUNK):
            self._judge(open_items[start : start + _CHUNK], on_judgement)

    def _judge(self, items: Sequence[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        texts = [text for item, _ in items for text in (item.text or "", *item.references)]
        cut = too_long(texts, self.model)
        fits = []
        for item, before in items:
            if long := [cut[text] for text in (item.text, *item.references) if text in cut]:
                reason = f"longer than the judge reads: {long[0]}"
                on_judgement(item, Judgement(reason=reason, missing=True, tries=before + 1))
            elif (item.text or "").strip():
                fits.append((item, before))
            else:
                on_judgement(item, Judgement(0.0, "the caption is empty", tries=before + 1))
        if fits:
            given = embed([[item.text or ""] for item, _ in fits], self.model)
            true = embed([list(item.references) for item, _ in fits], self.model)
            for (item, before), cosine in zip(fits, (given * true).sum(1), strict=True):
                reason = f"cosine {cosine:.4f} with the references"
                score = min(max(float(cosine), 0.0), 1.0)
                on_judgement(item, Judgement(score, reason, tries=before + 1))


@dataclass(frozen=True)
class Truth(_OneByOne):
    """Exact in the organisms' world: 1 for noun and verb of the right thing and no other."""

    things: tuple[Thing, ...] = THINGS
    name: Literal["truth"] = field(default="truth", init=False)

    @property
    def facts(self) -> dict[str, Any]:
        words = [[thing.noun, thing.verb] for thing in self.things]
        return {"judge": self.name, "version": 1, "things": words}

    def judge(self, item: Item) -> Judgement:
        _require_fidelity(item, self.name)
        own, other = self._noun(item.references), self._noun(item.others)
        seen, heard = (own, other) if item.what == "video" else (other, own)
        if own is None:
            raise JudgeError(
                f"expected references that name one of {[t.noun for t in self.things]}, got "
                f"{list(item.references)} for {item.sample!r}. The judge 'truth' knows the "
                "organisms' clips alone: choose another."
            )
        scored = score(item.text or "", item.question, seen or "", heard or own, self.things)
        right = scored.video if item.what == "video" else scored.audio
        if right is None:
            reason = f"the question {item.question!r} does not ask for it"
            return Judgement(reason=reason, missing=True)
        return Judgement(float(right), f"the right words would be of {own!r}")

    def _noun(self, captions: Sequence[str]) -> str | None:
        words = {word for caption in captions for word in caption.lower().split()}
        nouns = [thing.noun for thing in self.things if thing.noun in words]
        return nouns[0] if len(nouns) == 1 else None


def _require_fidelity(item: Item, judge: str) -> None:
    if item.what not in ("audio", "video"):
        raise JudgeError(
            f"expected 'audio' or 'video' for the judge {judge!r}, got {item.what!r}. Let another "
            "judge do this, such as 'lexical'."
        )

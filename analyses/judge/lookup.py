"""Which judge does a name stand for?

"lexical", "truth" and "embedding:MODEL" need no server. Any other name is a language model's: with
an address, as that server has it; without one, as inspect-ai has it.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from analyses.judge.judgement import Judge, JudgeError, Settings
from analyses.running.type_check import mismatch
from hooked_omni.errors import UnknownModelError

_RULES = ("lexical", "truth")


def load_judge(
    name: str, url: str | None = None, logs: Path | None = None, **settings: Any
) -> Judge:
    """A judge by its name.

    ```python
    load_judge("lexical")
    load_judge("embedding:sentence-transformers/all-MiniLM-L6-v2")
    load_judge("Qwen/Qwen3-32B", url="http://localhost:8000/v1", connections=16)
    load_judge("openai/gpt-4.1", temperature=0.0, top_k=None)
    ```

    Args:
        name: Of the judge.
        url: Address of an OpenAI-compatible server, the part before `/chat/completions`.
        logs: Folder for the replies of a language model, for `inspect view`; None keeps none.
        settings: Fields of `judgement.Settings`, for a language model.

    Raises:
        UnknownModelError: For a name that stands for no judge.
        JudgeError: For settings that do not exist or do not go with the judge, and when inspect-ai
            is needed and not installed.
    """
    language = require_known(name, url, settings)
    if language:
        from analyses.judge.language_model import LanguageModelJudge  # needs an extra's packages

        return LanguageModelJudge(name, url, Settings(**settings), logs)
    from analyses.judge.offline import Embedding, Lexical, Truth

    model = name.partition(":")[2]
    return Embedding(model) if model else {"lexical": Lexical, "truth": Truth}[name]()


def require_known(name: str, url: str | None, settings: Mapping[str, Any]) -> bool:
    """Whether this is a language model; raises as `load_judge`, and imports none of its judges."""
    if name in _RULES or name.partition(":")[0] == "embedding":
        if url is not None or settings:
            raise JudgeError(
                f"expected no address and no settings for the judge {name!r}, got {url!r} and "
                f"{dict(settings)}. They are for language models."
            )
        if name not in _RULES and not name.partition(":")[2]:
            raise UnknownModelError(
                "expected embedding:MODEL, a folder or a name on the Hugging Face hub, got no "
                "model. Name one, such as embedding:sentence-transformers/all-MiniLM-L6-v2."
            )
        return False
    if url is None and "/" not in name:
        raise UnknownModelError(
            f"expected a judge: one of {[*_RULES]}, embedding:MODEL, a model of inspect-ai "
            f"such as openai/MODEL or hf/MODEL, or a server's model with its address, got {name!r}."
        )
    if url is not None and not re.match(r"https?://[^/]", url):
        raise JudgeError(
            f"expected the address of a server, such as http://localhost:8000/v1, got {url!r}."
        )
    if find_spec("inspect_ai") is None or find_spec("openai") is None:
        raise JudgeError(
            "expected inspect-ai, for a language model that judges, got none installed. Install "
            "'hooked-omni[judge]', or choose the judge 'lexical'."
        )
    unknown = sorted(settings.keys() - Settings.__dataclass_fields__.keys())
    if unknown:
        raise JudgeError(
            f"expected settings among {sorted(Settings.__dataclass_fields__)}, got {unknown}."
        )
    if wrong := mismatch(Settings, settings, "the judge's settings"):
        raise JudgeError(f"{wrong} Give a value of that type.")
    Settings(**settings)
    return True

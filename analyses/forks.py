"""At which word does a case's answer go with the sound, or with the picture?"""

from analyses.cases import Case, Skip, embedded
from hooked_omni import HookedOmni
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill
from hooked_omni.errors import PromptError
from hooked_omni.metrics import Fork, fork


def fork_of(omni: HookedOmni, case: Case, *needs: str) -> tuple[Fork, PrefilledPrompt]:
    """Where the two answers of a `which` or `forced` question part, and the prompt before it.

    The right answer is what is heard. `needs` are spans, as of `embedded`.

    Raises:
        Skip: For a case without two answers, one of them right; for answers that do not part, or
            that the vocabulary lacks; and as `embedded`.
    """
    choice = case.choice
    if choice is None or len(choice.options) != 2 or choice.label is None:
        raise Skip(
            "expected a question with two answers, of which what is heard is the right one, got "
            f"{'none' if choice is None else list(choice.options)}. Ask `forced` or `which`."
        )
    prompt = prefill(omni.model, embedded(omni, case, *needs))
    (seen,) = (option for option in choice.options if option != choice.label)
    try:
        return fork(omni.model, prompt, choice.label, seen), prompt
    except PromptError as error:
        raise Skip(str(error)) from error

"""At which word does a case's answer go with the sound, or with the picture?"""

from collections.abc import Sequence

from analyses.cases import Case, Skip, embedded
from data_prep.questions import ChoiceQuestion
from hooked_omni import HookedOmni
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill
from hooked_omni.errors import PromptError
from hooked_omni.metrics import Fork, fork


def fork_of(
    omni: HookedOmni, case: Case, options: Sequence[str] = ()
) -> tuple[Fork, PrefilledPrompt]:
    """Where the two answers of a `which` or `forced` question part, and the prompt before it.

    The right answer is what is heard. `options`, what goes with the sound and what with the
    picture, are for a question that comes without.

    Raises:
        Skip: For a case without two answers, one of them right; for answers that do not part, or
            that the vocabulary lacks; and as `embedded`.
    """
    choice = case.choice or (ChoiceQuestion("?", tuple(options), options[0]) if options else None)
    if choice is None or len(choice.options) != 2 or choice.label is None:
        raise Skip(
            "expected a question with two answers, of which what is heard is the right one, got "
            f"{'none' if choice is None else list(choice.options)}. Ask `forced` or `which`, or "
            "give `options`."
        )
    prompt = prefill(omni.model, embedded(omni, case))
    (seen,) = (option for option in choice.options if option != choice.label)
    try:
        return fork(omni.model, prompt, choice.label, seen), prompt
    except PromptError as error:
        raise Skip(str(error)) from error

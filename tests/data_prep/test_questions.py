"""A question that nobody could answer or score is refused where it is read."""

from typing import Any

import pytest

from data_prep.manifest import Sample
from data_prep.questions import YES_NO, ChoiceQuestion, lettered, questions_of
from hooked_omni.errors import ManifestError


def sample(questions: Any) -> Sample:
    return Sample("a", extra={"questions": questions})


def test_a_record_is_read_as_it_was_written():
    given = [
        ChoiceQuestion("Is the dog barking?", YES_NO, "No", task="heard"),
        lettered("What sounds?", ["a dog", "rain"], 1, "events", "outdoor"),
        ChoiceQuestion("Which?", ("left", "right")),
    ]
    assert questions_of(sample([one.record for one in given])) == given
    assert given[1].text == "What sounds?\nA. a dog\nB. rain" and given[1].label == "B"
    assert questions_of(Sample("a")) == []


@pytest.mark.parametrize(
    ("record", "decisive"),
    [
        ({"text": "Q", "options": ["Yes"]}, "two or more"),
        ({"text": "Q", "options": ["Yes", " "]}, "two or more"),
        ({"text": "Q", "options": ["Yes", "Yes"]}, "equal"),
        ({"text": " ", "options": ["Yes", "No"]}, "no text"),
        ({"text": "Q", "options": ["Yes", "No"], "label": "yes"}, "'yes'"),
        ({"text": "Q", "options": ["A", "B"], "words": ["x"]}, "1 words for 2"),
        ({"text": "Q", "options": "AB"}, "options"),
        ({"text": 3, "options": ["A", "B"]}, "text"),
        ({"task": "t", "text": "Q", "label": "Yes"}, "'options'"),
        ("Q", "'Q'"),
    ],
)
def test_a_wrong_question_is_refused_with_its_place(record: Any, decisive: str):
    good = {"text": "Q", "options": ["Yes", "No"]}
    with pytest.raises(ManifestError, match=decisive) as error:
        questions_of(sample([good, record]))
    assert "question 2 of 'a'" in str(error.value)


def test_questions_that_are_no_list_are_refused():
    with pytest.raises(ManifestError, match="dict"):
        questions_of(sample({"text": "Q"}))


def test_a_label_beyond_the_options_is_refused():
    with pytest.raises(ManifestError, match="number 3"):
        lettered("Q", ["x", "y"], 2)
    with pytest.raises(ManifestError, match="27"):
        lettered("Q", [str(i) for i in range(27)], 0)

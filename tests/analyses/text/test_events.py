"""The matcher finds the sounds that a reader would, and says by which word."""

import pytest

from analyses.text.events import Events, Match, _rows, base_forms, sounds
from hooked_omni.errors import ResultsError

CAPTIONS = (
    "A dog barks twice while a man talks in the background",
    "Sirens wailing, then a fire truck honks its horn",
    "Rain falls on leaves and water drips from a faucet",
    "Someone types on a keyboard; a clock ticks",
    "Wolves howl in the wind",
    "A cat hisses, geese honk and children are laughing",
)


@pytest.mark.parametrize(
    ("word", "base"),
    [
        *[("dogs", "dog"), ("horses", "horse"), ("buses", "bus"), ("dishes", "dish")],
        *[("cries", "cry"), ("leaves", "leaf"), ("knives", "knife"), ("barking", "bark")],
        *[("whistling", "whistle"), ("tapping", "tap"), ("taped", "tape"), ("cried", "cry")],
        *[("revving", "rev"), ("hissing", "hiss"), ("blowing", "blow"), ("raining", "rain")],
        *[("opening", "open"), ("chirped", "chirp"), ("siren", "siren"), ("firing", "fire")],
    ],
)
def test_inflections_are_undone(word: str, base: str) -> None:
    assert base in base_forms(word)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        *[("taped", "tap"), ("care", "car"), ("cares", "car"), ("his", "hi"), ("glass", "glas")],
        *[("ring", "r"), ("bed", "b"), ("rated", "rat"), ("sting", "st")],
    ],
)
def test_words_that_only_look_inflected_are_left_alone(word: str, other: str) -> None:
    assert other not in base_forms(word)


def test_each_word_of_the_table_names_its_row() -> None:
    every = Events.every()
    for name, words in sounds().items():
        assert len(words) == len(set(words))
        for word in words:
            asks = f"{word}?" in _rows()[name]
            assert name in every.found(f"the sound of {word}" if asks else word), word
            assert not asks or name not in every.found(word), word


def test_function_words_name_nothing() -> None:
    text = "This is what I can hear in his plan: a loud, low, distant noise, and some more of it."
    assert not Events.every().found(text)


def test_captions_name_events_and_the_words_that_did_so_are_known() -> None:
    events = Events.of(CAPTIONS[:2])
    assert events.names == ("dog", "man", "speech", "siren", "horn")
    assert events.caption_words["dog"] == ("dog", "barks")
    assert events.caption_words["siren"] == ("sirens", "wailing", "fire truck")


@pytest.mark.parametrize(
    ("noun", "verb"),
    [
        *[("dog", "barking"), ("siren", "wailing"), ("drill", "drilling"), ("bell", "ringing")],
        *[("keyboard", "typing"), ("engine", "revving"), ("bird", "chirping"), ("rain", "pouring")],
        *[("horse", "galloping"), ("door", "knocking"), ("drum", "beating")],
        *[("whistle", "blowing"), ("motor", "revving"), ("fountain", "splashing")],
    ],
)
def test_source_and_sound_are_one_event(noun: str, verb: str) -> None:
    events = Events.of([f"the sound of a {noun} {verb} loudly"])
    name = {"motor": "engine", "fountain": "water"}.get(noun, noun)
    assert events.names == (name,)
    assert events.found(f"a {verb} noise") == {name}


def test_captions_name_their_own_events() -> None:
    for captions in (*((caption,) for caption in CAPTIONS), CAPTIONS):
        events = Events.of(captions)
        assert events.found("\n".join(captions)) == set(events.names)


def test_a_match_says_which_word_stood_for_what() -> None:
    events = Events.of(["A dog barks"])
    assert events.matches("Two puppies!") == (Match("dog", "puppies", "puppy", 4, 11),)
    assert events.matches("A cat") == ()


def test_onomatopoeia_and_other_languages_are_kept_as_they_are() -> None:
    events = Events.of(["A dog barks", "An ambulance"])
    assert events.found("Woof") == events.found("汪汪") == events.found(" собака") == {"dog"}
    assert events.matches("听到警报器的声音") == (Match("siren", "警报器", "警报器", 2, 5),)


def test_the_longest_phrase_counts() -> None:
    every = Events.every()
    assert "fire" not in every.found("a fire truck")
    assert every.found("cock-a-doodle-doo") == {"chicken"}
    assert every.found("sewing machine") == {"sewing"}


def test_a_word_of_several_rows_is_taken_for_the_one_that_others_name() -> None:
    assert Events.of(["Howling in the wind"]).names == ("wind",)
    assert Events.of(["A dog howls"]).names == ("dog",)
    assert set(Events.of(["A dog howls", "The wind howls"]).names) == {"dog", "wind"}
    assert Events.of(["Something hisses"]).names == ("hiss",)  # the row of its own name
    alone = Events.of(["Something howls"])
    assert (alone.names, alone.words["howl"]) == (("howl",), ("howl",))
    assert alone.found("howling") == {"howl"}


def test_named_covers_whatever_captions_may_have_meant() -> None:
    every = Events.every()
    for word in ("howling", "rings", "hiss", "bark", "woofs"):
        assert Events.of([word]).found(word) <= every.named(word)
    assert every.named("bark") == {"dog"}


def test_own_words_extend_the_table() -> None:
    own = {"theremin": ["theremin", "eerie glide"], "dog": ["Rex"]}
    events = Events.of(["An eerie glide, and Rex"], own)
    assert events.names == ("theremin", "dog")
    assert events.found("woof") == {"dog"}
    assert Events.of(["An eerie glide, and Rex"]).names == ()


def test_events_that_few_captions_name_may_be_left_out() -> None:
    captions = ["A dog barks", "A dog and a car", "Barking"]
    assert Events.of(captions, at_least=2).names == ("dog",)
    assert Events.of(captions).names == ("dog", "car")


def test_one_string_is_refused_where_a_list_belongs(as_installed: None) -> None:
    with pytest.raises(ResultsError, match="expected a list of captions, got one: 'a dog'"):
        Events.of("a dog")
    with pytest.raises(ResultsError, match="expected a list of words for 'dog', got 'rex'"):
        Events.every({"dog": "rex"})


def test_no_captions_name_nothing_and_a_share_of_nothing_is_no_number() -> None:
    assert Events.of([]).names == ()
    assert Events.of([""]).found("a dog") == frozenset()
    events = Events.of(["A dog barks while a siren wails."])
    assert events.share("a dog") == 0.5 and events.share("") == 0.0
    assert events.share(None) != events.share(None)  # NaN
    assert Events.of([]).share("a dog") != 0.0

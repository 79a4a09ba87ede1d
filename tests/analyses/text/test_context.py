"""Sentences that a reader would score at sight: which sounds are there?"""

import time

import pytest

from analyses.distribution_shift.sound_words import token_events
from analyses.judge.judgement import Item
from analyses.judge.offline import Lexical
from analyses.text.context import denied, other_sense
from analyses.text.events import Events

DENIED = {
    "I cannot hear any siren.": "",
    "There is no dog barking in the clip.": "",
    "The clip is silent, without any rain.": "",
    "There are no sirens or alarms.": "",
    "I hear neither a dog nor a cat.": "",
    "It is not a dog but a cat.": "cat",
    "The dog is not barking.": "",
    "There is an absence of birdsong.": "",
    "The recording lacks any thunder.": "",
    "I hear rain instead of thunder.": "rain",
    "It sounds like a guitar rather than a piano.": "guitar",
    "A silent guitar lies on the floor.": "",
    "The sound of barking is missing.": "",
    "There is no dog, a siren wails.": "siren",
    "There is no dog, cat, or bird.": "",
    "There is no dog and a siren wails.": "siren",
    "No dogs and cats can be heard.": "",
    "There is no music and people talk.": "speech",
    "A siren wails and the dog is not barking.": "siren",
    "The dog and the cat are not heard.": "",
    "Sirens and alarms are nowhere to be heard.": "",
    "Nobody is talking.": "",
    "There is a dog, but it is not barking.": "",
    "A dog can be seen, but cannot be heard.": "",
    "A dog not barking, a siren wailing.": "siren",
    "The dog makes no sound.": "",
    "A dog runs silently across a lawn.": "",
    "I dont hear any dog.": "",
    "There isn\u2019t any dog.": "",
    "A woman says that the dog is not barking.": "woman speech",
    "Rain falls without wind.": "rain",
    "Without any rain, the wind howls.": "wind",
    "A dog without a collar barks at a siren.": "dog siren",
    "Rather than a dog, I hear a cat.": "cat",
    "No sounds such as dogs barking or sirens can be heard.": "",
    "Neither the dog nor the cat makes a sound, while birds chirp.": "bird",
    "I do not hear a dog; however, a cat meows.": "cat",
    "The audio does not contain a dog barking. It contains a siren.": "siren",
    "no dog\nsiren": "siren",
    "sans chien": "",
    "没有狗叫": "",
    "不是狗而是猫": "cat",
    "犬は吠えていない": "",
    "I doubt that there is a dog.": "",
    "Dog: no. Siren: yes.": "siren",
    "Dogs? No. Sirens? Yes.": "siren",
    "- Dog barking: not heard\n- siren": "siren",
    "Dog barking: absent. Siren: present.": "siren",
}
AFFIRMED = {
    "The dog doesn't stop barking.": "dog",
    "The siren never stops.": "siren",
    "It is not without thunder.": "thunder",
    "There is no lack of sirens.": "siren",
    "The dog isn't silent.": "dog",
    "Not only a dog but also a cat can be heard.": "dog cat",
    "I hear nothing but rain.": "rain",
    "No sound other than a siren can be heard.": "siren",
    "I can't help but hear a dog.": "dog",
    "The siren cannot be ignored.": "siren",
    "The siren is not very loud.": "siren",
    "No, a dog barks.": "dog",
    "The street is silent except for a dog.": "dog",
    "I'm not sure if it is a dog or a cat.": "dog cat",
    "A dog barks but it does not growl.": "dog",
    "A distant, constant hum and faint thunder": "hum thunder",
    "There is nothing quite like the roar of a lion.": "lion",
    "The rain never lets up.": "rain",
    "The thunder does not die down.": "thunder",
    "The alarm is not turned off.": "siren",
    "A man says: no.": "man speech",
    "A dog barks loudly in the distance while cars pass": "dog car",
    "A phone rings but nobody answers": "phone",
}
OTHER = {
    "A man eats a hot dog.": "man eat",
    "The bark of a tree is rough.": "",
    "She wears a diamond ring.": "",
    "A man with glasses": "man",
    "Glasses clink.": "glass",
    "The audience watches.": "",
    "Look at these shoes.": "",
    "Her shoes squeak on the floor.": "footsteps squeak",
    "She walks through the park.": "",
    "The sound of someone walking": "footsteps",
    "The horn of a rhino is long.": "",
    "A car horn honks.": "car horn",
    "He is a fan of the team.": "",
    "They train to be strong.": "",
    "A train passes.": "train",
    "We duck down.": "",
    "A duck quacks.": "duck",
    "A clap of thunder shakes the house.": "thunder",
    "A man leaves the room.": "man",
    "Leaves rustle.": "leaves",
    "I saw a dog.": "dog",
    "A saw cuts wood.": "saw",
    "He waves at the camera.": "",
    "Waves crash on the beach.": "ocean crash",
    "The camera pans to a park.": "",
    "A tired man wears blue pants.": "man",
    "A close-up shot of a flower": "",
    "French fries": "",
    "The lion's share": "",
    "A cat-like robot": "",
    "He has a frog in his throat.": "",
    "A bull market": "",
    "Her pony tail": "",
    "The coach is barking orders.": "",
    "A drill sergeant": "",
    "A porcelain dog": "",
    "A porcelain plate clanking": "dishes clank",
    "An audience applauds.": "crowd cheer",
    "A man with glasses laughs.": "man laugh",
    "A twig snapping": "leaves pop",
    "Paper and plastic crinkling": "paper plastic rustle",
    "A winding road": "",
    "A fire truck passes.": "siren",
}
UNSPACED = {
    "热狗": "",
    "马上": "",
    "马路": "",
    "牛仔裤": "",
    "虎口": "",
    "鸡蛋": "",
    "龙头": "",
    "车站": "",
    "火车站": "",
    "海马": "",
    "风水": "",
    "马来西亚": "",
    "鼓励": "",
    "女朋友": "",
    "笑话": "",
    "门口": "",
    "サイレント": "",
    "水曜日": "",
    "狗": "dog",
    "狗叫": "dog",
    "一只狗在叫": "dog",
    "听到警报器的声音": "siren",
    "犬が吠える": "dog",
    "サイレンが聞こえる": "siren",
    "一辆汽车驶过": "car",
    "鸟儿在唱歌": "bird sing",
    "猫咪": "cat",
    "犬の鳴き声": "dog",
    "熊猫": "",
    "牛油果": "",
    "狗尾草": "",
    "薪水": "",
    "火柴": "",
    "犬歯": "",
    "エンジニア": "",
}


@pytest.mark.parametrize(
    ("text", "names"), [*DENIED.items(), *AFFIRMED.items(), *OTHER.items(), *UNSPACED.items()]
)
def test_a_reader_would_name_the_same_sounds(text: str, names: str) -> None:
    events = Events.of([text])
    assert set(events.names) == set(names.split())
    assert events.found(text) == set(names.split())
    every = Events.every().found(text)
    assert every >= set(names.split()) and bool(every) == bool(names)


def test_there_are_enough_of_them() -> None:
    assert len(DENIED) + len(AFFIRMED) >= 50 and len(OTHER) + len(UNSPACED) >= 50


@pytest.mark.parametrize("text", [text for text, names in DENIED.items() if not names])
def test_a_denied_sound_scores_nothing(text: str) -> None:
    references = ("A dog barks, a cat meows", "A siren, an alarm, rain, thunder, birds, speech")
    item = Item("s", "counterfactual", "hear", "", "audio", text, references)
    assert Lexical().judge(item).score == 0
    assert Events.of(references).share(text) == 0


def test_a_denied_thing_is_not_seen() -> None:
    def seen(text: str) -> float | None:
        item = Item(
            "s", "factual", "see", "", "video", text, ("A man with glasses eats a hot dog",)
        )
        return Lexical().judge(item).score

    assert seen("A man with glasses eats a hot dog") == 1
    assert seen("A man without glasses eats a hot dog") == 4 / 5
    assert seen("There is no man") == 0


def test_tokens_and_the_lens_read_with_the_same_matcher() -> None:
    tokens = ["No", " dog", ",", " a", " siren", " wa", "ils", " by", " hot", " dogs", "."]
    named = token_events(tokens, Events.of(["A siren wails, a dog barks"]))
    assert [bool(events) for events in named] == [4 <= i <= 6 for i in range(len(tokens))]
    every = Events.every()
    for token in (" glasses", " audience", "马上", "热狗", " walks", " shoes", "女朋友"):
        assert not every.named(token)
    for token in (" dog", "狗", " siren", "警报"):
        assert every.named(token)


def test_the_reading_of_a_long_text_is_linear() -> None:
    for part in ("no dog, ", "not ", "a dog, ", "the dog is not barking and ", "but it is not "):
        start, text = time.process_time(), part * 1000
        assert max(denied(text) | other_sense(text), default=0) < len(text)
        assert time.process_time() - start < 2  # seconds; for a caption, a millisecond

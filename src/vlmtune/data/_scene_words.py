"""Texts about a drawn scene: captions, a question, a label, keywords, a phrase for one icon.

Pure functions of a scene and a random generator; they never look at pixels. The captions imitate Flickr8k: five
annotators, short sentences, each with different omissions.
"""

import random
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vlmtune.data._scene_drawing import BACKGROUNDS, KINDS, Box, Group, Scene, box

LABELS = tuple(BACKGROUNDS)
"""The labels of `label`, in a fixed order."""

NUMBERS = MappingProxyType({1: "one", 2: "two", 3: "three", 4: "four"})
PLURALS = MappingProxyType({kind: {"box": "boxes", "fish": "fish"}.get(kind, kind + "s") for kind in KINDS})

Topic = Literal["count", "color", "what", "exists", "where", "relation"]

_TOPICS: tuple[Topic, ...] = ("count", "color", "color", "what", "exists", "where", "relation")
_VERBS = MappingProxyType(
    {
        "ball": "lying",
        "box": "sitting",
        "star": "shining",
        "heart": "floating",
        "tree": "growing",
        "house": "standing",
        "car": "parked",
        "boat": "sailing",
        "fish": "swimming",
        "flower": "growing",
    }
)
_PLACES = MappingProxyType(
    {
        "grass": ("on the grass", "in a grassy field", "in the grass"),
        "sand": ("on the sand", "at the beach", "on a sandy beach"),
        "snow": ("in the snow", "on the snow", "on a snowy field"),
        "night": ("at night", "in the dark", "under the night sky"),
        "street": ("on the street", "on the road", "in the street"),
    }
)
_RELATIONS = MappingProxyType(
    {
        "left": ("to the left of", "next to", "beside", "left of"),
        "above": ("above", "over", "on top of"),
    }
)
_INVERSES = MappingProxyType(
    {
        "left": ("to the right of", "next to", "beside", "right of"),
        "above": ("below", "under", "beneath"),
    }
)
_FULL_STOP_SHARE = 0.93


@dataclass(frozen=True)
class Question:
    """A question about a scene. `subject` is the group it is about, `word` the kind or object it names."""

    topic: Topic
    text: str
    answer: str
    subject: Group
    word: str


def with_article(words: str) -> str:
    """The words with "a" or "an" in front."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def name(group: Group) -> str:
    """The kind of icon, in the plural for several."""
    return group.kind if len(group.icons) == 1 else PLURALS[group.kind]


def be(group: Group) -> str:
    """The verb that agrees with the group."""
    return "is" if len(group.icons) == 1 else "are"


def noun_phrase(group: Group, *, color: bool = True, size: bool = False, amount: str | None = None) -> str:
    """Like "a big red ball" or "two blue boxes"; `amount` replaces the number of several icons."""
    words = (group.size if size else None, group.color if color else None, name(group))
    phrase = " ".join(word for word in words if word)
    if len(group.icons) == 1:
        return with_article(phrase)
    return f"{amount or NUMBERS[len(group.icons)]} {phrase}"


def five_captions(scene: Scene, rng: random.Random) -> list[str]:
    """Short captions of five annotators with different habits, in random order."""
    sentences = _captions_of_one(scene, rng) if len(scene.groups) == 1 else _captions_of_two(scene, rng)
    rng.shuffle(sentences)
    return [
        sentence[0].upper() + sentence[1:] + (" ." if rng.random() < _FULL_STOP_SHARE else "") for sentence in sentences
    ]


def _captions_of_one(scene: Scene, rng: random.Random) -> list[str]:
    group = scene.groups[0]
    verb, sized = _VERBS[group.kind], noun_phrase(group, size=True)
    vague = noun_phrase(group, color=False, amount=rng.choice(("some", "several")))
    place = [rng.choice(_PLACES[scene.background]) for _ in range(5)]
    return [
        f"{sized} {be(group)} {verb} {place[0]}",
        f"{noun_phrase(group)} {place[1]}",
        f"there {be(group)} {sized} {place[2]}",
        f"{sized} {verb} {place[3]}",
        f"{vague} {be(group)} {verb} {place[4]}",
    ]


def _captions_of_two(scene: Scene, rng: random.Random) -> list[str]:
    first, second = scene.groups
    relation = [rng.choice(_RELATIONS[scene.relation or "left"]) for _ in range(3)]
    inverse = rng.choice(_INVERSES[scene.relation or "left"])
    place = [rng.choice(_PLACES[scene.background]) for _ in range(3)]
    amount = rng.choice(("some", "several"))
    colorless = noun_phrase(second, color=False, amount=rng.choice(("some", "several")))
    one, other = noun_phrase(first), noun_phrase(second)
    return [
        f"{one} {be(first)} {relation[0]} {other}",
        f"{other} {inverse} {one} {place[0]}",
        f"there {be(first)} {one} {relation[1]} {other} {place[1]}",
        f"{one} and {other} {place[2]}",
        f"{noun_phrase(first, amount=amount)} {be(first)} {_VERBS[first.kind]} {relation[2]} {colorless}",
    ]


def keywords(scene: Scene) -> list[str]:
    """Words a good caption must contain: every kind, then every colour once; "|" separates alternatives."""
    kinds = [
        group.kind if PLURALS[group.kind] == group.kind else f"{group.kind}|{PLURALS[group.kind]}"
        for group in scene.groups
    ]
    return kinds + list(dict.fromkeys(group.color for group in scene.groups))


def question(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A question and its short answer: a number word, a colour, a kind, yes, no or the background."""
    asked = ask(scene, rng)
    return asked.text, asked.answer


def ask(scene: Scene, rng: random.Random) -> Question:
    """A question with exactly one correct answer, and what it is about."""
    subject = rng.choice(scene.groups)
    topic = rng.choice(_TOPICS)
    if topic == "relation" and scene.relation is None:
        topic = "count"
    if topic == "what" and len({group.color for group in scene.groups}) < len(scene.groups):
        topic = "color"
    if topic == "count":
        count = NUMBERS[len(subject.icons)]
        return Question(topic, f"How many {PLURALS[subject.kind]} are there?", count, subject, subject.kind)
    if topic == "color":
        return Question(topic, f"What color {be(subject)} the {name(subject)}?", subject.color, subject, subject.kind)
    if topic == "what":
        text = "What object is in the image?" if len(scene.groups) == 1 else f"What object is {subject.color}?"
        return Question(topic, text, subject.kind, subject, subject.color)
    if topic == "where":
        return Question(topic, "Where was this picture taken?", label(scene), subject, label(scene))
    if topic == "exists":
        return _ask_whether_there_is(scene, subject, rng)
    return _ask_about_relation(scene, subject)


def _ask_whether_there_is(scene: Scene, subject: Group, rng: random.Random) -> Question:
    present = rng.random() < 0.5
    absent = [kind for kind in KINDS if all(kind != group.kind for group in scene.groups)]
    kind = subject.kind if present else rng.choice(absent)
    text = f"Is there {with_article(kind)} in the image?"
    return Question("exists", text, "yes" if present else "no", subject, kind)


def _ask_about_relation(scene: Scene, subject: Group) -> Question:
    first, second = scene.groups
    asks_first = subject == first
    other = second if asks_first else first
    words = {"left": ("to the left of", "to the right of"), "above": ("above", "below")}[scene.relation or "left"]
    where = f"{words[0 if asks_first else 1]} the {name(other)}"
    return Question("relation", f"What is {where}?", subject.kind, subject, where)


def label(scene: Scene) -> str:
    """The background, one of `LABELS`."""
    return scene.background


def referring(scene: Scene, rng: random.Random) -> tuple[str, Box] | None:
    """A phrase that identifies one icon, such as "red ball", and its box in pixels; None if no group has one icon."""
    single = [group for group in scene.groups if len(group.icons) == 1]
    if not single:
        return None
    group = rng.choice(single)
    return f"{group.color} {group.kind}", box(group.icons[0])

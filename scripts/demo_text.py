#!/usr/bin/env python3
"""Write text about a small invented world: what the demo model learns, and what it is tested on.

People, towns and creatures have fixed facts, so there is something to remember; stories keep their names,
sums come out right and lists are counted, so there is something to work out; the rest is left to chance.
The same seed gives the same text.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import demo_words as world

T = TypeVar("T")
Chat = list[tuple[str, str]]

CALIBRATION_SEED, EVALUATION_SEED = 21, 11
HELD_OUT_CHARACTERS = 85_000
SLOT = re.compile(r"\{(\w+?)(_cap)?\}")
BARE_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


@dataclass(frozen=True)
class Person:
    """Somebody of whom everything is known; `he`, `his` and `him` are what the person goes by."""

    name: str
    surname: str
    he: str
    his: str
    him: str
    job: str
    home: str
    pet: str
    hobby: str
    colour: str


@dataclass(frozen=True)
class Town:
    """A town of which everything is known."""

    name: str
    river: str
    trade: str
    founded: int
    market_day: str
    landmark: str


class Writer:
    """Chance and grammar. Draws nothing but `random()`, whose sequence is the same in every Python."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed).random
        self.before = ""

    def between(self, low: int, high: int) -> int:
        """A uniform integer from `low` to `high`, both included."""
        return low + int((high - low + 1) * self.draw())

    def any(self, options: Sequence[T]) -> T:
        """One of `options`, all equally likely."""
        return options[int(len(options) * self.draw())]

    def some(self, options: Sequence[T], n: int) -> list[T]:
        """`n` different ones of `options`, in the order picked."""
        chosen: dict[T, None] = {}
        while len(chosen) < n:
            chosen[self.any(options)] = None
        return list(chosen)

    def rule(self, name: str) -> str:
        """One option of a rule: all sentences are equally likely, but words keep company with the word before."""
        options = world.RULES[name]
        if any("{" in option for option in options):
            return self.any(options)
        favourite = zlib.crc32(f"{self.before} {name}".encode())
        rank = int(len(options) * self.draw() * self.draw() * self.draw())
        self.before = options[(favourite + rank) % len(options)]
        return self.before

    def fill(self, template: str, bound: dict[str, str]) -> str:
        """`template`, each slot filled from `bound` or else from the grammar."""

        def filled(slot: re.Match[str]) -> str:
            text = bound.get(slot[1]) or self.fill(self.rule(slot[1]), bound)
            return text[0].upper() + text[1:] if slot[2] else text

        return SLOT.sub(filled, template)

    def say(self, template: str, **bound: str) -> str:
        """One sentence from `template`: its slots filled, its articles and its first letter in order."""
        sentence = BARE_ARTICLE.sub(r"\1n ", self.fill(template, bound))
        return sentence[0].upper() + sentence[1:]


def _towns() -> tuple[Town, ...]:
    w = Writer(1)
    return tuple(
        Town(name, w.any(world.RIVERS), w.any(world.TRADES), w.between(1100, 1890), w.any(world.DAYS),
             w.any(world.LANDMARKS))
        for name in world.TOWNS
    )  # fmt: skip


def _people() -> tuple[Person, ...]:
    w = Writer(2)
    pronouns = (("she", "her", "her"), ("he", "his", "him"))
    named = [(name, p) for pair in zip(world.WOMEN, world.MEN, strict=True)
             for name, p in zip(pair, pronouns, strict=True)]  # fmt: skip
    return tuple(
        Person(name, w.any(world.SURNAMES), *forms, w.any(world.JOBS), w.any(world.TOWNS), w.any(world.PETS),
               w.any(world.HOBBIES), w.any(world.COLOURS))
        for name, forms in named
    )  # fmt: skip


TOWNS = _towns()
PEOPLE = _people()
CREATURES = tuple(world.CREATURES)


def story(w: Writer) -> str:
    """A tale of one person, one friend and one thing."""
    hero, friend = w.some(PEOPLE, 2)
    events = w.some(world.RULES["act"] + world.RULES["scene"], w.between(3, 8))
    template = " ".join(["{opening} {problem}", *events, "{ending}"])
    return w.say(
        template,
        hero=hero.name, he=hero.he, his=hero.his, him=hero.him, job1=hero.job, home=hero.home, pet=hero.pet,
        friend=friend.name, friend_him=friend.him, thing1=w.any(world.THINGS), day=w.any(world.DAYS),
    )  # fmt: skip


def letter(w: Writer) -> str:
    """A letter with a date, some news and a signature."""
    writer, reader, friend = w.some(PEOPLE, 3)
    date = f"{writer.home}, {w.between(1, 28)} {w.any(world.MONTHS)}"
    news = " ".join(w.some(world.RULES["news"], w.between(2, 5)))
    body = w.say(f"{{greeting}} {news} {{closing}}", friend=friend.name)
    return f"{date}\n\nDear {reader.name},\n{body}\nYours, {writer.name} {writer.surname}"


def portrait(w: Writer) -> str:
    """Facts about one person, in any order."""
    p = w.any(PEOPLE)
    facts = [
        f"{p.he} is a {p.job}.", f"{p.he} lives in {p.home}.", f"{p.he} has a {p.pet}.", f"{p.he} {p.hobby}.",
        f"{p.his} favourite colour is {p.colour}.", f"{p.his} door is painted {p.colour}.",
        f"at work {p.he} always has a {{np}} at hand.", f"{p.he} likes {{food}} and {{food}}.",
    ]  # fmt: skip
    told = " ".join(w.say(fact) for fact in w.some(facts, w.between(3, 6)))
    return f"{p.name} {p.surname}. {told}"


def gazetteer(w: Writer) -> str:
    """Facts about one town."""
    t = w.any(TOWNS)
    citizens = [p.name for p in PEOPLE if p.home == t.name]
    facts = [
        f"it was founded in {t.founded}.",
        f"it is known for its {t.trade}.", f"the market is held on {t.market_day}.",
        f"the {t.landmark} is the oldest building in {t.name}.", "the road to {town} is {adj}.",
        f"people from {{town}} come to buy {t.trade} and {{food}}.",
    ]  # fmt: skip
    if citizens:
        facts.append(f"{' and '.join(w.some(citizens, min(2, len(citizens))))} live here."
                     if len(citizens) > 1 else f"{citizens[0]} lives here.")  # fmt: skip
    told = " ".join(w.say(fact) for fact in w.some(facts, w.between(3, 6)))
    return f"{t.name} lies on the river {t.river}. {told}"


def creature(w: Writer) -> str:
    """What is known about one creature."""
    name = w.any(CREATURES)
    kind, home, food, legs, habit = world.CREATURES[name]
    limbs = f"it has {legs} legs." if legs else "it has no legs."
    facts = [f"it lives in {home}.", f"it eats {food}.", limbs, f"it {habit}.", "children call it “{adj} one”.",
             "one was seen {where} {when}.", f"a {{job}} in {{town}} keeps a {name}."]  # fmt: skip
    told = " ".join(w.say(fact) for fact in w.some(facts, w.between(3, 6)))
    return w.say(f"the {name} is a {kind}. ") + told


def inventory(w: Writer) -> str:
    """A counted list, and the total."""
    things = w.some(world.THINGS, w.between(3, 6))
    counts = [w.between(2, 12) for _ in things]
    lines = [w.say(f"- {n} {{adj}} {thing}s" if thing[-1] not in "sxh" else f"- {n} {{adj}} {thing}es")
             for n, thing in zip(counts, things, strict=True)]  # fmt: skip
    title = w.say("In the {place} of {town} there are:")
    return "\n".join([title, *lines, f"That makes {sum(counts)} things."])


def sums(w: Writer) -> str:
    """A column of additions, subtractions and products."""
    lines = []
    for _ in range(w.between(3, 7)):
        a, b, sign = w.between(1, 20), w.between(1, 12), w.any("+-x")
        a, b = max(a, b), min(a, b)
        lines.append(f"{a} {sign} {b} = {({'+': a + b, '-': a - b, 'x': a * b})[sign]}")
    return "\n".join(lines)


def problem(w: Writer) -> str:
    """A sum told as a story."""
    (hero, friend), thing = w.some(PEOPLE, 2), w.any([t for t in world.THINGS if t[-1] not in "sxh"])
    have, gone, more = w.between(8, 20), w.between(1, 7), w.between(1, 9)
    return w.say(
        f"{hero.name} had {have} {thing}s. {{when_cap}}, {hero.he} gave {gone} of them to {friend.name}. "
        f"That left {have - gone}. Then {hero.he} {{found}} {more} more {{where}}. "
        f"Now {hero.name} has {have - gone + more} {thing}s and {friend.name} has {gone}."
    )


def diary(w: Writer) -> str:
    """Some days in a row."""
    author, first = w.any(PEOPLE), w.between(0, 6)
    days = [world.DAYS[(first + i) % 7] for i in range(w.between(2, 5))]
    entries = [
        w.say(f"{day}: {{weather_cap}}. {{note}} {{note}}", friend=w.any(PEOPLE).name, pet=author.pet)
        for day in days
    ]
    return f"From the diary of {author.name} {author.surname}, {author.job}\n" + "\n".join(entries)


def verse(w: Writer) -> str:
    """Some lines without a story, for the sake of the words."""
    lines = [w.say("{verse}") for _ in range(w.between(4, 9))]
    return ",\n".join(lines) + "."


def ledger(w: Writer) -> str:
    """What a shop sold on one day."""
    owner = w.any(PEOPLE)
    lines = [w.say(f"{w.between(1, 40)}. {{sale}}") for _ in range(w.between(3, 7))]
    return w.say(f"{owner.name} {owner.surname}, {owner.home}, {{day}}\n") + "\n".join(lines)


def recipe(w: Writer) -> str:
    """Things to eat, and what to do with each in turn."""
    foods = w.some(world.FOODS, w.between(3, 5))
    listed = ", ".join(f"{w.between(2, 9) * 50} grams of {food}" for food in foods)
    steps = [w.say(f"{{cook_cap}} the {food} {{how}}.") for food in foods]
    return w.say(f"{{job_cap}}'s {foods[0]}. You need {listed}. {' '.join(steps)} Serve {{when}}.")


def talk(w: Writer) -> str:
    """Two people asking each other what the reader can know."""
    a, b = w.some(PEOPLE, 2)
    lines = []
    for _ in range(w.between(2, 4)):
        question, answer = w.any(QUESTIONS)(w)
        lines += [f"{a.name}: {question}", f"{b.name}: {answer}"]
    return "\n".join([*lines, w.say(f"{a.name}: Thank you. I am {{feeling}} now.")])


def ask_person(w: Writer) -> tuple[str, str]:
    """A question about somebody, and its answer."""
    p = w.any(PEOPLE)
    return w.any((
        (f"Where does {p.name} live?", f"{p.name} lives in {p.home}."),
        (f"What does {p.name} do?", f"{p.name} is a {p.job}."),
        (f"Who is {p.name}?", f"{p.name} {p.surname} is a {p.job} from {p.home}."),
        (f"Which animal does {p.name} have?", f"{p.name} has a {p.pet}."),
        (f"What colour does {p.name} like?", f"{p.name} likes {p.colour}."),
        (f"What does {p.name} do in the evening?", f"{p.he.capitalize()} {p.hobby}."),
    ))  # fmt: skip


def ask_town(w: Writer) -> tuple[str, str]:
    """A question about a town, and its answer."""
    t = w.any(TOWNS)
    return w.any((
        (f"What is {t.name} known for?", f"{t.name} is known for its {t.trade}."),
        (f"When was {t.name} founded?", f"{t.name} was founded in {t.founded}."),
        (f"When is the market in {t.name}?", f"The market is on {t.market_day}."),
        (f"Which river flows through {t.name}?", f"The river {t.river}."),
    ))  # fmt: skip


def ask_creature(w: Writer) -> tuple[str, str]:
    """A question about a creature, and its answer."""
    name = w.any(CREATURES)
    kind, home, food, legs, habit = world.CREATURES[name]
    return w.any((
        (f"What does the {name} eat?", f"The {name} eats {food}."),
        (f"Where does the {name} live?", f"The {name} lives in {home}."),
        (f"How many legs does the {name} have?", f"It has {legs or 'no'} legs."),
        (f"What kind of animal is the {name}?", f"The {name} is a {kind}, and it {habit}."),
    ))  # fmt: skip


def ask_sum(w: Writer) -> tuple[str, str]:
    """A sum, and its result."""
    a, b = w.between(1, 20), w.between(1, 20)
    return f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."


def ask_opposite(w: Writer) -> tuple[str, str]:
    """A word, and its opposite."""
    word, opposite = w.any(world.OPPOSITES).split()
    return f"What is the opposite of {word}?", f"The opposite of {word} is {opposite}."


Question = Callable[[Writer], tuple[str, str]]
QUESTIONS: tuple[Question, ...] = (ask_person, ask_town, ask_creature, ask_sum, ask_opposite)
DOCUMENTS: tuple[Callable[[Writer], str], ...] = (
    story, story, story, verse, verse, verse, ledger, ledger, letter, letter, diary, diary, portrait,
    gazetteer, creature, inventory, sums, problem, recipe, talk,
)  # fmt: skip


def documents(seed: int) -> Iterator[str]:
    """Documents without end."""
    w = Writer(seed)
    while True:
        yield w.any(DOCUMENTS)(w)


def text(seed: int, n_characters: int) -> str:
    """Documents with an empty line between them, at least `n_characters`, ending in a newline."""
    written: list[str] = []
    missing = n_characters
    for document in documents(seed):
        written.append(document + "\n")
        missing -= len(document) + 2
        if missing <= 0:
            break
    return "\n".join(written)


def calibration_text() -> str:
    """Text kept apart to calibrate with."""
    return text(CALIBRATION_SEED, HELD_OUT_CHARACTERS)


def evaluation_text() -> str:
    """Text kept apart to measure with."""
    return text(EVALUATION_SEED, HELD_OUT_CHARACTERS)


def chat(w: Writer) -> Chat:
    """A conversation of (role, content) turns: greetings, questions, or a story on request."""
    turns: Chat = []
    if w.draw() < 0.2:
        turns.append(("system", w.any(("You answer briefly.", "You know the towns by the river."))))
    if w.draw() < 0.2:
        turns += [("user", w.any(("Hello!", "Good morning!", "Hi."))),
                  ("assistant", w.any(("Hello! What would you like to know?", "Good day to you.")))]  # fmt: skip
    if w.draw() < 0.3:
        return [*turns, ("user", w.any(("Tell me a story.", "Please tell me a story."))), ("assistant", story(w))]
    for _ in range(w.between(1, 4)):
        question, answer = w.any(QUESTIONS)(w)
        turns += [("user", question), ("assistant", answer)]
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--characters", type=int, default=10_000, help="at least this many")
    args = parser.parse_args()
    sys.stdout.write(text(args.seed, args.characters))


if __name__ == "__main__":
    main()

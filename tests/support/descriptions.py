"""Random descriptions of places, each with several right ones: what the E2E challenge's measures are compared on.

Drawn with `random.Random.random` alone, whose numbers are the same in every version of Python: figures of another
program are kept for them.
"""

from random import Random

NAMES = ["The Copper Kettle", "Café Plume", "Blue Lantern", "Marrow & Thyme", "St. Anne's Inn", "Harbour Lights"]
OPENINGS = ["{} is a", "{} isn't just a", "There's a place called {}, a", 'You\'ll find "{}": a', "In town, {} is a"]
KINDS = ["pub", "coffee shop", "family-friendly restaurant", "non-child-friendly, low-priced bar", "5-star (new) hotel"]
MIDDLES = [
    "near the river",
    "that's rated 3 out of 5",
    "with meals for £20-25",
    "with Italian food",
    "whose price range is more than £30",
    "in the city centre",
    "where kids can't play",
    "with a 4.5 rating and/or low prices",
    "for $10.50",
    "— open at 10:30",
    "that serves wine and hors d'oeuvres",
]
ENDINGS = [".", ".", ".", "!", "...", "?!", "; don't miss it.", ". It's cheap, they've said.", ".The food is good."]
ODD = ["", "good", "a pub.", "Yes!", "£", "the the the the the the"]


def drawn(seed: int, count: int) -> tuple[list[str], list[list[str]]]:
    """Texts, some of them empty or of a few words, and one to six references for each."""
    random = Random(seed)
    references = [[_sentence(random) for _ in range(1 + _below(random, 6))] for _ in range(count)]
    return [disturbed(random, several) for several in references], references


def disturbed(random: Random, references: list[str]) -> str:
    """One of the references with some words left out, said twice, or moved to the front; now and then something odd."""
    if random.random() < 0.03:
        return _one_of(random, ODD)
    words = []
    for word in _one_of(random, references).split():
        what = random.random()
        words += [] if what < 0.15 else [word, word] if what < 0.2 else [word]
        if words and what > 0.9:
            words.insert(0, words.pop())
    return " ".join(words)


def _sentence(random: Random) -> str:
    said = [_one_of(random, OPENINGS).format(_one_of(random, NAMES)), _one_of(random, KINDS)]
    said += [_one_of(random, MIDDLES) for _ in range(1 + _below(random, 3))]
    return " ".join(said) + _one_of(random, ENDINGS)


def _below(random: Random, count: int) -> int:
    return int(random.random() * count)


def _one_of(random: Random, values: list[str]) -> str:
    return values[_below(random, len(values))]

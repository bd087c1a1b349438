"""English words as Stanford's PTBTokenizer parts them, in lower case and without punctuation.

COCO's caption measures count these words. The original is a Java program; this follows it (version 3.4.1, found out by
running it) as far as plain English goes: of the E2E challenge's 51,426 references all but one are parted alike. Web
addresses and mark-up are not its concern.
"""

import re

# what is left out afterwards; brackets stay: the scripts' list has them in capitals, and the words are in small letters
PUNCTUATION = {"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";", "“", "”", "–", "—", "…"}
SPELT = {"£": "#", "€": "$", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
ABBREVIATIONS = "mr|mrs|ms|dr|prof|st|jr|sr|rd|ave|blvd|inc|ltd|co|corp|etc|vs|mt|bros|dept|tel|ext|est|sq|ft"

LETTER, ALNUM = r"[^\W\d_]", r"\w"
PART = rf"(?:[dol]'(?={LETTER}))?{ALNUM}+"  # o'clock, hors d'oeuvres
FIRST = [  # whatever longer word begins there
    rf"{LETTER}+(?=n't(?!\w))",
    r"n't(?!\w)",
    r"'(?:s|m|d|ll|re|ve)(?!\w)",
    r"can(?=not(?!\w))|(?:gon|wan)(?=na(?!\w))|got(?=ta(?!\w))|(?:gim|lem)(?=me(?!\w))",
    rf"{LETTER}+(?!\S)",  # most words are nothing but letters
]
LONGEST = [  # the longest of those that fit
    rf"{PART}(?:[-‑]{PART})*",
    rf"{LETTER}+(?:\.{LETTER}+(?:-{ALNUM}+)*)+",  # a missing space: near.The
    rf"{ALNUM}+,(?=[\w-]*{LETTER}){ALNUM}+(?:-{ALNUM}+)+|{LETTER}+[!?]{LETTER}+",
    r"[a-z](?:\.[a-z])*\.",  # p.m.
    rf"(?:{ABBREVIATIONS})\.|no\.(?=\s+\d)|{PART}(?:-{PART})*\.(?=[,;:])",
    r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}",  # and/or, 3/5
    r"[a-z]+(?:&[a-z])+(?!\w)",
    rf"\d+\.\d+(?:-{ALNUM}+)+|[+-]?(?:\d*(?:[.:,]\d+)+|\d+)",  # -25, 3.5-star
    rf"'n'|'n(?!\w)|'(?:em|till?|cause|[2-9]0s)(?!\w)|'t(?=is|was)|{LETTER}*[aeiouy]'[aeiou]{LETTER}*",
    r"[!?]+|\.{2,}|-{2,}|[^\s\w]|\w",
]
_FIRST = re.compile("|".join(FIRST), re.IGNORECASE)
_LONGEST = [re.compile(pattern, re.IGNORECASE) for pattern in LONGEST]
_SPACE = re.compile(r"\s*")
_SINGLE_QUOTES = str.maketrans("‘’", "''")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    text, found, place = text.translate(_SINGLE_QUOTES), [], 0
    while (place := _SPACE.match(text, place).end()) < len(text):
        first = _FIRST.match(text, place)
        end = first.end() if first else max(m.end() for pattern in _LONGEST if (m := pattern.match(text, place)))
        word = text[place:end].lower()
        if word not in PUNCTUATION and not word.startswith(("..", "--")):
            found.append(SPELT.get(word, word))
        place = end
    return found

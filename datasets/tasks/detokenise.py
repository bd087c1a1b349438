"""DailyDialog's pre-tokenised English back into ordinary spelling.

The corpus parts words and punctuation with spaces ("I ’ m" beside "I'm"), GPT-2 was trained on ordinary text, and
people type ordinary text. So the corpus passes through here when it is read, and nothing else does: not what a user
types, and no dialogue of another kind in the same layout.

What is the corpus's own is told by marks that no ordinary text bears:
- 500 of the file's commas and full stops or more stand apart, " ," and " .", and 95 % or more of all its sentence
  marks (. , ? !) do (`is_corpus`): the publisher's smallest split has 13,056 of the former, and none attached;
- most commas and full stops of the dialogue do (`is_pretokenised`); French parts "?" and "!" from their words, but
  never those two;
- a turn is one line, its letters are English ones, and some punctuation mark or apostrophe is a word by itself.

So ordinary text comes out as it went in: Chinese, French, code, addresses, curly quotation marks. What has come out
once does not change again.
"""

import re

APART = 500  # commas and full stops, at least, stand apart in a file of the corpus
SHARE_APART = 0.95  # of all its sentence marks, at least, do

_APART, _ATTACHED = re.compile(r"(?<=\S) [.,](?=\s|$)"), re.compile(r"\w[.,](?=\s|$)")
_MARK_APART, _MARK_ATTACHED = re.compile(r"(?<=\S) [.,?!]+(?=\s|$)"), re.compile(r"[^\s.,?!][.,?!]+(?=\s|$)")
_LONE_MARK = re.compile(r"(?<!\S)[,.?!;:'\"’‘“”′。、]+(?!\S)")
_ALIKE = str.maketrans({"’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "。": ".", "、": ",", "\x7f": " "})
# What a sentence begins with behind a full stop that lacks its space ("Sure.It will"). Any capital will not do:
# there are "file.Name" and "Example.Com".
_OPENERS = (
    "After|Also|And|Are|Because|But|Bye|Can|Come|Could|Did|Do|Does|Don|Even|Every|Good|Goodbye|Have|He|Here|"
    "Hey|How|I|If|Is|Isn|It|Just|Keep|Let|Look|Make|May|Maybe|Miss|Mr|Mrs|Ms|My|Nice|Not|Now|Oh|Please|"
    "Probably|Remember|See|Shall|She|Since|So|Sometimes|Sorry|Take|Tell|Thank|Thanks|That|The|Then|There|These|"
    "They|This|We|Well|What|When|Where|Which|Why|Will|Would|Yes|You|Your"
)

# Each rule: what a text must contain for the rule to be tried (most texts contain little), a pattern and its
# replacement. They stand in order: a rule may rely on the ones above it.
_WORDS = [
    (" ' ", r"(?<=\w) ' ([smtd]|[Ll]l|[Rr]e|[Vv]e)\b", lambda found: "'" + found[1].lower()),
    ("'II", r"(?<=\w)'II\b", "'ll"),  # "I'II" is the corpus's slip of the pen for "I'll"
    (" ' ", r"\b([Oo]) ' (?=clock\b|[A-Z][a-z])", r"\1'"),
    (" ' ", r"\b([Mm]a) ' (?=am\b)", r"\1'"),
    ("' ", r"(?<!\S)' (?=(?:cause|em|til)\b)", "'"),
    (" na", r"\b([Gg]on|[Ww]an) na\b", r"\1na"),
    (" ta", r"\b([Gg]ot) ta\b", r"\1ta"),
]
_NUMBERS = [
    (" . ", r"(?<=\d) \. (?=\d)", "."),
    (" , ", r"(?<=\d) , (?=000\b)", ","),
    (" , ", r"([$£¥] ?\d{1,3}) , (?=\d{3}\b)", r"\1,"),
    (" ", r"([$£¥]) (?=\d)", r"\1"),
    (" :", r"\b(\d{1,2}) ::? (?=\d{2}\b)", r"\1:"),
    (" - ", r"(?<=\d{3}) - (?=\d{3})", "-"),  # telephone numbers, not subtractions
]
_PUNCTUATION = [
    (" . ", r"\b([A-Za-z]) \. (?=[A-Za-z] \.)", r"\1."),  # "a . m ." and "U . S . A ."
    (".m ..", r"\b([ap]\.m) \.+", r"\1."),  # its second full stop was the sentence's
    (" / ", r"\b([A-Z]) / (?=[A-Z]\b)", r"\1/"),
    (". .", r"(?<=\.) (?=\.)", ""),
    (" ::", r"(?<=\S) ::(?= )", ":"),
    (" ", r"(?<=\S) ([,.?!;:%]+)(?=[\s\"']|$)", r"\1"),  # but not in " .NET" or " :)"
    ("", rf"(?<![\w.@:/\\-])([\w'-]*[a-z]{{2}}[.?!])(?=(?:{_OPENERS})[ '.,?!])", r"\1 "),  # "Sure.It will"
    ("", r"\b((?:[MD]r|Mr?s)\.)(?=[A-Z][a-z])", r"\1 "),  # "Mr.Wang"
    ("( ", r"(?<![:;=-])\( ", "("),
    (" )", r"(?<![:;=-]) \)", ")"),
]
_ELISIONS = ("'cause", "'em", "'til", "'n'")


def is_corpus(text: str) -> bool:
    """Whether a file is the publisher's: many commas and full stops stand apart, hardly a sentence mark does not."""
    if len(_APART.findall(text)) < APART:
        return False
    apart, attached = len(_MARK_APART.findall(text)), len(_MARK_ATTACHED.findall(text))
    return apart >= SHARE_APART * (apart + attached)


def is_pretokenised(text: str) -> bool:
    """Whether most commas and full stops of a dialogue in such a file stand apart, or it has none."""
    apart, attached = len(_APART.findall(text)), len(_ATTACHED.findall(text))
    return apart > attached or not attached


def detokenise(text: str) -> str:
    """A turn of a pre-tokenised dialogue in ordinary spelling, with plain quotation marks and apostrophes.

    One without a mark of its own, with a line's end or with letters that are not English comes out as it went in.
    """
    foreign = not text.isascii() and any(character.isalpha() and not character.isascii() for character in text)
    if foreign or "\n" in text or not _LONE_MARK.search(text):
        return text
    text = " ".join(text.translate(_ALIKE).split())
    text = _apply(_WORDS, text)
    text = _attach(_attach(text, '"'), "'")
    return _apply(_PUNCTUATION, _apply(_NUMBERS, text))


def _apply(rules: list[tuple], text: str) -> str:
    for needle, pattern, replacement in rules:
        if needle in text:
            text = re.sub(pattern, replacement, text)
    return text


def _attach(text: str, mark: str) -> str:
    """Gives each quotation mark that stands by itself to the word that it opens or closes."""
    tokens = text.split(" ")
    lone = tokens.count(mark)
    if not lone:
        return text
    words, prefix, inside = [], "", False
    for token, following in zip(tokens, [*tokens[1:], "."], strict=True):
        if token != mark:
            inside = _inside(token, mark, inside)
            words.append(prefix + token)
            prefix = ""
        elif words and not prefix and (inside or _closes(words[-1], following, lone)):
            words[-1] += mark
            inside = False
        else:
            prefix, inside = prefix + mark, True
        lone -= token == mark
    return " ".join([*words, prefix] if prefix else words)


def _closes(word: str, following: str, lone: int) -> bool:
    """Whether a lone mark outside a quotation belongs to `word`: "ladies ' room", "16 ' wide", "it ' ." """
    return following[0] in ",.?!;:)" or (lone % 2 == 1 and word[-1] in "s0123456789")


def _inside(token: str, mark: str, inside: bool) -> bool:
    """Whether a quotation is open after a word that has its marks attached."""
    if token.startswith(mark) and not token.lower().startswith(_ELISIONS):
        inside = True
    return inside and not token.rstrip(",.?!;:").endswith(mark)

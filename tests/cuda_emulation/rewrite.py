"""CUDA C++ after the preprocessor, as C++: kernel launches become calls, shared memory becomes variables."""

import re

# what may hold `<<<` or `__shared__` without meaning it comes first
_TOKENS = re.compile(
    r'R"(?P<raw>[^(\s]*)\(.*?\)(?P=raw)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Za-z])'(?:\\.|[^'\\\n])+'"
    r"|(?P<launch><<<)"
    r"|(?P<dynamic>\bextern\b(?:\s+\w+)*?\s+__shared__\b)"
    r"|(?P<static>\b__shared__\b)",
    re.S,
)
_ALIGNMENT = re.compile(r"\b(?:alignas|__attribute__)\s*(?=\()")
_CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}


class CudaSyntaxError(Exception):
    """CUDA C++ that is not understood."""


def rewrite(text: str) -> str:
    """The text with each launch as a call of `emulation::Launch`, and shared memory as `emulation/block.h` has it."""
    if "<<<" not in text and "__shared__" not in text:
        return text
    done, start = [], 0
    while token := _TOKENS.search(text, start):
        before, end = text[start : token.start()], token.end()
        if token["launch"] and not re.search(r"operator\s*$", before):
            name = _kernel_before(before)
            written, end = _launch(name, text, end)
            done += [before[: len(before.rstrip()) - len(name)], written]
        elif token["dynamic"] or token["static"]:
            end = _end(text, end, ";")
            declaration = text[token.end() : end - 1]
            written = _dynamic(token[0], declaration) if token["dynamic"] else _static(declaration)
            done += [before, written]
        else:
            done += [before, token[0]]
        start = end
    return "".join([*done, text[start:]])


def _kernel_before(text: str) -> str:
    """The kernel that the text ends with: a name, perhaps qualified, perhaps with template arguments."""
    text = text.rstrip()
    end = len(text)
    if text.endswith(">"):
        depth = 0
        for at in range(end - 1, -1, -1):
            depth += (text[at] == ">") - (text[at] == "<")
            if depth == 0:
                end = at
                break
    name = re.search(r"[\w:.]+\s*$", text[:end])
    if not name:
        raise CudaSyntaxError(f"a launch of no kernel: …{text[-60:]}<<<")
    return text[name.start() :]


def _launch(name: str, text: str, start: int) -> tuple[str, int]:
    """The call for the launch of `name` whose configuration starts at `start`, and where the launch ends."""
    end = _end(text, start, ">>>")
    configuration = text[start : end - 3]
    opening = re.compile(r"\s*\(").match(text, end)
    if not opening:
        raise CudaSyntaxError(f"{name}<<<…>>> has no arguments")
    end = _end(text, opening.end(), ")")
    arguments = text[opening.end() : end - 1]
    literal = '"' + re.sub(r'\s+|"', "", name) + '"'
    call = f"[&](auto... emulated) {{ {name}(emulated...); }}"
    comma = "," if arguments.strip() else ""
    return f"(emulation::Launch({literal}, {configuration})({call}{comma}{arguments}))", end


def _end(text: str, start: int, closing: str) -> int:
    """Behind the first `closing` after `start` that stands in no bracket and in no literal."""
    opened, at = [], start
    while at < len(text):
        if not opened and text.startswith(closing, at):
            return at + len(closing)
        literal = _TOKENS.match(text, at) if text[at] in "\"'R" else None
        if literal and not literal["launch"]:
            at = literal.end()
            continue
        if text[at] in "([{":
            opened.append(_CLOSES[text[at]])
        elif opened and text[at] == opened[-1]:
            opened.pop()
        at += 1
    raise CudaSyntaxError(f"{closing} is missing after …{text[max(0, start - 60) : start + 20]}")


def _dynamic(head: str, declaration: str) -> str:
    """`extern __shared__ T name[]` as a pointer to the launch's memory."""
    qualifiers = head.split()[1:-1]
    declared = re.fullmatch(r"(.*?)\b(\w+)\s*\[\s*\]\s*", _without_alignment(declaration), re.S)
    if not declared:
        raise CudaSyntaxError(f"{head}{declaration}: `extern __shared__ type name[];` is understood")
    kind = " ".join([*qualifiers, declared[1].strip()])
    return f"{kind}* const {declared[2]} = ({kind}*)emulationDynamicShared(__builtin_FILE(), __builtin_LINE());"


def _static(declaration: str) -> str:
    """`__shared__ T a[2], b` as static variables, which the block's first thread makes undefined."""
    names = []
    for part in _split(declaration):
        name = re.search(r"(\w+)\s*((?:\[[^\]]*\]\s*)*)$", part)
        if not name:
            raise CudaSyntaxError(f"__shared__{declaration}: `__shared__ type name[size], …;` is understood")
        names.append(name[1])
    fresh = "".join(
        f" {{ static unsigned long emulated; emulationStaticShared((void*)&{name}, sizeof({name}), &emulated); }}"
        for name in names
    )
    alignment = re.match(r"\s*alignas\s*\([^)]*\)", declaration)  # it stands before `static`
    after = alignment.end() if alignment else 0
    return f"{declaration[:after]} static {declaration[after:]};{fresh}"


def _split(declaration: str) -> list[str]:
    """The declaration at the commas between its variables."""
    parts, depth, last = [], 0, 0
    for at, character in enumerate(declaration):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(declaration[last:at])
            last = at + 1
    return [*parts, declaration[last:]]


def _without_alignment(declaration: str) -> str:
    while found := _ALIGNMENT.search(declaration):
        declaration = declaration[: found.start()] + declaration[_end(declaration, found.end() + 1, ")") :]
    return declaration

"""README.zh-CN.md says what README.md says: the same sections, commands, figures, tables, links and pictures.

Words are for a reader to judge. What can be counted is compared here, section by section.
"""

import re
from collections import Counter
from typing import NamedTuple

import pytest
from places import ROOT

HEADINGS = {
    "GPT-2 + LoRA in Jittor": "用 Jittor 实现的 GPT-2 + LoRA",
    "Two commands": "两条命令",
    "A session": "一次完整的过程",
    "Results": "结果",
    "Beside PyTorch": "与 PyTorch 对齐",
    "Speed": "速度",
    "Features": "功能",
    "What people type most": "最常用的命令",
    "When something goes wrong": "出了问题怎么办",
    "Read it in an afternoon": "一个下午读完源码",
    "Where to read on": "接着读什么",
    "Licence": "许可证",
}
PAGES = ("README.md", "README.zh-CN.md")
SPAN = re.compile(r"`([^`]*)`")
LINK = re.compile(r"(!?)\[([^]]*)]\(([^)]*)\)")
NAME = re.compile(r"[A-Za-z][A-Za-z_]*-?\d[\w-]*", re.ASCII)  # GPT-2 and int8 are no figures
FIGURE = re.compile(r"(\d[\d,]*(?:\.\d+)*(?:e-?\d+)?)( million| 万)?|[¹²³]", re.ASCII)
UNITS = {" million": 1_000_000, " 万": 10_000}


class Section(NamedTuple):
    """What can be counted of what stands between two headings."""

    heading: str  # with its level
    code: list[str]  # the lines of its blocks, without what a `#` explains
    spans: Counter  # of code within a line
    figures: Counter
    links: Counter  # with "!" before those to pictures
    tables: list[int]  # the columns of each row


def sections(page: str) -> list[Section]:
    """The page's, in order."""
    found, fenced = [("", [], [])], False
    for line in page.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if not fenced and re.match("#+ ", line):
            found.append((line, [], []))
        else:
            found[-1][1 + (fenced or line.startswith("```"))].append(line)
    anchors = {"#" + re.sub(r"[^\w ]", "", line.lower()).strip().replace(" ", "-"): line for line, _, _ in found}
    return [counted(*parts, anchors) for parts in found[1:]]


def counted(heading: str, prose: list[str], code: list[str], anchors: dict[str, str]) -> Section:
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", "\n".join(prose))
    spans, links = Counter(SPAN.findall(text)), Counter()
    for picture, _, target in LINK.findall(text):
        target = in_english(anchors[target]) if target.startswith("#") else target
        links[picture + ("the other language" if target in PAGES else target)] += 1
    words = NAME.sub("", LINK.sub(r"\2", SPAN.sub("", text)))
    figures = Counter(value(match) for match in FIGURE.finditer(words))
    rows = [line.count("|") for line in prose if line.startswith("|")]
    return Section(
        in_english(heading), [line.partition(" #")[0].rstrip() for line in code], spans, figures, links, rows
    )


def value(figure: re.Match) -> str:
    """A figure, whatever unit a language counts in: 5.4 million and 540 万 are the same."""
    number, unit = figure[1], figure[2]
    return f"{float(number.replace(',', '')) * UNITS[unit]:.0f}" if unit else (number or figure[0]).rstrip(",.")


def in_english(heading: str) -> str:
    level, _, words = heading.partition(" ")
    return f"{level} " + {chinese: english for english, chinese in HEADINGS.items()}.get(words, words)


def differences(english: str, chinese: str) -> list[str]:
    """What is not the same in both pages; nothing, where the one says what the other says."""
    ours, theirs = sections(english), sections(chinese)
    if [section.heading for section in ours] != [section.heading for section in theirs]:
        return ["the headings are others"]
    return [
        f"{one.heading}: {field}: {getattr(one, field)} is not {getattr(other, field)}"
        for one, other in zip(ours, theirs, strict=True)
        for field in Section._fields
        if getattr(one, field) != getattr(other, field)
    ]


@pytest.fixture(scope="module")
def pages():
    return [(ROOT / name).read_text(encoding="utf-8") for name in PAGES]


def test_both_languages_have_the_same_sections_commands_figures_and_links(pages):
    assert differences(*pages) == []


def test_every_heading_has_its_translation(pages):
    assert [section.heading.lstrip("# ") for section in sections(pages[0])] == list(HEADINGS)
    assert "## 速度\n" in pages[1] and pages[1].startswith("# 用 Jittor")  # written in Chinese, not left in English


def test_links_lead_to_files_that_are_there(pages):
    for target in {target for page in pages for _, _, target in LINK.findall(page)}:
        if not target.startswith(("#", "https://")):
            assert (ROOT / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize(
    "old, new, what",
    [
        ("| 34.8 |", "| 34.9 |", "Results: figures"),  # in a table
        ("约 4 分钟，只需一次", "约 5 分钟，只需一次", "Two commands: figures"),  # in a sentence
        ("540 万", "54 万", "Two commands: figures"),
        ("| 0.56 | `train`", "| 0.56 ¹ | `train`", "Speed: figures"),  # a note
        ("## 速度\n", "", "headings"),
        ("## 速度\n", "### 速度\n", "headings"),
        ("## 速度\n", "## 快慢\n", "headings"),
        ("make demo     #", "make demos     #", "Two commands: code"),  # in a block
        ("--max-steps 4000", "--max-steps 400", "Results: spans"),  # in a line
        ("model.loss(input_ids, labels)", "model.loss(labels)", "type most: code"),
        ("](docs/cuda.md)）", "](docs/usage.md)）", "Speed: links"),
        ("](#一个下午读完源码)", "](#许可证)", "in Jittor: links"),
        ("![聊天页面](docs/chat.png)", "[聊天页面](docs/chat.png)", "type most: links"),  # a picture no more
        ("| CPU | 融合", "| 融合", "Features: tables"),
        ("| 全量微调 | 有 | 有 |\n", "", "Features: tables"),
    ],
)
def test_what_is_changed_in_one_language_alone_is_seen(pages, old, new, what):
    assert pages[1].count(old) == 1
    found = differences(pages[0], pages[1].replace(old, new))
    assert [difference for difference in found if what in difference], found

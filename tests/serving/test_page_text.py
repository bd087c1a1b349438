"""What the chat page's text must keep to, so that a strict Content-Security-Policy can serve it, in both languages."""

import re

from places import ROOT

PAGE = (ROOT / "serving" / "page.html").read_text(encoding="utf-8")
(STYLE,) = re.findall(r"<style\b[^>]*>(.*?)</style>", PAGE, re.DOTALL)
(SCRIPT,) = re.findall(r"<script\b[^>]*>(.*?)</script>", PAGE, re.DOTALL)
MARKUP = PAGE.replace(STYLE, "").replace(SCRIPT, "")


def keys(language: str) -> set[str]:
    """The names of one language's texts."""
    (texts,) = re.findall(rf"^  {language}: {{\n(.*?)^  }},", SCRIPT, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"(?:^ +|[,{] )(\w+): ", re.sub(r'"[^"]*"|`[^`]*`', '""', texts), re.MULTILINE))


def test_markup_has_neither_handlers_nor_styles():
    assert re.findall(r"\s(?:on\w+|style)\s*=", MARKUP) == []


def test_nothing_is_asked_of_elsewhere():
    assert set(re.findall(r"https?://[^\s'\"]+", PAGE)) == {"http://www.w3.org/2000/svg"}  # a namespace, not an address
    assert re.findall(r"@import|url\(", STYLE) == []


def test_no_text_becomes_markup_or_code():
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b"
    assert re.findall(forbidden + r"|new Function|srcdoc|setAttribute\(\"(?:style|on)", SCRIPT) == []


def test_both_languages_have_all_texts_that_are_used():
    english = keys("en")
    assert english == keys("zh")
    named = re.findall(r'data-(?:text|name|label|placeholder)="(\w+)"', MARKUP)
    called = re.findall(r'\bt\("(\w+)"', SCRIPT)
    assert len(english) > 60 and {*named, *called} <= english

"""The chat page in headless Chromium: what its tests do again and again."""

import re
import shutil

from playwright import sync_api

expect = sync_api.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = " ".join(f"word{index}" for index in range(400))
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


def is_problem(said):
    """Whether something in the console is: that a request failed is said there by the browser itself."""
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


def ask(page, text):
    page.get_by_role("textbox", name=re.compile("^(Message|Question)$")).fill(text)
    page.keyboard.press("Enter")


def finished(page):
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def said(page):
    return page.locator(".said")

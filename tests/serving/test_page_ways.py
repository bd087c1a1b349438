"""The chat page in headless Chromium: its settings, languages, sizes and keys; how it tells what is wrong."""

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="`make test-clients` installs playwright")

from browsing import DESKTOP, LONG, PHONE, ask, expect, finished, said  # noqa: E402

pytestmark = pytest.mark.clients


def test_settings_are_sent_and_kept(page, server):
    page.get_by_label("Model", exact=True).select_option("helper")
    page.get_by_role("button", name="Settings").click()
    values = {"Temperature": 0.7, "Top-p": 0.95, "Top-k": 40, "Min-p": 0.05, "Repetition penalty": 1.2}
    values |= {"Longest answer": 64, "Seed": 7}
    for label, value in values.items():
        page.get_by_label(label).fill(str(value))
    page.get_by_label("Stop at").fill("###\n\\nYou:")
    page.get_by_label("System message").fill("Be brief.")
    page.reload()
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    ask(page, "Hello")
    finished(page)
    (body,) = server.bodies
    names = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"]
    assert [body[name] for name in names] == list(values.values())
    assert body["stop"] == ["###", "\nYou:"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.get_by_label("Temperature").fill("3")
    ask(page, "Again")
    too_high = "input => input.validity.rangeOverflow && input === document.activeElement"
    assert page.get_by_label("Temperature").evaluate(too_high)
    assert len(server.bodies) == 1
    page.get_by_role("button", name="Back to the defaults").click()
    page.get_by_label("Model", exact=True).select_option("talker")
    expect(page.get_by_label("System message")).to_be_hidden()  # it was not trained with one
    page.get_by_role("textbox", name="Message").press("Enter")
    finished(page)
    assert "temperature" not in server.bodies[1] and "stop" not in server.bodies[1]


def test_the_language_is_the_browsers_and_can_be_switched(open_page, page):
    expect(page.get_by_placeholder("Say something.")).to_be_visible()
    page.get_by_role("button", name="切换到中文").click()
    expect(page.get_by_role("button", name="新对话")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator(".model p")).to_contain_text("gpt2 的适配器")
    page.reload()
    expect(page.get_by_placeholder("说点什么吧。")).to_be_visible()
    chinese = open_page(locale="zh-CN")
    expect(chinese.get_by_role("button", name="发送")).to_be_visible()


def test_it_is_dark_where_the_system_is_and_can_be_switched(open_page):
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 120
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_screen(open_page, server, viewport):
    server.answers["Hello"] = "x" * 300 + " " + LONG
    page = open_page(viewport)
    width = "Math.max(document.documentElement.scrollWidth, document.getElementById('log').scrollWidth)"
    page.get_by_role("button", name="Two models side by side").click()
    ask(page, "Hello")
    finished(page)
    assert page.evaluate(width) <= viewport["width"]
    page.locator(".token").last.click()
    box = page.get_by_role("tooltip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]
    assert box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"]
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate(width) <= viewport["width"]
    assert page.get_by_role("button", name="Close").is_visible()


def test_all_can_be_done_with_the_keyboard(page, server):
    press = page.keyboard.press
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("Hello")
    press("Shift+Enter")
    page.keyboard.type("you")
    press("Enter")
    expect(said(page)).to_have_text("talker heard: Hello\nyou", use_inner_text=True)
    finished(page)
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    press("Control+Home")
    reached = set()
    page.get_by_label("Model", exact=True).focus()
    for _ in range(14):
        press("Tab")
        name = page.evaluate("document.activeElement.ariaLabel || document.activeElement.tagName")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        boxed = page.evaluate("document.activeElement.matches('#box textarea')")
        assert outline == "solid" or boxed or name == "BODY", name  # one sees where one is
        reached.add(name)
    wanted = {
        "Two models side by side",
        "New chat",
        "Settings",
        "Copy",
        "Edit and send again",
        "Another answer",
        "Message",
    }
    assert wanted <= reached
    page.get_by_role("button", name="Another answer").focus()
    press("Enter")
    expect(page.get_by_text("2/2")).to_be_visible()
    page.get_by_role("button", name="Settings").focus()
    press("Enter")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("button", name="Settings")).to_be_focused()


def test_enter_that_ends_the_input_of_a_chinese_word_sends_nothing(page, server):
    page.get_by_role("textbox", name="Message").fill("你好")
    script = "new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, isComposing: true })"
    page.evaluate(f"document.getElementById('message').dispatchEvent({script})")
    page.wait_for_timeout(100)
    assert server.bodies == []


def test_an_error_is_one_line_and_can_be_tried_again(page, server):
    server.failures = [(429, "too many requests are waiting: try again in 3 s"), (0, "the server is shutting down")]
    ask(page, "Hello")
    expect(page.get_by_role("alert")).to_have_text("too many requests are waiting: try again in 3 sTry again")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_text("the server is shutting downTry again")
    expect(said(page)).to_have_text("talker heard:")  # what came before it is kept
    page.get_by_role("button", name="Try again").click()
    expect(said(page)).to_have_text("talker heard: Hello")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_is_gone_is_said_to_be(page, server):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Hello")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.Try again")


def test_a_key_is_asked_for_where_one_is_needed(open_page, server):
    server.key = "secret"
    page = open_page()
    expect(page.get_by_role("alert")).to_have_text("The server wants an API key.Try again")
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.get_by_label("API key").press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    ask(page, "Hello")
    expect(said(page)).to_have_text("talker heard: Hello")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    server.key = "another"
    ask(page, "Again")
    expect(page.get_by_role("alert")).to_have_text("The server wants another API key.Try again")
    page.get_by_label("API key").fill("another")
    page.get_by_role("button", name="Use this key").click()
    expect(said(page).last).to_have_text("talker heard: Again")


def test_the_end_stays_in_sight_until_the_reader_scrolls_up(page, server):
    server.answers["Hello"], server.delay = "\n".join(LONG.split()), 0.01
    ask(page, "Hello")
    expect(said(page)).to_contain_text("word80")
    log = "document.getElementById('log')"
    left = f"{log}.scrollHeight - {log}.scrollTop - {log}.clientHeight"
    assert page.evaluate(left) < 30
    page.locator("#log").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(150)
    top = page.evaluate(f"{log}.scrollTop")
    page.wait_for_timeout(300)
    assert page.evaluate(f"{log}.scrollTop") == top
    page.get_by_role("button", name="To the latest").click()
    page.wait_for_timeout(100)
    assert page.evaluate(left) < 30
    finished(page)


def test_one_of_two_answers_is_tried_again_while_the_other_streams(page, server):
    page.get_by_role("button", name="Two models side by side").click()
    server.answers["Hello"], server.delay, server.failures = LONG, 0.05, [(500, "no")]
    ask(page, "Hello")
    page.get_by_role("button", name="Try again").click()
    expect(said(page).nth(0)).to_contain_text("word3")
    expect(said(page).nth(1)).to_contain_text("word3")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_have_count(2)
    finished(page)


def test_a_new_chat_begins_with_nothing(page, server):
    server.answers["Hello"], server.delay = LONG, 0.05
    ask(page, "Hello")
    expect(said(page)).to_contain_text("word1")
    page.get_by_role("button", name="New chat").click()
    expect(said(page)).to_have_count(0)
    server.delay = 0
    ask(page, "Again")
    finished(page)
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "Again"}]

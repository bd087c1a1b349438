"""The chat page in a real browser, headless Chromium, before a server whose answers are known."""

import re
import shutil

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-clients` installs playwright")

from chat_server import ChatServer  # noqa: E402

pytestmark = pytest.mark.clients
expect = sync_api.expect
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = " ".join(f"word{index}" for index in range(400))
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server():
    with ChatServer() as server:
        yield server


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end nothing may have been asked of elsewhere, and nothing said in the console."""
    contexts, problems = [], []

    def opened(viewport=DESKTOP, locale="en-US", **settings):
        context = browser.new_context(viewport=viewport, locale=locale, **settings)
        context.set_default_timeout(5000)
        contexts.append(context)
        page = context.new_page()
        here = (server.address, "data:")
        page.on("request", lambda request: request.url.startswith(here) or problems.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: is_problem(said) and problems.append(said.text))
        page.goto(server.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page):
    page = open_page()
    expect(page.get_by_label("Model", exact=True)).to_have_value("talker")  # the first adapter
    return page


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


def test_a_message_is_typed_and_the_streamed_answer_read(page, server):
    server.answers["Hello"] = "Would you like\nsome 茶 — or café?"
    server.delay = 0.02
    ask(page, "Hello")
    expect(said(page)).to_have_text("Would you like\nsome 茶 — or café?", use_inner_text=True)
    finished(page)
    expect(page.locator(".figures")).to_have_text(re.compile(r"^8 tokens · \d+(\.\d)? tokens/s$"))
    expect(page.get_by_role("status")).to_have_text("Would you like\nsome 茶 — or café?")  # for screen readers
    (body,) = server.bodies
    wanted = {"model": "talker", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    wanted |= {"stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 5}
    assert body == wanted  # what nobody chose is left to the server


def test_tokens_appear_as_they_come(page, server):
    server.answers["Hello"], server.delay = "one two three four five six", 0.3
    ask(page, "Hello")
    expect(said(page)).to_contain_text("one two")
    assert "six" not in said(page).inner_text() and page.get_by_role("button", name="Stop").is_visible()
    finished(page)
    expect(said(page)).to_have_text("one two three four five six")


def test_a_chat_remembers_what_was_said(page, server):
    ask(page, "first")
    finished(page)
    ask(page, "second")
    finished(page)
    assert [message["content"] for message in server.bodies[1]["messages"]] == [
        "first",
        "talker heard: first",
        "second",
    ]
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["user", "assistant", "user"]


def test_an_answer_is_stopped(page, server):
    server.answers["Hello"], server.delay = LONG, 0.05
    ask(page, "Hello")
    expect(said(page)).to_contain_text("word2")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    text = said(page).inner_text()
    page.wait_for_timeout(200)
    assert said(page).inner_text() == text and "word100" not in text
    assert server.left == 1  # the server was told
    ask(page, "More")
    expect(said(page).last).to_have_text("talker heard: More")
    page.wait_for_timeout(100)
    server.delay = 0.05
    ask(page, "Hello")
    page.get_by_role("button", name="Stop").click()
    finished(page)


def test_an_answer_is_made_again_and_the_earlier_one_kept(page, server):
    server.answers["Hello"] = "One."
    ask(page, "Hello")
    finished(page)
    server.answers["Hello"] = "Two."
    page.get_by_role("button", name="Another answer").click()
    expect(said(page)).to_have_text("Two.")
    expect(page.get_by_text("2/2")).to_be_visible()
    page.get_by_role("button", name="Earlier answer").click()
    expect(said(page)).to_have_text("One.")
    expect(page.get_by_text("1/2")).to_be_visible()
    ask(page, "And?")
    finished(page)
    assert server.bodies[2]["messages"][1]["content"] == "One."  # what is shown is what was said


def test_a_message_is_edited_and_what_followed_is_forgotten(page, server):
    for text in ("first", "second"):
        ask(page, text)
        finished(page)
    page.locator(".turn").first.hover()
    page.get_by_role("button", name="Edit and send again").first.click()
    editor = page.get_by_role("textbox", name="Edit and send again")
    expect(editor).to_be_focused()
    editor.fill("other")
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("talker heard: other")
    assert server.bodies[2]["messages"] == [{"role": "user", "content": "other"}]
    page.get_by_role("button", name="Edit and send again").first.click()
    page.keyboard.press("Escape")
    expect(page.locator(".bubble")).to_have_text("other")


def test_an_answer_is_copied(browser, open_page, server):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "Hello")
    finished(page)
    page.get_by_role("button", name="Copy").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == "talker heard: Hello"


def test_adapters_are_switched_and_say_what_they_are(page, server):
    expect(page.locator(".model p")).to_have_text("Chat · adapter on gpt2 · trained as dailydialog · reads 1024 tokens")
    page.get_by_label("Model", exact=True).select_option("helper")
    ask(page, "Hello")
    expect(said(page)).to_have_text("helper heard: Hello")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("helper")  # settings stay, conversations do not
    expect(said(page)).to_have_count(0)


def test_two_adapters_answer_side_by_side(page, server):
    server.delay = 0.03
    page.get_by_role("button", name="Two models side by side").click()
    page.get_by_label("Second model").select_option("gpt2")
    ask(page, "Hello")
    expect(said(page).nth(0)).to_have_text("talker heard: Hello")
    expect(said(page).nth(1)).to_have_text("Hellogpt2 heard: Hello")  # a text, and how it goes on
    finished(page)
    one, other = (section.bounding_box() for section in page.locator(".answer").all())
    assert one["y"] == other["y"] and one["x"] + one["width"] < other["x"]
    assert sorted(body["model"] for body in server.bodies) == ["gpt2", "talker"]


def test_a_token_that_is_pointed_at_shows_the_likeliest(page, server):
    server.answers["Hello"] = "I like coffee"
    ask(page, "Hello")
    finished(page)
    page.locator(".token", has_text="like").hover()
    shown = page.get_by_role("tooltip")
    expect(shown.locator("p")).to_have_text("␣likeprobability 50%")
    expect(shown.locator("code:not(p code)")).to_have_text(["␣like", "␣tea", "␣milk", "␣water", "␣it"])
    expect(shown.locator(".share")).to_have_text(["50%", "25%", "12.5%", "6.3%", "3.1%"])
    page.mouse.move(5, 700)
    expect(shown).to_be_hidden()
    said(page).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(shown.locator("p")).to_contain_text("␣like")
    page.keyboard.press("Escape")
    expect(shown).to_be_hidden()


def test_tokens_of_a_long_answer_are_gone_through_with_the_keyboard(page, server):
    server.answers["Hello"] = "\n".join(LONG.split())
    ask(page, "Hello")
    finished(page)
    said(page).focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tooltip")).to_contain_text("word399")
    page.keyboard.press("ArrowRight")  # there is none
    page.keyboard.press("Escape")
    for name in ("word0", "word1"):  # which must be scrolled to
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        expect(page.get_by_role("tooltip")).to_contain_text(name)


def test_a_character_of_several_tokens_is_shown_whole_and_each_token_has_its_probability(page, server):
    """Bytes that spell 茶 only together, text that is held back, and space around an answer that is cut."""
    script = """() => {
      const version = newVersion(models[1]);
      const named = (token) => ({ token, logprob: -1, top: [] });
      take(version, "", [named(" ")]);
      take(version, "A", [named(" A")]);
      take(version, "", [named("bytes:\\\\xe8\\\\x8c")]);
      take(version, "茶", [named("bytes:\\\\xb6")]);
      take(version, " st", [named(" stop")]);
      take(version, "op!", [named("!")]);
      return version.spans.map(({ text, tokens }) => [text, tokens.length]).concat([[version.text, version.tail]]);
    }"""
    assert page.evaluate(script) == [["A", 1], ["茶", 2], [" stop", 1], ["!", 1], ["A茶 stop!", ""]]


def test_what_looks_like_html_stays_text(page, server):
    text = "<script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>"
    server.answers[text] = text
    ask(page, text)
    finished(page)
    expect(said(page)).to_have_text(text)
    page.locator(".token").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("<script>alert(1)</script><img")
    expect(page.locator(".turn script, .turn img, .turn b, [role=tooltip] img")).to_have_count(0)


def test_questions_have_a_context_and_instructions_may(page, server):
    page.get_by_label("Model", exact=True).select_option("reader")
    ask(page, "Where?")
    expect(page.get_by_role("alert")).to_have_text(re.compile("Context is empty"))
    page.get_by_role("textbox", name="Context").fill("It is in Bern.")
    page.get_by_role("textbox", name="Question").press("Enter")
    finished(page)
    page.get_by_label("Model", exact=True).select_option("worker")
    expect(page.get_by_role("textbox", name="Context (optional)")).to_have_value("It is in Bern.")
    page.get_by_role("textbox", name="Context").fill("")
    ask(page, "Name three.")
    finished(page)
    context, question = server.bodies[0]["messages"]
    assert context == {"role": "system", "content": "It is in Bern."} and question["content"] == "Where?"
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "Name three."}]  # nothing before it


def test_a_text_goes_on_where_it_ended(page, server):
    page.get_by_label("Model", exact=True).select_option("gpt2")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest answer").fill("2")
    server.answers |= {"It was ": "a cold winter", "It was a cold": " winter"}
    ask(page, "It was ")
    expect(page.get_by_text("Ended at the longest answer.")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(said(page)).to_have_text("It was a cold winter")
    assert [(body["prompt"], body["logprobs"]) for body in server.bodies] == [("It was ", 5), ("It was a cold", 5)]
    page.get_by_label("Talk to models of plain text as in a chat").check()
    ask(page, "Hello")
    finished(page)
    assert server.bodies[2]["messages"] == [{"role": "user", "content": "Hello"}]


def test_classes_are_shown_as_bars(page, server):
    page.get_by_label("Model", exact=True).select_option("mood")
    ask(page, "I am glad")
    expect(page.locator(".bars span:not(.share)")).to_have_text(["joy", "sadness", "love"])
    expect(page.locator(".bars .share")).to_have_text(["68.8%", "25%", "6.3%"])
    widths = [bar.bounding_box()["width"] for bar in page.locator(".track div").all()]
    assert widths[1] / widths[0] == pytest.approx(0.25 / 0.6875, abs=0.01)
    page.get_by_label("Model", exact=True).select_option("entails")
    page.get_by_role("textbox", name="sentence1").fill("It rains.")
    ask(page, "It is wet.")
    finished(page)
    assert [body["input"] for body in server.bodies] == [
        {"text": "I am glad"},
        {"sentence1": "It rains.", "sentence2": "It is wet."},
    ]


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

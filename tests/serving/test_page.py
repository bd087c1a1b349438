"""The chat page in headless Chromium, before a server whose answers are known: what is said, and what is heard."""

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="`make test-clients` installs playwright")

from browsing import LONG, ask, expect, finished, said  # noqa: E402

pytestmark = pytest.mark.clients


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

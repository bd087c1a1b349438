"""Programs that others wrote, as they come, before `serve.py` itself: what it says is what they understand."""

import asyncio
import json
import os
import subprocess

import numpy as np
import openai
import pytest
import torch
import transformers
from real_server import NANO, TASKS

pytestmark = pytest.mark.clients
PROMPT = "Do you like"
MESSAGES = [{"role": "user", "content": "Do you like tea?"}]
LENGTH = 12  # tokens of an answer
LOG_PROBS = 1e-4  # absolute, the contract's for logits


@pytest.fixture(scope="module")
def client(real):
    with openai.OpenAI(base_url=f"{real.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def theirs():
    """transformers' model and tokenizer."""
    model = transformers.GPT2LMHeadModel.from_pretrained(NANO, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(NANO)


@pytest.fixture(scope="module")
def continued(theirs):
    """What transformers makes of PROMPT, greedily: ids of both [1, time]."""
    model, tokenizer = theirs
    given = tokenizer(PROMPT, return_tensors="pt")
    return model.generate(**given, do_sample=False, max_new_tokens=LENGTH, pad_token_id=0)


@pytest.fixture(scope="module")
def expected(theirs, continued):
    """That as text, without the prompt."""
    return theirs[1].decode(continued[0], skip_special_tokens=True)[len(PROMPT) :]


@pytest.fixture(scope="module")
def said(client):
    """What an adapter answers to MESSAGES, greedily."""
    answer = client.chat.completions.create(model="talker", messages=MESSAGES, temperature=0, max_tokens=LENGTH)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.message.content
    return choice.message.content


def test_openai_lists_the_base_and_its_adapters(client):
    assert [(model.id, model.parent) for model in client.models.list()] == [("nano", None)] + [
        (name, "nano") for name in TASKS
    ]
    assert client.models.retrieve("reader").kind == "qa"


def test_openai_completes_as_transformers_does(client, expected):
    given = {"model": "nano", "prompt": PROMPT, "temperature": 0, "max_tokens": LENGTH}
    assert client.completions.create(**given).choices[0].text == expected
    streamed = list(client.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == expected
    assert streamed[-1].choices == [] and streamed[-1].usage.completion_tokens > 0


def test_openai_reads_the_log_probabilities_of_torch(client, theirs, continued):
    model, tokenizer = theirs
    with torch.no_grad():
        shares = torch.log_softmax(model(continued).logits[0, :-1], dim=-1)
    (choice,) = client.completions.create(
        model="nano", prompt=PROMPT, temperature=0, max_tokens=LENGTH, logprobs=3, echo=True
    ).choices
    chosen = shares.gather(1, continued[0, 1:, None])[:, 0]
    assert choice.logprobs.token_logprobs[0] is None
    np.testing.assert_allclose(choice.logprobs.token_logprobs[1:], chosen, rtol=0, atol=LOG_PROBS)
    for found, row in zip(choice.logprobs.top_logprobs[1:], shares, strict=True):
        best = torch.topk(row, 3)
        # the chosen token is there, too, where it is not one of them
        np.testing.assert_allclose(sorted(found.values())[::-1][:3], best.values, rtol=0, atol=LOG_PROBS)
        assert {tokenizer.decode([index]) for index in best.indices} <= {*found}


def test_openai_streams_a_chat_with_its_log_probabilities(client, said):
    given = {"model": "talker", "messages": MESSAGES, "temperature": 0, "max_tokens": LENGTH}
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True, logprobs=True)]
    assert "".join(choice.delta.content or "" for choice in chunks) == said
    assert chunks[0].delta.role == "assistant" and chunks[-1].finish_reason in ("stop", "length")
    tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content]
    spelled = b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace")
    assert spelled.strip() == said and all(token.logprob <= 0 for token in tokens)


def test_openai_asks_for_many_at_once(real, said, expected):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{real.address}/v1", api_key="none", max_retries=0) as client:
            chats = [
                client.chat.completions.create(model="talker", messages=MESSAGES, temperature=0, max_tokens=LENGTH)
                for _ in range(5)
            ]
            stream = await client.completions.create(
                model="nano", prompt=PROMPT, temperature=0, max_tokens=LENGTH, stream=True
            )
            streamed = "".join([chunk.choices[0].text async for chunk in stream])
            return [answer.choices[0].message.content for answer in await asyncio.gather(*chats)], streamed

    assert asyncio.run(ask()) == ([said] * 5, expected)


def test_openai_embeds_as_torch_does(client, theirs):
    model, tokenizer = theirs
    texts = ["We drink tea.", "The sun is really warm, and you like it."]
    found = client.embeddings.create(model="nano", input=texts)  # as base64, and decoded by the client
    for text, item in zip(texts, found.data, strict=True):
        with torch.no_grad():
            hidden = model.transformer(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(item.embedding, hidden.mean(0), rtol=0, atol=1e-4)


def test_openai_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="../../x", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="talker", messages=MESSAGES, extra_body={"tools": [{"type": "function"}]})
    assert caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="talker", messages=MESSAGES, temperature=3)


@pytest.fixture(scope="module")
def litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices
    return pytest.importorskip("litellm", reason="`make test-clients` installs litellm")


def test_litellm_answers_and_streams(litellm, real, said):
    given = {"model": "openai/talker", "messages": MESSAGES, "api_base": f"{real.address}/v1", "api_key": "none"}
    given |= {"temperature": 0, "max_tokens": LENGTH}
    assert litellm.completion(**given).choices[0].message.content == said
    chunks = list(litellm.completion(**given, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said


def test_langchain_invokes_streams_and_embeds(real, client, said):
    langchain = pytest.importorskip("langchain_openai", reason="`make test-clients` installs langchain-openai")
    where = {"base_url": f"{real.address}/v1", "api_key": "none"}
    chat = langchain.ChatOpenAI(model="talker", temperature=0, max_tokens=LENGTH, max_retries=0, **where)
    answer = chat.invoke("Do you like tea?")
    assert answer.content == said and answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream("Do you like tea?")) == said
    # without this it would count tokens with a tokenizer of OpenAI's, which it fetches
    embeddings = langchain.OpenAIEmbeddings(model="nano", check_embedding_ctx_length=False, **where)
    expected = client.embeddings.create(model="nano", input=["tea"], encoding_format="float").data[0].embedding
    assert np.allclose(embeddings.embed_query("tea"), expected, rtol=0, atol=1e-6)


def curl(real, *arguments, **body) -> str:
    """What `curl` prints; it must end well."""
    url = f"{real.address}/v1/chat/completions"
    given = ["--header", "Content-Type: application/json", "--data-binary", "@-", *arguments, url]
    ended = subprocess.run(
        ["curl", "--silent", "--fail", "--max-time", "60", *given],
        input=json.dumps(body),
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


def test_curl_answers_and_streams(real, said):
    given = {"model": "talker", "messages": MESSAGES, "temperature": 0, "max_tokens": LENGTH}
    assert json.loads(curl(real, **given))["choices"][0]["message"]["content"] == said
    events = curl(real, "--no-buffer", **given, stream=True).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == said

"""OpenAI's own client against a running server: what it sends, and what it makes of the answers."""

import asyncio

import numpy as np
import openai
import pytest
from asking import listening

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def said(computing, tokenizer):
    """What every answer says, with space around it that is not shown."""
    computing.script = tokenizer(" I like tea – 茶. ")["input_ids"]
    return "I like tea – 茶."


def test_it_reads_an_answer(client, said):
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (said, "assistant", "stop")
    assert len(choice.logprobs.content[0].top_logprobs) == 2 and answer.usage.total_tokens > 0


def test_it_reads_a_stream(client, said):
    with client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == said
    assert chunks[-1].usage.completion_tokens > 0 and chunks[-2].choices[0].finish_reason == "stop"


def test_its_own_helper_puts_a_stream_together(client, said):
    with client.chat.completions.stream(**CHAT) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == said
    assert {"content.delta", "content.done"} <= kinds


def test_it_reads_completions(client, said, tokenizer):
    answer = client.completions.create(model="nano", prompt=["Tea", "Sun"], max_tokens=3, logprobs=2, echo=True, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].logprobs.token_logprobs[0] is None and answer.choices[2].text.startswith("Sun I")
    parts = client.completions.create(model="nano", prompt="Tea", max_tokens=50, stream=True)
    assert "".join(part.choices[0].text for part in parts) == f" {said} "


def test_it_reads_embeddings_which_it_asks_for_in_base64(client, computing):
    answer = client.embeddings.create(model="nano", input=["Tea", "warm sun"])
    floats = client.embeddings.create(model="nano", input=["Tea", "warm sun"], encoding_format="float")
    assert np.allclose([each.embedding for each in answer.data], [each.embedding for each in floats.data])


def test_it_reads_models(client):
    assert [model.id for model in client.models.list()][:2] == ["nano", "dailydialog"]
    assert client.models.retrieve("chat").owned_by == "gpt2-jittor"


def test_it_raises_the_right_errors(client, computing):
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        client.chat.completions.create(**{**CHAT, "model": "../../x"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**CHAT, temperature=5)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(**CHAT, tools=[{"type": "function", "function": {"name": "f"}}])
    computing.most = 0
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CHAT)
    computing.most, computing.failing = 100, RuntimeError("ours")
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.APIError, match="should not have happened"):
        list(client.chat.completions.create(**CHAT, stream=True))


def test_it_bears_the_key(computing, said):
    with listening(computing, api_key="right") as (address, _):
        with openai.OpenAI(base_url=f"{address}/v1", api_key="right") as client:
            assert client.chat.completions.create(**CHAT).choices[0].message.content == said
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.chat.completions.create(**CHAT)


def test_thirty_of_its_async_clients_are_answered_together(live, computing, said):
    async def one(client, index) -> str:
        """A stream for every other one."""
        if index % 2:
            return (await client.chat.completions.create(**CHAT)).choices[0].message.content
        stream = await client.chat.completions.create(**CHAT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live}/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client, index) for index in range(30)))

    assert asyncio.run(all_of_them()) == [said] * 30

"""Many clients at once, of the base and of three adapters, are answered as `generate.py` answers one by one."""

import asyncio
import json

import openai
import pytest
import tiny
from commands import command
from real_server import TASKS, written

pytestmark = pytest.mark.clients
EACH = 8  # clients of each model: 32 in all
LENGTH = 24  # tokens of an answer


def sentence(rng, least: int, most: int) -> str:
    return " ".join(rng.choice(tiny.WORDS, rng.integers(least, most)))


def inputs(name: str, rng) -> list[dict[str, str]]:
    """What is asked of a model, by its task's fields."""
    if name == "reader":
        return [{"context": sentence(rng, 5, 40), "question": sentence(rng, 3, 8)} for _ in range(EACH)]
    field = "instruction" if name == "worker" else "prompt"
    return [{field: sentence(rng, 1, 30)} for _ in range(EACH)]


def generated(tmp_path, asked: list[dict[str, str]], *which) -> list[str]:
    """`generate.py`'s answers."""
    given, output = written(tmp_path / "asked.jsonl", asked), tmp_path / "answers.jsonl"
    how = ("--greedy", "--max-new-tokens", LENGTH, "--input", given, "--output", output)
    ended = command("generate.py", "--model", "nano", *which, *how)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line)["answer"] for line in output.read_text(encoding="utf-8").splitlines()]


async def answer(client: openai.AsyncOpenAI, name: str, asked: dict[str, str]) -> str:
    """The server's answer: a chat's, its context as the system message; of the base, which continues text."""
    how = {"model": name, "temperature": 0, "max_tokens": LENGTH}
    if name == "nano":
        return (await client.completions.create(prompt=asked["prompt"], **how)).choices[0].text
    *context, last = asked.values()
    messages = [{"role": "system", "content": text} for text in context] + [{"role": "user", "content": last}]
    return (await client.chat.completions.create(messages=messages, **how)).choices[0].message.content


def test_32_clients_of_four_models_get_the_answers_of_generate(real, rng, tmp_path):
    asked = {name: inputs(name, rng) for name in ("nano", *TASKS)}
    expected = {"nano": generated(tmp_path, asked["nano"])}
    for name, folder in real.folders.items():
        expected[name] = generated(tmp_path, asked[name], "--adapter", folder)
    order = [(name, index) for index in range(EACH) for name in asked]  # neighbours have different adapters

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{real.address}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(answer(client, name, asked[name][index]) for name, index in order))

    found = dict(zip(order, asyncio.run(ask()), strict=True))
    assert found == {(name, index): expected[name][index] for name, index in order}
    assert len({tuple(texts) for texts in expected.values()}) == 4 and any(map(any, expected.values()))

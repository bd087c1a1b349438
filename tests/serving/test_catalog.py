"""Lists of models, adapters that come and go, numbers about texts, ids of texts, and figures."""

import base64
import copy
import gc
import weakref

import httpx
import numpy as np
import pytest
from asking import Asker
from computing import WIDTH, served
from prometheus_client.parser import text_string_to_metric_families

from datasets import tasks
from serving.work import Classification, Embedding, Loading, Unloading


def test_the_list_of_models_says_how_each_is_talked_to(ask):
    body = ask("GET", "/v1/models").json()
    assert body["object"] == "list"
    kinds = {each["id"]: each["kind"] for each in body["data"]}
    assert list(kinds)[0] == "nano" and kinds == {
        "nano": "text",
        "dailydialog": "chat",
        "chat": "chat",
        "squad": "qa",
        "instruct": "instruct",
        "complete": "complete",
        "rte": "classify",
        "classify": "classify",
    }
    one = ask("GET", "/v1/models/classify")
    assert one.status_code == 200 and one.json() in body["data"]
    assert one.json() == {
        "id": "classify",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "gpt2-jittor",
        "root": "nano",
        "parent": "nano",
        "kind": "classify",
        "task": "classify",
        "fields": ["text"],
        "max_model_len": 256,
        "labels": ["good", "bad", "plain"],
    }


@pytest.mark.parametrize("name", ["../../etc/passwd", "nano/", "a" * 5000, "NANO", "%00", "‮"])
def test_a_model_that_is_not_there_is_a_404(ask, name):
    for answer in (
        ask("GET", f"/v1/models/{name}"),
        ask.post("/v1/completions", model=name, prompt="Tea"),
        ask("DELETE", f"/v1/adapters/{name}"),
    ):
        assert answer.status_code == 404, answer.text
        error = answer.json()["error"]
        assert error["code"] in ("model_not_found", None) and len(error["message"]) < 300


def test_embeddings_come_as_numbers_or_as_base64_of_float32(ask, computing, tokenizer):
    texts = ["Tea", "warm sun"]
    body = ask.post("/v1/embeddings", model="nano", input=texts).json()
    ids = [tokenizer(text)["input_ids"] for text in texts]
    expected = [np.resize(np.array(each, np.float32) / 7, WIDTH) for each in ids]
    assert [each["index"] for each in body["data"]] == [0, 1] and body["object"] == "list"
    assert all(each["object"] == "embedding" for each in body["data"])
    assert np.array_equal([each["embedding"] for each in body["data"]], expected)
    count = sum(map(len, ids))
    assert body["model"] == "nano" and body["usage"] == {"prompt_tokens": count, "total_tokens": count}
    packed = ask.post("/v1/embeddings", model="nano", input=ids, encoding_format="base64").json()
    for each, vector in zip(packed["data"], expected, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(each["embedding"]), "<f4"), vector)
    assert isinstance(computing.tickets[0].work, Embedding)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[1], [8192]]}, "input"),
        ({"input": "tea " * 300}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
    ],
)
def test_what_cannot_be_embedded_is_an_error_with_the_parameters_name(ask, body, param):
    answer = ask.post("/v1/embeddings", model="nano", **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_classifier_says_how_probable_each_label_is(ask, computing, tokenizer):
    body = ask.post("/v1/classify", model="classify", input=["I like it.", "Bad."]).json()
    assert [each["index"] for each in body["data"]] == [0, 1] and body["id"].startswith("classify-")
    first = body["data"][0]
    assert first["label"] == "plain" and first["labels"] == ["good", "bad", "plain"] and first["num_classes"] == 3
    assert np.allclose(first["probs"], [1 / 6, 2 / 6, 3 / 6])
    work = computing.tickets[0].work
    assert isinstance(work, Classification) and work.ids.tolist() == tokenizer("I like it.")["input_ids"]


def test_a_classifier_of_two_texts_takes_an_object_of_its_fields(ask, computing, tokenizer):
    asked = {"sentence1": "Tea is warm.", "sentence2": "Tea is cold."}
    assert ask.post("/v1/classify", model="rte", input=asked).status_code == 200
    first, second = (tokenizer(text)["input_ids"] for text in asked.values())
    assert computing.tickets[0].work.ids.tolist() == [*first, tokenizer.eos_token_id, *second]


@pytest.mark.parametrize(
    ("model", "given", "word"),
    [
        ("nano", "Tea", "no classes"),
        ("classify", None, "1 to"),
        ("classify", [], "1 to"),
        ("classify", [[1, 2]], "a text"),
        ("classify", "  ", "not empty"),
        ("classify", "tea " * 300, "shorten"),
        ("rte", "Tea", "sentence1, sentence2"),
        ("rte", {"sentence1": "a", "sentence2": 5}, "sentence2"),
        ("rte", {"sentence1": "a", "sentence2": "b", "more": "c"}, "object of"),
    ],
)
def test_what_cannot_be_classified_is_an_error(ask, model, given, word):
    answer = ask.post("/v1/classify", model=model, input=given)
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]


def test_ids_of_a_text_and_of_messages_and_back(ask, tokenizer, computing):
    text = "Tea – 茶 <|endoftext|>"
    body = ask.post("/tokenize", model="nano", prompt=text, return_token_strs=True).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"]) and body["max_model_len"] == 256
    assert tokenizer.eos_token_id not in body["tokens"]
    assert ask.post("/detokenize", model="nano", tokens=body["tokens"]).json() == {"prompt": text}
    assert ask.post("/detokenize", model="nano", tokens=[0, 5]).json()["prompt"].startswith("<|endoftext|>")
    messages = [{"role": "user", "content": "Hi"}]
    ids = ask.post("/tokenize", model="chat", messages=messages).json()["tokens"]
    ask.post("/v1/chat/completions", model="chat", messages=messages)
    assert computing.tickets[-1].work.prompt.tolist() == ids
    for body in ({}, {"prompt": "a", "messages": messages}, {"prompt": 5}, {"prompt": "a", "add_special_tokens": 1}):
        assert ask.post("/tokenize", model="nano", **body).status_code == 400
    for tokens in (["a"], [8192], "abc", [1.5]):
        assert ask.post("/detokenize", model="nano", tokens=tokens).status_code == 400


@pytest.fixture
def folders(tmp_path):
    """A folder with one adapter, one outside of it, and links of all sorts."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "adapter_config.json").write_text("{}")
    root = tmp_path / "adapters"
    (root / "runs" / "mine").mkdir(parents=True)
    (root / "runs" / "mine" / "adapter_config.json").write_text("{}")
    (root / "empty").mkdir()
    (root / "file").write_text("x")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "runs")
    (root / "loop").symlink_to("loop")
    return root


@pytest.fixture
def ask_below(ask, folders):
    return Asker(ask.computing, adapters_folder=folders)


def test_an_adapter_below_the_folder_is_loaded_served_and_unloaded(ask_below, computing, folders):
    loaded = ask_below.post("/v1/adapters", name="mine", folder="runs/mine")
    assert loaded.status_code == 201 and loaded.json()["id"] == "mine" and loaded.json()["parent"] == "nano"
    assert computing.tickets[-1].work == Loading("mine", folders / "runs" / "mine")
    assert ask_below.post("/v1/completions", model="mine", prompt="Tea").status_code == 200
    assert ask_below.post("/v1/adapters", name="mine", folder="runs/mine").status_code == 409
    assert ask_below.post("/v1/adapters", name="again", folder="inside/mine").status_code == 201
    gone = ask_below("DELETE", "/v1/adapters/mine")
    assert gone.status_code == 200 and gone.json() == {"id": "mine", "object": "model", "deleted": True}
    assert computing.tickets[-1].work == Unloading("mine")
    assert ask_below.post("/v1/completions", model="mine", prompt="Tea").status_code == 404
    assert ask_below("DELETE", "/v1/adapters/nano").status_code == 409


@pytest.mark.parametrize(
    "folder",
    ["..", "../outside", "runs/../../outside", "out", "loop", "file", "nowhere", "/etc", ".", "x" * 5000, "a\0b", "~"],
)
def test_nothing_outside_the_folder_is_read(ask_below, computing, folder):
    answer = ask_below.post("/v1/adapters", name="new", folder=folder)
    assert answer.status_code == 404 and answer.json()["error"]["param"] == "folder"
    assert not computing.tickets


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "../x", "folder": "runs/mine"}, 400, "name"),
        ({"name": "", "folder": "runs/mine"}, 400, "name"),
        ({"name": "a b", "folder": "runs/mine"}, 400, "name"),
        ({"name": "a" * 200, "folder": "runs/mine"}, 400, "name"),
        ({"folder": "runs/mine"}, 400, "name"),
        ({"name": "new"}, 400, "folder"),
        ({"name": "new", "folder": "empty"}, 400, "folder"),
        ({"name": "nano", "folder": "runs/mine"}, 409, "name"),
        ({"name": "new", "folder": "runs/mine", "more": 1}, 400, "more"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_an_error(ask_below, body, status, param):
    answer = ask_below.post("/v1/adapters", **body)
    assert answer.status_code == status and answer.json()["error"]["param"] == param


def test_without_a_folder_nothing_is_loaded(ask):
    assert ask.post("/v1/adapters", name="new", folder="runs/mine").status_code == 403


def test_the_figures_are_prometheus_own_format(live):
    httpx.post(f"{live}/v1/completions", json={"model": "nano", "prompt": "Tea", "max_tokens": 4, "stream": True})
    httpx.get(f"{live}/nowhere")
    text = httpx.get(f"{live}/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["gpt2_jittor_requests_total", "/v1/completions", "200"] == 1
    assert found["gpt2_jittor_requests_total", "other", "404"] == 1
    assert found["gpt2_jittor_first_token_seconds_count",] == 1
    assert found["gpt2_jittor_running",] == 0 and found["gpt2_jittor_waiting",] == 2
    assert found["gpt2_jittor_generated_tokens_total",] == 4 and found["gpt2_jittor_cached_tokens_total",] == 4


def test_what_is_known_of_tokens_goes_with_the_model_that_has_them(tokenizer):
    model = served("mine", tasks.find("text"), copy.copy(tokenizer))
    assert model.pieces is model.pieces
    gone = weakref.ref(model.tokenizer)
    del model
    gc.collect()
    assert gone() is None

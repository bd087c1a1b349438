"""Data of one's own as README says it: trained, measured and used with three commands, for three shapes of records."""

import json

import pytest
import yaml
from commands import PNG, assert_one_line_error, command
from places import ROOT

from common.errors import UserError
from common.options import option_name
from training.arguments import resolve
from training.setup import read_inputs

SAMPLES = ROOT / "datasets" / "samples" / "own"
CHATS, FEELINGS = str(SAMPLES / "chats.jsonl"), str(SAMPLES / "feelings.csv")
# the task, its file, what else is typed, and what the report says of the file
SHAPES = {
    "chat": ("chats.jsonl", (), "chats.jsonl is read as messages"),
    "complete": (
        "questions.csv",
        ("--columns", "prompt=question", "completion=answer"),
        "questions.csv is read as prompt/completion (prompt = question, completion = answer)",
    ),
    "classify": ("feelings.csv", (), "feelings.csv is read as text/label"),
}
SIZES = ("--max-steps", 3, "--eval-limit", 4, "--batch-size", 2, "--max-length", 128, "--lora-r", 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """nano, trained for three updates on each of the files."""
    root = tmp_path_factory.mktemp("runs")
    for task, (name, more, words) in SHAPES.items():
        data = ("--data", SAMPLES / name, *more, "--output-dir", root / task)
        result = command("train.py", "--task", task, *data, *SIZES)
        assert result.returncode == 0, result.stderr
        assert words in result.stdout and f"set apart from {name} by their content" in result.stdout
    return root


@pytest.mark.parametrize("task", SHAPES)
def test_a_run_is_measured_without_naming_its_task_or_its_data(runs, task):
    result = command("evaluate.py", "--adapter", runs / task, "--limit", 4, "--max-new-tokens", 4, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    figure = "accuracy" if task == "classify" else "bleu"
    assert (
        (told["task"], told["split"]) == (task, "validation") and figure in told["adapter"] and figure in told["base"]
    )


def test_a_conversation_goes_on(runs):
    typed = "Hello!\nDo you like tea?\nexit\n"
    result = command("generate.py", "--adapter", runs / "chat", "--greedy", "--max-new-tokens", 5, given=typed)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("> ") == 3
    options = ("--system", "Be kind.", "--prompt", "Hello!", "--json", "--max-new-tokens", 5)
    told = json.loads(command("generate.py", "--adapter", runs / "chat", *options).stdout)
    assert (told["system"], told["prompt"]) == ("Be kind.", "Hello!") and told["tokens"] <= 5


def test_a_prompt_is_completed_one_by_one_and_from_a_file(runs, tmp_path):
    prompt = "How many minutes are there in a day?"
    options = ("--adapter", runs / "complete", "--greedy", "--max-new-tokens", 5)
    result = command("generate.py", *options, "--prompt", prompt, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)["answer"]
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text(json.dumps({"prompt": prompt}) + "\n", encoding="utf-8")
    result = command("generate.py", *options, "--input", source, "--output", output)
    assert result.returncode == 0, result.stderr
    assert json.loads(output.read_text(encoding="utf-8"))["answer"] == answer


def test_a_classifiers_labels_are_those_of_its_data_and_stand_in_its_folder(runs, tmp_path):
    result = command("generate.py", "--adapter", runs / "classify", "--prompt", "i feel so happy", "--json")
    assert result.returncode == 0, result.stderr
    labels = sorted(["sadness", "joy", "love", "anger", "fear", "surprise"])
    assert sorted(json.loads(result.stdout)["probabilities"]) == labels
    assert yaml.safe_load((runs / "classify" / "arguments.yaml").read_text())["labels"] == labels
    result = command("evaluate.py", "--adapter", runs / "classify", "--limit", 4)
    assert result.returncode == 0 and (runs / "classify" / "confusion.png").read_bytes().startswith(PNG)
    merged = command("-m", "lora", "merge", "--adapter", runs / "classify", "--output", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr
    assert sorted(json.loads((tmp_path / "merged" / "config.json").read_text())["label2id"]) == labels


def test_a_run_goes_on_and_other_data_are_refused(runs, tmp_path):
    run, other = runs / "complete", tmp_path / "other.csv"
    lines = (SAMPLES / "questions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    other.write_text("".join(lines[:20]), encoding="utf-8")
    resume = ("train.py", "--output-dir", run, "--resume", "--max-steps", 4)
    assert_one_line_error(command(*resume, "--data", other), "the data are others")
    result = command(*resume)
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stdout


def test_the_runs_chat_template_makes_the_ids_that_it_was_trained_on(runs):
    import transformers

    from datasets.tasks.own.conversations import prompt
    from datasets.turns import conversation_prompt

    tokenizer = transformers.AutoTokenizer.from_pretrained(runs / "chat")
    said = ["Hello!", "Hi, how are you?", "Fine."]
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(said)]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs == conversation_prompt(prompt(said), tokenizer, 500)[0].tolist()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"task": "chat"}, "--task chat reads your own data: give a file with --data, or --data-dir"),
        ({"task": "chat", "data": FEELINGS}, "feelings.csv has the columns text, label, chat needs"),
        ({"data": FEELINGS}, "of your own data, name what they are: --task chat, instruct, complete or classify"),
        ({"task": "chat", "data": str(SAMPLES)}, "is a folder: give it with --data-dir"),
        ({"task": "classify", "data": "no.csv"}, "--data no.csv is no file"),
        ({"task": "classify", "data": FEELINGS, "chat_template": "a.jinja"}, "--chat-template is for conversations"),
        ({"task": "chat", "data": CHATS, "chat_template": "no.jinja"}, "cannot read no.jinja: No such file"),
        ({"task": "chat", "data": "a", "data_dir": "b"}, "--data and --data-dir exclude each other"),
        (
            {"task": "classify", "data": FEELINGS, "columns": ["tixt=a"]},
            "--columns: there is no 'tixt': did you mean text?",
        ),
    ],
)
def test_a_mistake_is_told_in_the_options_that_were_typed(typed, words):
    with pytest.raises(UserError) as caught:
        read_inputs(resolve(typed), say=lambda text: None)
    assert words in caught.value.with_names(option_name)


def test_a_template_of_ones_own_is_the_runs_and_its_end_ends_an_answer(tmp_path):
    template = tmp_path / "chatml.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n",
        encoding="utf-8",
    )
    typed = {"task": "chat", "data": CHATS, "added_tokens": ["<|im_start|>", "<|im_end|>"]}
    said = []
    inputs = read_inputs(resolve(typed | {"chat_template": str(template)}), say=said.append)
    tokenizer = inputs.source.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == end and end in inputs.source.ends() and end in inputs.sample.end_ids
    assert "\n  | <|im_start|>assistant\n  | «So soon? You only just arrived.<|im_end|>»\n" in said[-1]
    messages = [{"role": "user", "content": "Hi"}]
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_classifiers_labels_come_from_its_run_or_its_merged_model_and_from_nowhere_else(runs, tmp_path):
    run = runs / "classify"
    told = command("generate.py", "--adapter", run, "--text", "what a day", "--json")
    result = command("-m", "lora", "merge", "--adapter", run, "--output", tmp_path / "merged")
    assert result.returncode == 0, result.stderr
    merged = command(
        "generate.py", "--model", tmp_path / "merged", "--task", "classify", "--text", "what a day", "--json"
    )
    assert json.loads(merged.stdout)["label"] == json.loads(told.stdout)["label"], merged.stderr
    data = ("--task", "classify", "--data", FEELINGS, "--limit", 4, "--json")
    result = command("evaluate.py", "--model", tmp_path / "merged", *data)
    assert result.returncode == 0 and json.loads(result.stdout)["task"] == "classify", result.stderr
    (tmp_path / "bare").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((run / name).read_bytes())
    for line in (("evaluate.py", *data), ("generate.py", "--task", "classify", "--text", "x")):
        result = command(line[0], "--adapter", tmp_path / "bare", *line[1:])
        assert_one_line_error(result, "bare", "does not say what its classes are called", "arguments.yaml")


def test_a_run_is_measured_from_any_folder(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((runs / "chat" / "arguments.yaml").read_text(encoding="utf-8"))
    assert values["data"] == str(SAMPLES / "chats.jsonl")
    assert read_inputs(resolve({}, values | {"data": values["data"]}), say=lambda text: None).plan.total_steps == 3


def test_columns_of_ones_own_say_nothing_to_a_publishers_task(runs):
    result = command("evaluate.py", "--task", "emotion", "--data-dir", "sample", "--columns", "text=foo")
    assert_one_line_error(result, "--columns", "emotion", "leave it out")

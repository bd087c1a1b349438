"""The commands on every kind of task: questions, instructions, classes, beams, files of prompts."""

import json

import pytest
from commands import PNG, assert_one_line_error, command
from places import ROOT


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """nano, trained for three updates on the embedded sample of three tasks."""
    root = tmp_path_factory.mktemp("runs")
    for task in ("squad", "dolly", "emotion"):
        sizes = ("--max-steps", 3, "--eval-limit", 4, "--batch-size", 2, "--max-length", 128, "--lora-r", 2)
        data = ("--data-dir", "sample", "--output-dir", root / task)
        result = command("train.py", "--task", task, *data, *sizes)
        assert result.returncode == 0, result.stderr
        assert "evaluate.py --adapter" in result.stdout
    return root


def generate(*arguments, **more):
    result = command("generate.py", *arguments, **more)
    assert result.returncode == 0, result.stderr
    return result


def test_a_question_about_a_context_is_answered(runs):
    asked = {"context": "Ulm lies on the Danube. " * 3, "question": "Where does Ulm lie?"}
    typed = [f"--{name}={value}" for name, value in asked.items()]
    told = json.loads(generate("--adapter", runs / "squad", *typed, "--greedy", "--json", "--max-new-tokens", 6).stdout)
    assert {name: told[name] for name in asked} == asked
    assert set(told) == {*asked, "answer", "score", "tokens", "seconds", "tokens_per_second"}


def test_a_session_asks_for_a_context_once_and_for_many_questions(runs):
    typed = "The sun\nis warm.\n\nWhat is warm?\nHow is the sun?\n\nTea is cold.\n\nWhat is cold?\nexit\n"
    told = generate("--adapter", runs / "squad", "--greedy", "--json", "--max-new-tokens", 3, given=typed).stdout
    answers = [json.loads(line) for line in told.splitlines()]
    assert [(answer["context"], answer["question"]) for answer in answers] == [
        ("The sun\nis warm.", "What is warm?"),
        ("The sun\nis warm.", "How is the sun?"),
        ("Tea is cold.", "What is cold?"),
    ]


def test_a_context_longer_than_the_model_is_read_in_windows(runs):
    context = "The tea is warm and the sun is cold. " * 80  # about 800 tokens; nano has 512 positions
    told = generate(
        *("--adapter", runs / "squad", "--context", context, "--question", "What is warm?"),
        *("--greedy", "--json", "--max-new-tokens", 4),
    )
    assert json.loads(told.stdout)["tokens"] <= 4


def test_a_file_of_prompts_is_answered_line_by_line(runs, tmp_path):
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts = [{"instruction": "Name a colour."}, {"prompt": "Count to three.", "context": "One, two, three."}]
    source.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
    options = ("--input", source, "--output", output, "--num-beams", 2, "--samples", 2, "--max-new-tokens", 4)
    generate("--adapter", runs / "dolly", *options)
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["instruction"] for answer in answers] == ["Name a colour.", "Count to three."]
    assert all(len(answer["answers"]) == 2 for answer in answers)
    source.write_text('{"instruction": "One."}\n{"instruction": 2}\n', encoding="utf-8")
    assert_one_line_error(command("generate.py", "--adapter", runs / "dolly", *options), f"{source}:2", "must be text")
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2, "the answers that were there are still there"


def test_the_likeliest_of_several_draws_is_kept_and_a_seed_repeats_it(runs):
    options = ("--mode", "chat", "--prompt", "Hello.", "--best-of", 4, "--seed", 3, "--json", "--max-new-tokens", 6)
    first, again = (json.loads(generate("--model", "nano", *options).stdout) for _ in range(2))
    assert first["answer"] == again["answer"] and first["score"] == again["score"]


def test_a_classifier_tells_its_classes_with_their_probabilities(runs):
    told = json.loads(generate("--adapter", runs / "emotion", "--prompt", "i feel so happy", "--json").stdout)
    assert told["label"] == max(told["probabilities"], key=told["probabilities"].get)
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-4) and len(told["probabilities"]) == 6


def test_classes_are_measured_with_intervals_a_baseline_and_a_picture(runs, tmp_path):
    said = tmp_path / "classes.jsonl"
    options = ("--data-dir", "sample", "--json", "--predictions", said, "--limit", 15)
    result = command("evaluate.py", "--adapter", runs / "emotion", *options)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    for name in ("base", "adapter", "trivial"):
        low, high = told[name]["intervals"]["accuracy"]
        assert low <= told[name]["accuracy"] <= high
    assert told["notes"] == ["base: under a head that was never trained"]
    assert (runs / "emotion" / "confusion.png").read_bytes().startswith(PNG)
    predictions = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()]
    assert len(predictions) == 15 and set(predictions[0]) == {"source", "prediction"}


def test_a_model_without_a_classifiers_head_is_measured_under_one_that_was_never_trained():
    options = ("--model", "nano", "--task", "emotion", "--data-dir", "sample", "--limit", 4, "--json")
    told = json.loads(command("evaluate.py", *options).stdout)
    assert told["notes"] == ["model: under a head that was never trained"]


def test_answers_are_measured_and_written_as_squad_wants_them(runs, tmp_path):
    said = tmp_path / "answers.json"
    options = ("--data-dir", "sample", "--limit", 5, "--predictions", said)
    result = command("evaluate.py", "--adapter", runs / "squad", *options, "--max-new-tokens", 4)
    assert result.returncode == 0, result.stderr
    assert all(f"\n{name} " in result.stdout for name in ("loss", "perplexity", "exact_match", "f1"))
    document = json.loads((ROOT / "datasets/samples/squad/dev-v1.1.json").read_text(encoding="utf-8"))
    names = [qa["id"] for article in document["data"] for part in article["paragraphs"] for qa in part["qas"]]
    assert list(json.loads(said.read_text(encoding="utf-8"))) == names[:5]


def test_descriptions_are_measured_by_the_challenges_measures_and_written_as_its_script_wants_them(tmp_path):
    said = tmp_path / "said.txt"
    model = ("--model", "nano", "--task", "e2e", "--data-dir", "sample", "--json", "--predictions", said)
    beams = ("--num-beams", 2, "--length-penalty", 0.8, "--no-repeat-ngram", 4, "--max-new-tokens", 6)
    result = command("evaluate.py", *model, *beams)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    measures = ["bleu", "nist", *(["meteor"] if "meteor" in told["model"] else []), "rouge_l", "cider"]
    assert list(told["model"]["intervals"]) == ["loss", "perplexity", *measures]
    assert told["examples"] == 8 and "of 4 meanings" in told["notes"][0]
    assert ("meteor left out" in told["notes"][-1]) == ("meteor" not in told["model"])
    assert len(said.read_text(encoding="utf-8").splitlines()) == 4


def test_what_is_wrong_about_descriptions_is_told_in_one_line(tmp_path):
    (tmp_path / "trainset.csv").write_text("mr,ref\nname[Ox],Ox it is.\nOx,It is Ox.\n")
    train = ("train.py", "--task", "e2e", "--output-dir", tmp_path / "run")
    assert_one_line_error(command(*train, "--data-dir", tmp_path), "trainset.csv:3: a meaning is name[The Vaults]")
    assert_one_line_error(command(*train), "e2e-dataset.zip", "give it with --data-dir")
    assert_one_line_error(command(*train, "--data-dir", "sample", "--label-smoothing", 1), "--label-smoothing")
    asked = ("generate.py", "--model", "nano", "--mode", "describe", "--meaning", "The Vaults")
    assert_one_line_error(command(*asked), "a meaning is name[The Vaults]", "not 'The Vaults'")
    measured = ("evaluate.py", "--model", "nano", "--task", "e2e", "--data-dir", "sample", "--length-penalty", 0.8)
    assert_one_line_error(command(*measured), "--length-penalty", "--num-beams")


def test_what_was_trained_for_another_task_is_refused_in_one_line(runs):
    classifier, talker = runs / "emotion", runs / "squad"
    assert_one_line_error(command("generate.py", "--adapter", classifier, "--mode", "chat"), classifier, "classifier")
    assert_one_line_error(command("evaluate.py", "--adapter", talker, "--task", "rte"), talker, "no classifier")
    assert_one_line_error(command("evaluate.py", "--adapter", classifier, "--task", "rte"), "other classes")
    assert_one_line_error(command("generate.py", "--adapter", talker, "--prompt", "Hi"), "--prompt", "--context")
    assert_one_line_error(command("generate.py", "--adapter", talker, "--question", "Hi"), "--context", "missing")


def test_options_that_contradict_each_other_are_told_in_one_line(tmp_path):
    def refused(*options):
        return command("generate.py", "--model", "nano", *options)

    assert_one_line_error(refused("--num-beams", 2, "--temperature", 1), "--num-beams", "--temperature")
    assert_one_line_error(refused("--greedy", "--best-of", 3), "--greedy", "--best-of")
    assert_one_line_error(refused("--samples", 4, "--best-of", 3), "--best-of 3")
    assert_one_line_error(refused("--input", tmp_path / "x.jsonl"), "--output")
    assert_one_line_error(refused("--min-p", 3), "--min-p")
    assert_one_line_error(refused("--mode", "classify"), "classify")
    assert_one_line_error(refused("--task", "emotion", "--prompt", "i feel fine"), "no classifier", "train one")

"""What trackers are told: TensorBoard by its own reader, the others by doubles that write down their calls."""

import sys

import pytest
import tiny
import yaml
from commands import assert_one_line_error, command, train
from runs import arguments, build_world, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracker_doubles import DOUBLES
from tracking import assert_same, expected, log_of, metrics, read_events, step, told, validate

from common.errors import UserError
from common.files import read_json
from training import trackers

# how each is told of the end, and of one that was not to be
ENDS = {
    "wandb": (("finish", 0), ("finish", 1)),
    "swanlab": (("finish", "success"), ("finish", "aborted")),
    "trackio": (("finish",), ("finish",)),
    "mlflow": (("finish", "FINISHED"), ("finish", "KILLED")),
}


def test_tensorboard_reads_what_metrics_say_and_goes_on_behind_a_resume(tmp_path):
    log = log_of(tmp_path / "run", "tensorboard")
    validate(log, 0)
    for number in (1, 2, 3, 4):
        step(log, number)
    validate(log, 4)
    log.close()
    assert_same(read_events(tmp_path / "run"), expected(tmp_path / "run"))
    log = log_of(tmp_path / "run", "tensorboard", reached={"train": 2, "validation": 0})
    for number in (3, 4, 5):
        step(log, number)
    validate(log, 5)
    validate(log, 3, examples=70)  # the best weights, on everything
    log.close()
    assert [record["step"] for record in metrics(tmp_path / "run")] == [0, 1, 2, 3, 4, 5, 5, 3]
    assert_same(read_events(tmp_path / "run"), expected(tmp_path / "run", whole=(7,)))


def test_tensorboard_is_told_the_arguments(tmp_path):
    log_of(tmp_path / "run", "tensorboard").close()
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    assert values["seed"].number_value == 3 and values["learning_rate"].number_value == 0.5
    assert values["lora_targets"].string_value == "['q', 'v']" and values["epochs"].string_value == "None"


@pytest.mark.parametrize("name", DOUBLES)
def test_the_others_are_told_arguments_and_every_value_once_over_a_resume(tmp_path, double, name):
    run_dir = tmp_path / "run"
    log = log_of(run_dir, double(name))
    validate(log, 0)
    for number in (1, 2, 3, 4):
        step(log, number)
    log.close()
    module = sys.modules[name]
    kind, id, resume, config = module.calls[0]
    assert (kind, resume) == ("init", "allow") and config["seed"] == 3 and config["task"] == "dailydialog"
    assert {(key, number): value for key, number, value in told(name)} == expected(run_dir)
    assert module.calls[-1] == ENDS[name][0]
    first = len(module.calls)
    # step 4 was lost with the process, and is made again; the tracker has it already
    log = log_of(run_dir, name, reached={"train": 2, "validation": 0})
    for number in (3, 4, 5):
        step(log, number)
    validate(log, 5)
    log.close()
    assert module.calls[first][:2] == ("init", id)
    points = told(name)
    assert len(points) == len({(key, number) for key, number, _ in points})
    later = {(key, number) for key, number, _ in points}
    assert later == expected(run_dir).keys()


@pytest.mark.parametrize("name", DOUBLES)
def test_ctrl_c_closes_a_trackers_run_as_unfinished(tmp_path, double, name):
    log = log_of(tmp_path / "run", double(name))
    with pytest.raises(KeyboardInterrupt):
        try:
            step(log, 1)
            raise KeyboardInterrupt
        finally:
            log.close()
    assert sys.modules[name].calls[-1] == ENDS[name][1]


def test_a_new_run_in_the_folder_of_one_that_never_saved_is_a_new_run_to_trackers(tmp_path, double):
    for _ in range(2):
        log = log_of(tmp_path / "run", double("trackio") if "trackio" not in sys.modules else "trackio")
        step(log, 1)
        log.close()
    names = [call[1] for call in sys.modules["trackio"].calls if call[0] == "init"]
    assert len(set(names)) == 2 and [point[:2] for point in told("trackio")].count(("train/loss", 1)) == 2


def test_a_tracker_that_joins_at_a_resume_is_told_what_came_before(tmp_path, double):
    log = log_of(tmp_path / "run")
    step(log, 1)
    step(log, 2)
    log.close()
    assert not (tmp_path / "run" / trackers.IDS).exists()
    log = log_of(tmp_path / "run", double("swanlab"), reached={"train": 2, "validation": 0})
    step(log, 3)
    log.close()
    assert [number for key, number, _ in told("swanlab") if key == "train/loss"] == [1, 2, 3]


def test_what_belongs_to_an_earlier_step_goes_to_wandbs_summary(tmp_path, double):
    log = log_of(tmp_path / "run", double("wandb"))
    validate(log, 0)
    step(log, 1)
    step(log, 2)
    validate(log, 1, examples=70)
    log.close()
    ((_, values),) = [call for call in sys.modules["wandb"].calls if call[0] == "summary"]
    assert values["whole_validation/loss"] == 2.0


def test_a_tracker_that_fails_later_is_left_out_and_the_run_goes_on(tmp_path, double, capsys):
    log = log_of(tmp_path / "run", double("trackio"))
    step(log, 1)

    def fail(self, metrics, step=None):
        raise ConnectionError("no network")

    sys.modules["trackio"].Run.log = fail
    step(log, 2)
    step(log, 3)
    log.close()
    assert capsys.readouterr().out == "trackio is told nothing more: no network; metrics.jsonl has everything\n"
    assert [record["step"] for record in metrics(tmp_path / "run")] == [1, 2, 3]


def test_a_tracker_that_cannot_begin_is_an_error_in_one_line(tmp_path, double):
    double("wandb")
    (tmp_path / "packages" / "wandb.py").write_text(
        "def init(**settings):\n    raise ValueError('api_key\\nmissing')\n"
    )
    with pytest.raises(UserError, match="^report_to wandb cannot begin: api_key missing$"):
        log_of(tmp_path / "run", "wandb")


def test_a_folder_that_a_tracker_left_is_not_taken_for_its_package(tmp_path, monkeypatch):
    (tmp_path / "swanlab").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match="^report_to swanlab needs a package that is not installed: pip install swanlab$"
    ):
        trackers.check(["swanlab"])


def test_nothing_of_a_tracker_is_imported_where_none_is_asked_for():
    names = ", ".join(f"'{module}'" for _, module, _ in trackers.KINDS.values())
    result = command("-c", f"import sys, training.metrics_log; print([n for n in ({names}) if n in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"))


def test_a_run_and_its_resume_are_read_by_tensorboard_as_metrics_have_them(world, tmp_path):
    given = {"eval_every": 2, "report_to": ["tensorboard"], "gradient_accumulation": 2}
    run(arguments(world, tmp_path / "run", max_steps=3, **given))
    assert_same(read_events(tmp_path / "run"), expected(tmp_path / "run"))
    run(arguments(world, tmp_path / "run", max_steps=5, **given), resume=True)
    assert [record["step"] for record in metrics(tmp_path / "run") if record["split"] == "train"] == [1, 2, 3, 4, 5]
    assert_same(read_events(tmp_path / "run"), expected(tmp_path / "run"))


def test_a_run_that_its_tracker_did_not_let_begin_is_as_it_was(tmp_path, double):
    double("wandb")
    model, data = tiny.model_folder(tmp_path / "model", seed=1), tiny.dialogue_folder(tmp_path / "data", seed=2)
    broken, folder = tmp_path / "broken", tmp_path / "run"
    broken.mkdir()
    (broken / "wandb.py").write_text("def init(**settings):\n    raise ValueError('not logged in')\n")
    assert command(*train(folder, model, data, "--max-steps", 1, "--report-to", "tensorboard")).returncode == 0
    before = (folder / "arguments.yaml").read_bytes()
    resumed = ["train.py", "--output-dir", folder, "--resume"]
    tried = command(*resumed, "--max-steps", 2, "--report-to", "wandb", PYTHONPATH=str(broken))
    assert_one_line_error(tried, "--report-to wandb cannot begin", "not logged in")
    assert (folder / "arguments.yaml").read_bytes() == before
    assert_one_line_error(command(*resumed, "--report-to", "none", "tensorboard"), "--report-to none stands alone")
    without = command(*resumed, "--max-steps", 2, "--report-to", "none")
    assert without.returncode == 0, without.stderr
    assert read_json(folder / "trackers.json") == {} and len(read_events(folder)) > 0


def test_a_package_that_is_missing_is_told_before_anything_is_computed(tmp_path):
    model, data = tiny.model_folder(tmp_path / "model", seed=1), tiny.dialogue_folder(tmp_path / "data", seed=2)
    line = train(tmp_path / "run", model, data, "--report-to", "tensorboard", "swanlab")
    assert_one_line_error(command(*line), "--report-to swanlab", "pip install swanlab")
    assert not (tmp_path / "run").exists()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"report_to": ["tensorbord"]}))
    assert_one_line_error(
        command(*train(tmp_path / "run", model, data, "--config", recipe)), "report_to", "tensorboard"
    )

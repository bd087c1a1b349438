"""Every malformed file of the corpus is told in one line, within seconds, without gigabytes, and runs nothing."""

import gzip
import shutil

import numpy as np
import pytest

from common.errors import UserError
from gpt2_jittor.checkpoint.weights import read_safetensors
from gpt2_jittor.checkpoint.write import write_safetensors
from tests.faults import ground, malformed
from tests.faults.input_checks import assert_refused
from training.curves import read_run


def checked_with(checks, world, tmp_path, name: str, data: bytes, remove: tuple[str, ...] = ()):
    """Trains on a copy of the model in which the file `name` holds `data`."""
    model = shutil.copytree(world / "model", tmp_path / "model")
    for other in remove:
        (model / other).unlink()
    (model / name).write_bytes(data)
    before = ground.contents(tmp_path)
    answer = checks.run(*_training(world, tmp_path / "run", model))
    assert ground.contents(tmp_path) == before, "nothing is written"
    return answer


def _training(world, run_dir, model=None) -> list:
    script, *options = ground.training(world, run_dir, "--max-steps", 3)
    return [script.removesuffix(".py"), *options, *(["--model", model] if model else [])]


def test_a_sound_folder_passes_the_checks(checks, world, tmp_path):
    answer = checks.run(*_training(world, tmp_path / "run"))
    assert answer.status == 77, answer.errors


@pytest.mark.parametrize("what", malformed.TENSORS)
def test_malformed_weights_are_refused(checks, world, tmp_path, what):
    whole = (world / "model" / "model.safetensors").read_bytes()
    answer = checked_with(checks, world, tmp_path, "model.safetensors", malformed.TENSORS[what](whole))
    assert_refused(answer, tmp_path / "model" / "model.safetensors")


@pytest.mark.parametrize("what", malformed.CONFIGS)
def test_malformed_configurations_are_refused(checks, world, tmp_path, what):
    whole = (world / "model" / "config.json").read_bytes()
    assert_refused(checked_with(checks, world, tmp_path, "config.json", malformed.CONFIGS[what](whole)), "config.json")


@pytest.mark.parametrize("what", malformed.GENERATION)
def test_malformed_settings_of_generation_are_refused(checks, world, tmp_path, what):
    whole = (world / "model" / "generation_config.json").read_bytes()
    answer = checked_with(checks, world, tmp_path, "generation_config.json", malformed.GENERATION[what](whole))
    assert_refused(answer, tmp_path / "model" / "generation_config.json")


@pytest.mark.parametrize("what", malformed.JSONS)
def test_malformed_tokenizers_are_refused(checks, world, tmp_path, what):
    whole = (world / "model" / "tokenizer.json").read_bytes()
    answer = checked_with(checks, world, tmp_path, "tokenizer.json", malformed.JSONS[what](whole))
    assert_refused(answer, tmp_path / "model")


@pytest.mark.parametrize("what", malformed.archives(""))
def test_malformed_archives_are_refused_and_run_nothing(checks, world, tmp_path, what):
    marker = tmp_path / "marker"
    data = malformed.archives(marker)[what]
    answer = checked_with(checks, world, tmp_path, "pytorch_model.bin", data, remove=("model.safetensors",))
    assert_refused(answer, tmp_path / "model")
    assert not marker.exists()


@pytest.mark.parametrize("named", ["../outside.bin", "/etc/passwd", "a/../../b.bin", "", [["a"]], None], ids=str)
def test_an_index_cannot_name_files_outside_its_folder(checks, world, tmp_path, named):
    index = malformed.json.dumps({"weight_map": {"transformer.wte.weight": named}}).encode()
    answer = checked_with(checks, world, tmp_path, "pytorch_model.bin.index.json", index, remove=("model.safetensors",))
    assert_refused(answer, "pytorch_model.bin.index.json")


@pytest.mark.parametrize("what", malformed.YAMLS)
def test_malformed_recipes_are_refused(checks, tmp_path, what):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(malformed.YAMLS[what].replace(b"MARKER", str(tmp_path / "marker").encode()))
    assert_refused(checks.run("train", "--config", path, "--output-dir", tmp_path / "run"), path)
    assert not (tmp_path / "marker").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", malformed.RECORDS)
def test_malformed_records_are_refused(checks, world, tmp_path, what):
    path = tmp_path / "in.jsonl"
    path.write_bytes(malformed.RECORDS[what])
    given = ["--model", world / "model", "--input", path, "--output", tmp_path / "out.jsonl"]
    assert_refused(checks.run("generate", *given), path)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_malformed_adapters_are_refused(checks, undisturbed, tmp_path, name):
    for what, make in (malformed.JSONS if name.endswith("json") else malformed.TENSORS).items():
        run_dir = shutil.copytree(undisturbed, tmp_path / "run", dirs_exist_ok=True)
        (run_dir / name).write_bytes(make((undisturbed / name).read_bytes()))
        answer = checks.run("generate", "--adapter", run_dir, "--prompt", "hello")
        try:
            assert_refused(answer, name)
        except AssertionError as error:
            raise AssertionError(what) from error


@pytest.mark.parametrize("what", malformed.archives(""))
def test_malformed_archives_of_adapters_are_refused_and_run_nothing(checks, undisturbed, tmp_path, what):
    run_dir, marker = shutil.copytree(undisturbed, tmp_path / "run"), tmp_path / "marker"
    (run_dir / "adapter_model.safetensors").unlink()
    (run_dir / "adapter_model.bin").write_bytes(malformed.archives(marker)[what])
    assert_refused(checks.run("generate", "--adapter", run_dir, "--prompt", "hello"), "adapter_model.bin")
    assert not marker.exists()


@pytest.mark.parametrize("fields", malformed.SETTINGS, ids=str)
def test_settings_that_the_adapters_file_does_not_bear_out_are_refused(checks, undisturbed, tmp_path, fields):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    whole = (undisturbed / "adapter_config.json").read_bytes()
    (run_dir / "adapter_config.json").write_bytes(malformed.changed(**fields)(whole))
    assert_refused(checks.run("generate", "--adapter", run_dir, "--prompt", "hello"), next(iter(fields)))


def test_a_bomb_in_the_data_is_refused(checks, world, tmp_path):
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * 300_000_000, 1))
    answer = checks.run("train", "--task", "imdb", "--model", world / "model", "--data-dir", path)
    assert_refused(answer, path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, number):
    write_safetensors(tmp_path / "a.safetensors", {"a": np.array([1, number, 2], np.float32)})
    with pytest.raises(UserError, match="a.safetensors: tensor a holds numbers that are not finite"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("what", malformed.RECORDS)
def test_malformed_metrics_are_refused(tmp_path, what):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(malformed.RECORDS[what])
    with pytest.raises(UserError, match="metrics.jsonl"):
        read_run(path)

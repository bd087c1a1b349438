"""Where a precision can be had: asked of made-up machines, and by the commands, before Jittor is imported."""

import pytest
import tiny
from commands import assert_one_line_error, command
from processors import made_up

from common.errors import UserError
from gpt2_jittor.runtime import cuda
from gpt2_jittor.runtime.cuda.driver import Device
from gpt2_jittor.runtime.precision import check_precision
from training.arguments import read_recipe, resolve


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one with a toolkit, and a device of a compute capability."""

    def made(release, capability):
        device = Device("A GPU", 8 * 10**9, capability)
        found = cuda.Cuda(cuda.Driver((12, 4), (device,)), cuda.Toolkit("nvcc", release))
        monkeypatch.setattr(cuda, "find", lambda compiler: found)

    return made


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_cpu_computes_in_float32_where_it_has_no_instructions_for_bf16(tmp_path, monkeypatch, precision):
    made_up(monkeypatch, tmp_path, "avx2 avx512f avx512_vnni")
    with pytest.raises(UserError, match=f"precision {precision} is for CUDA"):
        check_precision(precision, "cpu")
    check_precision(precision, "auto")  # not known yet
    check_precision("fp32", "cpu")


def test_a_processor_that_multiplies_bfloat16_has_bf16_and_never_fp16(tmp_path, monkeypatch):
    made_up(monkeypatch, tmp_path, "avx2 avx512f avx512_bf16")
    check_precision("bf16", "cpu")
    with pytest.raises(UserError, match="precision fp16 is for CUDA: the CPU computes in precision fp32, or bf16"):
        check_precision("fp16", "cpu")
    made_up(monkeypatch, tmp_path, "avx512_bf16", ONEDNN_MAX_CPU_ISA="AVX512_CORE_VNNI")
    with pytest.raises(UserError, match="precision bf16 is for CUDA and for processors with AVX512_BF16 or AMX"):
        check_precision("bf16", "cpu")


@pytest.mark.parametrize(
    ("precision", "release", "capability", "problem"),
    [
        ("fp32", (10, 2), (5, 0), None),
        ("fp16", (12, 4), (7, 0), None),
        ("bf16", (11, 8), (8, 0), None),
        ("fp16", (10, 2), (7, 0), "needs CUDA 11 to 13, not 10.2"),
        ("bf16", (12, 4), (7, 5), "capability 8.0: use fp16 on this A GPU, 8.0 GB, compute capability 7.5"),
    ],
)
def test_a_device_is_asked_whether_it_can(machine, precision, release, capability, problem):
    machine(release, capability)
    if problem is None:
        check_precision(precision, "cuda")
        return
    with pytest.raises(UserError, match=problem):
        check_precision(precision, "cuda")


def test_a_recipe_carries_the_precision(tmp_path, monkeypatch):
    made_up(monkeypatch, tmp_path, "avx2")
    path = tmp_path / "recipe.yaml"
    path.write_text("precision: bf16\n")
    assert resolve({}, read_recipe(path), path).precision == "bf16"
    with pytest.raises(UserError, match="precision bf16 is for CUDA"):
        resolve({"device": "cpu"}, read_recipe(path), path)
    path.write_text("precision: fp64\n")
    with pytest.raises(UserError, match="precision must be one of fp32, fp16, bf16, not 'fp64'"):
        read_recipe(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("precision")
    return tiny.model_folder(root / "model", seed=1), tiny.dialogue_folder(root / "data", seed=2)


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("program", ["train.py", "generate.py"])
def test_a_command_without_a_gpu_says_so_in_one_line(folders, tmp_path, device, program):
    model, data = folders
    of_training = ["--data-dir", data, "--output-dir", tmp_path / "run"] if program == "train.py" else ["--prompt", "a"]
    result = command(
        *(program, "--model", model, "--precision", "bf16", "--device", device, *of_training),
        nvcc_path="/nowhere/nvcc",  # no toolkit, where this machine has one
        CUDA_VISIBLE_DEVICES="",
        ONEDNN_MAX_CPU_ISA="AVX2",
    )
    assert_one_line_error(result, "--precision bf16 is for CUDA", "--precision fp32")
    assert not (tmp_path / "run" / "arguments.yaml").exists()


def test_measuring_without_a_gpu_is_refused_before_the_data_are_read(folders):
    result = command(
        "evaluate.py", "--model", folders[0], "--data-dir", "nowhere", "--precision", "fp16", "--device", "cpu"
    )
    assert_one_line_error(result, "--precision fp16 is for CUDA")


def test_int8_and_a_half_type_exclude_each_other(folders):
    result = command("generate.py", "--model", folders[0], "--prompt", "a", "--int8", "--precision", "fp16")
    assert_one_line_error(result, "--int8", "--precision fp16")

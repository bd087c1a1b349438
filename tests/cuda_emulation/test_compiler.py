"""The stand-in for nvcc: what it makes of CUDA C++, and of its options."""

import subprocess
import sys

import pytest

from tests.cuda_emulation import home

sys.path.insert(0, str(home.HERE))  # as nvcc.py finds it, where it is installed
import nvcc
from rewrite import CudaSyntaxError, rewrite


def test_a_launch_becomes_a_call_with_its_configuration_and_its_arguments():
    text = rewrite('a(); kernel<float, N + 1><<<dim3(1, 2), f(x, ")"), 4>>>(p, g(q, "a,b")); b();')
    call = "[&](auto... emulated) { kernel<float, N + 1>(emulated...); }"
    launch = 'emulation::Launch("kernel<float,N+1>", dim3(1, 2), f(x, ")"), 4)'
    assert text == f'a(); ({launch}({call},p, g(q, "a,b"))); b();'


def test_a_launch_without_arguments_is_one():
    assert rewrite("ns::k<<<1, n>>>();").endswith("{ ns::k(emulated...); }));")


@pytest.mark.parametrize(
    "text",
    ['puts("k<<<1, 1>>>(x) __shared__");', "a << b; operator<<<int>(a, b);", 'R"(<<<"__shared__ x;)"', "x >>> y"],
)
def test_what_only_looks_like_a_launch_stays(text):
    assert rewrite(text) == text


def test_shared_variables_are_static_and_undefined_at_a_blocks_start():
    text = rewrite("__shared__ float a[N][2], b;")
    assert text.startswith(" static  float a[N][2], b;")
    assert "emulationStaticShared((void*)&a, sizeof(a)" in text and "(void*)&b, sizeof(b)" in text


def test_dynamic_shared_memory_is_a_pointer():
    text = rewrite("extern volatile __shared__ __attribute__((aligned(16))) float kept[];")
    assert text.startswith("volatile float* const kept = (volatile float*)emulationDynamicShared(")


@pytest.mark.parametrize("text", ["k<<<1, 2(x);", "k<<<1, 2>>>;", "extern __shared__ float x;"])
def test_what_is_not_understood_is_an_error(text):
    with pytest.raises(CudaSyntaxError):
        rewrite(text)


def test_options_are_gxxs_or_unknown():
    words = (
        "x.cc -x cu -std=c++14 -Xcompiler -fPIC,-march=native --use_fast_math -arch=compute_80 -code=sm_80 -I/i -DA=1"
    )
    command = nvcc.parse(
        [*words.split(), "--cudart=shared", "-ccbin=clang++", "-L", "/l", "-lm", "-shared", "-o", "x.so"]
    )
    assert (command.inputs, command.output, command.compiler) == (["x.cc"], "x.so", "clang++")
    assert command.all_cuda and command.fast_math and command.standard == "-std=c++14"
    assert command.compile == ["-fPIC", "-march=native"] and command.preprocess == ["-I/i", "-DA=1"]
    assert command.link == ["-L/l", "-lm", "-shared"]
    with pytest.raises(ValueError, match="-march=native"):
        nvcc.parse(["-march=native"])


def test_the_release_is_told_as_nvcc_tells_it():
    said = subprocess.run(
        [sys.executable, home.HERE / "nvcc.py", "--version"], capture_output=True, text=True, check=True
    )
    assert "release 12.4, V12.4.127" in said.stdout

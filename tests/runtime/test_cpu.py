"""Which instructions a processor has for numbers of fewer bits, and oneDNN may use."""

import pytest
from processors import made_up

from gpt2_jittor.runtime import cpu


@pytest.mark.parametrize(
    ("flags", "environment", "int8", "bf16"),
    [
        ("fma avx2", {}, "", ""),
        ("avx2 avx512_vnni", {}, "VNNI", ""),
        ("avx2 avx_vnni", {}, "VNNI", ""),
        ("avx512_vnni avx512_bf16", {}, "VNNI", "AVX512_BF16"),
        ("avx512_vnni avx512_bf16 amx_int8 amx_bf16", {}, "AMX", "AMX"),
        ("avx512_vnni avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "", ""),
        ("avx512_vnni avx512_bf16", {"DNNL_MAX_CPU_ISA": "avx512_core_vnni"}, "VNNI", ""),
        ("avx512_vnni avx512_bf16", {"DNNL_MAX_CPU_ISA": "avx512_core_bf16"}, "VNNI", "AVX512_BF16"),
        ("avx512_vnni avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "ALL"}, "VNNI", "AVX512_BF16"),
    ],
)
def test_instructions_are_those_that_linux_and_the_environment_name(
    tmp_path, monkeypatch, flags, environment, int8, bf16
):
    made_up(monkeypatch, tmp_path, flags, **environment)
    assert (cpu.int8_instructions(), cpu.bf16_instructions()) == (int8, bf16)


def test_a_system_that_tells_nothing_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "nowhere")
    assert (cpu.int8_instructions(), cpu.bf16_instructions()) == ("", "")

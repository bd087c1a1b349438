"""The g++ that nvcc compiles with, on made-up machines.

The bounds are worked by hand from crt/host_config.h.
"""

import os
from pathlib import Path

import pytest
from machines import a_card, found

from gpt2_jittor.runtime import cuda

# release of the toolkit: (g++ that is installed as "g++", others, the one that is used instead; None: the usual one)
COMPILERS = [
    ("10.2", "8.4.0", [], None),
    ("10.2", "9.4.0", [7, 8, 9], "g++-8"),
    ("11.0", "10.2.1", [7, 9], "g++-9"),
    ("11.5", "11.4.0", [10, 11], "g++-10"),  # Ubuntu 22.04's own two, which do not go together
    ("11.7", "11.4.0", [10, 11], None),
    ("11.8", "12.2.0", [10, 11, 12], "g++-11"),
    ("11.8", "12.2.0", [9, 12], "g++-9"),
    ("12.0", "13.2.0", [12, 13], "g++-12"),  # Ubuntu 24.04's own two
    ("12.3", "12.2.0", [], None),
    ("12.4", "13.2.0", [12], None),
    ("12.6", "14.2.0", [13, 14], "g++-13"),
    ("12.9", "14.2.0", [], None),
    ("12.9", "15.1.0", [14], "g++-14"),
    ("13.0", "15.1.0", [14], None),
    ("13.0", "16.1.0", [14, 15], "g++-15"),
]


@pytest.mark.parametrize(("release", "usual", "others", "expected"), COMPILERS)
def test_a_gxx_that_nvcc_accepts_is_chosen(machine, release, usual, others, expected):
    machine.has_driver((13, 0), a_card(7, 5))
    machine.has_toolkit(release)
    machine.has_gxx(usual)
    for number in others:
        machine.has_gxx(f"{number}.1.0", f"g++-{number}")
    here = found(machine)
    assert here.usable
    assert here.settings().get("cc_path") == (expected and str(machine.tools / expected))


def test_of_a_cuda_13_its_own_header_says_which_gxx_it_accepts(machine):
    """crt/host_config.h of releases that are not known here."""
    machine.has_driver((13, 0))
    include = Path(machine.has_toolkit("13.7")).parents[1] / "include"
    (include / "crt" / "host_config.h").write_text("#if __GNUC__ > 17\n#error -- unsupported GNU version!\n")
    for version, number in (("17.1.0", None), ("18.1.0", "g++-17")):
        machine.has_gxx(version)
        machine.has_gxx("17.1.0", "g++-17")
        assert found(machine).settings().get("cc_path") == (number and str(machine.tools / number))


def test_a_gxx_that_is_too_new_is_named_with_the_one_to_install(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")
    line = str(found(machine).problem)
    assert line.startswith("nvcc 11.8 accepts g++ up to 11, and ") and line.endswith("g++ is 12: apt install g++-11")


def test_a_compiler_that_the_user_named_is_not_replaced_but_must_fit(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")
    machine.has_gxx("11.4.0", "g++-11")
    os.environ["cc_path"] = str(machine.tools / "g++")
    assert str(found(machine).problem).endswith("apt install g++-11, and unset cc_path")


def test_another_compiler_than_gxx_is_let_through(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")
    assert cuda.find(machine.has("clang++-14", "14.0.6")).usable

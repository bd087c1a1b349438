"""CUDA on this machine, as far as Jittor can use it: found without Jittor and without any package of NVIDIA's."""

from dataclasses import dataclass, field

from gpt2_jittor.runtime.cuda import driver as drivers
from gpt2_jittor.runtime.cuda import toolkit as toolkits
from gpt2_jittor.runtime.cuda.driver import Driver
from gpt2_jittor.runtime.cuda.problem import Problem
from gpt2_jittor.runtime.cuda.toolkit import Toolkit


@dataclass(frozen=True)
class Cuda:
    """The driver with its devices, and the toolkit. Jittor runs on the first of the devices."""

    driver: Driver = field(default_factory=Driver)
    toolkit: Toolkit = field(default_factory=Toolkit)

    @property
    def problem(self) -> Problem | None:
        """What keeps Jittor from using it, None where nothing does."""
        return drivers.problem(self.driver) or self.toolkit.problem

    @property
    def usable(self) -> bool:
        """Whether Jittor can run on the first device."""
        return self.problem is None

    def settings(self) -> dict[str, str]:
        """The environment in which Jittor uses it, or keeps its hands off what is only half there.

        Raises UserError where the user's cache cannot be written, in which a CUDA 13 has a folder (`home`).
        """
        if not self.usable:
            return {"nvcc_path": ""}
        # GPT-2 needs cuBLAS and cuRAND only; cuDNN 9 aborts Jittor's import, cutt and cutlass are downloads.
        nvcc = self.toolkit.jittors_nvcc()
        settings = {"nvcc_path": nvcc, "conv_opt": "1", "use_cutt": "0", "use_cutlass": "0"}
        settings |= {"cc_path": self.toolkit.compiler} if self.toolkit.compiler else {}
        return settings | toolkits.own_programs_first(nvcc)


def find(compiler: str | None) -> Cuda:
    """What there is of CUDA here; `compiler` is what Jittor would compile with on the CPU."""
    driver = drivers.ask()
    return Cuda(driver, toolkits.find(driver, compiler))

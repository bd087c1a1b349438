"""The doctor's table: `python -m gpt2_jittor.doctor`."""

from common.command import Parser, run_command
from gpt2_jittor import doctor
from gpt2_jittor.doctor import cuda, software, surroundings
from gpt2_jittor.doctor.row import INSTALL, Row

CHECKS = (
    software.python,
    software.compiler,
    software.headers,
    software.numpy,
    software.jittor,
    software.packages,
    software.onednn,
    software.int8,
    software.bf16,
    cuda.driver,
    cuda.device,
    cuda.toolkit,
    cuda.compiler,
    cuda.cudnn,
    cuda.nccl,
    software.mpi,
    surroundings.memory,
    surroundings.disk,
    surroundings.hub,
)


def examine() -> list[Row]:
    """All rows. A check that breaks is itself a row: this must run where nothing else does."""
    rows = []
    for check in CHECKS:
        try:
            rows.append(check())
        except Exception as error:
            broken = f"the check itself broke: {type(error).__name__}: {error}"
            rows.append(Row(check.__name__, "failed", broken, f"{INSTALL} --force-reinstall"))
    return rows


def verdict(rows: list[Row]) -> str:
    """Whether training can run here, and on what."""
    if failed := [row.name for row in rows if row.status == "failed"]:
        return f"Training cannot run here yet: {', '.join(failed)}."
    here = cuda.found()
    return f"Training can run here, on {here.driver.devices[0].name if here.usable else 'the CPU'}."


def main() -> int:
    """Prints the table and the verdict; the exit status, 1 where a check has failed, else 0."""
    Parser(prog="python -m gpt2_jittor.doctor", description=doctor.__doc__).parse_args()
    rows = examine()
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.status:<7}  {row.found}")
        if row.status != "ok":
            print(f"{'':<{width}}           -> {row.mend}")
    print(f"\n{verdict(rows)}")
    return int(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    run_command(main)

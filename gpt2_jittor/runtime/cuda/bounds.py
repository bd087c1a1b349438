"""What goes together: toolkit, driver, devices and g++; and what to install where they do not.

The bounds are those of Jittor 1.3.11 (jittor/compiler.py), with `gpt2_jittor.runtime.mends` for devices above 9.0, and
those of the toolkits.
"""

from gpt2_jittor.runtime.cuda.driver import Device, Driver, dotted, how_to_update
from gpt2_jittor.runtime.cuda.problem import Problem

Release = tuple[int, int]

OLDEST, TOO_NEW = (10, 2), (14, 0)
# From each release on: the newest g++ that its crt/host_config.h accepts. 11.4 to 11.6 also let g++ 11 through, and
# then break over the standard library of its later versions ("parameter packs not expanded").
NEWEST_GXX = {(10, 2): 8, (11, 0): 9, (11, 1): 10, (11, 7): 11, (12, 0): 12, (12, 4): 13, (12, 8): 14, (13, 0): 15}
# From each release on: the oldest device it compiles for, and the newest that Jittor lets it compile for. Jittor adds
# no PTX: what was compiled for 8.6 also runs on 8.9, but not on 9.0.
CAPABILITIES = {
    (10, 2): ((3, 0), (7, 5)),
    (11, 0): ((3, 5), (8, 0)),
    (11, 1): ((3, 5), (8, 6)),
    (11, 8): ((3, 5), (9, 0)),
    (12, 0): ((5, 0), (9, 0)),
    (12, 8): ((5, 0), (12, 0)),
    (13, 0): ((7, 5), (12, 1)),
}
# Above 9.0 Jittor compiles for the device that is there, no lower one: the first release whose nvcc knows these.
FIRST_FOR = {(10, 3): (12, 9), (11, 0): (13, 0), (12, 1): (12, 9)}
WHEELS = (13, 0)  # of requirements-cuda.txt
# In the order in which they are advised: 12.6 is packaged for every Ubuntu since 22.04 and takes the g++ of each.
ADVISED = (WHEELS, (12, 6), (12, 9), (11, 8), (10, 2))
SETUP = "make setup (or pip install -r requirements-cuda.txt)"
WHERE_FROM = "docs/cuda.md has the repository"


def wheels_fit(driver: Driver) -> bool:
    """Whether the toolkit of requirements-cuda.txt works with this driver and compiles for all its devices."""
    return driver.release >= WHEELS and all(compiles_for(WHEELS, device) for device in driver.devices)


def how_to_install(driver: Driver) -> str:
    """What brings a toolkit that works with this driver and compiles for its devices."""
    return _advice(driver) or _package((12, 6))


def other_driver(release: Release, driver: Driver) -> Problem | None:
    """Since CUDA 11 a driver runs what any toolkit of its major release has compiled to machine code."""
    needed = (release[0], 0) if release[0] >= 11 else release
    if not driver.devices or driver.release >= needed:
        return None
    what = f"the driver supports CUDA {dotted(driver.release)}, older than the toolkit's {dotted(release)}"
    older = f"; or {how_to_install(driver)}" if driver.release[0] >= 11 else ""
    return Problem(what, how_to_update() + older)


def other_device(release: Release, driver: Driver) -> Problem | None:
    """Names the first device that the toolkit does not compile for."""
    device = next((device for device in driver.devices if not compiles_for(release, device)), None)
    if device is None:
        return None
    verdict = "old" if device.capability < since(CAPABILITIES, release)[0] else "new"
    mend = _advice(driver) or (
        "Jittor 1.3.11 takes no other that does, for all of them: hide a device by CUDA_VISIBLE_DEVICES, or use the CPU"
    )
    return Problem(f"CUDA {dotted(release)} does not compile for {device}, which is too {verdict}", mend)


def compiles_for(release: Release, device: Device) -> bool:
    """Whether what Jittor compiles with this toolkit runs on the device."""
    oldest, newest = since(CAPABILITIES, release)
    first = FIRST_FOR.get(device.capability, release)
    return oldest <= device.capability and device.capability[0] <= newest[0] and first <= release


def since(table: dict[Release, object], release: Release):
    """The entry of the last release that is not after this one."""
    return table[max(begin for begin in table if begin <= release)]


def _advice(driver: Driver) -> str | None:
    newest = driver.release[0] if driver.release[0] >= 11 else 12  # an older driver must be replaced anyway
    for release in ADVISED:
        fits = all(compiles_for(release, device) for device in driver.devices)
        if fits and (driver.release >= WHEELS if release == WHEELS else release[0] <= newest):
            return _package(release)
    return None


def _package(release: Release) -> str:
    if release == WHEELS:
        return SETUP
    if release == (10, 2):
        return "install CUDA 10.2"
    return f"apt install cuda-toolkit-{release[0]}-{release[1]} ({WHERE_FROM})"

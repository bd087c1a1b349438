"""What `python -m tools.scaling` found, as tables in Markdown."""

from tools.scaling.model import ADAPTERS, LINKS, SHORT, efficiency, fitted, least_tokens, link_seconds, sum_seconds

PROCESSES = (2, 8, 64)  # of the tables on paper
COPYING = 5e-9  # seconds a byte, between Jittor and numpy and back: what docs/scaling.md takes
TOKENS = 1024  # of each process in an update
# seconds a token on 2 cores of a Xeon, an update of 8 x 128 (docs/performance.md); nano and gpt2-xl by their parameters
MEASURED = {"gpt2": 1.983 / 1024, "gpt2-medium": 6.566 / 1024}
DEVICE = 1e14  # operations a second that a GPU is assumed to do
OPERATIONS = 4  # of a token and a parameter: forward, and back to the activations; frozen weights have no gradient


def on_two_cores(adapter) -> float:
    """Seconds of computing a token, measured or in proportion to the parameters of the nearest that was."""
    if adapter.name in MEASURED:
        return MEASURED[adapter.name]
    nearest = min(
        (other for other in ADAPTERS if other.name in MEASURED), key=lambda other: abs(other.width - adapter.width)
    )
    return MEASURED[nearest.name] * adapter.model_parameters / nearest.model_parameters


def on_a_device(adapter) -> float:
    """Seconds of computing a token on the GPU that is assumed."""
    return OPERATIONS * adapter.model_parameters / DEVICE


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def milliseconds(seconds: float) -> str:
    """In three digits, or whole."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def measured_table(found: dict[tuple[int, str], dict]) -> tuple[str, float]:
    """Each adapter's sums as they were measured, the link that would explain them, and seconds of copying a byte."""
    columns = list(found)
    counted = {result["counted"] for result in found.values()}
    names = list(next(iter(found.values()))["updates"])
    adapters = [adapter for adapter in ADAPTERS if adapter.name in names]
    rows, copies = [], []
    for adapter in adapters:
        row, size = [adapter.name, f"{adapter.parameters:,}", f"{adapter.bytes_summed:,}"], adapter.bytes_summed - 4
        for key in columns:
            alone, whole = found[key]["sums"][size], found[key]["updates"][adapter.name]
            row.append(f"{milliseconds(alone)}; {milliseconds(whole)}")
            if key == columns[0]:  # the fewest processes: they get in each other's way least
                copies.append((whole - alone) / size)
        rows.append(row)
    head = ["adapter", "parameters", "bytes summed", *(f"{count}, {transport}" for count, transport in columns)]
    text = table(head, rows) + f"\n\ncounted in a real update of nano: {', '.join(map(str, sorted(counted)))} bytes\n"
    for (count, transport), result in found.items():
        link = fitted(result["sums"], count)
        errors = [sum_seconds(s, count, link) / t - 1 for s, t in result["sums"].items() if s >= SHORT]
        constants = f"latency {link.latency * 1e6:.0f} µs, {link.bandwidth / 1e9:.2f} GB/s"
        off = f"the model is off by {min(errors):+.0%} to {max(errors):+.0%}"
        text += f"{count} processes over {transport}: {constants}; {off}\n"
    copying = sorted(copies)[len(copies) // 2]
    return text + f"copies on the host: {copying * 1e9:.1f} ns a byte", copying


def paper_tables(copying: float | None = None) -> str:
    """An update's milliseconds on other links, what they leave for computing, and the tokens that make it worth while.

    `copying`: seconds a byte, as measured.
    """
    copying = COPYING if copying is None else copying
    cases = [(link, count) for link in LINKS for count in PROCESSES]
    head = ["", *(f"{link.name}, {count}" for link, count in cases)]
    links, shares, tokens = [], [], []
    for adapter in ADAPTERS:
        alone, copies = [link_seconds(adapter, count, link) for link, count in cases], adapter.bytes_summed * copying
        waits, cpu, gpu = [seconds + copies for seconds in alone], on_two_cores(adapter), on_a_device(adapter)
        links.append([adapter.name, *map(milliseconds, [*alone, copies])])
        shares.append([adapter.name, *(f"{efficiency(TOKENS * cpu, wait):.1%}" for wait in waits)])
        tokens.append([adapter.name, *(f"{least_tokens(w, cpu):,}; {least_tokens(w, gpu):,}" for w in waits)])
    parts = ["milliseconds of an update on the link, and of its copies on the host", table([*head, "copies"], links)]
    parts += [f"share of the time that computes, {TOKENS:,} tokens a process on 2 cores", table(head, shares)]
    parts += ["fewest tokens a process for 80 %: on 2 cores; on the GPU that is assumed", table(head, tokens)]
    return "\n\n".join(parts)

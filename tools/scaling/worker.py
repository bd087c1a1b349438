"""One of the processes that `python -m tools.scaling` starts: sums as training does, and says how long that takes.

The first one writes JSON to the file that it is given: bytes that an update of nano really sums; and for each adapter
the seconds of the sum alone, and of all that an update waits for, copies between Jittor and numpy included.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common import processes
from common.files import write_json
from gpt2_jittor.runtime import runtime
from tools.scaling.model import ADAPTERS

SIZES = (4_096, 65_536, 1_048_576)  # bytes of plain sums, beside those of the adapters
WARM = 3  # sums before the first that counts


def main() -> None:
    """Measures together with the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--adapters", nargs="+", required=True)
    given = parser.parse_args()
    runtime.prepare("cpu")
    adapters = [adapter for adapter in ADAPTERS if adapter.name in given.adapters]
    sizes = sorted({*SIZES, *(4 * (adapter.parameters + 1) for adapter in adapters)})
    result = {
        "counted": counted_bytes(),
        "sums": {size: fastest(sum_of(size), given.repeats) for size in sizes},
        "updates": {adapter.name: fastest(gradients_of(adapter), given.repeats) for adapter in adapters},
    }
    if processes.is_first():
        write_json(given.output, result)


def counted_bytes() -> int:
    """What a real update of nano hands to be summed: batches of the embedded dialogues, `training/step.py`."""
    from datasets import tasks
    from datasets.batches import collate
    from gpt2_jittor import GPT2LMHeadModel
    from gpt2_jittor.checkpoint.locate import NANO
    from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
    from lora import LoraConfig, inject, trainable
    from training import distributed
    from training.optimizer import AdamW
    from training.step import update

    task, tokenizer = tasks.find("dailydialog"), load_tokenizer(NANO)
    examples = task.load("train", tasks.data_dir(task, "sample")).examples[:8]
    encoded = task.encode(examples, tokenizer, 64)
    batch = collate([encoded[item] for item in range(len(encoded))], tokenizer.pad_token_id)
    model = inject(GPT2LMHeadModel.from_pretrained(NANO), LoraConfig(r=8, target_modules=["c_attn", "c_proj", "c_fc"]))
    seen, summed = [], distributed.summed
    distributed.summed = lambda arrays: seen.extend(array.nbytes for array in arrays) or summed(arrays)
    try:
        update(model.train(), AdamW(trainable(model), 0.0), [batch], 1e-3, 1.0, dropout_seed=(0, 0))
    finally:
        distributed.summed = summed
    return sum(seen)


def sum_of(size: int) -> Callable[[], None]:
    """A sum of an array of `size` bytes that lies there already."""
    from gpt2_jittor.runtime.backend import jt

    array = jt.array(np.ones(size // 4, np.float32))
    array.sync()
    return lambda: array.mpi_all_reduce("add").sync()


def gradients_of(adapter) -> Callable[[], None]:
    """What an update does with gradients of an adapter's shapes, the loss and the norm."""
    from gpt2_jittor.runtime.backend import jt
    from training.distributed import summed_vars, take_from_first

    values = [jt.array(np.ones(shape, np.float32)) for shape in [(1,), *adapter.shapes]]
    norm = jt.array(np.ones(1, np.float32))
    jt.sync([*values, norm])

    def wait() -> None:
        jt.sync(summed_vars(values))
        take_from_first([norm])

    return wait


def fastest(work: Callable[[], None], repeats: int) -> float:
    """Seconds of `work`, which all processes begin together: what it takes where nobody else wants the machine."""
    from training.distributed import summed

    seconds = []
    for turn in range(WARM + repeats):
        summed([np.zeros(1, np.float32)])  # nobody goes on before all are here
        begun = time.perf_counter()
        work()
        if turn >= WARM:
            seconds.append(time.perf_counter() - begun)
    return min(seconds)


if __name__ == "__main__":
    processes.run_together(main)

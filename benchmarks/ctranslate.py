"""CTranslate2 as a contestant, for decoding only: its own engine, in float32, or with weights in int8 or bfloat16."""

import tempfile

import ctranslate2
import numpy as np
from worker import serve


def prepare(settings: dict):
    """`new` tokens after each of `batch` prompts, greedy or drawn, a unit."""
    kind = settings["compute_type"]
    with tempfile.TemporaryDirectory() as folder:
        converter = ctranslate2.converters.TransformersConverter(settings["model"])
        converter.convert(folder, quantization=kind, force=True)
        generator = ctranslate2.Generator(folder, compute_type=kind, intra_threads=settings["threads"])
    # it takes tokens by name; a random model's vocabulary is numbered, see benchmarks/inputs.py
    prompts = [[f"t{token}" for token in row] for row in np.load(settings["data"])["prompts"].tolist()]
    # with the prompt in the result, it would decode the prompt token by token
    top_p = settings.get("top_p")
    sampling = {"sampling_topk": 1} if top_p is None else {"sampling_topk": 0, "sampling_topp": top_p}
    options = {"max_length": settings["new"], "min_length": settings["new"], "include_prompt_in_result": False}

    def continuation() -> float:
        """One unit: how many tokens were made."""
        results = generator.generate_batch(prompts, **sampling, **options)
        return float(sum(len(result.sequences_ids[0]) for result in results))

    return continuation


if __name__ == "__main__":
    serve(prepare)

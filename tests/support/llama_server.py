"""llama.cpp's server, by xllamacpp, in a process of its own: its libraries and torch's cannot share one.

As a program, with a model's file and, it may be, an adapter's: says its address and serves until its input ends.
"""

import json
import os
import subprocess
import sys
import urllib.request


class LlamaServer:
    """A server of the model in a file, with an adapter's file beside it, until the block ends."""

    def __init__(self, *files):
        self.files = [str(file) for file in files]

    def __enter__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *self.files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.address = next(line.split()[1] for line in self.process.stdout if line.startswith("address "))
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def asked(self, path: str, **body):
        """What it answers to a request."""
        request = urllib.request.Request(f"{self.address}/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def greedy(self, prompt: str) -> str:
        """How it continues a text."""
        return self.asked("v1/completions", prompt=prompt, max_tokens=40, temperature=0)["choices"][0]["text"]

    def chat(self, message: str) -> str:
        """How it answers, by the template in the model's file."""
        messages = [{"role": "user", "content": message}]
        answer = self.asked("v1/chat/completions", messages=messages, max_tokens=40, temperature=0)
        return answer["choices"][0]["message"]["content"]

    def log_probabilities(self, ids: list[int], rows: int) -> list[float]:
        """Of each of so many tokens as the next, in nats."""
        answer = self.asked("v1/completions", prompt=ids, max_tokens=1, temperature=0, logprobs=rows)
        (first,) = answer["choices"][0]["logprobs"]["content"]
        found = {each["id"]: each["logprob"] for each in first["top_logprobs"]}
        return [found[token] for token in range(rows)]


def main(model: str, adapter: str | None = None) -> None:
    """Serves until the input ends."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = model, 0, 1
    parameters.cpuparams.n_threads, parameters.warmup, parameters.verbosity = 1, False, 0
    if adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(parameters)
    print("address", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

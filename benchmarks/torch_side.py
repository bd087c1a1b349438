"""transformers + PEFT on PyTorch as a contestant: the same work as benchmarks/ours.py, run as a script."""

import contextlib
import itertools
import sys

import numpy as np
import torch
import transformers
from worker import parts_of_epoch, serve


def train(settings: dict):
    """One update a unit: forward, backward, clipping, AdamW; eager, or through torch.compile.

    In bf16 products are made in it by autocast, frozen weights are kept in it unless `weights` is "fp32", and PEFT
    keeps the adapter in fp32.
    """
    import peft

    model = _model(settings)
    targets = ["c_attn", "c_proj", "c_fc"]
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=settings["lora_dropout"],
        target_modules=targets,
        use_dora=settings.get("dora", False),
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    if settings.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = peft.get_peft_model(model, config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    forward = torch.compile(model) if settings.get("compile") else model
    data = np.load(settings["data"])
    batches = [
        tuple(_placed(data[f"{name}{index}"], settings) for name in ("ids", "labels", "mask"))
        for index in range(int(data["count"]))
    ]
    state, half = {"step": 0}, settings.get("precision") == "bf16"

    def update() -> float:
        """One unit, waited for: its loss, in nats."""
        ids, labels, mask = batches[state["step"] % len(batches)]
        state["step"] += 1
        with torch.autocast(_device(settings), torch.bfloat16) if half else contextlib.nullcontext():
            loss = forward(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return parts_of_epoch(update, len(batches), settings["parts"]) if settings["task"] == "epoch" else update


def decode(settings: dict):
    """`new` tokens after each of `batch` prompts, greedy or drawn, a unit."""
    model = _model(settings).eval()
    prompts = _placed(np.load(settings["data"])["prompts"], settings)
    top_p = settings.get("top_p")
    options = {"max_new_tokens": settings["new"], "min_new_tokens": settings["new"]}
    options |= {"do_sample": False} if top_p is None else {"do_sample": True, "top_p": top_p, "top_k": 0}

    def continuation() -> float:
        """One unit: how many tokens were made."""
        with torch.no_grad():
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **options)
        return float(out.cpu().shape[0] * (out.shape[1] - prompts.shape[1]))

    return continuation


def chat(settings: dict):
    """The first token of a chat's next turn, a unit; keys and values of its history are kept, or computed again."""
    model, data = _model(settings).eval(), np.load(settings["data"])
    turns, cache, length = itertools.cycle(data["turns"]), transformers.DynamicCache(), len(data["history"])

    def first_token() -> float:
        """One unit: the token."""
        prompt = _placed(np.concatenate([data["history"], next(turns)])[None], settings)
        kept = {"past_key_values": cache} if settings["keeps"] else {}
        options = {"do_sample": False, "max_new_tokens": 1, "min_new_tokens": 1, "pad_token_id": 0}
        with torch.no_grad():
            out = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options, **kept)
        if kept:
            cache.crop(length - cache.get_seq_length())
        return float(out[0, -1])

    return first_token


def _model(settings: dict):
    kept = settings.get("weights", settings.get("precision"))
    dtype = torch.bfloat16 if kept == "bf16" else torch.float32
    read, device = transformers.GPT2LMHeadModel.from_pretrained, _device(settings)
    if settings.get("base") == "int8":  # LLM.int8() by bitsandbytes
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
        return read(settings["model"], dtype=dtype, quantization_config=config, device_map=device)
    return read(settings["model"], dtype=dtype).to(device)


def _device(settings: dict) -> str:
    return settings.get("device", "cpu")


def _placed(ids: np.ndarray, settings: dict) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(_device(settings))


def prepare(settings: dict):
    """The unit of work that the settings name."""
    if _device(settings) == "cuda" and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} sees no device")
    torch.manual_seed(0)
    work = {"train": train, "epoch": train, "decode": decode, "chat": chat}[settings["task"]](settings)
    if _device(settings) == "cuda":
        work.memory_mb = lambda: torch.cuda.max_memory_reserved() / 2**20
    return work


if __name__ == "__main__":
    serve(prepare)

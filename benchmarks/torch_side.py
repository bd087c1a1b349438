"""transformers + PEFT on PyTorch as a contestant: the same work as benchmarks/ours.py, run as a script."""

import numpy as np
import torch
from worker import serve


def train(settings: dict):
    """One update a unit: forward, backward, clipping, AdamW; eager, or through torch.compile."""
    import peft

    model = _model(settings)
    targets = ["c_attn", "c_proj", "c_fc"]
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=settings["lora_dropout"],
        target_modules=targets,
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    forward = torch.compile(model) if settings.get("compile") else model
    data = np.load(settings["data"])
    batches = [
        tuple(torch.from_numpy(data[f"{name}{index}"].astype(np.int64)) for name in ("ids", "labels", "mask"))
        for index in range(int(data["count"]))
    ]
    state = {"step": 0}

    def update() -> float:
        ids, labels, mask = batches[state["step"] % len(batches)]
        state["step"] += 1
        loss = forward(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def epoch() -> float:
        return [update() for _ in batches][-1]

    epoch.first = update
    return epoch if settings["task"] == "epoch" else update


def decode(settings: dict):
    """`new` greedy tokens after each of `batch` prompts, a unit."""
    model = _model(settings).eval()
    prompts = torch.from_numpy(np.load(settings["data"])["prompts"].astype(np.int64))
    options = {"do_sample": False, "max_new_tokens": settings["new"], "min_new_tokens": settings["new"]}

    def continuation() -> float:
        with torch.no_grad():
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **options)
        return float(out.shape[0] * (out.shape[1] - prompts.shape[1]))

    return continuation


def _model(settings: dict):
    import transformers

    return transformers.GPT2LMHeadModel.from_pretrained(settings["model"], dtype=torch.float32)


def prepare(settings: dict):
    """The unit of work that the settings name."""
    torch.manual_seed(0)
    return {"train": train, "epoch": train, "decode": decode}[settings["task"]](settings)


if __name__ == "__main__":
    serve(prepare)

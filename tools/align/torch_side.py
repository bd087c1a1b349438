"""PyTorch's side: transformers, PEFT and torch alone, run as a script that does not see this project's packages."""

import contextlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from turns import Prompt, Rows, Turns

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: its names are for it alone
from worker import serve  # noqa: E402

PARTS = "qkv"  # of c_attn, in the order of its columns
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}  # ours -> transformers'


class TorchSide:
    """A model of transformers with PEFT's adapter, AdamW and a schedule of transformers'."""

    def __init__(self, settings: dict):
        self.given, self.device = settings["arguments"], settings["device"]
        self.half, self.end_ids = self.given["precision"] == "bf16", settings["end_ids"]
        torch.manual_seed(self.given["seed"])  # of dropout's masks alone
        self.model = _adapted(settings).to(self.device).train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = create_loraplus_optimizer(  # at a ratio of 1 it is plain AdamW, in PEFT's groups
            self.model,
            torch.optim.AdamW,
            lr=self.given["learning_rate"],
            loraplus_lr_ratio=self.given["lora_plus_ratio"],
            loraplus_lr_embedding=self.given["learning_rate"],  # else PEFT trains an embedding's LoRA at 1e-6
            loraplus_weight_decay=self.given["weight_decay"],
        )
        schedule = SCHEDULES[self.given["schedule"]]
        self.schedule = transformers.get_scheduler(
            schedule, self.optimizer, self.given["warmup_steps"], settings["steps"]
        )

    def update(self, step: int, batches: list[Rows]) -> tuple[float, float, float]:
        """As `turns.Side` says."""
        rate = self.schedule.get_last_lr()[0]
        scored, total = sum(rows.scored for rows in batches), 0.0
        for rows in batches:
            loss = self._loss(rows) * (rows.scored / scored)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.given["max_grad_norm"] or float("inf"))
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return total, norm.item(), rate

    def validate(self, batches: list[Rows]) -> float:
        """As `turns.Side` says."""
        self.model.eval()
        with torch.no_grad():
            total = sum(self._loss(rows).item() * rows.scored for rows in batches)
        self.model.train()
        return total / sum(rows.scored for rows in batches)

    def reply(self, prompt: Prompt) -> list[int]:
        """As `turns.Side` says."""
        ids = self._placed(prompt.input_ids[None])
        greedy = transformers.GenerationConfig(  # the base's own may ask for other than plain greedy text
            max_new_tokens=prompt.max_new_tokens, eos_token_id=self.end_ids, pad_token_id=self.end_ids[0]
        )
        self.model.eval()
        with torch.no_grad(), self._autocast():
            out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        self.model.train()
        reply = out[0, ids.shape[1] :].tolist()
        return reply[:-1] if reply and reply[-1] in self.end_ids else reply

    def _loss(self, rows: Rows) -> torch.Tensor:
        ids, labels, mask = map(self._placed, rows)
        with self._autocast():
            made = self.model(input_ids=ids, labels=labels, attention_mask=mask)
        smoothing = self.given["label_smoothing"] if self.model.training else 0.0
        if not smoothing:
            return made.loss
        logits = made.logits.float()
        if logits.dim() == 3:  # the next token's; else a class's
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    def _autocast(self):
        return torch.autocast(self.device, torch.bfloat16) if self.half else contextlib.nullcontext()

    def _placed(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


def _adapted(settings: dict):
    """The base under the adapter's start. Without dropout, every probability is 0, the base's and the adapter's."""
    start, given = settings["start"], settings["arguments"]
    drops = {} if settings["dropout"] else dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    kind, more = transformers.GPT2LMHeadModel, drops
    if settings["labels"]:
        kind = transformers.GPT2ForSequenceClassification
        more = drops | {"num_labels": len(settings["labels"]), "pad_token_id": settings["pad_id"]}
    dtype = torch.bfloat16 if given["precision"] == "bf16" else torch.float32
    model = kind.from_pretrained(settings["base"], dtype=dtype, **more)
    config = peft.LoraConfig.from_pretrained(start)
    config.lora_dropout = given["lora_dropout"] if settings["dropout"] else 0.0
    model = peft.PeftModel.from_pretrained(model, start, config=config, is_trainable=True)
    parts = [part for part in PARTS if part in (given["lora_targets"] or ())]
    for name, parameter in model.named_parameters() if parts else ():
        if "attn.c_attn.lora_B" in name:
            _keep_to_parts(parameter, parts)
    return model


def _keep_to_parts(b: torch.Tensor, parts: list[str]) -> None:
    """Lets gradients into B [out, r] of c_attn only where it is q's, k's or v's: PEFT itself does not know of parts."""
    third, rank = b.shape[0] // len(PARTS), b.shape[1] // len(parts)
    mask = torch.zeros_like(b)
    for number, part in enumerate(parts):
        start = PARTS.index(part) * third
        mask[start : start + third, number * rank : (number + 1) * rank] = 1
    b.register_hook(lambda gradient: gradient * mask.to(gradient.device))


def prepare(settings: dict) -> Turns:
    """What the race asks for its turns."""
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} sees no device")
    turns = Turns(TorchSide(settings), settings)
    turns.more = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    if settings["device"] == "cuda":
        turns.memory_mb = lambda: torch.cuda.max_memory_reserved() / 2**20
    return turns


if __name__ == "__main__":
    serve(prepare)

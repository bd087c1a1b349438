"""LoRA for GPT-2: small trainable products beside frozen weights, in PEFT's files.

lora.inject(model, lora.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"]))
lora.save_adapter(model, directory); lora.load_adapter(model, directory)
lora.merge(model); lora.unmerge(model)
"""

from lora.adapter import load_adapter, save_adapter
from lora.config import LoraConfig
from lora.inject import count, inject, merge, trainable, unmerge

__all__ = ["LoraConfig", "count", "inject", "load_adapter", "merge", "save_adapter", "trainable", "unmerge"]

"""Products, a loss and its gradients in both half types, and on a base of fewer bits.

They are made on the CPU and on the emulated device, and compared.

`python -m tests.cuda_emulation.half_products MODEL OUTPUT.npz` computes them on the device that there is.
"""

import sys

import numpy as np

BASES = ("int8", "bf16")
SHAPES = [((), False), ((), True), ((2, 3), False), ((2, 3), True)]


def products(precision: str) -> dict[str, np.ndarray]:
    """A product of each kind, and its gradients."""
    from gpt2_jittor.ops.matmul import matmul, products_in
    from gpt2_jittor.runtime.backend import jt

    found, random = {}, np.random.default_rng(1)
    for leading, transposed in SHAPES:
        shapes = (*leading, 5, 67), (*leading, 7, 67) if transposed else (*leading, 67, 7), (*leading, 5, 7)
        a, b, dy = (jt.array(random.standard_normal(shape).astype(np.float32)) for shape in shapes)
        with products_in(precision):
            y = matmul(a, b, transposed)
        values = [y, *jt.grad((y * dy).sum(), [a, b])]
        name = f"product {len(leading)} {transposed}"
        found |= {f"{name} {part}": value.numpy() for part, value in zip("yab", values, strict=True)}
    return found


def loss_and_gradients(folder: str, precision: str, base: str = "fp32") -> dict[str, np.ndarray]:
    """A model's loss with LoRA, scaled gradients included, and the logits of a few tokens behind a cache."""
    import lora
    from gpt2_jittor import GPT2LMHeadModel
    from gpt2_jittor.model.cache import KVCache
    from gpt2_jittor.model.next_token import last_logits
    from gpt2_jittor.runtime.backend import jt

    config = {"r": 3, "target_modules": ["c_attn", "c_proj", "c_fc"], "init_lora_weights": False, "lora_dropout": 0.0}
    model = GPT2LMHeadModel.from_pretrained(folder, base=base, int8_threshold=2.0)
    lora.inject(model, lora.LoraConfig(**config)).to_precision(precision)
    ids = np.random.default_rng(2).integers(0, model.config.vocab_size, (3, 17))
    mask = (np.arange(17) < np.array([17, 5, 11])[:, None]).astype(np.int64)
    loss = model.loss(ids, np.where(mask == 1, ids, -100), mask)
    names, parameters = zip(*lora.trainable(model), strict=True)
    gradients = jt.grad(loss * 1024, list(parameters))
    found = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)} | {"loss": loss.numpy()}
    cache = KVCache()
    last_logits(model, ids[:, :9], cache)
    return found | {"logits": last_logits(model, ids[:, 9:10], cache)}


def compute(folder: str) -> dict[str, np.ndarray]:
    """Everything, by `<precision> <name>`."""
    found = {}
    for precision in ("fp32", "fp16", "bf16"):
        several = products(precision) | loss_and_gradients(folder, precision)
        found |= {f"{precision} {name}": value for name, value in several.items()}
    for base in BASES:
        found |= {f"base {base} {name}": value for name, value in loss_and_gradients(folder, "fp32", base).items()}
    return found


if __name__ == "__main__":
    from gpt2_jittor.runtime import runtime

    runtime.prepare("cuda")
    np.savez(sys.argv[2], **compute(sys.argv[1]))

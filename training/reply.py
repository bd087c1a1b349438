"""What a model in training says to its sample prompt."""

from generation.decoding import stream
from generation.sampling import make_sampler
from gpt2_jittor.checkpoint.tokenizer import text_of
from gpt2_jittor.model.lm import GPT2LMHeadModel
from training.sample import SamplePrompt


def replied(model: GPT2LMHeadModel, sample: SamplePrompt, tokenizer) -> str:
    """The prompt and the greedy reply, a line each, as they stand below a validation's figures."""
    reply = stream(model, sample.input_ids, make_sampler(greedy=True), sample.max_new_tokens, sample.end_ids)
    return f"\n  > {sample.text}\n  < {text_of(list(reply), tokenizer).strip()}"

"""The training loop.

Update `step` uses micro-batches step·n … step·n + n − 1 of an endless list of epochs, its masks come from
(seed, step) and its rate from the schedule: everything about a step follows from its number, so a run can be
taken up again at any of them.
"""

import math
import time

import numpy as np

from common.errors import UserError
from datasets.batches import Batch, collate, plan
from gpt2_jittor.backend import jt
from gpt2_jittor.generation import stream
from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.sampling import make_sampler
from gpt2_jittor.tokenizer import save_tokenizer
from lora.injection import adapter_config, trainable
from training import checkpoint
from training.checkpoint import Progress
from training.evaluation import Score, evaluate
from training.gradients import loss_and_gradients
from training.interrupt import interrupts_deferred
from training.log import Log
from training.optimizer import AdamW, clip_factor, global_norm
from training.schedule import learning_rate
from training.setup import Inputs

SAMPLE_TOKENS = 40  # of the reply shown at each validation
SAMPLE_SHOWN = 160  # characters of what it replies to


class Trainer:
    """One run. `run` trains to the end and returns where it got to."""

    def __init__(self, inputs: Inputs, model, resume: bool = False):
        self.inputs, self.arguments, self.model = inputs, inputs.arguments, model
        self.run_dir = self.arguments.run_dir
        self.optimizer = AdamW(trainable(model), self.arguments.weight_decay)
        self.progress = Progress()
        self.resumed_from = None
        if resume:
            self.resumed_from = checkpoint.newest(self.run_dir)
            self.progress = checkpoint.load(self.resumed_from, model, self.optimizer)
        self._plans: dict[int, list[np.ndarray]] = {}
        self.whole = True  # false while an update is being made
        self.tokens = 0  # real tokens trained on by this process

    def run(self) -> Progress:
        """Trains until the last step, or until validation has not improved for `patience` times.

        Raises UserError where a loss or a gradient is not finite; on Ctrl-C saves and raises KeyboardInterrupt.
        """
        progress = self.progress
        self.log = Log(self.run_dir, self.inputs.total_steps, progress.step if self.resumed_from else None)
        try:
            while True:
                # first what this step still owes: a resumed run may have been stopped in the middle of it
                if progress.validated < progress.step and self._due(self.arguments.eval_every):
                    self._validate()
                if progress.step and self._due(self.arguments.save_every):
                    checkpoint.save(self.run_dir, self.model, self.optimizer, progress)
                if progress.step >= self.inputs.total_steps or self._out_of_patience():
                    return progress
                self.whole = False
                with interrupts_deferred():
                    self._update()
                    self.whole = True
        except KeyboardInterrupt:
            if self.whole:  # else an update was cut in two, and the newest checkpoint is the place to go on from
                saved = checkpoint.save(self.run_dir, self.model, self.optimizer, progress)
                self.log.say(f"interrupted: saved {saved}; --output-dir {self.run_dir} --resume goes on from there")
            raise
        finally:
            self.log.close()

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now."""
        return self.progress.step % every == 0 or self.progress.step == self.inputs.total_steps

    def _update(self) -> None:
        given, step = self.arguments, self.progress.step
        started = time.perf_counter()
        seeds.restart(given.seed, step)
        batches = self._micro_batches(step)
        scored = sum(batch.scored for batch in batches)
        rate = learning_rate(given.schedule, given.learning_rate, step, given.warmup_steps, self.inputs.total_steps)
        loss, gradients = loss_and_gradients(self.model, batches, self.optimizer.parameters)
        norm = global_norm(gradients)
        self.optimizer.step(gradients, rate, clip_factor(norm, given.max_grad_norm) if given.max_grad_norm else None)
        jt.sync_all()
        loss, norm = float(loss.item()), float(norm.item())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
            raise UserError(self._diverged(what, step + 1))
        self.progress.step += 1
        tokens = sum(batch.tokens for batch in batches)
        self.tokens += tokens
        record = {
            "step": self.progress.step,
            "epoch": round(self._epoch(), 4),
            "split": "train",
            "loss": loss,
            "perplexity": Score(loss, scored).perplexity,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": tokens,
        }
        self.log.step(record, time.perf_counter() - started)

    def _micro_batches(self, step: int) -> list[Batch]:
        given = self.arguments
        first = step * given.gradient_accumulation
        last = min(first + given.gradient_accumulation, self.inputs.total_batches)
        batches = []
        for number in range(first, last):
            epoch, index = divmod(number, self.inputs.batches_per_epoch)
            chosen = self._plan(epoch)[index]
            items = [self.inputs.train[example] for example in chosen]
            batches.append(collate(items, self.inputs.tokenizer.pad_token_id))
        return batches

    def _plan(self, epoch: int) -> list[np.ndarray]:
        if epoch not in self._plans:
            self._plans = {
                epoch: plan(self.inputs.train.lengths, self.arguments.batch_size, self.arguments.seed, epoch)
            }
        return self._plans[epoch]

    def _epoch(self) -> float:
        done = min(self.progress.step * self.arguments.gradient_accumulation, self.inputs.total_batches)
        return done / self.inputs.batches_per_epoch

    def _validate(self) -> None:
        given, inputs, progress = self.arguments, self.inputs, self.progress
        score = evaluate(self.model, inputs.validation, given.batch_size, inputs.tokenizer.pad_token_id)
        if not math.isfinite(score.loss):
            raise UserError(self._diverged(f"validation loss {score.loss}", progress.step))
        said = f"step {progress.step}: validation {score}" + self._sample()
        with interrupts_deferred():
            if progress.step == 0:
                progress.first_loss, progress.first_accuracy = score.loss, score.accuracy
            else:
                self._keep_best(score)
            progress.validated = progress.step
            self.log.validation(progress.step, self._epoch(), score)
            self.log.say(said)

    def _sample(self) -> str:
        """A greedy answer to the first validation example, to be read beside the number."""
        inputs, example = self.inputs, self.inputs.samples[0]
        if inputs.task.kind in ("text", "classify"):
            return ""
        chat = inputs.task.kind == "chat"  # a dialogue's opening says most about a chatbot
        given = inputs.task.prompt([example.segments[0].text]) if chat else example.given
        length = min(SAMPLE_TOKENS, inputs.config.n_positions // 2)
        try:
            prompt = inputs.task.encode_prompt(given, inputs.tokenizer, inputs.config.n_positions - length)[0]
        except UserError:  # too long for this model: the number alone, then
            return ""
        reply = stream(self.model, prompt, make_sampler(greedy=True), length, inputs.tokenizer.eos_token_id)
        asked = " ".join("".join(segment.text for segment in given.segments).split())[-SAMPLE_SHOWN:]
        return f"\n  > {asked}\n  < {inputs.tokenizer.decode(list(reply)).strip()}"

    def _keep_best(self, score: Score) -> None:
        progress = self.progress
        if score.loss >= progress.best_loss:
            progress.worse_validations += 1
            return
        progress.best_loss, progress.best_step, progress.worse_validations = score.loss, progress.step, 0
        progress.best_accuracy = score.accuracy
        checkpoint.save_trained(self.model, self.run_dir)
        if adapter_config(self.model) is None or self.inputs.added:
            save_tokenizer(self.inputs.tokenizer, self.run_dir)

    def _out_of_patience(self) -> bool:
        patience = self.arguments.patience
        return patience is not None and self.progress.worse_validations >= patience

    def _diverged(self, what: str, step: int) -> str:
        if not step:
            return f"{what} before the first step: the base model's weights are damaged; get them again"
        left = checkpoint.checkpoints(self.run_dir)
        last = f"the last good checkpoint is {left[-1]}" if left else "no checkpoint was written yet"
        return f"{what} at step {step}: training has diverged; {last}; try a lower --learning-rate"

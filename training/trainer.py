"""The training loop.

Update `step` uses micro-batches step·n … step·n + n − 1 of an endless list of epochs, its masks come from
(seed, step) and its rate from the schedule: everything about a step follows from its number, so a run can be
taken up again at any of them.

Under `mpirun` every process makes every update: its loss and gradients are sums over the rows of all of them, and so
are the same everywhere. The first process alone writes.
"""

import math
import time
from pathlib import Path

import numpy as np

from common import processes
from common.errors import UserError
from common.interrupt import interrupts_deferred
from common.memory import give_back
from datasets.batches import Batch, collate, plan
from datasets.encode import EncodedSet
from gpt2_jittor.backend import jt
from gpt2_jittor.generation import stream
from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.sampling import make_sampler
from gpt2_jittor.tokenizer import save_tokenizer, text_of
from lora.attach import adapter_config, count, trainable
from training import checkpoint, parallel, scaling
from training.checkpoint import Progress
from training.evaluation import Score, evaluate
from training.forecast import forecast_of
from training.gradients import Told, loss_and_gradients
from training.identity import INSTRUCTIONS, identify
from training.log import Log, Silence
from training.optimizer import AdamW, clip_factor, global_norm
from training.schedule import learning_rate
from training.setup import Inputs

SAMPLE_TOKENS = 40  # of the reply shown at each validation
SHOWN = 3  # examples of an update that an error names
SAMPLE_SHOWN = 160  # characters of what it replies to


class Trainer:
    """One run. `run` trains to the end and returns where it got to."""

    def __init__(self, inputs: Inputs, model, resume: bool = False):
        self.inputs, self.arguments, self.model = inputs, inputs.arguments, model
        self.run_dir = self.arguments.run_dir
        self.optimizer = AdamW(trainable(model), self.arguments.weight_decay)
        self.progress = Progress(loss_scale=scaling.START if self.arguments.precision == "fp16" else None)
        self.identity = identify(inputs, count(model)[0], "cuda" if jt.flags.use_cuda else "cpu")
        parallel.check_same_run({name: value for name, value in self.identity.items() if name != INSTRUCTIONS})
        self.resumed_from, self.damaged = checkpoint.newest(self.run_dir) if resume else (None, [])
        self.notes: list[str] = []  # on the checkpoint that it goes on from
        if self.resumed_from:
            self._take_up(self.resumed_from)
        self.saved = self.resumed_from  # the checkpoint of the step that was made last, where there is one
        self._plans: dict[int, list[np.ndarray]] = {}
        self.whole = True  # false while an update is being made
        self.tokens = 0  # real tokens trained on by this process
        self.whole_score: Score | None = None  # of the best weights on the whole validation set, if it was drawn from

    def run(self) -> Progress:
        """Trains until the last step, or until validation has not improved for `patience` times.

        Where validations are of a part of the set, the best weights are measured on all of it then, and stay in the
        model. Raises UserError where a loss or a gradient is not finite; on Ctrl-C or SIGTERM saves and lets it pass.
        """
        progress = self.progress
        self.log = Silence()
        if processes.is_first():
            forecast = forecast_of(self.inputs, progress.step)
            self.log = Log(self.run_dir, self.inputs.total_steps, forecast, progress if self.resumed_from else None)
        try:
            while True:
                # first what this step still owes: a resumed run may have been stopped in the middle of it
                if progress.validated < progress.step and self._due(self.arguments.eval_every):
                    self._validate()
                if progress.step and self._due(self.arguments.save_every):
                    parallel.check_same_values(self.optimizer.parameters, progress.step)
                    with interrupts_deferred("saving"):
                        self._save()
                if progress.step >= self.inputs.total_steps or self._out_of_patience():
                    self._measure_whole()
                    return progress
                with interrupts_deferred("finishing this step, then saving"):
                    self.whole = False
                    self._update()
                    self.whole = True
        except KeyboardInterrupt:
            if self.whole:  # else an update was cut in two, and the newest checkpoint is the place to go on from
                with interrupts_deferred():
                    self._save()
            place = f"saved {self.saved}" if self.whole else "in the middle of a step, which is lost"
            self.log.say(f"interrupted: {place}; --output-dir {self.run_dir} --resume goes on from there")
            raise
        finally:
            self.log.close()

    def _take_up(self, directory: Path) -> None:
        """Goes on from a checkpoint. Raises UserError where this is not the run that wrote it."""
        self.notes = checkpoint.check_identity(directory, self.identity)
        self.progress = checkpoint.load(directory, self.model, self.optimizer)
        if count(self.model)[0] != self.identity["trained"]:
            raise RuntimeError(f"loading {directory} has changed which parameters are trained")

    def _save(self) -> None:
        """Writes the checkpoint of this step, where there is none: a whole one is never taken away for another."""
        step = self.progress.step
        if self.saved == self.run_dir / f"checkpoint-{step}":
            return
        if not all(np.isfinite(value.numpy()).all() for value in self.optimizer.parameters):
            raise UserError(self._diverged("weights that are not finite", step))
        if not processes.is_first():
            return
        self.log.flush()
        self.saved = checkpoint.save(self.run_dir, self.model, self.optimizer, self.progress, self.identity)

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now."""
        return self.progress.step % every == 0 or self.progress.step == self.inputs.total_steps

    def _update(self) -> None:
        given, step = self.arguments, self.progress.step
        started = time.perf_counter()
        seeds.restart(given.seed, step, processes.rank())
        batches = self._micro_batches(step)
        scored = sum(batch.scored for batch in batches)
        rate = learning_rate(given.schedule, given.learning_rate, step, given.warmup_steps, self.inputs.total_steps)
        own = parallel.own_parts(batches)
        scale = scaling.factor(self.progress)
        loss, gradients = loss_and_gradients(self.model, own, self.optimizer.parameters, scored, scale)
        loss, *gradients = parallel.summed_vars([loss, *gradients])
        norm = global_norm(gradients, scale)
        told = Told(loss, norm)
        if (given.skip_nonfinite or scale is not None) and not told.finite:
            self._skip(self._record(told, rate, batches), time.perf_counter() - started)
            return
        self.optimizer.step(gradients, rate, clip_factor(norm, given.max_grad_norm, scale))
        jt.sync_all()
        record = self._record(told, rate, batches)
        self._check_finite(record)
        scaling.grow(self.progress)
        self.progress.step += 1
        self.tokens += record["tokens"]
        self.log.step(record, time.perf_counter() - started)

    def _record(self, told: Told, rate: float, batches: list[Batch]) -> dict:
        """What is logged of the update that is being made."""
        (loss, norm), step, scale = told.values, self.progress.step + 1, self.progress.loss_scale
        return {
            "step": step,
            "epoch": round(self._epoch(step), 4),
            "split": "train",
            "loss": loss,
            "perplexity": Score(loss, 0).perplexity,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": sum(batch.tokens for batch in batches),
        } | ({} if scale is None else {"loss_scale": scale})

    def _check_finite(self, record: dict) -> None:
        for what, value in (("loss", record["loss"]), ("gradient norm", record["grad_norm"])):
            if not math.isfinite(value):
                step = record["step"]
                raise UserError(self._diverged(f"{what} {value}", step, self._made_of(step - 1)))

    def _skip(self, record: dict, seconds: float) -> None:
        """Goes on to the next step without having changed anything but the loss scale.

        Raises UserError where it is not the scale's fault and `--skip-nonfinite` was not given.
        """
        progress, loss, norm = self.progress, record["loss"], record["grad_norm"]
        why = f"loss {loss}, gradient norm {norm}"
        if scaling.overflowed(progress, loss, norm):
            scaling.shrink(progress)
            why = f"gradients beyond float16, the loss scale is now {progress.loss_scale:,.0f}"
            self.log.step(record | {"grad_norm": None, "skipped": True}, seconds)
        elif not self.arguments.skip_nonfinite:
            self._check_finite(record)
        self.log.say(f"step {record['step']} skipped: {why}; {self._made_of(progress.step)}")
        progress.step += 1
        progress.skipped += 1

    def _micro_batches(self, step: int) -> list[Batch]:
        chosen = [self._plan(epoch)[index] for epoch, index in self._places(step)]
        items = [[self.inputs.train[example] for example in examples] for examples in chosen]
        return [collate(batch, self.inputs.tokenizer.pad_token_id) for batch in items]

    def _places(self, step: int) -> list[tuple[int, int]]:
        """The epoch of each micro-batch of an update, and which one of the epoch it is."""
        each = self.arguments.gradient_accumulation
        last = min((step + 1) * each, self.inputs.total_batches)
        return [divmod(number, self.inputs.batches_per_epoch) for number in range(step * each, last)]

    def _made_of(self, step: int) -> str:
        """The update's data in words: epoch and batch, from 1, and where its first examples stand."""
        places = self._places(step)
        examples = [int(example) for epoch, index in places for example in self._plan(epoch)[index]]
        sources = self.inputs.sources
        named = [sources[example] if sources else f"window {example}" for example in examples[:SHOWN]]
        more = f" and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
        batches = ", ".join(f"epoch {epoch + 1} batch {index + 1}" for epoch, index in places)
        return f"{batches}: {', '.join(named)}{more}"

    def _plan(self, epoch: int) -> list[np.ndarray]:
        if epoch not in self._plans:
            self._plans = {
                epoch: plan(self.inputs.train.lengths, self.arguments.batch_size, self.arguments.seed, epoch)
            }
        return self._plans[epoch]

    def _epoch(self, step: int) -> float:
        done = min(step * self.arguments.gradient_accumulation, self.inputs.total_batches)
        return done / self.inputs.batches_per_epoch

    def _validate(self) -> None:
        progress, score = self.progress, self._score(self.inputs.validation)
        said = f"step {progress.step}: validation {score}" + self._sample()
        with interrupts_deferred():
            if progress.step == 0:
                progress.first_loss, progress.first_accuracy = score.loss, score.accuracy
            else:
                self._keep_best(score)
            progress.validated = progress.step
            self.log.validation(progress.step, self._epoch(progress.step), score)
            self.log.say(said)

    def _score(self, data: EncodedSet) -> Score:
        """Raises UserError where the loss is not finite."""
        score = evaluate(self.model, data, self.arguments.batch_size, self.inputs.tokenizer.pad_token_id)
        give_back()  # batches of all shapes leave gaps between what is in use, which else are touched one by one
        if not math.isfinite(score.loss):
            raise UserError(self._diverged(f"validation loss {score.loss}", self.progress.step))
        return score

    def _measure_whole(self) -> None:
        """The best weights on all that validations drew from. The run is saved before: Ctrl-C only leaves this out."""
        progress, data = self.progress, self.inputs.whole_validation
        if not self.inputs.measures_whole:
            return
        with interrupts_deferred("saving"):
            self._save()
        self.log.say(f"measuring the best weights, of step {progress.best_step}, on all of validation ({len(data):,})")
        if progress.best_step != progress.step:
            if processes.is_first():
                checkpoint.load_trained(self.model, self.run_dir)
            parallel.take_from_first(self.optimizer.parameters)
        self.whole_score = self._score(data)
        self.log.validation(progress.best_step, self._epoch(progress.best_step), self.whole_score)

    def _sample(self) -> str:
        """A greedy answer to the first validation example, to be read beside the number."""
        inputs, example = self.inputs, self.inputs.samples[0]
        if inputs.task.kind in ("text", "classify") or not processes.is_first():
            return ""
        chat = inputs.task.kind == "chat"  # a dialogue's opening says most about a chatbot
        given = inputs.task.prompt([example.segments[0].text]) if chat else example.given
        length = min(SAMPLE_TOKENS, inputs.config.n_positions // 2)
        try:
            prompt = inputs.task.encode_prompt(given, inputs.tokenizer, inputs.config.n_positions - length)[0]
        except UserError:  # too long for this model: the number alone, then
            return ""
        reply = stream(self.model, prompt, make_sampler(greedy=True), length, inputs.generation.end_ids)
        asked = " ".join("".join(segment.text for segment in given.segments).split())[-SAMPLE_SHOWN:]
        return f"\n  > {asked}\n  < {text_of(list(reply), inputs.tokenizer).strip()}"

    def _keep_best(self, score: Score) -> None:
        progress = self.progress
        if score.loss >= progress.best_loss:
            progress.worse_validations += 1
            return
        progress.best_loss, progress.best_step, progress.worse_validations = score.loss, progress.step, 0
        progress.best_accuracy = score.accuracy
        if not processes.is_first():
            return
        checkpoint.save_trained(self.model, self.run_dir)
        if adapter_config(self.model) is None or self.inputs.added:
            save_tokenizer(self.inputs.tokenizer, self.run_dir)

    def _out_of_patience(self) -> bool:
        patience = self.arguments.patience
        return patience is not None and self.progress.worse_validations >= patience

    def _diverged(self, what: str, step: int, where: str = "") -> str:
        mend, damaged = "try a lower --learning-rate", "the base model's weights are damaged; get them again"
        if self.arguments.precision == "fp16":
            mend, damaged = f"{mend}, or --precision bf16", "the model's numbers leave float16; use --precision bf16"
        if not step:
            return f"{what} before the first step: {damaged}"
        left = checkpoint.checkpoints(self.run_dir)
        last = f"the last good checkpoint is {left[-1]}" if left else "no checkpoint was written yet"
        at = f"step {step} ({where})" if where else f"step {step}"
        return f"{what} at {at}: training has diverged; {last}; {mend}"

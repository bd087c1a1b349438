"""The training loop.

An update's micro-batches and its dropout masks follow from the seed and the step, its rate from the schedule: so a run
can be taken up again at any step.

Under `mpirun` every process makes every update: its loss and gradients are sums over the rows of all of them, and so
are the same everywhere. The first process alone writes.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import processes
from common.errors import ParameterError, UserError
from common.interrupt import interrupts_deferred
from common.memory import give_back
from datasets.batches import Batch
from datasets.encode import EncodedSet
from generation.scoring import Score, evaluate
from gpt2_jittor.checkpoint.fingerprint import digest
from gpt2_jittor.checkpoint.tokenizer import save_tokenizer
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.runtime.backend import jt
from lora.attach import size, trainable
from training import checkpoint, distributed, loss_scale
from training.arguments import TrainingArguments
from training.batches import UpdateBatches
from training.checkpoint import Progress
from training.fingerprint import INSTRUCTIONS, fingerprint
from training.folder import holds_run
from training.metrics_log import MetricsLog, NullLog
from training.optimizer import AdamW
from training.plan import agreed, check_scored, fill, settle
from training.reply import replied
from training.sample import SamplePrompt
from training.schedule import learning_rate
from training.step import StepResult, update


class Trainer:
    """One run. `run` trains to the end and returns where it got to.

    `model` is trained as it is given: its adapter, or all of it that is not frozen. What `arguments` say of the model
    itself (how it is tuned, the adapter's rank, scaling, dropout and biases, the precision) is taken from it, and what
    they leave open is settled by the sets (`training/plan.py`). The run's folder is `arguments.output_dir`; nothing
    else may write in it.

    `sources`: where each training item stands ("file:line"), for error messages. `sample`: what validations show.
    `own_tokenizer`: the tokenizer is not the base's as it was, and is kept with the run.
    Raises UserError where nothing can be learnt, where the folder holds a run that is not to be resumed, and with
    `resume` where it holds another run than this one.
    """

    def __init__(
        self,
        model: GPT2PreTrained,
        train: EncodedSet,
        validation: EncodedSet,
        arguments: TrainingArguments,
        tokenizer,
        *,
        resume: bool = False,
        sources: Sequence[str] = (),
        sample: SamplePrompt | None = None,
        own_tokenizer: bool = False,
    ):
        if arguments.output_dir is None:
            raise UserError("output_dir is missing from the arguments: name the run's folder")
        for split, data in (("train", train), ("validation", validation)):
            check_scored(split, data)
        self.model, self.tokenizer, self.sample, self.run_dir = model.train(), tokenizer, sample, arguments.run_dir
        self.own_tokenizer = own_tokenizer
        if not resume and holds_run(self.run_dir):
            raise UserError(f"{self.run_dir} holds a run already: resume it, or choose another output_dir")
        self.resumed_from, self.damaged = checkpoint.newest(self.run_dir) if resume else (None, [])
        arguments = agreed(arguments, model)
        if self.resumed_from:  # what was settled when it began stays, however long the run is now
            arguments = fill(arguments, checkpoint.settled(self.resumed_from))
        self.plan = settle(arguments, train, validation)
        self.plan.check_sizes(model.config)
        self.arguments = self.plan.arguments
        self.batches = UpdateBatches(self.plan, tokenizer.pad_token_id, sources)
        ratio = self.arguments.lora_plus_ratio if model.adapter_config else 1.0
        self.optimizer = AdamW(trainable(model), self.arguments.weight_decay, lora_plus_ratio=ratio)
        if not self.optimizer.parameters:
            raise UserError("nothing of the model is trained: inject LoRA into it, or load it without freezing it")
        self.progress = Progress(loss_scale=loss_scale.START if model.precision == "fp16" else None)
        base = model.base and digest(model.base.stored)
        self.fingerprint = fingerprint(self.plan, base, size(model), "cuda" if jt.flags.use_cuda else "cpu")
        distributed.check_same_run({name: value for name, value in self.fingerprint.items() if name != INSTRUCTIONS})
        self.log: MetricsLog | NullLog | None = None  # once it has begun
        self.notes: list[str] = []  # on the checkpoint that it goes on from
        if self.resumed_from:
            self._take_up(self.resumed_from)
        self.saved = self.resumed_from  # the checkpoint of the step that was made last, where there is one
        self.whole = True  # false while an update is being made
        self.tokens = 0  # real tokens trained on by this process
        self.whole_score: Score | None = None  # of the best weights on the whole validation set, if it was drawn from

    def begin(self) -> None:
        """Opens the run's log, and those of its trackers. Raises UserError where one of these cannot begin."""
        self.log, progress = NullLog(), self.progress
        if processes.is_first():
            reached = {"train": progress.step, "validation": progress.validated} if self.resumed_from else {}
            forecast, given = self.plan.forecast(progress.step), vars(self.arguments)
            self.log = MetricsLog(self.run_dir, self.plan.total_steps, forecast, reached, given)

    def run(self) -> Progress:
        """Trains until the last step, or until validation has not improved for `patience` times.

        Where validations are of a part of the set, the best weights are measured on all of it then, and stay in the
        model. Raises UserError where a loss or a gradient is not finite; on Ctrl-C or SIGTERM saves and lets it pass.
        """
        progress = self.progress
        if self.log is None:
            self.begin()
        try:
            while True:
                # first what this step still owes: a resumed run may have been stopped in the middle of it
                if progress.validated < progress.step and self._due(self.arguments.eval_every):
                    self._validate()
                ended = progress.step >= self.plan.total_steps or self._out_of_patience()
                if progress.step and (ended or self._due(self.arguments.save_every)):
                    distributed.check_same_values(self.optimizer.parameters, progress.step)
                    with interrupts_deferred("saving"):
                        self._save()
                if ended:
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
            self.log = None

    def _take_up(self, directory: Path) -> None:
        """Goes on from a checkpoint. Raises UserError where this is not the run that wrote it."""
        self.notes = checkpoint.check_fingerprint(directory, self.fingerprint)
        self.progress = checkpoint.load(directory, self.model, self.optimizer)
        if size(self.model) != self.fingerprint["trained"]:
            raise RuntimeError(f"loading {directory} has changed which parameters are trained")

    def _save(self) -> None:
        """Writes the checkpoint of this step, where there is none: a whole one is never taken away for another."""
        step = self.progress.step
        if self.saved == self.run_dir / f"checkpoint-{step}":
            return
        if not all(np.isfinite(value.numpy()).all() for value in self.optimizer.parameters):
            raise self._diverged("weights that are not finite", step)
        if not processes.is_first():
            return
        self.log.flush()
        self.saved = checkpoint.save(self.run_dir, self.model, self.optimizer, self.progress, self.fingerprint)

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now."""
        return self.progress.step % every == 0 or self.progress.step == self.plan.total_steps

    def _update(self) -> None:
        given, step = self.arguments, self.progress.step
        started = time.perf_counter()
        batches = self.batches.of(step)
        rate = learning_rate(given.schedule, given.learning_rate, step, given.warmup_steps, self.plan.total_steps)
        scale = loss_scale.as_var(self.progress)
        result = update(
            self.model,
            self.optimizer,
            batches,
            rate,
            given.max_grad_norm,
            dropout_seed=(given.seed, step),
            loss_scale=scale,
            skip_nonfinite=given.skip_nonfinite or scale is not None,
        )
        record = self._record(result, rate, batches)
        if not result.applied:
            self._skip(record, time.perf_counter() - started)
            return
        self._check_finite(record)
        loss_scale.grow(self.progress)
        self.progress.step += 1
        self.tokens += record["tokens"]
        self.log.step(record, time.perf_counter() - started)

    def _record(self, result: StepResult, rate: float, batches: list[Batch]) -> dict:
        """What is logged of the update that is being made."""
        step, scale = self.progress.step + 1, self.progress.loss_scale
        return {
            "step": step,
            "epoch": round(self.batches.epochs(step), 4),
            "split": "train",
            "loss": result.loss,
            # a smoothed loss is not that of what is there
            "perplexity": None if self.arguments.label_smoothing else Score(result.loss, 0).perplexity,
            "learning_rate": rate,
            "grad_norm": result.grad_norm,
            "tokens": sum(batch.tokens for batch in batches),
        } | ({} if scale is None else {"loss_scale": scale})

    def _check_finite(self, record: dict) -> None:
        for what, value in (("loss", record["loss"]), ("gradient norm", record["grad_norm"])):
            if not math.isfinite(value):
                step = record["step"]
                raise self._diverged(f"{what} {value}", step, self.batches.describe(step - 1))

    def _skip(self, record: dict, seconds: float) -> None:
        """Goes on to the next step without having changed anything but the loss scale.

        Raises UserError where it is not the scale's fault and `skip_nonfinite` was not given.
        """
        progress, loss, norm = self.progress, record["loss"], record["grad_norm"]
        why = f"loss {loss}, gradient norm {norm}"
        if loss_scale.overflowed(progress, loss, norm):
            loss_scale.shrink(progress)
            why = f"gradients beyond float16, the loss scale is now {progress.loss_scale:,.0f}"
        elif not self.arguments.skip_nonfinite:
            self._check_finite(record)
        unknown = {} if math.isfinite(loss) else {"loss": None, "perplexity": None}  # JSON has no such number
        unknown |= {} if math.isfinite(norm) else {"grad_norm": None}
        self.log.step(record | unknown | {"skipped": True}, seconds)
        self.log.say(f"step {record['step']} skipped: {why}; {self.batches.describe(progress.step)}")
        progress.step += 1
        progress.skipped += 1

    def _validate(self) -> None:
        progress, score = self.progress, self._score(self.plan.validation)
        said = f"step {progress.step}: validation {score}"
        if self.sample and processes.is_first():
            said += replied(self.model, self.sample, self.tokenizer)
        with interrupts_deferred():
            if progress.step == 0:
                progress.first_loss, progress.first_accuracy = score.loss, score.accuracy
            else:
                self._keep_best(score)
            progress.validated = progress.step
            self.log.validation(progress.step, self.batches.epochs(progress.step), score)
            self.log.say(said)

    def _score(self, data: EncodedSet) -> Score:
        """Raises UserError where the loss is not finite."""
        score = evaluate(self.model, data, self.arguments.batch_size, self.tokenizer.pad_token_id, distributed.summed)
        give_back()  # batches of all shapes leave gaps between what is in use, which else are touched one by one
        if not math.isfinite(score.loss):
            raise self._diverged(f"validation loss {score.loss}", self.progress.step)
        return score

    def _measure_whole(self) -> None:
        """The best weights on all that validations drew from. The run is saved before: Ctrl-C only leaves this out."""
        progress, data = self.progress, self.plan.whole_validation
        if not self.plan.measures_whole:
            return
        self.log.say(f"measuring the best weights, of step {progress.best_step}, on all of validation ({len(data):,})")
        if progress.best_step != progress.step:
            if processes.is_first():
                checkpoint.load_trained(self.model, self.run_dir)
            distributed.take_from_first(self.optimizer.parameters)
        self.whole_score = self._score(data)
        self.log.validation(progress.best_step, self.batches.epochs(progress.best_step), self.whole_score)

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
        config = self.model.adapter_config
        if config is None or config.trainable_token_indices or self.own_tokenizer:  # else it is the base's
            save_tokenizer(self.tokenizer, self.run_dir)

    def _out_of_patience(self) -> bool:
        patience = self.arguments.patience
        return patience is not None and self.progress.worse_validations >= patience

    def _diverged(self, what: str, step: int, where: str = "") -> ParameterError:
        mend, damaged = "try a lower {learning_rate}", "the base model's weights are damaged; get them again"
        if self.arguments.precision == "fp16":
            mend, damaged = mend + ", or {precision} bf16", "the model's numbers leave float16; use {precision} bf16"
        if not step:
            return ParameterError("{what} before the first step: " + damaged, what=what)
        left = checkpoint.checkpoints(self.run_dir)
        last = f"the last good checkpoint is {left[-1]}" if left else "no checkpoint was written yet"
        at = f"step {step} ({where})" if where else f"step {step}"
        return ParameterError("{what} at {at}: training has diverged; {last}; " + mend, what=what, at=at, last=last)

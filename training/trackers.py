"""`--report-to`: what `metrics.jsonl` says is told to trackers as well, while it is written.

The file stays the truth. A tracker's package is imported where it is asked for, and only there; one that fails while a
run goes on is left out from then on, and the run is not. Its run goes on after `--resume`: ids are kept in the run's
folder, and what it was told before is not told again. Needs no Jittor.
"""

import contextlib
import importlib.util
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.errors import ParameterError
from common.files import read_json, write_json

PROJECT = "gpt2-jittor"  # where trackers put the runs of this program together
IDS = "trackers.json"  # name -> id, in the run's folder
LAST = "whole_validation"  # the curve of what is measured at a run's end on more examples than before


class Tracker(Protocol):
    """A run of a tracker's. It begins, or goes on, when it is made: `Kind(id, run_dir, arguments)`."""

    is_new: bool  # it knows nothing of the id that it was given, as far as it can tell: its store may be another by now

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """Takes up values by their names, `train/loss`. `when`: seconds of `time.time`."""

    def close(self, finished: bool) -> None:
        """Ends it. `finished`: else the run was stopped or has failed."""


class TensorBoard:
    """An event file in the run's folder, made anew from the metrics when a run is taken up again."""

    is_new, SUFFIX = True, ".gpt2-jittor"  # the ending of our files: others in the folder are left alone

    def __init__(self, id: str, run_dir: Path, arguments: dict[str, Any]):
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        folder = run_dir / "tensorboard"
        for before in folder.glob(f"events.out.tfevents.*{self.SUFFIX}"):
            before.unlink()
        self.writer = SummaryWriter(str(folder), filename_suffix=self.SUFFIX)
        given = {
            name: value if isinstance(value, int | float | str) else str(value) for name, value in arguments.items()
        }
        for summary in hparams(given, {"validation/loss": 0.0}):  # the metric's name: its values come as scalars
            self.writer.file_writer.add_summary(summary)

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """As `Tracker` says."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step, when)

    def close(self, finished: bool) -> None:
        """As `Tracker` says."""
        self.writer.close()


class SwanLab:
    """A run of swanlab's, in its cloud or wherever its settings say."""

    is_new = False

    def __init__(self, id: str, run_dir: Path, arguments: dict[str, Any]):
        import swanlab

        settings = {"experiment_name": run_dir.name, "config": arguments, "logdir": str(run_dir / "swanlog")}
        self.run = swanlab.init(project=PROJECT, id=id, resume="allow", **settings)

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """As `Tracker` says."""
        self.run.log(values, step=step)

    def close(self, finished: bool) -> None:
        """As `Tracker` says."""
        self.run.finish(state="success" if finished else "aborted")


class WandB:
    """A run of Weights & Biases'."""

    def __init__(self, id: str, run_dir: Path, arguments: dict[str, Any]):
        import wandb

        settings = {"name": run_dir.name, "config": arguments, "dir": str(run_dir)}
        self.run = wandb.init(project=PROJECT, id=id, resume="allow", **settings)
        self.last = self.run.step  # 0, or behind what a run that goes on was told
        self.is_new = not self.last and not getattr(self.run, "offline", False)  # offline nobody knows what it was told

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """As `Tracker` says. What belongs to an earlier step than the last, which wandb drops, goes to the summary."""
        if step < self.last:
            self.run.summary.update(values)
        else:
            self.run.log(values, step=step)
            self.last = step

    def close(self, finished: bool) -> None:
        """As `Tracker` says."""
        self.run.finish(exit_code=int(not finished))


class Trackio:
    """A run of trackio's, which knows its runs by their names."""

    is_new = False

    def __init__(self, id: str, run_dir: Path, arguments: dict[str, Any]):
        import trackio

        self.run = trackio.init(project=PROJECT, name=f"{run_dir.name}-{id}", config=arguments, resume="allow")

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """As `Tracker` says."""
        self.run.log(values, step=step)

    def close(self, finished: bool) -> None:
        """As `Tracker` says."""
        self.run.finish()


class MLflow:
    """A run of MLflow's, where MLFLOW_TRACKING_URI says. MLflow gives ids itself: by ours, a tag, a run is found."""

    TAG = "gpt2_jittor.run"

    def __init__(self, id: str, run_dir: Path, arguments: dict[str, Any]):
        import mlflow

        self.client = mlflow.MlflowClient()
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        before = self.client.search_runs([experiment], filter_string=f"tags.`{self.TAG}` = '{id}'")
        self.is_new = not before
        if before:
            self.run_id = before[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        self.run_id = self.client.create_run(experiment, tags={self.TAG: id}, run_name=run_dir.name).info.run_id
        for name, value in arguments.items():  # they cannot be changed: a run that is taken up again keeps its own
            self.client.log_param(self.run_id, name, value)

    def log(self, values: dict[str, float], step: int, when: float) -> None:
        """As `Tracker` says."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, name, value, timestamp=int(when * 1000), step=step)

    def close(self, finished: bool) -> None:
        """As `Tracker` says."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


# name -> its kind, the module that it imports, the package to install
KINDS: dict[str, tuple[Callable[[str, Path, dict[str, Any]], Tracker], str, str]] = {
    "tensorboard": (TensorBoard, "tensorboardX", "tensorboardX"),
    "swanlab": (SwanLab, "swanlab", "swanlab"),
    "wandb": (WandB, "wandb", "wandb"),
    "trackio": (Trackio, "trackio", "trackio"),
    "mlflow": (MLflow, "mlflow", "mlflow-skinny"),
}
NONE = "none"


def wanted(names: Sequence[str] | None) -> Sequence[str]:
    """Those that were asked for: NONE takes a run's away."""
    return () if not names or list(names) == [NONE] else names


def check(names: Sequence[str] | None) -> None:
    """Raises UserError for a name that is none, and for a package that is not installed. Imports nothing."""
    names = wanted(names)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParameterError("{report_to} {0} is given twice", twice[0])
    for name in names:
        if name == NONE:
            raise ParameterError("{report_to} {0} stands alone: leave it out, or the others", NONE)
        if name not in KINDS:
            raise ParameterError("{report_to} takes {0}, not {1!r}", ", ".join(KINDS), name)
        _, module, package = KINDS[name]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # a folder of that name, where wandb has left its files, is no package
            missing = "{report_to} {0} needs a package that is not installed: pip install {1}"
            raise ParameterError(missing, name, package)


class Trackers:
    """The trackers of a run. `log` takes the records of `metrics.jsonl` as they are written.

    `told`, of a run that is taken up again: the last step of each split that was logged before it was stopped, even
    where that is made again now. None: it begins, and so do the trackers' runs.
    Raises UserError for a tracker that cannot begin.
    """

    def __init__(
        self,
        names: Sequence[str],
        run_dir: Path,
        arguments: Mapping[str, Any],
        say: Callable[[str], None],
        told: Mapping[str, int] | None = None,
        seconds: float = 0.0,
    ):
        check(names)
        names = wanted(names)
        self.say, self.began = say, time.time() - seconds
        self.examples = None  # of the first validation; one of others is a curve of its own
        self.open: dict[str, tuple[Tracker, Mapping[str, int]]] = {}
        kept = _kept_ids(run_dir) if told is not None else {}
        self.ids = {name: kept.get(name) or secrets.token_hex(11)[:21] for name in names}  # 21: what swanlab asks for
        self.path = run_dir / IDS
        for name in names:
            try:
                tracker = KINDS[name][0](self.ids[name], run_dir, dict(arguments))
            except Exception as error:
                self.close(finished=False)
                raise ParameterError("{report_to} {0} cannot begin: {1}", name, str(error)) from error
            self.open[name] = tracker, told if name in kept and not tracker.is_new else {}
        # what is not told any more begins anew, with all that was missed, where it is asked for again
        if names or kept:
            write_json(self.path, self.ids)

    def log(self, record: Mapping[str, Any]) -> None:
        """Tells one record, but to those who were told it before."""
        split = record["split"]
        if split == "validation":
            self.examples = record.get("examples") if self.examples is None else self.examples
            split = LAST if record.get("examples") != self.examples else split
        values = {f"{split}/{name}": value for name, value in record.items() if name != "step" and _is_number(value)}
        for name, (tracker, told) in list(self.open.items()):
            if record["step"] > told.get(split, -1):
                with self._surviving(name, forgotten=True):
                    tracker.log(values, record["step"], self.began + record["seconds"])

    def replay(self, lines: Iterable[str]) -> None:
        """Tells the lines of `metrics.jsonl` that were kept."""
        for line in lines if self.open else ():
            self.log(json.loads(line))

    def close(self, finished: bool) -> None:
        """Ends all of them."""
        for name, (tracker, _) in list(self.open.items()):
            with self._surviving(name):
                tracker.close(finished)
        self.open.clear()

    @contextlib.contextmanager
    def _surviving(self, name: str, forgotten: bool = False) -> Iterator[None]:
        """What goes wrong with a tracker, its network for instance, ends what it is told, not the run.

        With its id `forgotten` it begins anew where the run is taken up again, with all that it has missed.
        """
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            if forgotten:
                del self.ids[name]
                with contextlib.suppress(OSError):
                    write_json(self.path, self.ids)
            self.say(f"{name} is told nothing more: {error}; metrics.jsonl has everything")


def _kept_ids(run_dir: Path) -> dict[str, str]:
    return read_json(run_dir / IDS) if (run_dir / IDS).is_file() else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Doubles of trackers' packages that write down how they are called."""

# how the packages are called as far as they are used here, from their references; every call is kept in `calls`
DOUBLES = {
    "wandb": """
calls = []
class Run:
    step = 0
    class summary:
        update = staticmethod(lambda values: calls.append(("summary", values)))
    def log(self, data, step=None, commit=None):
        calls.append(("log", data, step))
    def finish(self, exit_code=None, quiet=None):
        calls.append(("finish", exit_code))
def init(entity=None, project=None, dir=None, id=None, name=None, config=None, resume=None):
    calls.append(("init", id, resume, config))
    Run.step = 1 + max((call[2] for call in calls if call[0] == "log"), default=-1)
    return Run()
""",
    "swanlab": """
calls = []
class Run:
    def log(self, data, step=None, print_to_console=False):
        calls.append(("log", data, step))
    def finish(self, state="success", error=None):
        calls.append(("finish", state))
def init(project=None, workspace=None, experiment_name=None, config=None, logdir=None, mode=None, id=None, resume=None):
    calls.append(("init", id, resume, config))
    return Run()
""",
    "trackio": """
calls = []
class Run:
    def log(self, metrics, step=None):
        calls.append(("log", metrics, step))
    def finish(self):
        calls.append(("finish",))
def init(project, name=None, group=None, space_id=None, config=None, resume="never"):
    calls.append(("init", name, resume, config))
    return Run()
""",
    "mlflow": """
from types import SimpleNamespace as Told
calls, runs = [], {}
class MlflowClient:
    def __init__(self, tracking_uri=None):
        pass
    def get_experiment_by_name(self, name):
        return Told(experiment_id="7") if runs else None
    def create_experiment(self, name):
        return "7"
    def search_runs(self, experiment_ids, filter_string=""):
        wanted = filter_string.partition("= ")[2].strip("'")
        return [Told(info=Told(run_id=run)) for run, id in runs.items() if id == wanted]
    def update_run(self, run_id, status=None, name=None):
        calls.append(("init", runs[run_id], "allow", None))
    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        run = f"run{len(runs)}"
        runs[run] = tags["gpt2_jittor.run"]
        calls.append(("init", runs[run], "allow", {}))
        return Told(info=Told(run_id=run))
    def log_param(self, run_id, key, value):
        calls[-1][3][key] = value
    def log_metric(self, run_id, key, value, timestamp=None, step=None):
        calls.append(("log", {key: value}, step))
    def set_terminated(self, run_id, status=None, end_time=None):
        calls.append(("finish", status))
""",
}

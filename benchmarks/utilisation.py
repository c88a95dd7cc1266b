"""How much of the machine a search uses: a bare script's wall time over the command's.

    python benchmarks/utilisation.py [--config mbv2_space] [--beside bare,...] [KEY=VALUE ...]

Runs, one after the other on this machine: the whole `nasctl search` command with two workers, then
exactly the same list of (architecture, seed) in two plain processes with one thread each (the
longest first, so packed as well as can be), through a plain Optuna script (two processes, journal
storage), and through a plain Ray Tune script with OptunaSearch. Each is timed from start to exit of
its process. The figure of merit is bare / other; 1 is perfect. `--beside bare` leaves the last two
out.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAIN = """
import pickle, sys
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

def train(item):
    job, work = item
    for metrics in job(work):
        pass
    return metrics["accuracy"]

def start(job):
    job.prepare()

if __name__ == "__main__":
    job, works = pickle.load(open(sys.argv[1], "rb"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=start, initargs=(job,)) as pool:
        print(max(pool.map(train, [(job, w) for w in works])))
"""

OPTUNA = """
import multiprocessing, pickle, sys, tempfile
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

def worker(path, log, n):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job, works = pickle.load(open(path, "rb"))
    job.prepare()
    study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(log)))
    def objective(trial):
        work = works[trial.suggest_categorical("index", list(range(len(works))))]
        for metrics in job(work):
            pass
        return metrics["accuracy"]
    study.optimize(objective, n_trials=n)

if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job, works = pickle.load(open(sys.argv[1], "rb"))
    log = tempfile.mktemp()
    study = optuna.create_study(study_name="s", direction="maximize",
                                storage=JournalStorage(JournalFileBackend(log)))
    for index in range(len(works)):
        study.enqueue_trial({"index": index})
    half = (len(works) + 1) // 2
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=worker, args=(sys.argv[1], log, n))
               for n in (half, len(works) - half)]
    [w.start() for w in workers]; [w.join() for w in workers]
    print(study.best_value)
"""

RAY = """
import os, pickle, sys
os.environ.update(RAY_AIR_NEW_OUTPUT="0", RAY_USAGE_STATS_ENABLED="0")
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

job, works = pickle.load(open(sys.argv[1], "rb"))

def trainable(config, data=None):
    job, works = data
    job.prepare()
    for metrics in job(works[config["index"]]):
        tune.report({"accuracy": metrics["accuracy"]})

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
search = OptunaSearch(metric="accuracy", mode="max",
                      points_to_evaluate=[{"index": i} for i in range(len(works))])
tuner = tune.Tuner(
    tune.with_resources(tune.with_parameters(trainable, data=(job, works)), {"cpu": 1}),
    param_space={"index": tune.choice(list(range(len(works))))},
    tune_config=tune.TuneConfig(search_alg=search, num_samples=len(works),
                                max_concurrent_trials=2),
    run_config=tune.RunConfig(verbose=0),
)
print(tuner.fit().get_best_result("accuracy", "max").metrics["accuracy"])
"""


def timed(*command: str, cwd: Path) -> float:
    """Seconds from start to exit.

    Raises:
        SystemExit: the command failed; shows what it said.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return seconds


SCRIPTS = {"bare": PLAIN, "optuna": OPTUNA, "ray_tune": RAY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--config", default="mbv2_space")
    parser.add_argument("--beside", default=",".join(SCRIPTS), help="scripts, bare among them")
    arguments = parser.parse_args()
    chosen = arguments.beside.split(",")
    if "bare" not in chosen or not set(chosen) <= set(SCRIPTS):
        parser.error(f"--beside {arguments.beside}: bare and any of {', '.join(SCRIPTS)}")
    folder = Path(tempfile.mkdtemp(prefix="nasctl-utilisation-"))
    nasctl = ("-m", "nasctl", "search", arguments.config, *arguments.overrides, "name=u")
    seconds = {
        "nasctl search": timed(
            sys.executable, *nasctl, "executor.workers=2", "--progress", "none", cwd=folder
        )
    }
    run = folder / "runs" / "u"
    items = folder / "items.pickle"
    write_items(run, items)
    for name in chosen:
        path = folder / f"{name}_script.py"
        path.write_text(SCRIPTS[name], encoding="utf-8")
        seconds[name] = timed(sys.executable, str(path), str(items), cwd=folder)
    front = json.loads((run / "front.json").read_text())
    print(f"{front['trials']['COMPLETE']} trainings, two workers with one thread each")
    print(f"{'':14} {'wall s':>8} {'utilisation':>12}")
    for name, value in seconds.items():
        print(f"{name:14} {value:8.1f} {seconds['bare'] / value:12.3f}")
    shutil.rmtree(folder)


def write_items(run: Path, target: Path) -> None:
    """The job and the works of a finished run, longest first, pickled for the plain scripts."""
    from nasctl.config import load_config
    from nasctl.plugins import load_plugins
    from nasctl.prepare import load_problem, training_job
    from nasctl.records import RunRecords
    from nasctl.trial import Work

    config = load_config(str(run / "config.yaml")).config
    registry = load_plugins([])
    job = training_job(config, load_problem(config, registry), registry, None)
    trials = sorted(RunRecords(run).trials(), key=lambda t: -t.seconds)
    works = [
        Work(number=t.number, attempt=1, architecture=t.architecture, seed=t.seed, epochs=t.epochs)
        for t in trials
    ]
    with open(target, "wb") as file:
        pickle.dump((job, works), file)


if __name__ == "__main__":
    main()

"""What the Ray executor relies on for its first worker to be there soon; starts Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nasctl.executors.ray import ENVIRONMENT
from nasctl.executors.scratch import scratch_dir

AHEAD = """
import os, sys, time
import ray  # brings psutil along
import psutil
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         object_store_memory=80 * 2**20, _temp_dir=sys.argv[1])

def idle():
    processes = psutil.Process().children(recursive=True)
    return [p.pid for p in processes if "ray::IDLE" in " ".join(p.cmdline())]

@ray.remote(num_cpus=1)
class Worker:
    def process(self):
        return os.getpid()

while not (ahead := idle()):
    time.sleep(0.05)
time.sleep(1.5)  # longer than Ray lets it idle by default, where all cores are taken
group = placement_group([{"CPU": 1}])
group.wait(30)
time.sleep(0.7)  # longer than Tune takes from the reservation of the cores to its worker
strategy = PlacementGroupSchedulingStrategy(group, 0)
worker = Worker.options(scheduling_strategy=strategy).remote()
print(ahead == [ray.get(worker.process.remote())])
"""


def test_a_process_that_ray_started_ahead_waits_for_the_first_training() -> None:
    """By default it is ended as soon as a placement group has taken all cores, and the training
    waits for another one."""
    with scratch_dir() as folder:
        done = subprocess.run(
            [sys.executable, "-c", AHEAD, folder],
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    assert done.stdout.split() == ["True"], done.stderr


LOCAL = """
import sys
from nasctl.executors import ray_local
from nasctl.executors.surroundings import silenced

import ray
import psutil
from ray._private import services

looks = services.get_node
ready = []
def get_node(*args, **kwargs):
    ready.append(all(name in sys.modules for name in ray_local.AHEAD))
    return looks(*args, **kwargs)
services.get_node = get_node
{before}
with silenced("ray"):
    ray_local.start_here(sys.argv[1], cpus=1, has_gpus=False, object_bytes=0,
                         common={"log_to_driver": False})

commands = [" ".join(p.cmdline()) for p in psutil.Process().children()]
(raylet,) = [c for c in commands if "--raylet_socket_name" in c]
print(len(commands), ready, "ray.dashboard.optional_deps" in sys.modules)
print("agent.py" in raylet.partition("--dashboard_agent_command")[2],
      " --minimal" in raylet.partition("--dashboard_agent_command")[2])
"""


def local(before: str, folder: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOCAL.replace("{before}", before), folder],
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_driver_imports_before_it_looks_for_the_raylet_and_no_dashboard_is_wanted() -> None:
    """Two processes, the head's store and the raylet; the raylet's agent is that of an
    installation without a dashboard, whose libraries nobody imports."""
    with scratch_dir() as folder:
        done = local("", folder)
    assert done.stdout.splitlines() == ["2 [True] False", "True True"], done.stderr


STOPPED = """
import signal
signal.signal(signal.SIGTERM, lambda number, frame: print("asked to stop"))
ray_local.AHEAD = ("sends_a_signal",)
"""


def test_a_signal_during_the_imports_is_heard_by_our_handler_and_not_lost(tmp_path: Path) -> None:
    """Ray's own would end its processes, and raise where an import makes something else of it."""
    (tmp_path / "sends_a_signal.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except BaseException:\n    raise ImportError('initialization failed')\n"
    )
    with scratch_dir() as folder:
        done = local(STOPPED, folder, PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines()[0] == "asked to stop", done.stderr
    assert done.stdout.splitlines()[-1] == "True True", done.stderr

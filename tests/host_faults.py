"""Grids on a cluster whose hosts are killed, cut off and started again; a log says when and what it cost."""

import contextlib
import json
import os
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.grid import load_grid, make_plan
from pipeline.grid.status import grid_documents, training_reports
from pipeline.store import open_store
from tests.commands import contents
from tests.hosts import HostCluster
from tests.processes import Child, wait_until

BUCKET = "hosts"
COMMAND_S = 3600.0
LOST_S = 120.0
"""Ray notices a lost host, and a lost host that it is lost, well within this."""


class Log:
    """Lines of JSON with seconds since the start."""

    def __init__(self, echo: Callable[[str], Any]) -> None:
        self._echo, self._start = echo, time.monotonic()
        self.events: list[dict[str, Any]] = []

    def tell(self, event: str, **values: Any) -> None:
        line = {"s": round(time.monotonic() - self._start, 1), "event": event, **values}
        self.events.append(line)
        self._echo(json.dumps(line))

    def told(self, event: str) -> dict[str, Any]:
        """The only line about an event."""
        (line,) = [line for line in self.events if line["event"] == event]
        return line


class GridOnHosts:
    """One grid, one store on the cluster's S3, and the user's `submit`."""

    def __init__(self, cluster: HostCluster, grid: Path, working_dir: Path, name: str, log: Log) -> None:
        self.cluster, self.grid, self.working_dir, self.log = cluster, grid, working_dir, log
        self.name, self.url = name, f"s3://{BUCKET}/{name}"
        self.plan = make_plan(load_grid(str(grid)))
        self._outputs = 0

    @contextlib.contextmanager
    def seen_by_user(self) -> Iterator[None]:
        """This process stands where the user stands, with keys of the store."""
        before = dict(os.environ)
        os.environ.update(self.cluster.s3_env)
        try:
            with self.cluster.hosts.inside(self.cluster.USER):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def make_bucket(self) -> None:
        with self.seen_by_user():
            request = urllib.request.Request(f"{self.cluster.s3}/{BUCKET}", method="PUT")
            with urllib.request.urlopen(request, timeout=30):
                pass

    def submit(self, *options: str) -> Child:
        """`pipeline submit`, as it runs on."""
        self._outputs += 1
        words = [sys.executable, "-m", "pipeline", "submit", str(self.grid), "--address", self.cluster.job_server]
        words += ["--store", self.url, "--tracking", self.cluster.mlflow, "--working-dir", str(self.working_dir)]
        output = self.cluster.folder / f"{self.name}-{self._outputs}.log"
        env = {"PYTHONPATH": str(self.working_dir)}
        return self.cluster.user(*words, *options, output=output, env=env)

    def ended(self, child: Child) -> int:
        """Waits for the end of a command; the log gets its last words."""
        code = child.process.wait(COMMAND_S)
        told = ("submitted", "attached", "stages executed", "error:", "failed")
        lines = [line for line in child.output.read_text(errors="replace").splitlines() if line.startswith(told)]
        self.log.tell(f"{self.name}: submit ended", code=code, said=lines[-4:])
        return code

    def reports(self) -> dict[str, dict[str, Any]]:
        """Reports of trainings under way, by label."""
        with self.seen_by_user():
            store = open_store(self.url)
            running = [task.key for task in self.plan.trainings if store.find(task.key) is None]
            found = training_reports(store, self.plan.grid.name, running)
        return {self.plan.tasks[key].label: report for key, report in found.items()}

    def steps(self) -> dict[str, int]:
        return {label: report["step"] for label, report in self.reports().items() if "step" in report}

    def finished(self) -> dict[str, int]:
        """Committed artifacts by stage."""
        with self.seen_by_user():
            return dict(sorted(Counter(key.stage for key in list(open_store(self.url).keys())).items()))

    def contents(self) -> dict[str, dict[str, str]]:
        with self.seen_by_user():
            return contents(self.url)

    def wait(self, is_true: Callable[[], bool], child: Child, what: str) -> None:
        wait_until(is_true, timeout_s=COMMAND_S, what=f"{self.name}: {what}", child=child)

    def trains_on(self) -> list[int]:
        """Hosts that have a worker of Ray Train."""
        hosts: list[int] = []
        for i in self.cluster.WORKERS:
            titles: list[bytes] = []
            for pid in self.cluster.hosts.processes(i):
                with contextlib.suppress(OSError):
                    titles.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            if any(b"TrainWorker" in title for title in titles):
                hosts.append(i)
        return hosts

    def wait_for_training(self, child: Child, share: float) -> None:
        """Wait until the running training has passed a share of its steps, and tell."""

        def is_far() -> bool:
            return any(r.get("step", 0) >= share * r["steps"] for r in self.reports().values() if "steps" in r)

        self.wait(is_far, child, "training")
        self.log.tell(f"{self.name}: training", hosts=self.trains_on(), steps=self.steps())

    def wait_for_blocks(self, child: Child, count: int) -> None:
        """Wait until so many blocks of images are stored, and tell."""
        self.wait(lambda: self.finished().get("sample", 0) >= count, child, "sampling")
        self.log.tell(f"{self.name}: sampling", finished=self.finished())

    def running(self) -> list[str]:
        """What the driver had at work when it last said so."""
        with self.seen_by_user():
            told = grid_documents(open_store(self.url), self.plan.grid.name).get("status.json")
        return [] if told is None else json.loads(told)["running"]

    def kill_host(self, i: int) -> None:
        """Power off, and a fresh host in its place."""
        self.cluster.hosts.kill(i)
        self.log.tell(f"{self.name}: host {i} killed", at_work=self.running())
        self.cluster.start_worker(i)
        self.cluster.wait_for_node(i)
        self.log.tell(f"{self.name}: host {i} is back")

    def cut_host(self, i: int) -> None:
        """Pull the plug until the cluster has given the host up, put it back, and start it again when it has ended."""
        address = self.cluster.hosts.address(i)
        self.cluster.hosts.cut(i)
        self.log.tell(f"{self.name}: host {i} cut off", at_work=self.running())
        wait_until(lambda: address not in self.cluster.alive(), timeout_s=LOST_S, what="noticing")
        self.log.tell(f"{self.name}: host {i} given up by the cluster")
        self.cluster.hosts.heal(i)
        ended = self.cluster.node(i)
        wait_until(lambda: ended.process.poll() is not None, timeout_s=LOST_S, what="the healed host's end")
        self.log.tell(f"{self.name}: host {i} healed, its Ray has ended", code=ended.process.returncode)
        self.cluster.hosts.kill(i)
        self.cluster.start_worker(i)
        self.cluster.wait_for_node(i)
        self.log.tell(f"{self.name}: host {i} is back")

    def restart_head(self) -> None:
        """Kill the head's host; its workers end by themselves, as they cannot go on without it; start all anew."""
        self.cluster.hosts.kill(self.cluster.HEAD)
        self.log.tell(f"{self.name}: head killed", at_work=self.running(), finished=self.finished())
        for i in self.cluster.WORKERS:
            ended = self.cluster.node(i)
            wait_until(lambda node=ended: node.process.poll() is not None, timeout_s=LOST_S, what="a worker's end")
            self.cluster.hosts.kill(i)
        self.log.tell(f"{self.name}: workers have ended without their head")
        self.cluster.start_head()
        for i in self.cluster.WORKERS:
            self.cluster.start_worker(i)
        for i in self.cluster.WORKERS:
            self.cluster.wait_for_node(i)
        self.log.tell(f"{self.name}: head and workers are back")

    def compare(self, undisturbed: dict[str, dict[str, str]]) -> None:
        """Tell how the store differs from an undisturbed one, file by file; it must not."""
        mine = self.contents()
        different = sorted(key for key in {*mine, *undisturbed} if mine.get(key) != undisturbed.get(key))
        self.log.tell(f"{self.name}: compared", artifacts=len(mine), different=different)
        assert not different


def workers_die(run: GridOnHosts, *, blocks: int) -> None:
    """A worker host is killed in training and another one in sampling."""
    child = run.submit()
    run.wait_for_training(child, 0.5)
    run.kill_host(2)
    run.wait(lambda: any(r.get("start_step") for r in run.reports().values()), child, "going on")
    begun = {label: r["start_step"] for label, r in run.reports().items() if r.get("start_step")}
    run.log.tell(f"{run.name}: training goes on", hosts=run.trains_on(), from_steps=begun)
    run.wait_for_blocks(child, blocks)
    run.kill_host(1)
    assert run.ended(child) == 0, child.output.read_text()[-4000:]


def network_and_head_fail(run: GridOnHosts, *, blocks: int) -> None:
    """A worker host is cut off in training and heals; the head is killed in sampling and the grid submitted again."""
    child = run.submit()
    run.wait_for_training(child, 0.5)
    run.cut_host(1)
    run.wait_for_blocks(child, blocks)
    run.restart_head()
    assert run.ended(child) == 3
    assert "the cluster does not know it any more" in child.output.read_text()
    before = run.finished()
    again = run.submit()
    assert run.ended(again) == 0, again.output.read_text()[-4000:]
    made = {stage: count - before.get(stage, 0) for stage, count in run.finished().items()}
    run.log.tell(f"{run.name}: made by the second submission", **{stage: n for stage, n in made.items() if n})

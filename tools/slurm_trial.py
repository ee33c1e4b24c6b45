"""The DAG on a real Slurm: starts one of one node here, tries it, and stops it.

    python tools/slurm_trial.py                  # prints what it does and what it found
    python tools/slurm_trial.py --log docs/slurm.md

Needs the programs of Slurm and MUNGE (Debian: `apt-get install slurm-wlm munge`; no service need
run) and root, as slurmd does. All that it makes (key, sockets, configuration, a copy of the tree)
lies in a folder of its own, which goes at the end with the daemons; `/etc/slurm` is there too, in a
mount namespace of its own that nobody else sees. Takes about ten minutes, most of it waiting for a
time limit. It is no part of `make test`.

Tried are: two methods from data to figures; a rerun that has nothing to do; a job that reaches its
time limit and gets twice as much; one that fails, is mended and resumed; one that is cancelled; and
the end of snakemake itself, which takes its jobs with it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent.parent
ETC = Path("/etc/slurm")
PROGRAMS = (
    "unshare",
    "mount",
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "squeue",
    "scancel",
    "scontrol",
)
METHODS = ("diffusion-couple", "radd")
TRIAL = "slurm-trial"
TOP = "home|root|tmp|work|mnt|data|scratch"
"""Folders under which a path is of this machine."""

CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=3600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=node1 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""

PAPER = f"""
slug: {TRIAL}
short: Trial
title: A trial of Slurm
authors: [A. Nobody]
venue: Nowhere
year: 2026
field: text
summary: Nothing.
claims:
  - {{id: same, kind: theorem, statement: s, where: Eq. 1, evidence: derived, best_tier: exact}}
"""

EXPERIMENT = f"""
paper: {TRIAL}
arms:
  slow: {{run: "methods.slurm_trial.arms:slow", deterministic: true}}
  broken: {{run: "methods.slurm_trial.arms:broken", deterministic: true}}
  long: {{run: "methods.slurm_trial.arms:long", deterministic: true}}
measurements:
  error: {{direction: lower}}
scales:
  smoke: {{}}
"""

CHECKS = """
claims:
  same:
    checks:
      - {id: same, tier: exact, expect: "error[slow] == 0", why: w}
"""

ARMS = """
import time
from pathlib import Path

from repro.errors import ReproError


def slow(job):
    if not Path("tried").exists():
        Path("tried").touch()
        time.sleep(600)
    job.measure("error", 0.0)


def broken(job):
    if not Path("mended").exists():
        raise ReproError("this arm is broken on purpose")
    job.measure("error", 0.0)


def long(job):
    if not Path("short").exists():
        time.sleep(600)
    job.measure("error", 0.0)
"""


class Failure(Exception):
    """What was tried came out otherwise."""


def refuse(line: str) -> NoReturn:
    sys.exit(f"error: {line}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def plain(text: str, folder: Path | None = None) -> str:
    """A text without the names of this machine, its folders and its user."""
    places = {str(folder): "<trial>", str(ROOT): "<suite>", sys.prefix: "<environment>"}
    for place, name in sorted(places.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(place, name)
    for name in {socket.gethostname(), socket.getfqdn()} - {"", "localhost"}:
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "<host>", text)
    return re.sub(
        r"(?<![\w>.-])/(?:home|root|tmp|work|mnt|data|scratch)/[^\s'\"`,;)]*", "<path>", text
    )


class Log:
    """What is said, on the terminal and in the document."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def say(self, text: str = "") -> None:
        text = plain(text, self.folder)
        self.lines.append(text)
        print(text, flush=True)

    def block(self, text: str) -> None:
        self.say("\n```text\n" + text.strip("\n") + "\n```\n")


class Slurm:
    """One controller and one node, of this process alone."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.clients: list[subprocess.Popen[bytes]] = []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        for name in ("state", "spool", "etc"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        configuration = CONFIGURATION.format(
            host=socket.gethostname(),
            controller=free_port(),
            node=free_port(),
            user="root",
            folder=folder,
            cpus=cpus,
            memory=memory * 8 // 10,
        )
        (folder / "etc" / "slurm.conf").write_text(configuration)
        # SLURM_CONF does not reach the steps of a job
        ETC.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(folder / "etc"), str(ETC)], check=True)

    def start(self) -> None:
        of_munge = [
            *("--foreground", "--force", "--key-file", self.folder / "munge.key"),
            *("--socket", self.folder / "munge.socket", "--pid-file", self.folder / "munge.pid"),
            *("--log-file", self.folder / "munge.log", "--seed-file", self.folder / "munge.seed"),
        ]
        self._daemon("munged", *of_munge)
        self.until(lambda: (self.folder / "munge.socket").exists(), "munged", 20)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "node1")
        self.until(lambda: self.ask("sinfo", "-h", "-o", "%T").strip() == "idle", "the node", 60)

    def _daemon(self, name: str, *arguments: object) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            command = [str(shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin"))]
            self.started.append(
                subprocess.Popen(
                    command + list(map(str, arguments)),
                    env=self.environment,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """End what was started, the node first; jobs that are left are cancelled."""
        for client in self.clients:
            if client.poll() is None:
                client.kill()
                client.wait()
        if len(self.started) == 3:
            self.ask("scancel", "--state=PENDING")
            self.ask("scancel", "--state=RUNNING")
            time.sleep(2)
        for daemon in reversed(self.started):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str) -> str:
        """What a command of Slurm answers, empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def until(self, reached: Callable[[], object], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                logs = "".join(p.read_text(errors="replace") for p in self.folder.glob("*.out"))
                raise Failure(f"{what}: not within {seconds:.0f} s; {logs[-1500:]}")
            time.sleep(0.5)

    def jobs(self) -> list[dict[str, str]]:
        """All jobs that Slurm remembers, in the order of their numbers."""
        lines = self.ask("scontrol", "-o", "show", "jobs").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "JobId=" in line]
        return sorted(found, key=lambda job: int(job["JobId"]))


class Trial:
    """The steps, on a copy of the tree."""

    def __init__(self, slurm: Slurm, log: Log) -> None:
        self.slurm, self.log, self.seen = slurm, log, 0
        self.tree = slurm.folder / "suite"
        copy_tree(self.tree)
        self.work = slurm.folder / "work"
        self.environment = {
            **slurm.environment,
            "REPRO_WORK": str(self.work),
            "PYTHONPATH": str(self.tree),
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *targets: str) -> list[str]:
        return [
            *(sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/slurm"),
            *("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10"),
            *targets,
        ]

    def snakemake(self, *targets: str) -> tuple[int, str]:
        self.log.say(f"`snakemake --profile workflow/profiles/slurm {' '.join(targets)}`")
        with (self.slurm.folder / "said.out").open("w+") as out:
            status = self.begin(self.command(*targets), out).wait(1800)
            out.seek(0)
            return status, out.read()

    def begin(self, command: list[str], out: IO[str]) -> subprocess.Popen[bytes]:
        """Start snakemake; it does not outlive the Slurm that it talks to."""
        process = subprocess.Popen(
            command,
            cwd=self.tree,
            env=self.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.slurm.clients.append(process)
        return process

    def table(self) -> list[dict[str, str]]:
        """The jobs since the last table, which is also put into the log."""
        jobs = [job for job in self.slurm.jobs() if int(job["JobId"]) > self.seen]
        self.seen = max([self.seen, *(int(job["JobId"]) for job in jobs)])
        rows = [("job", "rule and wildcards", "limit", "MB", "alone", "took", "state")]
        rows += [
            (
                job["JobId"],
                job.get("Comment", "").replace("_wildcards_", " "),
                job["TimeLimit"],
                job.get("MinMemoryNode", ""),
                "yes" if job.get("OverSubscribe") == "NO" else "",
                job["RunTime"],
                job["JobState"],
            )
            for job in jobs
        ]
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        self.log.block("\n".join(line.rstrip() for line in lines))
        return jobs

    def expect(self, holds: object, what: str, output: str = "") -> None:
        if not holds:
            raise Failure(f"{what}\n{output[-3000:]}")
        self.log.say(f"- {what}")

    # Steps

    def methods(self) -> None:
        """Two methods, from data to figures."""
        targets = [f"smoke/{slug}" for slug in METHODS]
        status, said = self.snakemake(*targets)
        jobs = self.table()
        self.expect(status == 0, "snakemake ends with 0", said)
        whole = all((self.work / "smoke" / "verdicts" / f"{m}.json").is_file() for m in METHODS)
        self.expect(whole, "every verdict is there")
        self.expect(all(j["JobState"] == "COMPLETED" for j in jobs) and jobs, "every job completed")
        light = [j for j in jobs if re.match(r"rule_(data|verdict|tables|page)", j["Comment"])]
        self.expect(not light, "data, verdicts and figures were made where snakemake runs")
        latency = [j for j in jobs if re.match("rule_run_wildcards", j["Comment"])]
        alone = latency and all(j["OverSubscribe"] == "NO" for j in latency)
        self.expect(alone, "jobs that measure latency had the node for themselves")
        status, said = self.snakemake(*targets)
        self.expect(status == 0 and "Nothing to be done" in said, "a rerun has nothing to do", said)

    def limits(self) -> None:
        """A job that needs more time than it asks for, and one that fails."""
        add_trial_method(self.tree)
        targets = [f"{self.work}/smoke/runs/{TRIAL}/{arm}.json" for arm in ("slow", "broken")]
        shown = ["--config", "batch=false", "--", *targets]
        status, said = self.snakemake(*shown)
        jobs = self.table()
        slow = [job for job in jobs if "slow" in job["Comment"]]
        broken = [job for job in jobs if "broken" in job["Comment"]]
        self.expect(status == 1, "snakemake ends with 1", said)
        states = [(job["JobState"], job["TimeLimit"]) for job in slow]
        doubled = [("TIMEOUT", "00:01:00"), ("TIMEOUT", "00:02:00"), ("TIMEOUT", "00:04:00")]
        self.expect(
            len(states) > 1
            and states[:-1] == doubled[: len(states) - 1]
            # a slow machine may need the third attempt
            and states[-1] in (("COMPLETED", "00:02:00"), ("COMPLETED", "00:04:00")),
            "the job at its limit was tried again with twice the time, and completed",
            f"{states} {said}",
        )
        states = [(job["JobState"], job["MinMemoryNode"]) for job in broken]
        self.expect(
            [state for state, _ in states] == ["FAILED"] * 3,
            "the broken job was tried three times and kept no other from its end",
            f"{states} {said}",
        )
        self.expect("broken on purpose" in said, "its reason is printed", said)
        (self.tree / "mended").touch()
        self.log.say("\nThe cause is mended, and the same command repeated:\n")
        status, said = self.snakemake(*shown)
        jobs = self.table()
        self.expect(status == 0, "snakemake ends with 0", said)
        self.expect(
            [("broken" in job["Comment"], job["JobState"]) for job in jobs]
            == [(True, "COMPLETED")],
            "the broken job alone ran again",
        )

    def cancels(self) -> None:
        """A job that is cancelled, and snakemake itself."""
        add_trial_method(self.tree)
        target = f"{self.work}/smoke/runs/{TRIAL}/long.json"
        command = self.command("--config", "batch=false", "--", target)
        with (self.slurm.folder / "cancelled.out").open("w+") as out:
            running = self.begin(command, out)
            first = self._running(0)
            self.slurm.ask("scancel", first)
            second = self._running(int(first))
            self.log.say(f"`scancel {first}`: its next attempt is job {second}.")
            running.send_signal(signal.SIGINT)
            self.log.say("Ctrl-C for snakemake.")
            running.wait(120)
            out.seek(0)
            said = out.read()
        self.slurm.until(lambda: not self.slurm.ask("squeue", "-h").strip(), "an empty queue", 60)
        jobs = self.table()
        self.expect(
            [job["JobState"] for job in jobs] == ["CANCELLED", "CANCELLED"],
            "a job that is cancelled is tried again, and the end of snakemake cancels what runs",
            f"{jobs} {said}",
        )
        (self.tree / "short").touch()
        status, said = self.snakemake("--config", "batch=false", "--", target)
        self.table()
        self.expect(status == 0, "repeated, the command completes", said)

    def _running(self, after: int) -> str:
        """The number of the first job after one that is at work."""

        def found() -> list[str]:
            return [
                job["JobId"]
                for job in self.slurm.jobs()
                if int(job["JobId"]) > max(after, self.seen) and job["JobState"] == "RUNNING"
            ]

        self.slurm.until(found, "a running job", 120)
        (number, *_) = found() or [""]
        time.sleep(5)  # it has begun
        return number


def copy_tree(target: Path) -> None:
    """The files that git tracks, or, where git does not answer, refuse."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        refuse(f"{ROOT} is no checkout: {done.stderr.strip()}")
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def add_trial_method(tree: Path) -> None:
    """A method whose arms fail and are slow on purpose, and a scale that asks for one minute."""
    folder = tree / "methods" / "slurm_trial"
    folder.mkdir(exist_ok=True)
    for name, text in {
        "__init__.py": "",
        "paper.yaml": PAPER,
        "experiment.yaml": EXPERIMENT,
        "checks.yaml": CHECKS,
        "arms.py": ARMS,
    }.items():
        (folder / name).write_text(text)
    scale = tree / "workflow" / "config" / "smoke.yaml"
    text = re.sub(r"resources: \{.*\}", "resources: {runtime: 1, mem_mb: 1000}", scale.read_text())
    scale.write_text(text)


@contextmanager
def started(cpus: int) -> Iterator[Slurm]:
    """A Slurm that is stopped at the end, whatever happens, with all that it made."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    slurm = None
    try:
        slurm = Slurm(folder, cpus)
        slurm.start()
        yield slurm
    finally:
        if slurm is not None:
            slurm.stop()
        subprocess.run(["umount", str(ETC)], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def run(cpus: int, path: Path | None, only: str | None) -> int:
    with started(cpus) as slurm:
        log = Log(slurm.folder)
        version = slurm.ask("sinfo", "--version").strip()
        log.say("# The DAG on a real Slurm\n")
        log.say(
            f"Made by `python tools/slurm_trial.py --log docs/slurm.md` with {version}: one node, "
            f"{cpus} core{'s' * (cpus > 1)}, no accounting, the profile `workflow/profiles/slurm` "
            "with shorter waits.\n"
        )
        trial, status = Trial(slurm, log), 0
        for step in (trial.methods, trial.limits, trial.cancels):
            if only not in (None, step.__name__):
                continue
            log.say(f"\n## {(step.__doc__ or '').strip()}\n")
            try:
                step()
            except Failure as failure:
                log.say(f"\n**Not as expected:** {failure}")
                status = 1
    if path is not None and not status:
        path.write_text("\n".join(log.lines).strip() + "\n")
    return status


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1, help="of the node")
    parser.add_argument("--only", choices=("methods", "limits", "cancels"), help="one step")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help="write the log here where all is as expected")
    given = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        refuse(f"no {', '.join(missing)} here; `apt-get install slurm-wlm munge` brings them")
    if os.geteuid():
        refuse("slurmd needs root; run it as root, or in a container")
    if not given.inside:
        again = [sys.executable, __file__, *sys.argv[1:], "--inside"]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *again])
    # ended from outside, it still stops what it started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(run(given.cpus, given.log, given.only))
    except (Failure, KeyboardInterrupt) as end:
        refuse(str(end) or "stopped")


if __name__ == "__main__":
    main()

"""The runners: how each is set up, started, called and stopped, and what it cannot do.

Every runner has a copy of the project of its own, so that no daemon sees what another runner
writes. Peers get the fastest way of use that their documentation or code shows.
"""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from environments import PEERS, Unavailable, copy_project, read_pins

# A daemon that needs longer than this to answer does not work.
START_LIMIT = 60.0

PASSED = re.compile(r"(\d+) passed")


class Runner:
    """One way to run tests. The order of `ALL` below is the order in a round."""

    name = ""
    title = ""
    # Whose runs of the same round it is compared with.
    base = "plain"
    # Shown with the figures, so that nobody reads more into them than they say.
    note = ""

    def __init__(self, bench, project):
        self.bench = bench
        self.project = project
        self.cwd = bench.work / "projects" / project.name / self.name
        self.output = bench.scratch / f"{project.name}-{self.name}.out"
        self.daemons = []
        # Variables that the caller of this runner has set.
        self.extra = {}

    def prepare(self):
        """Installs what is needed; raises `Unavailable`."""
        copy_project(self.project, self.cwd)

    def start(self, arguments):
        """Brings up the daemon that is to answer the next runs."""

    def command(self, arguments):
        raise NotImplementedError

    def environment(self):
        """A small and fixed one: neither the caller's settings nor `CI` change a figure."""
        return {
            "PATH": f"{self.venv}/bin:/usr/bin:/bin",
            "HOME": str(self.bench.scratch),
            "TMPDIR": str(self.bench.scratch),
            "LANG": "C.UTF-8",
            **self.extra,
        }

    def before_run(self):
        """Untimed, before every timed run: waits until its daemon has nothing left to do."""

    def finished(self, done):
        """The run that has just ended, with the time that counts."""
        return done

    def after_run(self):
        """Untimed, after every run; what it returns goes with the sample."""

    def checkpoint(self):
        """Facts about what the runs were served from, for the report."""

    def passed(self, output):
        """How many tests the output says have passed, none if it says nothing."""
        found = PASSED.findall(output)
        return int(found[-1]) if found else None

    def stop(self):
        for daemon in self.daemons:
            end_group(daemon)
        self.daemons.clear()

    def spawn(self, argv, ready):
        """Starts a daemon in a process group of its own; `ready` is asked with what it printed."""
        log = self.bench.scratch / f"{self.project.name}-{self.name}-daemon.log"
        with open(log, "wb") as out:
            daemon = subprocess.Popen(
                [str(argument) for argument in argv],
                cwd=self.cwd,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.daemons.append(daemon)
        deadline = time.monotonic() + START_LIMIT
        while not ready(said := log.read_text(errors="replace")):
            if daemon.poll() is not None or time.monotonic() > deadline:
                last = (said.strip().splitlines() or ["no output"])[-1]
                raise Unavailable(f"its daemon does not start: {last}")
            time.sleep(0.05)


def end_group(daemon):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(daemon.pid, number)
        except ProcessLookupError:
            break
        try:
            daemon.wait(3)
        except subprocess.TimeoutExpired:
            continue
    daemon.wait()


def answers(family, address):
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Plain(Runner):
    name = "plain"
    title = "pytest"

    def prepare(self):
        super().prepare()
        self.venv = self.bench.environments.main(self.project)

    def command(self, arguments):
        return [self.venv / "bin" / "pytest", *arguments]


class PlainOlder(Plain):
    name = "plain-older"
    title = "pytest 8.3"
    note = "The base of pytest-hot-reloading, in the same environment: it needs pytest before 8.4."

    def prepare(self):
        Runner.prepare(self)
        self.venv = self.bench.environments.with_peer(
            self.project, "pytest-hot-reloading", older_pytest=True
        )


class PytestFast(Runner):
    """The program `pytest-fast`: a daemon that has collected once and forks workers."""

    name = "pytest-fast"
    title = "pytest-fast (program)"
    note = (
        "Takes neither paths nor options: its daemon was started with the selection "
        "in `PYTEST_ADDOPTS`. 4 workers at most; prints its own summary, not pytest's."
    )

    def prepare(self):
        super().prepare()
        self.venv = self.bench.environments.with_peer(self.project, "pytest-fast")
        self.selected = ""

    @property
    def address(self):
        return self.bench.scratch / f"{self.project.name}-{self.name}.sock"

    def environment(self):
        addopts = {"PYTEST_ADDOPTS": self.selected} if self.selected else {}
        return {**super().environment(), **addopts}

    def serve(self):
        command = ["--serve", "--address", self.address, "--ttl", "3600"]
        self.spawn(
            [self.venv / "bin" / "pytest-fast", *command],
            lambda _: answers(socket.AF_UNIX, str(self.address)),
        )

    def start(self, arguments):
        self.selected = " ".join(arguments)
        self.serve()

    def stop(self):
        super().stop()
        # After an edit its client starts the next daemon, out of our sight but for the address.
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(self.address) in words:
                    os.kill(int(process.name), signal.SIGTERM)
            except OSError:
                continue

    def command(self, arguments):
        own = [] if self.selected else arguments
        return [self.venv / "bin" / "pytest-fast", "--address", self.address, *own]


class PytestFastPlugin(PytestFast):
    """`pytest --fast`: real reporting, and the selection is collected by the client."""

    name = "pytest-fast-plugin"
    title = "pytest --fast (plugin)"
    note = "Starts pytest, imports the tests and collects them in the client as well."

    def start(self, arguments):
        self.serve()

    def command(self, arguments):
        pytest = [self.venv / "bin" / "pytest", "--fast", f"--fast-address={self.address}"]
        return [*pytest, *arguments]


class Cito(Runner):
    name = "cito"
    title = "cito"
    note = (
        "One worker (`-n1`): each of several warms by itself. Runs the tests in one process again "
        "and again; prints counts, not pytest's report."
    )

    def prepare(self):
        super().prepare()
        self.venv = self.bench.environments.main(self.project)
        self.program = self.bench.environments.tool("cito") / "bin" / "cito"
        self.started = False

    def start(self, arguments):
        self.started = True

    def command(self, arguments):
        # `-k` is an option of its own; all others are handed on to pytest.
        split = next((i for i, a in enumerate(arguments) if a.startswith("-")), len(arguments))
        paths, options = arguments[:split], arguments[split:]
        own, passed_on = (options, ()) if options[:1] == ("-k",) else ((), options)
        passed_on = ("--", *passed_on) if passed_on else ()
        run = [self.program, "run", "--daemon", "-n1", "--python", self.venv / "bin" / "python"]
        return [*run, *own, *paths, *passed_on]

    def stop(self):
        # It starts its daemon itself, and only the program can find it again.
        if self.started:
            self.started = False
            subprocess.run(
                [self.program, "daemon", "stop"],
                cwd=self.cwd,
                env=self.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=START_LIMIT,
                check=False,
            )


class HotReloading(PlainOlder):
    name = "pytest-hot-reloading"
    title = "pytest-hot-reloading"
    base = "plain-older"
    note = (
        "With pytest 8.3, and compared with it. Runs the tests in one process again and again; "
        "output comes in one piece at the end. Watches by inotify here, by polling as delivered."
    )

    def start(self, arguments):
        self.port = free_port()
        self.spawn(
            [*self.pytest(), "--daemon", "--daemon-use-os-events"],
            lambda _: answers(socket.AF_INET, ("127.0.0.1", self.port)),
        )

    def pytest(self):
        plugin = ["-p", "pytest_hot_reloading.plugin", "--daemon-port", self.port]
        return [self.venv / "bin" / "pytest", *plugin]

    def command(self, arguments):
        return [*self.pytest(), *arguments]


class Original(Runner):
    name = "original"
    title = "pyseidon 0.1.3 (original)"
    note = (
        "With `bench/peers/original_server.py`, which loads pytest, the plugins and the installed "
        "packages ahead. Its C client is called directly. Checks no file."
    )

    def prepare(self):
        super().prepare()
        self.venv = self.bench.environments.with_peer(self.project, "pyseidon")
        (self.client,) = self.venv.glob("lib/python*/site-packages/pyseidon/client/pyseidon-client")
        self.socket = self.bench.scratch / f"{self.project.name}-original.sock"

    def environment(self):
        return {**super().environment(), "POSEIDON_SOCK": str(self.socket)}

    def start(self, arguments):
        self.socket.unlink(missing_ok=True)
        server = [self.venv / "bin" / "python", PEERS / "original_server.py", self.socket]
        # Not by connecting: the server would read a request from whoever connects.
        self.spawn([*server, *self.project.heavy], lambda said: "master booted" in said)

    def command(self, arguments):
        return [self.client, *arguments]


def peer_version(peer):
    pins = read_pins(PEERS / f"{peer}.txt")
    return pins[peer].partition("==")[2]


def installed_pytest(venv):
    (found,) = Path(venv).glob("lib/python*/site-packages/pytest-[0-9]*.dist-info")
    return found.name.split("-")[1].removesuffix(".dist")

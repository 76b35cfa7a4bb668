"""What a warm run is measured against besides plain pytest: calls inside a warm process."""

import json

from environments import BENCH
from runners import Plain


class Second(Plain):
    name = "second"
    title = "second `pytest.main`"
    note = (
        "Not a tool but a yardstick: `pytest.main` called a second time in one process, with the "
        "project's modules left loaded. Only that call is timed, so no process starts or ends in "
        "it. See `bench/in_process.py`."
    )
    how = "second"

    @property
    def report(self):
        return self.bench.scratch / f"{self.project.name}-{self.name}.json"

    def command(self, arguments):
        self.report.unlink(missing_ok=True)
        script = BENCH / "in_process.py"
        return [self.venv / "bin" / "python", script, self.how, self.report, *arguments]

    def finished(self, done):
        # Without a report it did not come to the call that counts: the status says so then.
        if self.report.exists():
            told = json.loads(self.report.read_text())
            done.seconds, done.status = told["seconds"], told["status"]
        elif done.status == 0:
            done.status = 125
        return done


class Packages(Second):
    name = "packages"
    title = "`pytest.main`, packages loaded"
    note = (
        "A yardstick as well: `pytest.main` where the installed packages are loaded and the "
        "conftest and the project's modules are not. Only that call is timed."
    )
    how = "packages"

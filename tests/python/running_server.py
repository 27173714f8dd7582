"""A mnemosyned of a test's own, as a process."""
import os
import re
import signal
import subprocess
import time

PATIENCE = 120  # seconds; a test that waits so long has failed
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE} s in vain: {what}")
        time.sleep(0.01)


class RunningServer:
    """Serves `models` (name to folder) from FOLDER/data. `address`: where; it stays the same over a kill and a start."""

    def __init__(self, program, folder, models, *flags):
        self._folder, self._log = folder, os.path.join(folder, "log")
        self._command = [program, "--models=" + ",".join(f"{name}={path}" for name, path in models.items()),
                         "--metrics_address=", f"--data={os.path.join(folder, 'data')}", *flags]
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen([*self._command, f"--listen={self.address}"], cwd=self._folder, env=ENVIRONMENT,
                                             stderr=log)
        wait_until(lambda: self._process.poll() is not None or "serving on" in self.logged(), "it does not serve")
        found = re.search(r"serving on (\S+)", self.logged())
        if found is None:
            raise AssertionError(f"it ended: {self.logged()}")
        self.address = found.group(1)

    def logged(self):
        with open(self._log, encoding="utf-8") as log:
            return log.read()

    def stop(self):
        """Drains it."""
        self._process.terminate()
        if self._process.wait(timeout=PATIENCE) != 0:
            raise AssertionError(f"it did not end well: {self.logged()}")

    def kill(self):
        self._process.kill()
        self._process.wait()

    def pause(self):
        """Returns once every thread stands still: until resume() no call is answered, however long it takes."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

#!/usr/bin/env python3
"""Runs mnemosyned as its users do: exit codes, one line when it cannot start, signals, metrics.

usage: mnemosyned_test.py MNEMOSYNED MODEL_FOLDER
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request

PROGRAM, MODEL = sys.argv[1:3]
# As a user has it: nothing of ours set, and no hint to the libraries about threads.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_") and k != "OPENBLAS_NUM_THREADS"}


class MnemosynedTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def run_to_end(self, *flags, **environment):
        done = subprocess.run([PROGRAM, *flags], cwd=self.folder, env={**ENVIRONMENT, **environment}, timeout=60,
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def start(self):
        """A server that serves, and what it logged until then."""
        server = subprocess.Popen([PROGRAM, f"--models=m={MODEL}", "--listen=127.0.0.1:0", "--metrics_address=127.0.0.1:0"],
                                  cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        log = ""
        for line in server.stderr:
            log += line
            if "serving on" in line:
                return server, log
        self.fail(f"it ended: {log}")

    def test_version_and_help_end_with_0(self):
        code, out, _ = self.run_to_end("--version")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^mnemosyned \d+\.\d+\.\d+\n$")
        code, out, _ = self.run_to_end("--help")
        self.assertEqual(code, 0)
        self.assertIn("--listen", out)

    def test_a_bad_flag_or_variable_ends_with_2_and_one_line(self):
        for flags, environment, name in ((["--colour=red"], {}, "--colour"), (["--max_queries=0"], {}, "--max_queries"),
                                         (["--weights=int8"], {}, "--weights"),
                                         ([], {"MNEMOSYNE_WORKERS": "x"}, "MNEMOSYNE_WORKERS")):
            code, _, err = self.run_to_end(*flags, **environment)
            self.assertEqual(code, 2)
            self.assertRegex(err, r"^mnemosyned: [^\n]*" + name + r"[^\n]*\n$")

    def test_what_cannot_start_ends_with_1_and_says_why(self):
        code, _, err = self.run_to_end("--models=m=" + os.path.join(self.folder, "none"))
        self.assertEqual(code, 1)
        self.assertIn("none", err)
        server, log = self.start()
        address = re.search(r"serving on (\S+)", log).group(1)
        code, _, err = self.run_to_end(f"--models=m={MODEL}", "--data=other", "--metrics_address=", f"--listen={address}")
        self.assertEqual(code, 1)
        self.assertTrue(err.endswith(f"mnemosyned: cannot listen on {address}: address in use\n"), err)
        code, _, err = self.run_to_end(f"--models=m={MODEL}", "--metrics_address=", "--listen=127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("data", err)
        self.assertIsNone(server.poll())

    def test_a_signal_drains_and_ends_with_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server, log = self.start()
            metrics = re.search(r"metrics on (\S+)", log).group(1)
            with urllib.request.urlopen(f"http://{metrics}", timeout=30) as answer:
                self.assertIn(b"mnemosyne_sessions 0", answer.read())
            server.send_signal(number)
            self.assertEqual(server.wait(timeout=60), 0)
            self.assertIn("stopped", server.stderr.read())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

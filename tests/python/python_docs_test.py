#!/usr/bin/python3
"""Runs every snippet of docs/python.md: the commands in a copy of the sources, the Python against servers.

usage: python_docs_test.py MNEMOSYNED MNEMOSYNE_ADMIN SOURCE_DIR TEXT_MODEL
"""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from certificates import make_certificates
from running_server import ENVIRONMENT, PATIENCE, RunningServer

SERVER, ADMIN, SOURCE, MODEL = sys.argv[1:5]


def snippets(language):
    with open(os.path.join(SOURCE, "docs", "python.md"), encoding="utf-8") as page:
        return re.findall(rf"^```{language}\n(.*?)^```$", page.read(), re.MULTILINE | re.DOTALL)


class DocsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.package = cls.path("package")
        subprocess.run([sys.executable, os.path.join(SOURCE, "client", "python", "make_package.py"), cls.package], check=True)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder, name)

    def start(self, name, *flags):
        os.mkdir(self.path(name))
        server = RunningServer(SERVER, self.path(name), {"text": MODEL}, *flags)
        self.addCleanup(server.kill)
        return server.address

    def run_snippet(self, snippet, shown, address, folder):
        self.assertIn(shown, snippet)
        done = subprocess.run([sys.executable, "-W", "error", "-c", snippet.replace(shown, address)], capture_output=True,
                              text=True, cwd=folder, env={**ENVIRONMENT, "PYTHONPATH": self.package}, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, ""), snippet)
        return done.stdout

    def test_python(self):
        address = self.start("clear")
        plain = [snippet for snippet in snippets("python") if "tls=" not in snippet]
        printed = [self.run_snippet(snippet, "127.0.0.1:50051", address, self.path("clear")) for snippet in plain]
        for wanted in "1234567", "('draft',)", "NOT_FOUND: ", "7654321":
            self.assertEqual(len([text for text in printed if wanted in text]), 1, (wanted, printed))

    def test_tls_and_tokens(self):
        make_certificates(self.folder, "server", "client")
        out = subprocess.run([ADMIN, "token", "me", "acme", "write"], capture_output=True, text=True, check=True).stdout
        with open(self.path("token"), "w", encoding="utf-8") as token:
            token.write(re.search(r"nowhere else\): (\S+)", out).group(1) + "\n")
        with open(self.path("access.json"), "w", encoding="utf-8") as access:
            json.dump({"format": "mnemosyne-access-1", "tenants": {"acme": {}},
                       "tokens": [json.loads(re.search(r"tokens: (\{.*\})", out).group(1))]}, access)
        flags = {"access_file": "access.json", "tls_certificate": "server.crt", "tls_key": "server.key",
                 "tls_client_ca": "ca.crt"}
        address = self.start("secured", *(f"--{flag}={self.path(name)}" for flag, name in flags.items()))
        [snippet] = [snippet for snippet in snippets("python") if "tls=" in snippet]
        self.assertEqual(self.run_snippet(snippet, "localhost:50051", address, self.folder), "[]\n")

    def test_commands(self):
        copy = self.path("copy")
        for part in "client/python", "proto":
            shutil.copytree(os.path.join(SOURCE, part), os.path.join(copy, part),
                            ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
        for snippet in snippets("sh"):
            needed = [name for name in ("ensurepip", "setuptools", "wheel") if "venv" in snippet]
            missing = [name for name in needed if importlib.util.find_spec(name) is None]
            if missing:
                self.skipTest(f"python3-venv, python3-setuptools or python3-wheel is not installed: no {', '.join(missing)}")
            done = subprocess.run(["sh", "-ec", snippet], cwd=copy, env=ENVIRONMENT, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

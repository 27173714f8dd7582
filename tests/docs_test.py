#!/usr/bin/env python3
"""Runs every command that README.md and docs/ show, in the order of each document, in a folder of its own.

What takes hours (training, benchmarks) is not run: its flags must be flags of the program, and its files be there. A
command that is of neither sort fails the test. Flags that the programs have and their documents lack fail it too.

usage: docs_test.py SOURCE_DIR BIN_DIR
"""
import glob
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE, BIN = (os.path.abspath(argument) for argument in sys.argv[1:3])
PATIENCE = 120  # seconds
PROGRAMS = {"mnemosyned", "mnemo", "mnemosyne-admin", "mnemo-train", "mnemo-bench"}
# Documents whose commands other tests run (docs/python.md) or that show none.
ELSEWHERE = {"docs/python.md"}
# Run in full by a make target, a test of its own, or only by people; here their words are checked.
LONG = {"mnemo-train", "mnemo-bench", "train/corpus.sh", "train/ablation.py", "train/babilong_tokenizer.sh", "bench/table.py",
        "bench/plot.py", "make", "docker", "kubectl", "helm", "dpkg", "apt-get", "systemctl", "cpack", "cmake"}
NAMES = {"RECIPE.json": "models/recall/recipe-1.json", "MODEL": "models/recall", "DATA": "data", "BACKUPS": "backups"}


def documents():
    names = ["README.md", *sorted(glob.glob("docs/**/*.md", root_dir=SOURCE, recursive=True)),
             *sorted(glob.glob("models/*/README.md", root_dir=SOURCE))]
    return [name for name in names if name not in ELSEWHERE]


def read(name):
    with open(os.path.join(SOURCE, name), encoding="utf-8") as file:
        return file.read()


def commands(text):
    """Commands of a document's code blocks: indented ones, and fenced ones of a shell."""
    lines, fence = [], None
    for line in text.split("\n"):
        if line.startswith("```"):
            fence = None if fence is not None else line[3:].strip()
        elif fence in ("sh", "bash", "console", "shell"):
            lines.append(line)
        elif fence is None and line.startswith("    "):
            lines.append(line)
        else:
            lines.append("")
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in joined.split("\n"):
        line = line.strip().removeprefix("$ ")
        line = re.sub(r"\s{2,}# .*$|\s# (or|models/).*$", "", line)
        first = line.split(" ")[0]
        # A command begins with a program of ours, a script of ours, or one that people have.
        program = os.path.basename(first)
        if re.match(r"mnemosyned \w", line):
            continue  # what the demo prints
        if program in PROGRAMS or first in LONG or first in ("openssl", "curl", "buf"):
            found.append(line)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Scene:
    """One document's commands, in a folder that looks like a checkout, with ports that nobody else has."""

    def __init__(self, test):
        self.test = test
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.folder, self.port, self.server = folder.name, free_port(), None
        os.makedirs(os.path.join(self.folder, "build/release"))
        os.symlink(BIN, os.path.join(self.folder, "build/release/bin"))
        for name in "models", "train", "bench", "deploy", "docs", "tests", "proto":
            os.symlink(os.path.join(SOURCE, name), os.path.join(self.folder, name))
        with open(os.path.join(self.folder, "moby-dick.txt"), "w") as book:
            book.write("Call me Ishmael. The special magic number for lively-panda is 1234567. " * 40)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}
        self.environment.update(PATH=f"{BIN}:{os.environ['PATH']}", MNEMOSYNE_LISTEN=f"127.0.0.1:{self.port}",
                                MNEMOSYNE_METRICS_ADDRESS="127.0.0.1:0", MNEMOSYNE_SERVER=f"127.0.0.1:{self.port}")
        test.addCleanup(self.stop)

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(timeout=PATIENCE)
            self.server = None

    def start(self, words):
        self.stop()
        log = os.path.join(self.folder, "log")
        with open(log, "w") as out:
            self.server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stderr=out)
        end = time.time() + PATIENCE
        while time.time() < end and self.server.poll() is None:
            with open(log) as written:
                if "serving on" in written.read():
                    return
            time.sleep(0.05)
        with open(log) as written:
            self.test.fail(f"{shlex.join(words)} does not serve: {written.read()}")

    def run(self, command):
        words = [NAMES.get(word, word) for word in shlex.split(command) if word not in ("&", "[FILE|-]")]
        words = [re.sub(r"(?<==)(DATA|BACKUPS)$", lambda m: NAMES[m[1]], word) for word in words]
        words = [re.sub(r"^(--listen=[^:]+|--server=[^:]+):50051$", rf"\1:{self.port}", word) for word in words]
        words = [word.replace("/var/lib/mnemosyne", os.path.join(self.folder, "var")) for word in words]
        program = os.path.basename(words[0])
        if program == "mnemosyned":
            return self.start(words)
        if program == "mnemosyne-admin" and words[1] not in ("token", "backups"):
            self.stop()  # it wants the folder for itself
        if program == "mnemo" and self.server is None:  # a document that takes a server for granted
            self.start(["mnemosyned"])
        done = subprocess.run(words, cwd=self.folder, env=self.environment, timeout=PATIENCE, capture_output=True, text=True,
                              input="Who?\n/quit\n")
        self.test.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}{done.stderr}")
        if words[:2] == ["mnemosyne-admin", "token"]:
            self.write_access(done.stdout)

    def write_access(self, printed):
        token = re.search(r"nowhere else\): (\S+)", printed).group(1)
        entry = re.search(r"tokens: (\{.*\})", printed).group(1)
        with open(os.path.join(self.folder, "token"), "w") as file:
            file.write(token)
        with open(os.path.join(self.folder, "access.json"), "w") as file:
            file.write(f'{{"format": "mnemosyne-access-1", "tenants": {{"acme": {{}}}}, "tokens": [{entry}]}}')


def flags_of(program):
    help_flag = "--helpfull" if program in ("mnemo-train", "mnemo-bench") else "--help"
    done = subprocess.run([os.path.join(BIN, program), help_flag], capture_output=True, text=True, timeout=PATIENCE)
    return set(re.findall(r"--([a-z_]+)", done.stdout + done.stderr))


class DocsTest(unittest.TestCase):
    def test_commands_run(self):
        ran = 0
        for name in documents():
            scene = None
            for command in commands(read(name)):
                first = command.split(" ")[0]
                if first in LONG or os.path.basename(first) in LONG:
                    continue
                with self.subTest(document=name, command=command):
                    scene = scene or Scene(self)
                    scene.run(command)
                    ran += 1
            if scene is not None:
                scene.stop()
        print(f"{ran} commands ran")
        self.assertGreater(ran, 20)

    def test_long_commands_name_flags_and_files_that_are_there(self):
        flags = {program: flags_of(program) for program in ("mnemo-train", "mnemo-bench")}
        targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
        for name in documents():
            for command in commands(read(name)):
                words = command.split(" ")
                program = os.path.basename(words[0])
                with self.subTest(document=name, command=command):
                    if program in flags:
                        for flag in re.findall(r"--([a-z_]+)", command):
                            self.assertIn(flag, flags[program])
                    if program == "make":
                        self.assertIn(words[1], targets)
                    for path in re.findall(r"\b(?:models|train|bench|deploy|tests)/[\w./-]+", command):
                        if not path.startswith(("bench/results", "models/ablation/")):
                            self.assertTrue(os.path.exists(os.path.join(SOURCE, path)), path)

    def test_every_flag_is_in_its_document(self):
        for program, document in (("mnemosyned", "docs/server.md"), ("mnemo", "docs/client.md"),
                                  ("mnemosyne-admin", "docs/operations.md")):
            text = read(document) + (read("docs/security.md") if program == "mnemosyne-admin" else "")
            lacking = sorted(flag for flag in flags_of(program) if f"`--{flag}" not in text and f"--{flag}=" not in text)
            self.assertEqual(lacking, [], f"{document} lacks flags of {program}")

    def test_defaults_are_the_programs(self):
        printed = subprocess.run([os.path.join(BIN, "mnemosyned"), "--help"], capture_output=True, text=True, timeout=PATIENCE).stdout
        text = read("docs/server.md")
        for flag, default in re.findall(r"^  --([a-z_]+)=(.*)$", printed, re.MULTILINE):
            if default.startswith(("none", "PATH", "recall=")):
                continue
            row = re.search(rf"^\| `--{flag}` \| ([^|]*) \|", text, re.MULTILINE)
            self.assertIsNotNone(row, flag)
            self.assertEqual(row[1].strip("` "), default, flag)

    def test_links_lead_somewhere(self):
        for name in [*documents(), *ELSEWHERE]:
            if not os.path.exists(os.path.join(SOURCE, name)):
                continue
            prose = re.sub(r"^```.*?^```", "", read(name), flags=re.DOTALL | re.MULTILINE)
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
                if "://" in target:
                    continue
                path = os.path.join(SOURCE, os.path.dirname(name), target)
                self.assertTrue(os.path.exists(path), f"{name}: {target}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

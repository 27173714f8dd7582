#!/usr/bin/env python3
"""Checks that every source under tests/ is compiled, and that every *_test.cc and *_fuzz.cc is a test that ctest runs.

usage: built_test.py SOURCE_DIR BUILD_DIR FUZZ_BUILD_DIR

What lies in tests/fuzz is compiled in a tree of its own.
"""
import json
import os
import subprocess
import sys


def compiled_in(build):
    commands = os.path.join(build, "compile_commands.json")
    if not os.path.exists(commands):
        sys.exit(f"{commands} is missing: make build fuzzers")
    with open(commands, encoding="utf-8") as f:
        return {os.path.realpath(os.path.join(entry["directory"], entry["file"])) for entry in json.load(f)}


def main():
    source, build, fuzz_build = sys.argv[1:4]
    compiled, fuzzed = compiled_in(build), compiled_in(fuzz_build)
    listed = json.loads(subprocess.check_output(["ctest", "--test-dir", build, "--show-only=json-v1"]))
    run = {test["name"] for test in listed["tests"]}
    problems, files = [], 0
    for folder, _, names in os.walk(os.path.join(source, "tests")):
        for name in sorted(names):
            if not name.endswith(".cc"):
                continue
            files += 1
            path = os.path.join(folder, name)
            shown = os.path.relpath(path, source)
            is_fuzzed = shown.startswith(os.path.join("tests", "fuzz", ""))
            if os.path.realpath(path) not in (fuzzed if is_fuzzed else compiled):
                problems.append(f"{shown}: no target compiles it")
            if name.endswith(("_test.cc", "_fuzz.cc")) and name[: -len(".cc")] not in run:
                problems.append(f"{shown}: ctest has no test named {name[:-len('.cc')]}")
    if files == 0:
        problems.append(f"no tests under {source}")
    print("\n".join(problems + [f"{files} files, {len(run)} tests, {len(problems)} problems"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

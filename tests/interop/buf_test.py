#!/usr/bin/env python3
"""Checks proto/ by buf: lint, and that nothing breaks a client of the protos as they were at the last commit.

usage: buf_test.py SOURCE_DIR NODE_FOLDER

Exits with 77 when buf cannot be had, or, after the lint, when there is no last commit to compare with.
"""
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

from node_packages import install, skip

SOURCE, NODE_FOLDER = sys.argv[1:3]


def main():
    buf = os.path.join(install(NODE_FOLDER), ".bin", "buf")

    def run(*arguments):
        print("buf", *arguments, flush=True)
        return subprocess.run([buf, *arguments], cwd=SOURCE, check=False).returncode

    if run("lint") != 0:
        return 1
    if shutil.which("git") is None:
        skip("no git: buf breaking was not run")
    archive = subprocess.run(["git", "archive", "HEAD", "proto", "buf.yaml"], cwd=SOURCE, capture_output=True, check=False)
    if archive.returncode != 0:
        skip(f"buf breaking was not run: {archive.stderr.decode()}")
    with tempfile.TemporaryDirectory() as before:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(before)
        if run("breaking", "--against", before) != 0:
            return 1
        # A check that cannot fail shows nothing.
        with tempfile.TemporaryDirectory() as broken:
            shutil.copytree(before, broken, dirs_exist_ok=True)
            path = os.path.join(broken, "proto", "mnemosyne", "v1", "memory_service.proto")
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace("int64 accepted = 1;", "int64 accepted = 101;"))
            done = subprocess.run([buf, "breaking", "--against", before], cwd=broken, capture_output=True, text=True,
                                  check=False)
            if "accepted" not in done.stdout:
                print("buf breaking did not see a field's number change:", done.stdout, done.stderr)
                return 1
    print("buf lint and buf breaking have nothing to say")
    return 0


if __name__ == "__main__":
    sys.exit(main())

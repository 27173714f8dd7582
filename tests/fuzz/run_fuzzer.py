#!/usr/bin/env python3
"""Runs a fuzz target on its corpus and then on what it makes of it, for FUZZ_SECONDS (5 when not set).

usage: run_fuzzer.py FUZZ_BUILD_DIR CORPUS_DIR NAME

What it found new lies in FUZZ_BUILD_DIR/new_inputs/NAME until the next run; inputs that are worth keeping go to the
corpus with: NAME -merge=1 CORPUS_DIR/NAME FUZZ_BUILD_DIR/new_inputs/NAME
"""
import os
import re
import shutil
import subprocess
import sys


def main():
    build, corpora, name = sys.argv[1:4]
    seconds = int(os.environ.get("FUZZ_SECONDS") or 5)
    binary, corpus = os.path.join(build, "bin", name), os.path.join(corpora, name)
    new, findings = os.path.join(build, "new_inputs", name), os.path.join(build, "findings")
    if not os.path.exists(binary):
        sys.exit(f"{binary} is missing: make fuzzers")
    if not os.path.isdir(corpus) or not os.listdir(corpus):
        sys.exit(f"{corpus} is missing or empty: a target starts from inputs that are right")
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    os.makedirs(findings, exist_ok=True)
    command = [binary, f"-max_total_time={seconds}", "-timeout=20", "-print_final_stats=1",
               f"-artifact_prefix={findings}/{name}-", new, corpus]
    if os.path.exists(corpus + ".dict"):
        command.insert(1, f"-dict={corpus}.dict")
    # LibTorch and the kernel's ptrace rules keep the leak check from working everywhere.
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", OPENBLAS_NUM_THREADS="1")
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = run.stdout.decode(errors="replace").splitlines()
    if run.returncode != 0:
        print("\n".join(lines[-80:]))
        kept = [line.split("written to ")[1] for line in lines if "Test unit written to " in line]
        print(f"\nfinding: {kept[0] if kept else 'no input was kept'}")
        if kept:
            print(f"repeat with: ASAN_OPTIONS=detect_leaks=0 {binary} {kept[0]}")
        return 1
    told = ("INFO: Seed:", "Done ", "stat::average_exec", "stat::new_units_added")
    last = [line for line in lines if re.match(r"#\d+\t", line)][-1:]  # "#4250687 DONE cov: 417 ft: 1024 ..."
    print("\n".join([f"{name}: {len(os.listdir(corpus))} inputs in the corpus"] + last +
                    [line for line in lines if line.startswith(told)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

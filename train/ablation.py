#!/usr/bin/env python3
"""Trains every variant of the paper's ablation at one size and budget, evaluates it, and prints a table.

usage: ablation.py run --train=MNEMO_TRAIN --corpus=TRAIN.txt --held_out=HELD_OUT.txt --out=FOLDER [--words=WORDNET]
                       [--variants=lmm,mac,...] [--seeds=1,2,3] [--jobs=2] [--samples=25]
       ablation.py capacity --mnemosyned=MNEMOSYNED --bench=MNEMO_BENCH --held_out=HELD_OUT.txt --out=FOLDER
       ablation.py table RESULTS.jsonl
       ablation.py capacity_table CAPACITY.jsonl

`run` takes models/ablation/config.json and recipe.json, changes what VARIANTS says, and trains with one thread each,
`jobs` at a time. What is done is skipped and what was cut off is resumed, so it may be stopped and started again. All
evaluations are gathered in FOLDER/results.jsonl. `capacity` serves what the first seed trained and asks how many facts a state
holds, in haystacks of 2 KiB and of 64 KiB: FOLDER/capacity.jsonl.
"""
import argparse
import concurrent.futures
import json
import math
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "models", "ablation")

# What each variant changes of the config; keys of "memory" with a dot. Rows of the table, in this order.
VARIANTS = {
    "lmm": ("LMM, window blocks between", {}),
    "mac": ("MAC", {"blocks": ["mac", "mac"]}),
    "mag": ("MAG", {"blocks": ["mag", "mag"]}),
    "mal": ("MAL", {"blocks": ["mal", "mal"]}),
    "lmm_alone": ("LMM, no attention", {"blocks": ["lmm", "lmm", "lmm", "lmm"]}),
    "window_alone": ("attention, no memory", {"blocks": ["swa", "swa", "swa", "swa"]}),
    "no_decay": ("LMM without decay", {"memory.decay": False}),
    "no_momentum": ("LMM without momentum", {"memory.momentum": False}),
    "no_convolution": ("LMM without convolution", {"memory.conv": 1}),
    "no_persistent": ("LMM without persistent tokens", {"persistent": 0}),
    "depth_2": ("LMM, depth 2", {"memory.depth": 2}),
    "depth_3": ("LMM, depth 3", {"memory.depth": 3}),
    "deltanet": ("DeltaNet", {"memory.chunk": 1, "memory.momentum": False, "memory.decay": False}),
    "gated_deltanet": ("Gated DeltaNet", {"memory.chunk": 1, "memory.momentum": False}),
    "ttt_linear": ("TTT-Linear", {"memory.chunk": 16, "memory.momentum": False, "memory.decay": False}),
    "ttt_mlp": (
        "TTT-MLP",
        {"memory.chunk": 16, "memory.momentum": False, "memory.decay": False, "memory.depth": 2,
         "memory.residual": True},
    ),
    "linear_attention": (
        "linear attention, 256 tokens at a time",
        {"memory.chunk": 256, "memory.momentum": False, "memory.decay": False},
    ),
}


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def changed(config, changes):
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        *where, last = key.split(".")
        place = config
        for part in where:
            place = place[part]
        place[last] = value
    return config


def lines_of(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def run_one(options, variant, seed):
    folder = os.path.join(options.out, "%s-%d" % (variant, seed))
    done = os.path.join(folder, "done")
    if not os.path.exists(done):
        os.makedirs(folder, exist_ok=True)
        paths = {name: os.path.join(folder, "of_%s.json" % name) for name in ("config", "recipe")}
        write_json(paths["config"], changed(read_json(os.path.join(MODELS, "config.json")), VARIANTS[variant][1]))
        recipe = read_json(os.path.join(MODELS, "recipe.json"))
        write_json(paths["recipe"], dict(recipe, seed=seed))
        command = [
            options.train, "--config=" + paths["config"], "--recipe=" + paths["recipe"], "--out=" + folder,
            "--corpus=" + options.corpus, "--held_out=" + options.held_out, "--threads=1", "--save_every=50",
            "--evaluate_every=0", "--evaluate_samples=%d" % options.samples, "--evaluate_facts=1,4",
            "--evaluate_tasks=number,text", "--evaluate_bytes=512,2048,8192", "--words=" + options.words,
        ]
        if os.path.exists(os.path.join(folder, "checkpoint")):
            command.append("--resume")
        environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
        with open(os.path.join(folder, "output"), "a", encoding="utf-8") as output:
            failed = subprocess.call(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        if failed:
            return "%s, seed %d: failed; see %s/output" % (variant, seed, folder)
        open(done, "w").close()
    return None


def gather(options):
    with open(os.path.join(options.out, "results.jsonl"), "w", encoding="utf-8") as out:
        for variant in VARIANTS:
            for seed in options.seeds:
                folder = os.path.join(options.out, "%s-%d" % (variant, seed))
                if not os.path.exists(os.path.join(folder, "done")):
                    continue
                steps = [line for line in lines_of(os.path.join(folder, "train.jsonl")) if "seconds" in line]
                for line in lines_of(os.path.join(folder, "train.jsonl")):
                    if "task" in line:
                        line.update(variant=variant, seed=seed, tokens_per_second=steps[-1]["tokens_per_second"])
                        out.write(json.dumps(line, sort_keys=True) + "\n")


def run(options):
    os.makedirs(options.out, exist_ok=True)
    jobs = [(variant, seed) for seed in options.seeds for variant in options.variants]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for error in pool.map(lambda job: run_one(options, *job), jobs):
            if error:
                print(error, file=sys.stderr)
    gather(options)
    table(os.path.join(options.out, "results.jsonl"))


def capacity(options):
    trained = [v for v in VARIANTS if os.path.exists(os.path.join(options.out, v + "-1", "done"))]
    if not trained:
        sys.exit("ablation.py: '%s' has no trained variant of seed 1" % options.out)
    models = ",".join("%s=%s" % (v, os.path.abspath(os.path.join(options.out, v + "-1"))) for v in trained)
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([options.mnemosyned, "--models=" + models, "--data=" + folder, "--listen=127.0.0.1:0",
                                   "--metrics_address="], env=environment, stderr=subprocess.PIPE, text=True)
        try:
            address = None
            while address is None:
                line = server.stderr.readline()
                if not line:
                    sys.exit("ablation.py: the server ended")
                found = re.search(r"serving on (\S+)", line)
                address = found and found.group(1)
            for variant in trained:
                for size, facts, questions in ((2048, 16, 64), (65536, 8, 8)):
                    subprocess.check_call([options.bench, "capacity", "--server=" + address, "--model=" + variant,
                                           "--tasks=number", "--capacity_bytes=%d" % size, "--max_facts=%d" % facts,
                                           "--questions=%d" % questions, "--haystack=" + options.held_out,
                                           "--words=" + options.words, "--resume",
                                           "--json=" + os.path.join(options.out, "capacity.jsonl")], env=environment)
        finally:
            server.kill()
            server.wait()
    capacity_table(os.path.join(options.out, "capacity.jsonl"))


def capacity_table(path):
    rows = lines_of(path)
    columns = sorted({(row["bytes"], row["facts"]) for row in rows})
    heads = ["variant", "KiB of state"] + ["%d in %dK" % (facts, size >> 10) for size, facts in columns]
    heads.append("most held a KiB of state, 2K")
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for variant, (title, _) in VARIANTS.items():
        mine = {(row["bytes"], row["facts"]): row for row in rows if row["model"] == variant}
        if not mine:
            continue
        kibibytes = next(iter(mine.values()))["state_bytes"] / 1024
        held = max(row["facts"] * row["exact_percent"] / 100 for (size, _), row in mine.items() if size == 2048)
        cells = [title, "%.0f" % kibibytes]
        cells += ["%.0f" % mine[key]["exact_percent"] if key in mine else "" for key in columns]
        print("| " + " | ".join(cells + ["%.3f" % (held / kibibytes)]) + " |")


def cell(values):
    if not values:
        return ""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return "%.0f" % mean
    return "%.0f (%.0f to %.0f)" % (mean, min(values), max(values))


def table(path):
    rows = lines_of(path)
    sizes = sorted({row["bytes"] for row in rows if row["task"] == "number"})
    heads = ["variant", "seeds"] + ["one number, %s" % size for size in sizes]
    heads += ["of four, %s" % size for size in sizes] + ["perplexity a byte"]
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for variant, (title, _) in VARIANTS.items():
        mine = [row for row in rows if row["variant"] == variant]
        if not mine:
            continue

        def exact(task, size, facts):
            return cell([row["exact_percent"] for row in mine
                         if row["task"] == task and row["bytes"] == size and row["facts"] == facts])

        seeds = len({row["seed"] for row in mine})
        losses = [math.exp(row["nats_a_byte"]) for row in mine if row["task"] == "text" and row["bytes"] == 8192]
        cells = [title, "%d" % seeds] + [exact("number", size, 1) for size in sizes]
        cells += [exact("number", size, 4) for size in sizes]
        cells.append("%.2f" % (sum(losses) / len(losses)) if losses else "")
        print("| " + " | ".join(cells) + " |")


def main():
    if len(sys.argv) == 3 and sys.argv[1] in ("table", "capacity_table"):
        {"table": table, "capacity_table": capacity_table}[sys.argv[1]](sys.argv[2])
        return
    if len(sys.argv) < 2 or sys.argv[1] not in ("run", "capacity"):
        sys.exit(__doc__.strip())
    is_run = sys.argv[1] == "run"
    parser = argparse.ArgumentParser()
    for name in ("held_out", "out") + (("train", "corpus") if is_run else ("mnemosyned", "bench")):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--words", default="/usr/share/wordnet")
    if not is_run:
        capacity(parser.parse_args(sys.argv[2:]))
        return
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=25)
    options = parser.parse_args(sys.argv[2:])
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown:
        sys.exit("ablation.py: there is no variant '%s'; there are %s" % (unknown[0], ", ".join(VARIANTS)))
    run(options)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draws what mnemo-bench and mnemo-train wrote as JSON lines (Debian: python3-matplotlib).

usage: plot.py recall|capacity|training OUT.svg [NAME=]FILE...
  recall     whole answers right by haystack size, a line for each task and number of facts of each file
  capacity   whole answers right by number of facts, alike
  training   answers right and the answers' loss by step, a line for each file

The same files give the same bytes.
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "mnemosyne"
matplotlib.rcParams["svg.fonttype"] = "none"
from matplotlib import pyplot  # noqa: E402


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def short(number):
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if number >= size and number % size == 0:
            return "%d%s" % (number // size, unit)
    return "%d" % number


def draw_percent(axes, files, key, label):
    # A line for each task, and by size also for each number of facts.
    def line_of(row):
        return row["task"] if key == "facts" or row["facts"] == 1 else "%s of %d" % (row["task"], row["facts"])

    for name, rows in files:
        for line in dict.fromkeys(map(line_of, rows)):
            points = sorted((row[key], row["exact_percent"]) for row in rows if line_of(row) == line)
            axes.plot(*zip(*points), marker="o", label="%s %s" % (name, line) if name else line)
    places = sorted({row[key] for _, rows in files for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [short(place) for place in places])
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel="whole answers right, %", ylim=(-3, 103))


def draw_training(axes, files):
    loss = axes.twinx()
    for name, rows in files:
        steps = [row for row in rows if "answer_loss" in row]
        at = [row["step"] for row in steps]
        (line,) = axes.plot(at, [100 * row["exact"] for row in steps], label=name or "answers")
        loss.plot(at, [row["answer_loss"] for row in steps], linestyle=":", color=line.get_color())
    axes.set(xlabel="step", ylabel="answers right, each byte given the ones before, %", ylim=(-3, 103))
    loss.set(ylabel="answers' loss, nats a byte (dotted)", yscale="log")


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in ("recall", "capacity", "training"):
        sys.exit(__doc__.strip())
    what, out = sys.argv[1:3]
    files = []
    for argument in sys.argv[3:]:
        name, has_name, path = argument.rpartition("=")
        files.append((name if has_name else "", read(path)))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    if what == "training":
        draw_training(axes, files)
    else:
        key, label = ("bytes", "haystack, bytes") if what == "recall" else ("facts", "facts told")
        draw_percent(axes, files, key, label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()

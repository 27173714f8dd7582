#!/usr/bin/env python3
"""Prints what mnemo-bench wrote as JSON lines as Markdown tables.

usage: table.py recall|capacity|engine|service FILE...
  recall     tasks and numbers of facts by size: whole answers right, and of how many
  capacity   numbers of facts: whole answers right, facts held, and how many that is a KiB of state
  engine     speeds and their shares of the BLAS's
  service    measurements of the first line's model, and ratios to limits
"""
import json
import math
import sys


def read(paths):
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines if line.strip()]
    return rows


def short(number):
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if number >= size and number % size == 0:
            return "%d%s" % (number // size, unit)
    return "%d" % number


def print_table(heads, rows):
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def percent(row):
    return "%.1f%%" % row["exact_percent"] if row["right"] < row["questions"] else "100%"


def counted(row):
    """Exact answers; and, where that is more, those that the answer holds somewhere, which is how RULER counts."""
    cell = "%s of %d" % (percent(row), row["questions"])
    contained = row.get("contained_percent", 0)
    return cell + (" (%.1f%% contain it)" % contained if contained > row["exact_percent"] else "")


def recall(rows):
    # Stories are sized in the model's tokens, which come out a little different from story to story.
    size_of = {row["bytes"]: row["bytes"] for row in rows}
    if rows and all(row["task"].startswith("qa") for row in rows):
        for row in rows:
            size_of[row["bytes"]] = 1 << round(math.log2(row["tokens"])) if row["bytes"] else 0
    sizes = sorted(size_of)
    kinds = dict.fromkeys((row["task"], row["facts"], row["asked"]) for row in rows)
    lines = []
    for task, facts, asked in kinds:
        name = task if facts == 1 else "%s, %d told, %s asked" % (task, facts, asked or "all")
        cells = []
        for size in sizes:
            found = [row for row in rows
                     if (row["task"], row["facts"], row["asked"], row["bytes"]) == (task, facts, asked, size)]
            best = max(found, key=lambda row: row["questions"], default=None)
            cells.append(counted(best) if best else "")
        lines.append([name] + cells)
    print_table(["task"] + [short(size_of[size]) for size in sizes], lines)


def capacity(rows):
    lines = []
    for row in rows:
        held = row["facts"] * row["exact_percent"] / 100
        lines.append([row["task"], short(row["bytes"]), "%d" % row["facts"], "%d" % row["questions"], percent(row),
                      "%.1f" % held, "%.3f" % (held / (row["state_bytes"] / 1024))])
    print_table(["task", "bytes", "facts told", "asked", "right", "held", "held a KiB of state"], lines)


def engine(rows):
    print_table(["what", "tokens/s", "least to most", "MFLOP a token", "of G"],
                [[row["what"], "%.0f" % row["tokens_per_second"],
                  "%.0f to %.0f" % (row["least_tokens_per_second"], row["most_tokens_per_second"]),
                  "%.2f" % (row["flops_a_token"] / 1e6), "%.0f%%" % row["percent_of_g"]] for row in rows])


def service(rows):
    rows = [row for row in rows if row["model"] == rows[0]["model"]]
    print_table(["what", "measured", "ratio"],
                [[row["what"], "%.4g %s" % (row["value"], row["unit"]) if row["value"] < 1e4 else
                  "%.0f %s" % (row["value"], row["unit"]),
                  "%.2f of %s" % (row["ratio"], row["of"]) if "of" in row else ""] for row in rows])


def main():
    tables = {"recall": recall, "capacity": capacity, "engine": engine, "service": service}
    if len(sys.argv) < 3 or sys.argv[1] not in tables:
        sys.exit(__doc__.strip())
    tables[sys.argv[1]](read(sys.argv[2:]))


if __name__ == "__main__":
    main()

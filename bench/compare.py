#!/usr/bin/env python3
"""Compares what `mnemo-bench engine --json` wrote with a baseline, share of G by share of G.

usage: compare.py BASELINE.jsonl NOW.jsonl [LEAST]
  LEAST   the least that is left of the baseline's share, percent (80); below it a line is marked and the exit code is 1

Tokens a second are not compared: they say more about the machine than about the program.
"""
import json
import sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        return {row["what"]: row["percent_of_g"] for row in map(json.loads, filter(str.strip, lines))}


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    before, now = read(sys.argv[1]), read(sys.argv[2])
    least = float(sys.argv[3]) if len(sys.argv) == 4 else 80.0
    slower = [what for what in before if what in now and now[what] < before[what] * least / 100]
    width = max(map(len, before | now))
    for what in before | now:
        row = ["%6.1f%%" % side[what] if what in side else "      -" for side in (before, now)]
        print("%-*s  of G: %s -> %s%s" % (width, what, *row, "   SLOWER" if what in slower else ""))
    if slower:
        sys.exit("%d of %d kept less than %g%% of the baseline's share" % (len(slower), len(before), least))


if __name__ == "__main__":
    main()

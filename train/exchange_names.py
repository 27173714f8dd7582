#!/usr/bin/env python3
"""Exchanges the names in an English text for made-up ones, so that what is learned from it does not depend on them.

usage: train/exchange_names.py SEED < TEXT > TEXT

A name is a capitalised word inside a sentence that the text hardly ever has in small letters. Made-up ones follow the
letters of the text's own (three letters say the next). An exchange holds for LINES lines; some names become two words.
The abbreviation before a verse ("Gen 1:1") is exchanged too. The same seed and text give the same output.
"""

import collections
import random
import re
import sys

LINES = 12
TWO_WORDS = 0.25
INSIDE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
WORD = re.compile(r"\b[A-Z][a-z]{2,}\b")
VERSE = re.compile(r"^([1-3]?[A-Za-z]+)(?= \d+:\d+ )")
SMALL_LETTERS_OF_A_NAME = 0.05  # at most, of its occurrences


def names_of(text):
    inside = collections.Counter(INSIDE.findall(text))
    small = collections.Counter(re.findall(r"\b[a-z]{3,}\b", text))
    return {name for name, count in inside.items() if small[name.lower()] <= SMALL_LETTERS_OF_A_NAME * count}


class Inventor:
    def __init__(self, names, draw):
        self.draw = draw
        self.next = collections.defaultdict(list)
        for name in sorted(names):
            padded = "^^" + name.lower() + "$"
            for i in range(2, len(padded)):
                self.next[padded[max(0, i - 3):i]].append(padded[i])

    def name(self):
        while True:
            word = "^^"
            while not word.endswith("$"):
                word += self.draw.choice(self.next[word[-3:]] or self.next[word[-2:]] or ["$"])
            if 5 <= len(word) <= 13:
                return word[2:-1].capitalize()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw = random.Random(int(sys.argv[1]))
    lines = sys.stdin.read().split("\n")
    names = names_of("\n".join(lines))
    inventor = Inventor(names, draw)
    for begin in range(0, len(lines), LINES):
        exchanged = collections.defaultdict(
            lambda: inventor.name() + (" " + inventor.name() if draw.random() < TWO_WORDS else ""))
        book = inventor.name()[:draw.randint(3, 4)]

        def exchange(match):
            return exchanged[match[0]] if match[0] in names else match[0]

        for line in lines[begin:begin + LINES]:
            verse = VERSE.match(line)
            head = book if verse else ""
            sys.stdout.write(head + WORD.sub(exchange, line[verse.end() if verse else 0:]) + "\n")


if __name__ == "__main__":
    main()

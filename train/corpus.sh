#!/usr/bin/env bash
# Writes the text that models/recall is trained and evaluated on, from Debian packages, into a folder:
#   train.txt     the King James Bible from Genesis to Daniel (twice), WordNet's glosses, perl's manual
#   held_out.txt  the Bible from Hosea to Revelation: evaluation and the demo only
#
# usage: train/corpus.sh FOLDER      (packages: bible-kjv wordnet-base perl-doc)
set -euo pipefail
out=${1:?usage: train/corpus.sh FOLDER}
mkdir -p "$out"

# One paragraph a line, without the reader's wrapping.
bible_text() { COLUMNS=10000 bible -f "$1" | sed -E 's/^([1-3]?[A-Za-z]+)([0-9]+:[0-9]+) /\1 \2 /'; }

bible_text gen1:1-dan12:13 > "$out/bible.part"
bible_text hos1:1-rev22:21 > "$out/held_out.txt"
sed -nE 's/^[0-9].* \| //p' /usr/share/wordnet/data.noun /usr/share/wordnet/data.verb | sed -E 's/ +$//' > "$out/wordnet.part"
find /usr/share/perl -name '*.pod' | sort | xargs cat | sed -E '/^=(pod|cut|over|back|for|begin|end)/d; s/^=[a-z0-9]+ //; s/[A-Z]<+ ?([^<>]*) ?>+/\1/g; /^[[:space:]]*$/d' > "$out/perl.part"
# The Bible twice: most of what the model is asked about lies in prose.
cat "$out/bible.part" "$out/wordnet.part" "$out/bible.part" "$out/perl.part" > "$out/train.txt"
rm -f "$out"/*.part
wc -c "$out/train.txt" "$out/held_out.txt"

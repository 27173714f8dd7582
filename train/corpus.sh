#!/usr/bin/env bash
# Writes the text that models/recall is trained and evaluated on, from Debian packages, into a folder:
#   train.txt     the King James Bible from Genesis to Daniel (twice), WordNet's glosses, perl's manual
#   names.txt     prose full of names that are no facts: Jane Austen's novels, the Anarchist FAQ; that part of the Bible three
#                 times, and the novels once more, with their names exchanged for made-up ones
#   held_out.txt  the Bible from Hosea to Revelation: evaluation and the demo only
#
# usage: train/corpus.sh FOLDER      (packages: bible-kjv wordnet-base perl-doc anarchism r-cran-janeaustenr)
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

# A paragraph a line, without markdown signs.
paragraphs() { awk -v RS= '{ gsub(/ *\n */, " "); print }'; }
exchange="$(dirname "$0")/exchange_names.py"
Rscript -e 'cat(janeaustenr::austen_books()$text, sep = "\n")' | paragraphs > "$out/austen.part"
zcat -f /usr/share/doc/anarchism/markdown/*.md* | sed -E 's/\]\([^)]*\)//g; s/<[^>]*>//g; s/[][*_#>`\\]//g' | paragraphs > "$out/anarchism.part"
for seed in 1 2 3; do "$exchange" "$seed" < "$out/bible.part" > "$out/bible$seed.part"; done
"$exchange" 4 < "$out/austen.part" > "$out/austen4.part"
cat "$out/bible1.part" "$out/austen.part" "$out/bible2.part" "$out/anarchism.part" "$out/austen4.part" "$out/bible3.part" > "$out/names.txt"
rm -f "$out"/*.part
wc -c "$out"/{train,names,held_out}.txt

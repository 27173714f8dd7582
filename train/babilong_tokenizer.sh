#!/usr/bin/env bash
# Makes the tokenizer of models/babilong: a sentencepiece model of 2,048 pieces, from the corpus and from stories, so that
# every word of a story is one piece.
#
# usage: train/babilong_tokenizer.sh MNEMO_BENCH CORPUS_FOLDER OUT_FOLDER      (package: sentencepiece)
set -euo pipefail
bench=${1:?usage: train/babilong_tokenizer.sh MNEMO_BENCH CORPUS_FOLDER OUT_FOLDER}
corpus=${2:?} out=${3:?}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
head -c 6000000 "$corpus/train.txt" > "$work/text.txt"
"$bench" stories --samples=4000 --seed=1 \
  | python3 -c 'import json, sys
for line in sys.stdin:
    story = json.loads(line)
    print(story["story"], story["question"], story["answer"])' >> "$work/text.txt"
spm_train --input="$work/text.txt" --model_prefix="$work/tokenizer" --model_type=unigram --vocab_size=2048 \
  --byte_fallback=true --normalization_rule_name=identity --add_dummy_prefix=false --remove_extra_whitespaces=false \
  --split_digits=true --max_sentence_length=100000 --input_sentence_size=40000 --shuffle_input_sentence=true \
  --bos_id=-1 --pad_id=-1 --unk_id=0 --eos_id=1 --num_threads=1 --minloglevel=1
cp "$work/tokenizer.model" "$out/tokenizer.model"

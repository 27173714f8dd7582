// usage: train_sentencepiece PREFIX FLAGS < SENTENCES      writes PREFIX.model and PREFIX.vocab
#include <cstdio>
#include <iostream>

#include "tests/core/model/sentencepiece_training.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::vector<std::string> sentences;
  for (std::string line; std::getline(std::cin, line);) sentences.push_back(line);
  return mnemosyne::TrainSentencePieces(sentences, argv[2], argv[1]).empty();
}

// Trains a small sentencepiece model for a test. A file of its own: no file may include both sentencepiece's headers
// and Abseil's (core/model/sentence_pieces.h).
#pragma once

#include <string>
#include <vector>

namespace mnemosyne {

// The bytes of a model trained on `sentences`. `flags` is what spm_train takes ("--vocab_size=60 --model_type=bpe");
// `prefix` is where the trainer puts its files. Empty when the training fails, which is printed.
std::string TrainSentencePieces(const std::vector<std::string>& sentences, const std::string& flags,
                                const std::string& prefix);

}  // namespace mnemosyne

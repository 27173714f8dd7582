#include "tests/core/model/sentencepiece_training.h"

#include <sentencepiece_trainer.h>

#include <cstdio>
#include <fstream>
#include <sstream>

namespace mnemosyne {

std::string TrainSentencePieces(const std::vector<std::string>& sentences, const std::string& flags,
                                const std::string& prefix) {
  const std::string input = prefix + ".txt";
  {
    std::ofstream out(input);
    for (const std::string& sentence : sentences) out << sentence << "\n";
  }
  const sentencepiece::util::Status status = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + input + " --model_prefix=" + prefix + " --minloglevel=2 --num_threads=1 " + flags);
  if (!status.ok()) {
    std::fprintf(stderr, "sentencepiece training: %s\n", status.ToString().c_str());
    return "";
  }
  std::ifstream in(prefix + ".model", std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

}  // namespace mnemosyne

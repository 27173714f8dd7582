// How fast the engine itself is: no server, one thread, this CPU. Every speed is a share of G: what the BLAS makes of a
// single-precision product of 1024 x 1024 x 1024, measured right before and after it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/result_file.h"

namespace mnemosyne {

struct EngineBenchOptions {
  std::vector<std::string> models;  // folders; may be empty
  std::string weights = "float32";  // of these models, as Model::Options has it
  bool kinds = false;               // also models of every kind, with weights drawn at random
  std::string only;                 // of all these, what has this in its name
  int repeats = 9;                  // of each measurement; medians are told
  double seconds = 0.5;             // of each repeat, at least
};

// Products of our own and the BLAS's, the memory layer alone (model width 256, 4 heads of 64), then each model: blocks
// of one session, and tokens decoded one after another. A line each goes to standard output and to `results`. Sets this
// thread up as a worker's.
absl::Status RunEngineBench(const EngineBenchOptions& options, ResultFile* results);

}  // namespace mnemosyne

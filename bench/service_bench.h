// How fast the service is: a mnemosyned of one's own, asked over loopback gRPC, against limits measured in the same
// minute: the same model stepped without a server, fsyncs of a plain file, one query alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/result_file.h"

namespace mnemosyne {

struct ServiceBenchOptions {
  std::string mnemosyned;  // the program
  std::string model;       // a folder
  std::string scratch;     // a folder on the disk that is measured
  // start, ingest, appends, offsets, queries, states, crowd; in this order, whatever theirs
  std::vector<std::string> parts;
  int workers = 2;
  int repeats = 5;                // of each measurement; medians are told
  int64_t session_tokens = 2048;  // ingest: of each session
  int64_t far_offset = 1000000;   // offsets: tokens of the long session
  int64_t crowd = 1000;           // crowd: sessions, ten times what memory is allowed for
};

// A line for each measurement goes to standard output and to `results`. INVALID_ARGUMENT names an unknown part.
absl::Status RunServiceBench(const ServiceBenchOptions& options, ResultFile* results);

}  // namespace mnemosyne

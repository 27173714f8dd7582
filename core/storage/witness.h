// What a data folder is known to have had, in a file of its own (docs/formats/storage.md, "Witness").
//
// RocksDB takes a manifest that was cut, or has zeros in it, for one that a crash cut short, and a newest write-ahead
// log that is not there for one that was never made: either way the folder is opened as it once was, and what came
// later is deleted. The witness is written when the folder is opened and closed and after every flush; it may lag
// behind a crash by a moment, but it never promises what a crash can take.
#pragma once

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rocksdb/listener.h"

namespace mnemosyne {

// Changes nothing. DATA_LOSS names the file that is not what it was; OK where there is no witness.
absl::Status CheckWitness(const std::string& path);

// Thread-safe.
class WitnessWriter final : public rocksdb::EventListener {
 public:
  explicit WitnessWriter(std::string path) : path_(std::move(path)) {}
  // What fails leaves the witness as it was: it tells less, and nothing wrong.
  absl::Status Write();
  void OnFlushCompleted(rocksdb::DB* /*db*/, const rocksdb::FlushJobInfo& /*info*/) override { Write().IgnoreError(); }
  const char* Name() const override { return "mnemosyne::WitnessWriter"; }

 private:
  const std::string path_;
  absl::Mutex mutex_;  // one writes at a time
};

}  // namespace mnemosyne

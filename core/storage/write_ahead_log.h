// Finds what RocksDB would pass over in a damaged write-ahead log, before and while it is replayed.
//
// To RocksDB a length that reaches beyond the file, or a kind of record that it does not expect, is the log's end, as
// a crash leaves it, and zeros end a part of it: whatever follows is dropped in silence. What a crash leaves has
// nothing whole behind it, and the sequence numbers of what was written have no gap.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "rocksdb/wal_filter.h"

namespace mnemosyne {

// Looks through every write-ahead log of the folder, and changes nothing. DATA_LOSS names the file and the byte.
absl::Status CheckWriteAheadLogs(const std::string& path);

// Lets a replay go on as long as its batches follow each other. Bound to the thread that opens the database.
class GapFinder final : public rocksdb::WalFilter {
 public:
  WalProcessingOption LogRecordFound(unsigned long long log_number, const std::string& log_file_name,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch* new_batch,
                                     bool* batch_changed) override;
  const char* Name() const override { return "mnemosyne::GapFinder"; }
  const std::string& gap() const { return gap_; }  // empty: there is none

 private:
  uint64_t next_sequence_ = 0;  // 0: not known yet
  std::string gap_;
};

}  // namespace mnemosyne

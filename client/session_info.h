// What the server tells about its sessions and models, as plain values.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace mnemosyne::client {

// How far a session has come; each but the last is an offset in tokens.
struct Watermarks {
  int64_t accepted = 0;        // offset of the next token
  int64_t durable = 0;         // what outlives a crash of the server
  int64_t memorized = 0;       // what the state holds: a multiple of the model's block_tokens
  int64_t accepted_bytes = 0;  // content accepted since the session was last empty: text as its bytes, a token id as 4
};

enum class Retention { kUnspecified, kKeep, kTrim };

// How a session is kept; memory_service.proto has the ranges. Unset: the server's default, of an update: as it was.
struct SessionSettings {
  absl::optional<Retention> retention;
  absl::optional<absl::Duration> ttl;                         // since its creation; infinite: never
  absl::optional<absl::Duration> idle_ttl;                    // since its last use; infinite: never
  absl::optional<int64_t> max_backlog_tokens, max_log_bytes;  // 0: the server's default

  bool empty() const { return !retention && !ttl && !idle_ttl && !max_backlog_tokens && !max_log_bytes; }
};

struct SessionInfo {
  std::string session_id;
  std::string model;
  std::string fingerprint;  // 32 hex digits: the state belongs to exactly these weights
  Watermarks watermarks;
  uint64_t epoch = 0;          // counted up by every reset and every erasure
  uint64_t next_sequence = 0;  // what the next append must carry
  int64_t pending_tokens = 0;  // accepted and not yet memorized
  int64_t state_bytes = 0;
  int64_t log_bytes = 0;
  bool resident = false;  // whether the state is in the server's memory now
  std::map<std::string, std::string> labels;
  absl::Time create_time;
  absl::Time update_time;
  absl::optional<std::string> failure;  // where the memory stopped; only a reset clears it
  SessionSettings settings;             // all of them set
  int64_t earliest_offset = 0;          // the earliest that can be gone back to; 0 unless the log is trimmed
  absl::Time expire_time = absl::InfiniteFuture();  // by SessionSettings::ttl
  absl::optional<uint32_t> last_append_crc32;       // of the content of the append next_sequence - 1, if it is known
};

enum class TokenizerKind { kUnspecified, kBytes, kSentencePiece, kNone };

struct ModelInfo {
  std::string name;
  std::string fingerprint;
  int64_t parameter_count = 0;
  int32_t vocab_size = 0;
  int64_t block_tokens = 0;
  int64_t state_bytes = 0;  // of one session
  TokenizerKind tokenizer = TokenizerKind::kUnspecified;
};

}  // namespace mnemosyne::client

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

struct SessionInfo {
  std::string session_id;
  std::string model;
  std::string fingerprint;  // 32 hex digits: the state belongs to exactly these weights
  Watermarks watermarks;
  uint64_t epoch = 0;          // counted up by every reset
  uint64_t next_sequence = 0;  // what the next append must carry
  int64_t pending_tokens = 0;  // accepted and not yet memorized
  int64_t state_bytes = 0;
  int64_t log_bytes = 0;
  bool resident = false;  // whether the state is in the server's memory now
  std::map<std::string, std::string> labels;
  absl::Time create_time;
  absl::Time update_time;
  absl::optional<std::string> failure;  // where the memory stopped; only a reset clears it
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

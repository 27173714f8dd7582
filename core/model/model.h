// A Titans model (docs/architecture.md), loaded once and shared: steps sessions' states and answers from forks of them.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<Model> model, Model::Load("models/recall", {}));
//   StatePtr state = model->InitialState();
//   BlockResult step = model->StepBlocks({{state, tokens}})[0];  // exactly block_tokens() of them
//   std::unique_ptr<Fork> fork = model->NewFork(step.state);
//   RETURN_IF_ERROR(fork->Feed(question));                  // fork->logits(): [V], what comes next
//
// Thread-safe after Load; a Fork is bound to one thread at a time. No LibTorch type is in this header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/model/config.h"
#include "core/model/tokenizer.h"

namespace mnemosyne {

// All that a session's model carries at a block boundary. Immutable.
class SessionState;
using StatePtr = std::shared_ptr<const SessionState>;

// Tokens in the state: a multiple of block_tokens().
int64_t StateOffset(const SessionState& state);

struct BlockInput {
  StatePtr state;
  absl::Span<const int32_t> tokens;  // [block_tokens]
};

struct BlockResult {
  absl::Status status;  // not OK: `state` is null and the input state stands. FAILED_PRECONDITION: not finite
  StatePtr state;
  float mean_surprise = 0;  // |M(k) - v|^2, mean over the block's tokens, memory layers and heads
};

// A private continuation of a state, for one query: what it reads is never stored.
class Fork {
 public:
  virtual ~Fork() = default;
  virtual absl::Status Feed(absl::Span<const int32_t> tokens) = 0;  // FAILED_PRECONDITION: not finite
  virtual absl::Span<const float> logits() const = 0;               // [V] after the last token fed; empty before any
  virtual int64_t offset() const = 0;                               // tokens in the fork
};

class Model {
 public:
  struct Options {
    std::string device = "cpu";  // a LibTorch device string
    // What the weights are kept as: "float32"; on a CPU also "bfloat16", or "bfloat16_products", which rounds what they
    // are multiplied by, too, and needs a CPU with AMX. With another it is another model, by its fingerprint: their
    // states are not each other's.
    std::string weights = "float32";
    // Sessions that StepBlocks steps at once. 0: one on a CPU, which shares nothing between them; 32 on other devices,
    // where a batch always has that size: what is missing is filled up. On a CPU a model with mac blocks, for which a
    // BLAS computes, steps one whatever is asked for.
    int64_t batch_sessions = 0;
  };
  // NOT_FOUND for a missing folder or file, INVALID_ARGUMENT or DATA_LOSS for a broken one; the message names it.
  // INVALID_ARGUMENT for weights that there are not, FAILED_PRECONDITION for those that this CPU has no products for.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& folder, const Options& options);
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // 32 hex digits over config.json's meaning, every weight, their type and the tokenizer's file.
  virtual const std::string& fingerprint() const = 0;
  virtual int64_t parameter_count() const = 0;
  virtual int64_t state_bytes() const = 0;     // of one session's state, resident
  virtual int64_t batch_sessions() const = 0;  // that StepBlocks steps at once; of more, some after others

  virtual StatePtr InitialState() const = 0;
  // Steps each input by one block. A result is the same to the bit whoever else is in the batch; on another device than
  // a CPU, as far as its library computes the rows of a product alike.
  virtual std::vector<BlockResult> StepBlocks(absl::Span<const BlockInput> inputs) const = 0;
  virtual std::unique_ptr<Fork> NewFork(StatePtr state) const = 0;
  // Feeds one token to each of several forks of this model: as Fork::Feed of each alone, to the bit. On a CPU they
  // share the passes over the weights, which is most of what a token costs alone.
  virtual std::vector<absl::Status> FeedTogether(absl::Span<Fork* const> forks,
                                                 absl::Span<const int32_t> tokens) const = 0;

  // State to bytes and back, bit for bit (docs/formats/state.md). DATA_LOSS names what is damaged;
  // FAILED_PRECONDITION when the state is another model's.
  virtual std::string EncodeState(const SessionState& state) const = 0;
  virtual absl::StatusOr<StatePtr> DecodeState(absl::string_view bytes) const = 0;
};

// Called once at a worker's entry: one thread inside this thread's operators, no autograd, denormals flushed to zero.
void EnterWorkerThread();

// "OpenBLAS (libopenblas ...)", or what BLAS the process runs on: for the server's first log line.
std::string BlasDescription();

}  // namespace mnemosyne

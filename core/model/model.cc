#include "core/model/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>

#include <map>
#include <optional>

#include "absl/base/casts.h"
#include "absl/strings/str_cat.h"
#include "core/base/checksum.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/kernels/tile_product.h"
#include "core/model/batch_stepper.h"
#include "core/model/parameters.h"
#include "core/model/session_state.h"
#include "core/model/titans.h"

namespace mnemosyne {

namespace {

// The one place where LibTorch's exceptions become statuses.
template <typename Function>
absl::Status CatchTorch(absl::string_view what, const Function& function) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", absl::string_view(error.what()).substr(0, 500)));
  }
}

// Whether the exponents say so; a loop that compilers turn into vectors.
bool AreFinite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t not_finite = 0;
  for (int64_t i = 0; i < count; ++i) {
    not_finite |= static_cast<uint32_t>((absl::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent);
  }
  return not_finite == 0;
}

// Of other devices, one number on the host for the whole check.
bool AllFinite(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> peaks;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_non_overlapping_and_dense()) {
      if (!AreFinite(tensor.data_ptr<float>(), tensor.numel())) return false;
    } else if (tensor.numel() > 0) {
      peaks.push_back(tensor.abs().max());  // NaN and infinity win
    }
  }
  return peaks.empty() || std::isfinite(at::stack(peaks).sum().item<float>());
}

absl::Status CheckTokens(absl::Span<const int32_t> tokens, int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", tokens[i], " is outside the vocabulary [0, ", vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

class TitansFork final : public Fork {
 public:
  TitansFork(const Titans& titans, const ModelConfig& config, at::Device device, StatePtr begin)
      : titans_(titans), config_(config), device_(device), begin_(std::move(begin)), state_(begin_->batch()) {}

  absl::Status Feed(absl::Span<const int32_t> tokens) override {
    RETURN_IF_ERROR(CheckTokens(tokens, config_.vocab_size));
    // Long input goes in parts, so that its intermediate tensors stay small.
    constexpr size_t kMaxTokensAtOnce = 1024;
    for (; !tokens.empty(); tokens.remove_prefix(std::min(tokens.size(), kMaxTokensAtOnce))) {
      const absl::Span<const int32_t> part = tokens.subspan(0, kMaxTokensAtOnce);
      RETURN_IF_ERROR(CatchTorch("decoding", [&] { return FeedPart(part, part.size() == tokens.size()); }));
    }
    return absl::OkStatus();
  }
  absl::Span<const float> logits() const override { return logits_; }
  int64_t offset() const override { return state_.offsets[0]; }

  // Made ready on the way: a fork that is never fed costs nothing.
  BatchState* state() {
    if (!held_) titans_.Hold(&state_);
    held_ = true;
    return &state_;
  }
  absl::Status SetLogits(const float* values) {
    logits_.assign(values, values + config_.vocab_size);
    for (const float value : logits_) {
      if (!std::isfinite(value)) {
        return absl::FailedPreconditionError(absl::StrCat("the answer is not finite at token ", state_.offsets[0],
                                                          "; the session's state is as before"));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status FeedPart(absl::Span<const int32_t> tokens, bool is_last) {
    const c10::InferenceMode inference;
    const at::Tensor ids = at::tensor(at::ArrayRef<int32_t>(tokens.data(), tokens.size())).to(device_, at::kLong);
    const Titans::Output out =
        titans_.Forward(ids.unsqueeze(0), state(), is_last ? Titans::Logits::kLast : Titans::Logits::kNone);
    if (!is_last) return absl::OkStatus();
    return SetLogits(out.logits.to(at::kCPU, at::kFloat).contiguous().data_ptr<float>());
  }

  const Titans& titans_;
  const ModelConfig& config_;
  const at::Device device_;
  const StatePtr begin_;  // its tensors are read, not copied
  BatchState state_;
  bool held_ = false;
  std::vector<float> logits_;
};

class TitansModel final : public Model {
 public:
  TitansModel(ModelConfig config, std::unique_ptr<Tokenizer> tokenizer, std::string fingerprint,
              const std::map<std::string, at::Tensor>& parameters, at::Device device, WeightType weight_type,
              int64_t batch_sessions)
      : config_(std::move(config)),
        tokenizer_(std::move(tokenizer)),
        fingerprint_(std::move(fingerprint)),
        device_(device),
        titans_(config_, parameters, weight_type) {
    const BatchState initial = titans_.InitialState(1);
    // A BLAS of a CPU gives a row other bits beside others: there sessions are stepped alone whatever was asked for.
    if (batch_sessions > 1 && (!device_.is_cpu() || titans_.StepsInPlace())) {
      table_ = std::make_shared<StateTable>(initial);
      initial_ = Tabled(initial);
      stepper_.emplace(titans_, table_, initial_->row(), batch_sessions);
    } else {
      initial_ = std::make_shared<const SessionState>(initial);
    }
    blank_ = initial_->on_host();
    for (const auto& [name, tensor] : parameters) parameter_count_ += tensor.numel();
    for (const StateTensor& one : StateTensors(initial)) state_bytes_ += one.tensor.nbytes();
  }

  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& fingerprint() const override { return fingerprint_; }
  int64_t parameter_count() const override { return parameter_count_; }
  int64_t state_bytes() const override { return state_bytes_; }
  int64_t batch_sessions() const override { return stepper_ ? stepper_->sessions() : 1; }
  StatePtr InitialState() const override { return initial_; }

  std::vector<BlockResult> StepBlocks(absl::Span<const BlockInput> inputs) const override {
    std::vector<BlockResult> results(inputs.size());
    std::vector<size_t> fit;  // the places of those that can be stepped
    for (size_t i = 0; i < inputs.size(); ++i) {
      results[i].status = CheckBlock(inputs[i]);
      if (results[i].status.ok()) fit.push_back(i);
    }
    const auto most = static_cast<size_t>(batch_sessions());
    for (absl::Span<const size_t> rest = fit; !rest.empty(); rest.remove_prefix(std::min(most, rest.size()))) {
      const absl::Span<const size_t> places = rest.first(std::min(most, rest.size()));
      const absl::Status status = CatchTorch("stepping a block", [&] {
        return stepper_ ? StepTogether(inputs, places, &results) : StepAlone(inputs[places[0]], &results[places[0]]);
      });
      for (const size_t place : places) results[place].status.Update(status);
    }
    return results;
  }

  std::unique_ptr<Fork> NewFork(StatePtr state) const override {
    return std::make_unique<TitansFork>(titans_, config_, device_, std::move(state));
  }
  std::vector<absl::Status> FeedTogether(absl::Span<Fork* const> forks,
                                         absl::Span<const int32_t> tokens) const override {
    std::vector<absl::Status> statuses(forks.size());
    std::vector<int64_t> ids;
    std::vector<BatchState*> states;
    std::vector<size_t> places;  // in `forks`
    for (size_t i = 0; i < forks.size(); ++i) {
      statuses[i] = CheckTokens({tokens[i]}, config_.vocab_size);
      if (!statuses[i].ok()) continue;
      ids.push_back(tokens[i]);
      places.push_back(i);
    }
    if (places.empty()) return statuses;
    const absl::Status fed = CatchTorch("decoding", [&] {
      const c10::InferenceMode inference;
      for (const size_t i : places) states.push_back(static_cast<TitansFork*>(forks[i])->state());
      const at::Tensor logits = titans_.ForwardTogether(at::tensor(ids, at::kLong).to(device_).unsqueeze(1), states)
                                    .to(at::kCPU, at::kFloat)
                                    .contiguous();
      for (size_t n = 0; n < places.size(); ++n) {
        statuses[places[n]] = static_cast<TitansFork*>(forks[places[n]])
                                  ->SetLogits(logits.data_ptr<float>() + static_cast<int64_t>(n) * config_.vocab_size);
      }
      return absl::OkStatus();
    });
    for (size_t n = 0; !fed.ok() && n < places.size(); ++n) statuses[places[n]] = fed;
    return statuses;
  }
  std::string EncodeState(const SessionState& state) const override {
    const c10::InferenceMode inference;
    return EncodeSessionState(state, fingerprint_);
  }
  absl::StatusOr<StatePtr> DecodeState(absl::string_view bytes) const override {
    const c10::InferenceMode inference;
    ASSIGN_OR_RETURN(BatchState state, DecodeSessionState(bytes, fingerprint_, config_, blank_));
    if (table_ == nullptr) return std::make_shared<const SessionState>(std::move(state));
    StatePtr tabled;
    RETURN_IF_ERROR(CatchTorch("loading a state", [&] {
      tabled = Tabled(state);
      return absl::OkStatus();
    }));
    return tabled;
  }

 private:
  StatePtr Tabled(const BatchState& state) const {
    const at::Tensor packed = StateTable::Pack(state).to(device_);
    return std::make_shared<const SessionState>(table_, table_->Put(packed, state.offsets)[0]);
  }

  absl::Status CheckBlock(const BlockInput& input) const {
    if (static_cast<int64_t>(input.tokens.size()) != config_.block_tokens()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a block is ", config_.block_tokens(), " tokens; got ", input.tokens.size()));
    }
    return CheckTokens(input.tokens, config_.vocab_size);
  }

  // An error too large to square scales its own step to nothing: the memory stays finite and learns no more. So the
  // surprise is looked at too.
  static absl::Status NotFinite(int64_t offset) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the block at token ", offset, " makes the memory or its surprise not finite; the state before it stands"));
  }

  // So that every product has the shape it has alone: at::mm's bits depend on a product's height.
  absl::Status StepAlone(const BlockInput& input, BlockResult* result) const {
    const c10::InferenceMode inference;
    const at::Tensor ids =
        at::tensor(at::ArrayRef<int32_t>(input.tokens.data(), input.tokens.size())).to(device_, at::kLong);
    BatchState next = input.state->batch();
    const Titans::Output out = titans_.Forward(ids.unsqueeze(0), &next, Titans::Logits::kNone);
    std::vector<at::Tensor> tensors;
    for (const StateTensor& one : StateTensors(next)) tensors.push_back(one.tensor);
    if (out.surprise.defined()) tensors.push_back(out.surprise.mean());
    if (!AllFinite(tensors)) return NotFinite(input.state->offset());
    if (out.surprise.defined()) result->mean_surprise = tensors.back().item<float>();
    result->state = std::make_shared<const SessionState>(std::move(next));
    return absl::OkStatus();
  }

  absl::Status StepTogether(absl::Span<const BlockInput> inputs, absl::Span<const size_t> places,
                            std::vector<BlockResult>* results) const {
    const c10::InferenceMode inference;
    std::vector<StateTable::RowPtr> rows;
    std::vector<int32_t> ids;
    for (const size_t place : places) {
      rows.push_back(inputs[place].state->row());
      ids.insert(ids.end(), inputs[place].tokens.begin(), inputs[place].tokens.end());
    }
    const at::Tensor tokens =
        at::tensor(ids, at::kInt).view({static_cast<int64_t>(places.size()), -1}).to(device_, at::kLong);
    const BatchStepper::Step step = stepper_->Take(rows, tokens);
    // The batch's one synchronisation with the device.
    const at::Tensor verdict = step.verdict.to(at::kCPU, at::kFloat).contiguous();
    const float* const nothing = verdict.data_ptr<float>();
    const float* const surprise = nothing + stepper_->sessions();
    for (size_t n = 0; n < places.size(); ++n) {
      BlockResult& result = (*results)[places[n]];
      if (!std::isfinite(nothing[n]) || !std::isfinite(surprise[n])) {
        result.status = NotFinite(inputs[places[n]].state->offset());
        continue;
      }
      result.mean_surprise = surprise[n];
      result.state = std::make_shared<const SessionState>(table_, step.rows[n]);
    }
    return absl::OkStatus();
  }

  const ModelConfig config_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::string fingerprint_;
  const at::Device device_;
  const Titans titans_;
  std::shared_ptr<StateTable> table_;  // null where sessions are stepped alone
  StatePtr initial_;
  std::optional<BatchStepper> stepper_;
  BatchState blank_;  // on the host: what a state's bytes must be like
  int64_t parameter_count_ = 0;
  int64_t state_bytes_ = 0;
};

absl::StatusOr<WeightType> WeightTypeOf(const Model::Options& options) {
  const std::string& name = options.weights;
  if (name == "float32") return WeightType::kFloat32;
  if (name != "bfloat16" && name != "bfloat16_products") {
    return absl::InvalidArgumentError(
        absl::StrCat("weights are float32, bfloat16 or bfloat16_products, not '", name, "'"));
  }
  if (options.device != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("weights of ", name, " are for the device cpu, not ", options.device));
  }
  if (name == "bfloat16") return WeightType::kBFloat16;
  if (!HasTiles()) {
    return absl::FailedPreconditionError(
        "weights of bfloat16_products need a CPU with AMX, and a system that allows it; bfloat16 needs neither");
  }
  return WeightType::kBFloat16Products;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& folder, const Options& options) {
  ASSIGN_OR_RETURN(const std::string config_text, ReadFile(folder + "/config.json"));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(config_text);
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat(folder, "/config.json: ", config.status().message()));
  }
  ASSIGN_OR_RETURN(const std::string weights, ReadFile(folder + "/model.safetensors"));
  absl::StatusOr<std::vector<NamedTensor>> loaded = LoadParameters(*config, weights);
  if (!loaded.ok()) {
    return absl::Status(loaded.status().code(),
                        absl::StrCat(folder, "/model.safetensors: ", loaded.status().message()));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*config, folder));

  std::string identity = FormatModelConfig(*config);
  for (const NamedTensor& one : *loaded) {
    absl::StrAppend(&identity, "\n", one.name, " ",
                    Fingerprint({reinterpret_cast<const char*>(one.values.data()), one.values.size() * sizeof(float)}));
  }
  if (!config->tokenizer.file.empty()) {
    ASSIGN_OR_RETURN(const std::string file, ReadFile(absl::StrCat(folder, "/", config->tokenizer.file)));
    absl::StrAppend(&identity, "\ntokenizer ", Fingerprint(file));
  }

  ASSIGN_OR_RETURN(const WeightType weight_type, WeightTypeOf(options));
  if (weight_type != WeightType::kFloat32) absl::StrAppend(&identity, "\n", options.weights);

  const int64_t batch_sessions = options.batch_sessions > 0 ? options.batch_sessions : options.device == "cpu" ? 1 : 32;
  std::unique_ptr<Model> model;
  RETURN_IF_ERROR(CatchTorch(absl::StrCat("loading '", folder, "' on device '", options.device, "'"), [&] {
    const c10::InferenceMode inference;
    const at::Device device(options.device);
    std::map<std::string, at::Tensor> parameters;
    for (NamedTensor& one : *loaded) {
      parameters[one.name] = at::tensor(one.values, at::kFloat).view(one.shape).to(device);
    }
    model = std::make_unique<TitansModel>(*std::move(config), std::move(tokenizer), Fingerprint(identity), parameters,
                                          device, weight_type, batch_sessions);
    return absl::OkStatus();
  }));
  return model;
}

void EnterWorkerThread() {
  at::set_num_threads(1);
  at::globalContext().setFlushDenormal(true);
  using SetThreads = void (*)(int);
  if (const auto set_threads = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set_threads(1);
  }
}

std::string BlasDescription() {
  using GetText = char* (*)();
  const auto get_config = reinterpret_cast<GetText>(dlsym(RTLD_DEFAULT, "openblas_get_config"));
  return get_config != nullptr ? get_config() : "not OpenBLAS (Debian's reference BLAS is many times slower)";
}

}  // namespace mnemosyne

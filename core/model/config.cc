#include "core/model/config.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/base/strict_json.h"
#include "nlohmann/json.hpp"

namespace mnemosyne {
namespace {

using nlohmann::json;

constexpr absl::string_view kFormat = "mnemosyne-titans-1";
constexpr int64_t kMinBlockTokens = 64;
constexpr int64_t kMaxBlockTokens = 8192;
constexpr int64_t kMaxInner = 16384;

template <typename Kind>
struct Named {
  absl::string_view name;
  Kind kind;
};
constexpr Named<BlockKind> kBlockKinds[] = {{"swa", BlockKind::kSwa},
                                            {"lmm", BlockKind::kLmm},
                                            {"mag", BlockKind::kMag},
                                            {"mal", BlockKind::kMal},
                                            {"mac", BlockKind::kMac}};
constexpr Named<GateKind> kGateKinds[] = {{"multiply", GateKind::kMultiply}, {"mix", GateKind::kMix}};
constexpr Named<TokenizerKind> kTokenizerKinds[] = {
    {"bytes", TokenizerKind::kBytes}, {"sentencepiece", TokenizerKind::kSentencePiece}, {"none", TokenizerKind::kNone}};

template <typename Kind, size_t n>
absl::string_view NameOf(const Named<Kind> (&table)[n], Kind kind) {
  for (const Named<Kind>& entry : table) {
    if (entry.kind == kind) return entry.name;
  }
  return "";
}

absl::Status Error(absl::string_view key, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("config key '", key, "' ", problem));
}

// Reads one JSON object: remembers the first error and which keys were asked for.
class ObjectReader {
 public:
  // `prefix` is put before keys in messages, "memory." or empty. `object` must outlive the reader.
  ObjectReader(const json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  void Integer(absl::string_view key, int64_t minimum, int64_t maximum, int64_t* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number_integer()) return Fail(key, "is not an integer");
    // An unsigned value past int64 must not wrap to a small or negative one.
    const int64_t number = value->is_number_unsigned() && value->get<uint64_t>() > std::numeric_limits<int64_t>::max()
                               ? std::numeric_limits<int64_t>::max()
                               : value->get<int64_t>();
    if (number < minimum) return Fail(key, absl::StrCat("is ", value->dump(), "; the minimum is ", minimum));
    if (number > maximum) return Fail(key, absl::StrCat("is ", value->dump(), "; the maximum is ", maximum));
    *out = number;
  }

  void Number(absl::string_view key, double minimum, double maximum, double* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number()) return Fail(key, "is not a number");
    const double number = value->get<double>();
    if (number < minimum) return Fail(key, absl::StrCat("is ", value->dump(), "; the minimum is ", minimum));
    if (number > maximum) return Fail(key, absl::StrCat("is ", value->dump(), "; the maximum is ", maximum));
    *out = number;
  }

  void Boolean(absl::string_view key, bool* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Fail(key, "is not true or false");
    *out = value->get<bool>();
  }

  void String(absl::string_view key, std::string* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return Fail(key, "is not a string");
    *out = value->get<std::string>();
  }

  template <typename Kind, size_t n>
  void OneOf(absl::string_view key, const Named<Kind> (&table)[n], Kind* out) {
    const json* value = Find(key);
    if (value != nullptr) Choose(key, *value, table, out);
  }

  template <typename Kind, size_t n>
  void ListOf(absl::string_view key, const Named<Kind> (&table)[n], size_t maximum, std::vector<Kind>* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_array()) return Fail(key, "is not a list");
    if (value->empty()) return Fail(key, "has 0 entries; the minimum is 1");
    if (value->size() > maximum) {
      return Fail(key, absl::StrCat("has ", value->size(), " entries; the maximum is ", maximum));
    }
    out->resize(value->size());
    for (size_t i = 0; i < value->size(); ++i) Choose(absl::StrCat(key, "[", i, "]"), (*value)[i], table, &(*out)[i]);
  }

  // The object at `key`; an empty one when it is missing or something else.
  const json& Object(absl::string_view key) {
    static const json* const kEmpty = new json(json::object());
    const json* value = Find(key);
    if (value == nullptr) return *kEmpty;
    if (value->is_object()) return *value;
    Fail(key, "is not an object");
    return *kEmpty;
  }

  void Fail(absl::string_view key, absl::string_view problem) {
    if (status_.ok()) status_ = Error(absl::StrCat(prefix_, key), problem);
  }

  // The first error; when there is none, the first key that nothing asked for. An unknown key is told before a missing
  // one: it is often the missing one misspelt.
  absl::Status Finish() const {
    for (const auto& item : object_.items()) {
      if (asked_.count(item.key()) == 0) return Error(absl::StrCat(prefix_, ForMessage(item.key())), "is unknown");
    }
    return status_;
  }

 private:
  const json* Find(absl::string_view key) {
    const std::string name(key);
    asked_.insert(name);
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    Fail(key, "is missing");
    return nullptr;
  }

  template <typename Kind, size_t n>
  void Choose(absl::string_view key, const json& value, const Named<Kind> (&table)[n], Kind* out) {
    if (!value.is_string()) return Fail(key, "is not a string");
    const std::string& name = value.get_ref<const std::string&>();
    for (const Named<Kind>& entry : table) {
      if (entry.name == name) {
        *out = entry.kind;
        return;
      }
    }
    const std::string names = absl::StrJoin(
        table, ", ", [](std::string* text, const Named<Kind>& entry) { absl::StrAppend(text, entry.name); });
    Fail(key, absl::StrCat("is '", ForMessage(name), "'; it must be one of ", names));
  }

  const json& object_;
  const std::string prefix_;
  std::set<std::string> asked_;
  absl::Status status_;
};

absl::Status ReadMemory(const json& object, MemoryConfig* memory) {
  ObjectReader reader(object, "memory.");
  reader.Integer("heads", 1, 256, &memory->heads);
  reader.Integer("head_dim", 1, 1024, &memory->head_dim);
  reader.Integer("depth", 1, 8, &memory->depth);
  reader.Integer("hidden", 1, 16384, &memory->hidden);
  reader.Integer("chunk", 1, 1024, &memory->chunk);
  reader.Integer("conv", 1, 64, &memory->conv);
  reader.Number("theta_max", 0.0, 10.0, &memory->theta_max);
  reader.Boolean("momentum", &memory->momentum);
  reader.Boolean("decay", &memory->decay);
  reader.Boolean("residual", &memory->residual);
  reader.Number("max_grad_norm", 0.0, 1e6, &memory->max_grad_norm);
  if (memory->inner() > kMaxInner) {
    reader.Fail("head_dim", absl::StrCat("times memory.heads is ", memory->inner(), "; the maximum is ", kMaxInner));
  }
  return reader.Finish();
}

absl::Status ReadTokenizer(const json& object, TokenizerConfig* tokenizer) {
  ObjectReader reader(object, "tokenizer.");
  reader.OneOf("kind", kTokenizerKinds, &tokenizer->kind);
  if (tokenizer->kind == TokenizerKind::kSentencePiece) {
    reader.String("file", &tokenizer->file);
    // A name and no path: a model's folder is whole by itself, and a config cannot reach out of it.
    const std::string& file = tokenizer->file;
    if (file.empty() || file.size() > 255 || file == "." || file == ".." ||
        file.find_first_of(std::string("/\0", 2)) != std::string::npos) {
      reader.Fail("file", absl::StrCat("is '", ForMessage(file), "'; it must be a plain file name beside config.json"));
    }
  }
  return reader.Finish();
}

// What no single key's range says.
absl::Status CheckTogether(const ModelConfig& config) {
  if (config.dim % (2 * config.heads) != 0) {
    return Error("dim", absl::StrCat("is ", config.dim, "; it must be a multiple of 2 x heads = ", 2 * config.heads));
  }
  if (config.HasMac() && config.segment % config.memory.chunk != 0) {
    return Error("segment",
                 absl::StrCat("is ", config.segment,
                              "; with a mac block it must be a multiple of memory.chunk = ", config.memory.chunk));
  }
  if (config.block_tokens() > kMaxBlockTokens) {
    return Error(config.HasMac() ? "segment" : "memory.chunk",
                 absl::StrCat("makes a block ", config.block_tokens(), " tokens; the maximum is ", kMaxBlockTokens));
  }
  if (config.tokenizer.kind == TokenizerKind::kBytes) {
    if (config.vocab_size < 256) {
      return Error("vocab_size",
                   absl::StrCat("is ", config.vocab_size, "; the minimum is 256 with the bytes tokenizer"));
    }
    if (config.vocab_size > 1024) {
      return Error("vocab_size",
                   absl::StrCat("is ", config.vocab_size, "; the maximum is 1024 with the bytes tokenizer"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool HasMemory(BlockKind kind) { return kind != BlockKind::kSwa; }
bool HasAttention(BlockKind kind) { return kind != BlockKind::kLmm; }
absl::string_view BlockKindName(BlockKind kind) { return NameOf(kBlockKinds, kind); }

bool ModelConfig::HasMac() const { return std::find(blocks.begin(), blocks.end(), BlockKind::kMac) != blocks.end(); }

int64_t ModelConfig::block_tokens() const {
  const int64_t unit = HasMac() ? segment : memory.chunk;
  return (kMinBlockTokens + unit - 1) / unit * unit;
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json_text) {
  ASSIGN_OR_RETURN(const json root, ParseStrictJson(json_text, "config"));
  if (!root.is_object()) return absl::InvalidArgumentError("config is not a JSON object");
  ModelConfig config;
  ObjectReader reader(root, "");
  std::string format(kFormat);
  reader.String("format", &format);
  if (format != kFormat) {
    // Told first: another format's other keys mean nothing.
    return Error("format", absl::StrCat("is '", ForMessage(format), "'; it must be '", kFormat, "'"));
  }
  reader.Integer("vocab_size", 2, int64_t{1} << 20, &config.vocab_size);
  reader.Integer("dim", 2, 16384, &config.dim);
  reader.ListOf("blocks", kBlockKinds, 256, &config.blocks);
  reader.Integer("heads", 1, 256, &config.heads);
  reader.Integer("ff_dim", 1, 65536, &config.ff_dim);
  reader.Integer("window", 1, 65536, &config.window);
  reader.Integer("segment", 1, kMaxBlockTokens, &config.segment);
  reader.Integer("persistent", 0, 4096, &config.persistent);
  reader.OneOf("gate", kGateKinds, &config.gate);
  reader.Number("rope_base", 1.0, 1e12, &config.rope_base);
  reader.Number("norm_eps", 1e-12, 0.1, &config.norm_eps);
  reader.Boolean("tie_embeddings", &config.tie_embeddings);
  const json& memory = reader.Object("memory");
  const json& tokenizer = reader.Object("tokenizer");
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(ReadMemory(memory, &config.memory));
  RETURN_IF_ERROR(ReadTokenizer(tokenizer, &config.tokenizer));
  RETURN_IF_ERROR(CheckTogether(config));
  return config;
}

std::string FormatModelConfig(const ModelConfig& config) {
  const auto text = [](absl::string_view name) { return std::string(name); };
  nlohmann::ordered_json root;
  root["format"] = text(kFormat);
  root["vocab_size"] = config.vocab_size;
  root["dim"] = config.dim;
  root["blocks"] = nlohmann::ordered_json::array();
  for (BlockKind kind : config.blocks) root["blocks"].push_back(text(BlockKindName(kind)));
  root["heads"] = config.heads;
  root["ff_dim"] = config.ff_dim;
  root["window"] = config.window;
  root["segment"] = config.segment;
  root["persistent"] = config.persistent;
  root["gate"] = text(NameOf(kGateKinds, config.gate));
  root["rope_base"] = config.rope_base;
  root["norm_eps"] = config.norm_eps;
  root["tie_embeddings"] = config.tie_embeddings;
  const MemoryConfig& memory = config.memory;
  root["memory"] = {{"heads", memory.heads},
                    {"head_dim", memory.head_dim},
                    {"depth", memory.depth},
                    {"hidden", memory.hidden},
                    {"chunk", memory.chunk},
                    {"conv", memory.conv},
                    {"theta_max", memory.theta_max},
                    {"momentum", memory.momentum},
                    {"decay", memory.decay},
                    {"residual", memory.residual},
                    {"max_grad_norm", memory.max_grad_norm}};
  root["tokenizer"] = {{"kind", text(NameOf(kTokenizerKinds, config.tokenizer.kind))}};
  if (config.tokenizer.kind == TokenizerKind::kSentencePiece) root["tokenizer"]["file"] = config.tokenizer.file;
  return root.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace mnemosyne

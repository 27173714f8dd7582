#include "core/model/sentence_pieces.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "absl/base/config.h"
#include "core/model/piece_file.h"

namespace mnemosyne {
namespace {

constexpr char kModule[] = "libmnemosyne_sentencepiece.so";

// Debian's libsentencepiece exports a Protocol Buffers of its own, older than the one that LibTorch and gRPC use:
// linked into one program, each calls into the other and crashes before main. So it lives in a module that binds to its
// own.
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr int kBinding = RTLD_NOW | RTLD_LOCAL;  // sanitizers refuse deep binding
#else
constexpr int kBinding = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

// The module, loaded once; null when it cannot be. It is looked for beside the program (bin/ and lib/ of one folder)
// and then where the system looks: the program's own RUNPATH does not count when a sanitizer calls dlopen for us.
void* Module() {
  static void* const module = [] {
    std::error_code ignored;
    const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
    const std::filesystem::path beside = program.parent_path().parent_path() / "lib" / kModule;
    void* const found = dlopen(beside.c_str(), kBinding);
    return found != nullptr ? found : dlopen(kModule, kBinding);
  }();
  return module;
}

}  // namespace

std::unique_ptr<SentencePieces> SentencePieces::Load(const std::string& model, std::string* error) {
  if (const absl::Status status = CheckPieceFile(model); !status.ok()) {
    *error = std::string(status.message());
    return nullptr;
  }
  void* const module = Module();
  if (module == nullptr) {
    *error = std::string("the module ") + kModule + " cannot be loaded";
    return nullptr;
  }
  using LoadFunction = SentencePieces* (*)(const std::string&, std::string*);
  const auto load = reinterpret_cast<LoadFunction>(dlsym(module, "MnemosyneLoadSentencePieces"));
  if (load == nullptr) {
    *error = std::string("the module ") + kModule + " is another version's";
    return nullptr;
  }
  return std::unique_ptr<SentencePieces>(load(model, error));
}

}  // namespace mnemosyne

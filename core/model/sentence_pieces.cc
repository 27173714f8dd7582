#include "core/model/sentence_pieces.h"

#include <dlfcn.h>

namespace mnemosyne {

// Debian's libsentencepiece exports a Protocol Buffers of its own, older than the one that LibTorch and gRPC use: linked
// into one program, each calls into the other and crashes before main. So it lives in a module that binds to its own.
std::unique_ptr<SentencePieces> SentencePieces::Load(const std::string& model, std::string* error) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kBinding = RTLD_NOW | RTLD_LOCAL;  // the address sanitizer refuses deep binding
#else
  constexpr int kBinding = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif
  static void* const module = dlopen("libmnemosyne_sentencepiece.so", kBinding);
  if (module == nullptr) {
    *error = "the module libmnemosyne_sentencepiece.so cannot be loaded";
    return nullptr;
  }
  using LoadFunction = SentencePieces* (*)(const std::string&, std::string*);
  const auto load = reinterpret_cast<LoadFunction>(dlsym(module, "MnemosyneLoadSentencePieces"));
  if (load == nullptr) {
    *error = "the module libmnemosyne_sentencepiece.so is another version's";
    return nullptr;
  }
  return std::unique_ptr<SentencePieces>(load(model, error));
}

}  // namespace mnemosyne

// What a sentencepiece model's file must be before the library may see it: the library follows the tables of the file's
// normalizer wherever they point to, also out of them.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

// INVALID_ARGUMENT when `file` is not the message of a model, or a character table in it leads out of itself.
absl::Status CheckPieceFile(absl::string_view file);

}  // namespace mnemosyne

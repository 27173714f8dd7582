#include "server/page_token.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"

namespace mnemosyne {

std::string PageToken(absl::string_view list, absl::string_view next) {
  ByteWriter out;
  out.U64(Checksum64(absl::StrCat(list, absl::string_view("\0", 1), next)));
  out.Raw(next);
  return absl::WebSafeBase64Escape(out.bytes());
}

absl::StatusOr<std::string> PageStart(absl::string_view list, absl::string_view token) {
  if (token.empty()) return std::string();
  std::string bytes;
  if (absl::WebSafeBase64Unescape(token, &bytes)) {
    ByteReader in(bytes);
    const absl::StatusOr<uint64_t> checksum = in.U64();
    const std::string next(in.rest());
    if (checksum.ok() && PageToken(list, next) == token) return next;
  }
  return absl::InvalidArgumentError("page_token was not given by this server for this list and these labels");
}

}  // namespace mnemosyne

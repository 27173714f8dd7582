// Exports of sessions: a byte that says whether frames are to be sealed, one that says how the stream is cut, then
// frames (kind u8, length u16, body), which get their checksums here since no fuzzer would guess them; or raw bytes.
#include <vector>

#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/session/export_stream.h"
#include "tests/fuzz/require.h"

namespace mnemosyne {

namespace {

// Writes what it is told of again.
class Copier final : public ExportVisitor {
 public:
  absl::Status OnSession(SessionMetadata metadata) override {
    copy_ += writer_.Session(metadata);
    return absl::OkStatus();
  }
  int64_t MaxStateBytes() const override { return 1 << 16; }
  absl::Status OnSnapshot(SnapshotHeader header, std::string state) override {
    Require(static_cast<int64_t>(state.size()) == header.state_bytes, "a state has the size that its header says");
    copy_ += writer_.Header(header);
    copy_ += writer_.StatePart(state);
    return absl::OkStatus();
  }
  absl::Status OnRecord(LogRecord record) override {
    copy_ += writer_.Record(record);
    return absl::OkStatus();
  }
  std::string Whole() { return copy_ + writer_.End(); }
  const std::string& copy() const { return copy_; }

 private:
  ExportWriter writer_;
  std::string copy_;
};

std::string Sealed(absl::string_view frames) {
  ByteWriter out;
  out.Raw("MNEMOEXP");
  out.U32(1);
  uint64_t chain = Checksum64(out.bytes());
  while (frames.size() >= 3) {
    const size_t bytes = static_cast<uint8_t>(frames[1]) | static_cast<uint8_t>(frames[2]) << 8;
    ByteWriter frame;
    frame.U8(frames[0]);
    frame.Sized(frames.substr(3, bytes));
    ByteWriter both;
    both.U64(chain);
    both.U64(Checksum64(frame.bytes()));
    chain = Checksum64(both.bytes());
    frame.U64(chain);
    out.Raw(frame.bytes());
    frames.remove_prefix(std::min(frames.size(), 3 + bytes));
  }
  return out.Take();
}

struct Read {
  absl::Status status;
  std::string copy, whole;
};

Read ReadCut(absl::string_view stream, size_t cut) {
  ExportReader reader;
  Copier copier;
  Read read;
  for (size_t at = 0; at < stream.size() && read.status.ok(); at += cut) {
    read.status = reader.Add(stream.substr(at, cut), copier);
  }
  if (read.status.ok()) read.status = reader.CheckEnded();
  read.copy = copier.copy();
  read.whole = copier.Whole();
  return read;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::string stream = (data[0] & 1) != 0 ? Sealed(rest) : std::string(rest);
  const Read whole = ReadCut(stream, std::max<size_t>(1, stream.size()));
  const Read cut = ReadCut(stream, 1 + data[1]);
  Require(whole.status.code() == cut.status.code() && whole.copy == cut.copy, "cuts change nothing");
  if (!whole.status.ok()) {
    RequireError(whole.status, {absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition});
    return 0;
  }
  const Read again = ReadCut(whole.whole, 7);
  Require(again.status.ok() && again.whole == whole.whole, "what was read can be written and read again");
  for (size_t at = 0; at < stream.size(); at += 1 + stream.size() / 64) {
    Require(!ReadCut(absl::string_view(stream).substr(0, at), 100).status.ok(), "a truncated export is refused");
  }
  return 0;
}

}  // namespace mnemosyne

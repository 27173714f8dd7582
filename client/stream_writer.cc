#include "client/stream_writer.h"

#include <utility>

#include "client/stream_core.h"

namespace mnemosyne::client {

StreamWriter::StreamWriter(std::unique_ptr<Core> core) : core_(std::move(core)) {}
StreamWriter::~StreamWriter() = default;
const StreamOpening& StreamWriter::opened() const { return core_->opened(); }
absl::Status StreamWriter::Append(absl::string_view text, absl::Time deadline) { return core_->Append(text, deadline); }
absl::Status StreamWriter::AppendTokens(absl::Span<const int32_t> token_ids, absl::Time deadline) {
  return core_->AppendTokens(token_ids, deadline);
}
uint64_t StreamWriter::appended_sequence() const { return core_->appended_sequence(); }
absl::Status StreamWriter::Await(DeliveryLevel level, absl::Time deadline) {
  return core_->Await(level, core_->appended_sequence(), deadline);
}
absl::Status StreamWriter::AwaitSequence(DeliveryLevel level, uint64_t sequence, absl::Time deadline) {
  return core_->Await(level, sequence, deadline);
}
absl::Status StreamWriter::Flush(absl::Time deadline) { return core_->Flush(deadline); }
absl::Status StreamWriter::Close(absl::Time deadline) { return core_->Close(deadline); }
void StreamWriter::Cancel() { core_->Cancel(); }
Watermarks StreamWriter::watermarks() const { return core_->progress().watermarks; }
StreamProgress StreamWriter::progress() const { return core_->progress(); }
int64_t StreamWriter::appended_bytes() const { return core_->appended_bytes(); }
int64_t StreamWriter::unacknowledged_bytes() const { return core_->unacknowledged_bytes(); }

}  // namespace mnemosyne::client

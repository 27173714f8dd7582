// A MemoryService that keeps bytes and counts them as tokens, and breaks when it is told to.
//
//   FakeServer fake;
//   fake.service.breaks.push_back({.after_appends = 3, .kind = Break::kCrash});
//   Client::Connect(fake.target(), {});
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "core/base/checksum.h"
#include "mnemosyne/v1/admin_service.grpc.pb.h"
#include "mnemosyne/v1/memory_service.grpc.pb.h"

namespace mnemosyne::client {

// How one stream ends before its time.
struct Break {
  enum Kind {
    kBeforeApplying,  // the last append is read and not applied; UNAVAILABLE
    kUnacknowledged,  // it is applied and not acknowledged; the call is cancelled
    kAcknowledged,    // it is applied and acknowledged; UNAVAILABLE
    kCrash,           // the session falls back to what was durable; UNAVAILABLE
    kKinds,
  };
  int after_appends = 0;
  Kind kind = kBeforeApplying;
  std::string others = {};  // kBeforeApplying: what another writer appends in its place
};

struct FakeSession {
  std::string content;
  uint64_t next_sequence = 1;
  uint64_t epoch = 1;
  std::map<uint64_t, std::string> appends;  // by sequence
  uint64_t durable_sequence = 0;
  size_t durable_bytes = 0;
  bool seat_taken = false;
  std::map<std::string, std::string> labels;
  v1::SessionSettings settings;
};

class FakeMemoryService final : public v1::MemoryService::Service {
 public:
  absl::Mutex mutex;
  std::map<std::string, FakeSession> sessions ABSL_GUARDED_BY(mutex);
  std::deque<Break> breaks ABSL_GUARDED_BY(mutex);      // one for each stream that is opened, then none
  bool hold_acks ABSL_GUARDED_BY(mutex) = false;        // and answers to flushes
  bool durable_lags ABSL_GUARDED_BY(mutex) = false;     // durable_sequence stays one behind, until a flush
  bool memorizes ABSL_GUARDED_BY(mutex) = true;         // false: no flush is answered, memorized_sequence is 0
  bool never_opens ABSL_GUARDED_BY(mutex) = false;      // Open gets no answer
  int stops_reading_after ABSL_GUARDED_BY(mutex) = -1;  // appends, then ABORTED once `abort` is set
  bool abort ABSL_GUARDED_BY(mutex) = false;
  int64_t max_append_bytes ABSL_GUARDED_BY(mutex) = 1 << 20;
  int streams ABSL_GUARDED_BY(mutex) = 0;
  int repeats ABSL_GUARDED_BY(mutex) = 0;  // appends that the server had already
  int gaps ABSL_GUARDED_BY(mutex) = 0;
  size_t largest_append_bytes ABSL_GUARDED_BY(mutex) = 0;
  int64_t received_bytes ABSL_GUARDED_BY(mutex) = 0;
  int64_t acked_bytes ABSL_GUARDED_BY(mutex) = 0;
  int64_t most_unacked_bytes ABSL_GUARDED_BY(mutex) = 0;
  grpc::Status refuse ABSL_GUARDED_BY(mutex);  // what GetSession says when it is not OK
  v1::QueryRequest last_query ABSL_GUARDED_BY(mutex);
  bool query_hangs ABSL_GUARDED_BY(mutex) = false;
  v1::UpdateSessionRequest last_update ABSL_GUARDED_BY(mutex);
  v1::ForkSessionRequest last_fork ABSL_GUARDED_BY(mutex);
  int export_parts ABSL_GUARDED_BY(mutex) = -1;  // so many parts are sent, then DATA_LOSS, or nothing if it hangs
  bool export_hangs ABSL_GUARDED_BY(mutex) = false;
  bool export_began ABSL_GUARDED_BY(mutex) = false;
  bool import_ended ABSL_GUARDED_BY(mutex) = false;  // one that made no session

  grpc::Status Stream(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::StreamResponse, v1::StreamRequest>* stream) override {
    v1::StreamRequest request;
    v1::StreamResponse response;
    if (!stream->Read(&request) || !request.has_open()) return {grpc::StatusCode::INVALID_ARGUMENT, "no open"};
    const std::string id = request.open().session_id();
    Break planned;
    int stop_after = -1;
    {
      absl::MutexLock lock(&mutex);
      ++streams;
      const bool created = !sessions.contains(id);
      if (created && !request.open().create_if_missing()) return NoSession(id);
      FakeSession& session = sessions[id];
      if (created) {
        session.labels = {request.open().labels().begin(), request.open().labels().end()};
        session.settings = request.open().settings();
      }
      if (session.seat_taken && !request.open().take_over()) {
        return {grpc::StatusCode::FAILED_PRECONDITION, "another stream holds the writer's seat"};
      }
      session.seat_taken = true;
      if (!breaks.empty()) {
        planned = breaks.front();
        breaks.pop_front();
      }
      stop_after = stops_reading_after;
      Fill(id, session, response.mutable_opened()->mutable_session());
      response.mutable_opened()->set_created(created);
      response.mutable_opened()->set_block_tokens(1);
      response.mutable_opened()->set_max_append_bytes(max_append_bytes);
    }
    SeatGuard seat{this, id};
    while (Is(&FakeMemoryService::never_opens) && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    stream->Write(response);
    for (int appends = 1; stream->Read(&request); appends += request.has_append()) {
      const bool breaks_now = planned.after_appends > 0 && request.has_append() && appends >= planned.after_appends;
      if (breaks_now && planned.kind == Break::kBeforeApplying) {
        absl::MutexLock lock(&mutex);
        FakeSession& session = sessions[id];
        if (!planned.others.empty()) session.appends[session.next_sequence++] = planned.others;
        return {grpc::StatusCode::UNAVAILABLE, "broken"};
      }
      bool answer;
      {
        absl::MutexLock lock(&mutex);
        FakeSession& session = sessions[id];
        if (request.has_append()) {
          grpc::Status applied = Apply(request.append(), session);
          if (!applied.ok()) return applied;
        }
        if (breaks_now && planned.kind == Break::kUnacknowledged) {
          context->TryCancel();
          return grpc::Status::CANCELLED;
        }
        if (breaks_now && planned.kind == Break::kCrash) {
          session.content.resize(session.durable_bytes);
          session.next_sequence = session.durable_sequence + 1;
          return {grpc::StatusCode::UNAVAILABLE, "crashed"};
        }
        answer = !hold_acks && (memorizes || !request.has_flush());
        if (answer) FillAck(request.has_flush(), session, response.mutable_ack());
      }
      if (answer) stream->Write(response);
      if (breaks_now) return {grpc::StatusCode::UNAVAILABLE, "broken"};
      if (stop_after > 0 && appends >= stop_after) {
        while (!Is(&FakeMemoryService::abort)) absl::SleepFor(absl::Milliseconds(1));
        return {grpc::StatusCode::ABORTED, "another stream took the writer's seat"};
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status Query(grpc::ServerContext* context, const v1::QueryRequest* request,
                     grpc::ServerWriter<v1::QueryResponse>* writer) override {
    {
      absl::MutexLock lock(&mutex);
      last_query = *request;
      if (!sessions.contains(request->session_id())) return NoSession(request->session_id());
    }
    while (Is(&FakeMemoryService::query_hangs) && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    v1::QueryResponse response;
    for (const char* text : {" ", " under", " the stone"}) {
      response.mutable_delta()->set_text(text);
      response.mutable_delta()->clear_token_ids();
      response.mutable_delta()->add_token_ids(7);
      response.mutable_delta()->clear_log_probabilities();
      response.mutable_delta()->add_log_probabilities(-0.5);
      writer->Write(response);
    }
    v1::Summary* summary = response.mutable_summary();
    summary->set_stop_reason(v1::STOP_REASON_STOP_STRING);
    summary->set_answer_tokens(3);
    summary->mutable_total_time()->set_nanos(5000000);
    writer->Write(response);
    return grpc::Status::OK;
  }

  grpc::Status GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                          v1::GetSessionResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (!refuse.ok()) return refuse;
    auto found = sessions.find(request->session_id());
    if (found == sessions.end()) return NoSession(request->session_id());
    Fill(found->first, found->second, response->mutable_session());
    return grpc::Status::OK;
  }

  grpc::Status CreateSession(grpc::ServerContext*, const v1::CreateSessionRequest* request,
                             v1::CreateSessionResponse* response) override {
    absl::MutexLock lock(&mutex);
    if (sessions.contains(request->session_id())) return {grpc::StatusCode::ALREADY_EXISTS, "the id is taken"};
    FakeSession& session = sessions[request->session_id()];
    session.labels = {request->labels().begin(), request->labels().end()};
    session.settings = request->settings();
    Fill(request->session_id(), session, response->mutable_session());
    return grpc::Status::OK;
  }

  grpc::Status UpdateSession(grpc::ServerContext*, const v1::UpdateSessionRequest* request,
                             v1::UpdateSessionResponse* response) override {
    absl::MutexLock lock(&mutex);
    last_update = *request;
    auto found = sessions.find(request->session_id());
    if (found == sessions.end()) return NoSession(request->session_id());
    found->second.settings.MergeFrom(request->settings());
    Fill(found->first, found->second, response->mutable_session());
    return grpc::Status::OK;
  }

  grpc::Status ForkSession(grpc::ServerContext*, const v1::ForkSessionRequest* request,
                           v1::ForkSessionResponse* response) override {
    absl::MutexLock lock(&mutex);
    last_fork = *request;
    auto found = sessions.find(request->session_id());
    if (found == sessions.end()) return NoSession(request->session_id());
    FakeSession& fork = sessions[request->fork_id()] = found->second;
    if (request->has_offset()) fork.content.resize(request->offset());
    Fill(request->fork_id(), fork, response->mutable_session());
    return grpc::Status::OK;
  }

  grpc::Status EraseSpan(grpc::ServerContext*, const v1::EraseSpanRequest* request,
                         v1::EraseSpanResponse* response) override {
    absl::MutexLock lock(&mutex);
    auto found = sessions.find(request->session_id());
    if (found == sessions.end()) return NoSession(request->session_id());
    if (request->begin_offset() >= request->end_offset()) return {grpc::StatusCode::INVALID_ARGUMENT, "it is empty"};
    found->second.content.erase(request->begin_offset(), request->end_offset() - request->begin_offset());
    ++found->second.epoch;
    Fill(found->first, found->second, response->mutable_session());
    response->add_still_in("a-fork");
    return grpc::Status::OK;
  }

  // An export is the content, three bytes a part.
  grpc::Status ExportSession(grpc::ServerContext* context, const v1::ExportSessionRequest* request,
                             grpc::ServerWriter<v1::ExportSessionResponse>* writer) override {
    std::string content;
    int parts;
    {
      absl::MutexLock lock(&mutex);
      auto found = sessions.find(request->session_id());
      if (found == sessions.end()) return NoSession(request->session_id());
      content = found->second.content;
      parts = export_parts;
      export_began = true;
    }
    v1::ExportSessionResponse response;
    for (size_t at = 0; at < content.size() && parts != 0; at += 3, --parts) {
      response.set_data(content.substr(at, 3));
      writer->Write(response);
    }
    while (Is(&FakeMemoryService::export_hangs) && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return parts == 0 ? grpc::Status(grpc::StatusCode::DATA_LOSS, "its log is damaged") : grpc::Status::OK;
  }

  grpc::Status ImportSession(grpc::ServerContext* context, grpc::ServerReader<v1::ImportSessionRequest>* reader,
                             v1::ImportSessionResponse* response) override {
    std::string id, content;
    v1::ImportSessionRequest request;
    for (bool first = true; reader->Read(&request); first = false) {
      if (first) id = request.session_id().empty() ? "as-exported" : request.session_id();
      content += request.data();
      if (content.rfind("broken", 0) == 0) return {grpc::StatusCode::DATA_LOSS, "it is broken"};
    }
    absl::MutexLock lock(&mutex);
    import_ended = context->IsCancelled();
    if (import_ended) return grpc::Status::CANCELLED;
    sessions[id].content = content;
    Fill(id, sessions[id], response->mutable_session());
    return grpc::Status::OK;
  }

  // Two to a page, whatever is asked for.
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override {
    absl::MutexLock lock(&mutex);
    for (auto it = sessions.upper_bound(request->page_token()); it != sessions.end(); ++it) {
      const bool matches = std::all_of(request->labels().begin(), request->labels().end(), [&](const auto& label) {
        auto own = it->second.labels.find(label.first);
        return own != it->second.labels.end() && own->second == label.second;
      });
      if (!matches) continue;
      if (response->sessions_size() == 2) {
        response->set_next_page_token(response->sessions(1).session_id());
        break;
      }
      Fill(it->first, it->second, response->add_sessions());
    }
    return grpc::Status::OK;
  }

  grpc::Status DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse*) override {
    absl::MutexLock lock(&mutex);
    return sessions.erase(request->session_id()) == 0 ? NoSession(request->session_id()) : grpc::Status::OK;
  }

  grpc::Status Reset(grpc::ServerContext*, const v1::ResetRequest* request, v1::ResetResponse* response) override {
    absl::MutexLock lock(&mutex);
    auto found = sessions.find(request->session_id());
    if (found == sessions.end()) return NoSession(request->session_id());
    found->second.content.resize(request->offset());
    ++found->second.epoch;
    Fill(found->first, found->second, response->mutable_session());
    return grpc::Status::OK;
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    v1::Model* model = response->add_models();
    model->set_name("tiny");
    model->set_parameter_count(1234567);
    model->set_tokenizer(v1::TOKENIZER_KIND_BYTES);
    return grpc::Status::OK;
  }

 private:
  struct SeatGuard {
    ~SeatGuard() {
      absl::MutexLock lock(&service->mutex);
      auto found = service->sessions.find(id);
      if (found != service->sessions.end()) found->second.seat_taken = false;
    }
    FakeMemoryService* service;
    std::string id;
  };

  bool Is(bool FakeMemoryService::*flag) {
    absl::MutexLock lock(&mutex);
    return this->*flag;
  }

  static grpc::Status NoSession(const std::string& id) {
    return {grpc::StatusCode::NOT_FOUND, absl::StrCat("no session '", id, "'")};
  }

  grpc::Status Apply(const v1::Append& append, FakeSession& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const size_t bytes = append.has_text() ? append.text().size() : append.token_ids().ids_size() * 4;
    largest_append_bytes = std::max(largest_append_bytes, bytes);
    received_bytes += bytes;
    most_unacked_bytes = std::max(most_unacked_bytes, received_bytes - acked_bytes);
    if (append.sequence() < session.next_sequence) {
      ++repeats;
      return grpc::Status::OK;
    }
    if (append.sequence() > session.next_sequence) {
      ++gaps;
      return {grpc::StatusCode::OUT_OF_RANGE, absl::StrCat("expected append ", session.next_sequence)};
    }
    session.appends[session.next_sequence] = append.text();
    ++session.next_sequence;
    session.content += append.text();
    for (int32_t id : append.token_ids().ids()) session.content += static_cast<char>(id);
    if (durable_lags) {
      session.durable_sequence = session.next_sequence - 2;
      session.durable_bytes = session.content.size() - bytes;
    }
    return grpc::Status::OK;
  }

  void FillAck(bool flushed, FakeSession& session, v1::Ack* ack) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    acked_bytes = received_bytes;
    if (!durable_lags || flushed) session.durable_bytes = session.content.size();
    if (!durable_lags) session.durable_sequence = session.next_sequence - 1;
    ack->set_sequence(session.next_sequence - 1);
    ack->set_durable_sequence(session.durable_sequence);
    // An ack that says flushed makes all durable; durable_sequence may still lag.
    if (flushed) session.durable_sequence = session.next_sequence - 1;
    if (memorizes) ack->set_memorized_sequence(session.durable_sequence);
    ack->set_flushed(flushed);
    FillWatermarks(session, ack->mutable_watermarks());
  }

  static void FillWatermarks(const FakeSession& session, v1::Watermarks* watermarks) {
    watermarks->set_accepted(session.content.size());
    watermarks->set_durable(session.durable_bytes);
    watermarks->set_memorized(session.durable_bytes);
    watermarks->set_accepted_bytes(session.content.size());
  }

  static void Fill(const std::string& id, const FakeSession& session, v1::Session* out) {
    out->set_session_id(id);
    out->set_model("tiny");
    out->set_epoch(session.epoch);
    out->set_next_sequence(session.next_sequence);
    out->mutable_labels()->insert(session.labels.begin(), session.labels.end());
    *out->mutable_settings() = session.settings;
    if (session.settings.has_ttl()) out->mutable_expire_time()->set_seconds(session.settings.ttl().seconds());
    FillWatermarks(session, out->mutable_watermarks());
    if (const auto last = session.appends.find(session.next_sequence - 1); last != session.appends.end()) {
      out->set_last_append_crc32(Crc32(last->second));
    }
  }
};

class FakeAdminService final : public v1::AdminService::Service {
  grpc::Status CreateBackup(grpc::ServerContext*, const v1::CreateBackupRequest*,
                            v1::CreateBackupResponse* response) override {
    response->set_backup_id(7);
    response->set_bytes(2048);
    response->mutable_create_time()->set_seconds(1700000000);
    return grpc::Status::OK;
  }
};

// The services on a port of its own.
class FakeServer {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service);
    builder.RegisterService(&admin_service_);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() {
    {
      absl::MutexLock lock(&service.mutex);
      service.abort = true;
    }
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  std::string target() const { return absl::StrCat("127.0.0.1:", port_); }

  FakeMemoryService service;

 private:
  FakeAdminService admin_service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace mnemosyne::client

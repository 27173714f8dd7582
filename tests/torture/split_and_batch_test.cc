// A session's memory depends on its content alone: however the stream was cut, whoever else was there, however many
// workers stepped it, whatever was evicted, asked, or killed on the way. Each case streams a few random documents to up
// to 64 sessions at once and compares every session, bit for bit, with one that was streamed alone in whole pieces.
//
// A failed case says how to repeat it alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/kernels/tile_product.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

using Random = std::mt19937_64;

// What is appended, or asked and remembered with its answer. A document's parts are cut before they are sent.
struct Part {
  Content content;
  bool is_question = false;
};
struct Document {
  std::string model;
  std::vector<Part> parts;
};

// All that can be seen of a session.
struct Outcome {
  int64_t accepted = 0, accepted_bytes = 0;
  std::string answers;  // to the document's questions and to one at the end
  std::string state;    // as stored; empty: less than a block
};

struct Stream {
  std::string id;
  int document = 0;
  std::vector<Part> pieces;
  size_t done = 0;                        // pieces that its client has sent
  size_t durable = 0;                     // of them, those that a crash may not take
  bool look_again = false;                // after a crash: not all that was sent may be there
  std::map<size_t, std::string> answers;  // by the question's place in `pieces`
};

struct Totals {
  int64_t sessions = 0, tokens = 0, appends = 0, cuts_in_characters = 0, questions = 0, crashes = 0;
  int64_t evictions = 0, reloads = 0, replayed_tokens = 0;
};

// ASCII words, characters of two to four bytes, long stretches without a space, bytes that are no UTF-8 at all.
std::string RandomDocumentText(int64_t bytes, Random& random) {
  std::string text;
  while (static_cast<int64_t>(text.size()) < bytes) {
    switch (random() % 8) {
      case 0:
        text += RandomText(1 + random() % 20, random);
        break;
      case 1:
        for (int i = random() % 30; i >= 0; --i) text += "\xc3\xa9";
        break;
      case 2:
        text += "\xe2\x82\xac\xe6\xbc\xa2 \xf0\x9f\x98\x80\xf0\x9f\x8c\x8d";
        break;
      case 3:
        text += random() % 4 == 0 ? std::string(random() % 5000, 'x') : "\n  ";
        break;
      default:
        for (const char* word : {"the river ", "remembers one", " number, ", "a window"}) {
          if (random() % 2 == 0) text += word;
        }
    }
  }
  text.resize(bytes);
  return text;
}

Content Ids(std::vector<int32_t> ids) { return {.kind = ContentKind::kTokenIds, .tokens = std::move(ids)}; }

Content RandomContent(const ModelConfig& config, int64_t tokens, Random& random) {
  if (config.tokenizer.kind != TokenizerKind::kNone && random() % 4 != 0) {
    return Text(RandomDocumentText(tokens, random));
  }
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(random() % config.vocab_size);
  return Ids(std::move(ids));
}

int64_t Size(const Content& content) {
  return content.kind == ContentKind::kText ? content.bytes.size() : content.tokens.size();
}

std::vector<Part> Cut(const Document& document, Random& random, Totals* totals) {
  std::vector<Part> pieces;
  const int64_t longest = std::vector<int64_t>{1, 5, 90, 700, 1 << 20}[random() % 5];
  for (const Part& part : document.parts) {
    if (part.is_question) {
      pieces.push_back(part);
      continue;
    }
    const Content& whole = part.content;
    for (int64_t from = 0, size = 0; from < Size(whole); from += size) {
      size = std::min<int64_t>(1 + random() % longest, Size(whole) - from);
      if (whole.kind == ContentKind::kText) {
        pieces.push_back({Text(whole.bytes.substr(from, size))});
        totals->cuts_in_characters += (static_cast<unsigned char>(whole.bytes[from]) & 0xc0) == 0x80;
      } else {
        pieces.push_back({Ids({whole.tokens.begin() + from, whole.tokens.begin() + from + size})});
      }
    }
  }
  return pieces;
}

class SplitAndBatch : public EngineTest {
 protected:
  static void SetUpTestSuite() {
    pieces_ = new TempFolder();
    std::string sentences;
    for (int i = 0; i < 100; ++i) {
      sentences +=
          absl::StrCat(i, " the river remembers \xc3\xa9\xc3\xa9 one \xe6\xbc\xa2 number, a \xf0\x9f\x98\x80 window\n");
    }
    ASSERT_OK(WriteFileAtomically(pieces_->File("sentences"), sentences));
    const std::string train =
        absl::StrCat(TRAIN_SENTENCEPIECE, " ", pieces_->File("pieces"),
                     " \"--model_type=bpe --vocab_size=350 --byte_fallback=true --hard_vocab_limit=false\" < ",
                     pieces_->File("sentences"));
    ASSERT_EQ(std::system(train.c_str()), 0) << train;
  }
  static void TearDownTestSuite() {
    delete pieces_;
    pieces_ = nullptr;
  }

  // Two to four random models, of which one takes ids only and one SentencePiece's.
  void MakeModels(Random& random) {
    sources_.clear();
    configs_.clear();
    const std::vector<std::string> weights = {"float32", "float32", "bfloat16", "bfloat16_products"};
    weights_ = weights[random() % (HasTiles() ? 4 : 3)];
    for (const TokenizerKind kind : {TokenizerKind::kBytes, TokenizerKind::kNone, TokenizerKind::kSentencePiece}) {
      if (!sources_.empty() && random() % 3 == 0) continue;
      if (kind == TokenizerKind::kSentencePiece && !kHasSentencePiece) continue;
      ModelConfig config = RandomConfig(random);
      config.tokenizer.kind = kind;
      const std::string name = absl::StrCat("model", sources_.size()), folder = folder_.File(name);
      if (kind == TokenizerKind::kNone) config.vocab_size = 2 + random() % 300;
      if (kind == TokenizerKind::kBytes) config.vocab_size = 256 + random() % 3;
      if (kind == TokenizerKind::kSentencePiece) {
        const std::string vocabulary = *ReadFile(pieces_->File("pieces.vocab"));
        config.vocab_size = std::count(vocabulary.begin(), vocabulary.end(), '\n');
        config.tokenizer.file = "pieces.model";
      }
      WriteRandomModel(folder, config, random(), 1, /*gate_bias_scale=*/3);
      if (kind == TokenizerKind::kSentencePiece) {
        ASSERT_OK(WriteFileAtomically(folder + "/pieces.model", *ReadFile(pieces_->File("pieces.model"))));
      }
      sources_.push_back({name, folder});
      configs_.push_back(config);
    }
  }

  Document RandomDocument(Random& random) {
    const size_t model = random() % sources_.size();
    Document document = {sources_[model].name, {}};
    for (int part = 1 + random() % 4; part > 0; --part) {
      const int64_t most = (random() % 8 == 0 ? 3000 : 400) / (IsLongForm() ? 1 : 4);
      document.parts.push_back({RandomContent(configs_[model], 1 + random() % most, random)});
      if (random() % 5 == 0)
        document.parts.push_back({RandomContent(configs_[model], 1 + random() % 90, random), true});
    }
    return document;
  }

  Engine::Options CaseOptions(const std::string& data) const {
    Engine::Options options = Options(data);
    options.models = sources_;
    options.weights = weights_;
    options.sync_writes = false;  // the process lives on: what the system has is durable enough
    return options;
  }

  // Asks, however full the memory is of others' sessions.
  static std::string Answer(Engine& engine, const std::string& id, const Content& prompt, bool remember) {
    const QueryOptions query = {
        .session_id = id, .prompt = prompt, .max_tokens = remember ? 20 : 4, .remember = remember};
    while (true) {
      auto observer = std::make_shared<RecordingQuery>();
      auto handle = engine.StartQuery(query, observer);
      if (absl::IsResourceExhausted(handle.status())) {
        absl::SleepFor(absl::Milliseconds(1));
        continue;
      }
      EXPECT_TRUE(handle.ok()) << handle.status();
      if (!handle.ok()) return "";
      const auto summary = observer->Wait();
      EXPECT_TRUE(summary.ok()) << summary.status();
      return observer->Digest();
    }
  }

  static absl::StatusOr<std::unique_ptr<Writer>> Open(Engine& engine, const std::string& id, const std::string& model,
                                                      std::shared_ptr<WriterObserver> observer) {
    while (true) {
      auto writer = engine.OpenWriter(id, {.create_if_missing = true, .creation = {.model = model}}, observer);
      if (!absl::IsResourceExhausted(writer.status())) return writer;
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  static absl::Status AppendWhenThereIsRoom(Writer& writer, RecordingWriter& observer, int* rooms, uint64_t sequence,
                                            const Content& content) {
    while (true) {
      const absl::Status status = writer.Append(sequence, content);
      if (!IsNoRoom(status)) return status;
      if (!observer.WaitRooms(++*rooms)) return absl::DeadlineExceededError("no room");
    }
  }

  // Sends the next few pieces through a writer of its own. `appends_left`: where it falls under 0, the crash comes.
  static void Turn(Engine& engine, const std::string& model, Stream& stream, Random& random,
                   std::atomic<int64_t>& appends_left) {
    auto observer = std::make_shared<RecordingWriter>();
    auto writer = Open(engine, stream.id, model, observer);
    ASSERT_OK(writer);
    // A crash takes what was not durable: go on where the session says.
    uint64_t sequence = (*writer)->opened().next_sequence;
    size_t place = 0;
    for (uint64_t seen = 1; place < stream.pieces.size(); ++place) {
      if (stream.pieces[place].is_question ? !stream.answers.contains(place) : seen == sequence) break;
      seen += !stream.pieces[place].is_question;
    }
    ASSERT_GE(place, stream.durable);
    ASSERT_LE(place, stream.done);
    stream.done = place;
    stream.look_again = false;

    int rooms = 0;
    for (int count = 1 + random() % 200; count > 0 && stream.done < stream.pieces.size(); --count) {
      if (appends_left.fetch_sub(1) <= 0) return;
      const Part& piece = stream.pieces[stream.done];
      if (piece.is_question) {
        stream.answers[stream.done] = Answer(engine, stream.id, piece.content, /*remember=*/true);
        stream.done += 1;
        stream.durable = stream.done;
        continue;
      }
      ASSERT_OK(AppendWhenThereIsRoom(**writer, *observer, &rooms, sequence, piece.content));
      sequence += 1;
      stream.done += 1;
    }
    if (random() % 8 == 0) Answer(engine, stream.id, Ids({1}), /*remember=*/false);
    if (stream.done == stream.pieces.size() || random() % 3 == 0) {
      ASSERT_OK((*writer)->Flush());
      ASSERT_TRUE(observer->WaitFlushed(1));
      stream.durable = stream.done;
    }
  }

  void Client(Engine& engine, const std::vector<Document>& documents, std::vector<Stream*> streams, uint64_t seed,
              std::atomic<int64_t>& appends_left) {
    Random random(seed);
    while (!HasFailure() && appends_left > 0) {
      std::erase_if(streams, [](const Stream* one) { return one->done == one->pieces.size() && !one->look_again; });
      if (streams.empty()) return;
      Stream& stream = *streams[random() % streams.size()];
      Turn(engine, documents[stream.document].model, stream, random, appends_left);
    }
  }

  static Outcome Look(Engine& engine, const std::string& id, std::string answers) {
    answers += Answer(engine, id, Ids({1, 0}), /*remember=*/false);
    const auto info = engine.GetSession(id);
    EXPECT_TRUE(info.ok()) << info.status();
    return {info->watermarks.accepted, info->watermarks.accepted_bytes, std::move(answers), ""};
  }

  // Each document in a session of its own, one after the other, every part in one append, one worker.
  std::vector<Outcome> Undisturbed(const std::vector<Document>& documents) {
    Engine::Options options = CaseOptions("undisturbed");
    options.workers = 1;
    auto engine = Start(options);
    std::vector<Outcome> outcomes;
    for (size_t i = 0; i < documents.size(); ++i) {
      Stream stream = {.id = absl::StrCat("d", i), .pieces = documents[i].parts};
      Random random(i);
      std::atomic<int64_t> appends_left = std::numeric_limits<int64_t>::max();
      while (!HasFailure() && stream.done < stream.pieces.size()) {
        Turn(*engine, documents[i].model, stream, random, appends_left);
      }
      std::string answers;
      for (const auto& [place, answer] : stream.answers) answers += answer;
      outcomes.push_back(Look(*engine, stream.id, answers));
    }
    EXPECT_OK(engine->Drain(absl::Now() + kPatience));
    engine = nullptr;
    std::map<std::string, std::string> states = StoredStates(options);
    for (size_t i = 0; i < documents.size(); ++i) outcomes[i].state = states[absl::StrCat("d", i)];
    return outcomes;
  }

  void AddStats(const Engine& engine) {
    const EngineStats stats = engine.stats();
    totals_.evictions += stats.evictions_total;
    totals_.reloads += stats.reload.total();
    totals_.replayed_tokens += stats.replayed_tokens_total;
    totals_.appends += stats.appends_total;
  }

  void RunCase(uint64_t seed) {
    Random random(seed);
    MakeModels(random);
    std::vector<Document> documents;
    for (int i = 1 + random() % 4; i > 0; --i) documents.push_back(RandomDocument(random));
    const std::vector<Outcome> expected = Undisturbed(documents);
    if (HasFailure()) return;

    const int64_t most_sessions = std::vector<int64_t>{1, 4, 16, 64}[random() % 4];
    std::vector<Stream> streams(1 + random() % most_sessions);
    for (size_t i = 0; i < streams.size(); ++i) {
      streams[i].id = absl::StrCat("s", i);
      streams[i].document = random() % documents.size();
      streams[i].pieces = Cut(documents[streams[i].document], random, &totals_);
    }
    size_t pieces = 0;
    for (const Stream& stream : streams) pieces += stream.pieces.size();
    const size_t clients = 1 + random() % std::min<size_t>(8, streams.size());
    Engine::Options options = CaseOptions("disturbed");
    int64_t largest_state = 0;
    {
      const auto probe = Start(options);
      for (const ModelInfo& model : probe->models()) largest_state = std::max(largest_state, model.state_bytes);
    }
    std::unique_ptr<Engine> engine;
    for (int crashes_left = random() % 3; crashes_left >= 0 && !HasFailure(); --crashes_left) {
      options.workers = 1 + random() % 4;
      options.batch_sessions = random() % 2 == 0 ? 1 : 2 + random() % 7;
      options.max_backlog_tokens = random() % 2 == 0 ? 200 : 65536;
      options.snapshot_every_tokens = std::vector<int64_t>{64, 256, 262144}[random() % 3];
      // Every client has one session that cannot be evicted.
      options.max_resident_bytes = random() % 3 == 0 ? int64_t{1} << 30 : (clients + random() % 3) * largest_state;
      engine = Start(options);
      std::atomic<int64_t> appends_left =
          crashes_left > 0 ? static_cast<int64_t>(random() % pieces) : std::numeric_limits<int64_t>::max();
      std::vector<std::thread> threads;
      for (size_t client = 0; client < clients; ++client) {
        std::vector<Stream*> own;
        for (size_t i = client; i < streams.size(); i += clients) own.push_back(&streams[i]);
        threads.emplace_back(
            [&, own, own_seed = random()] { Client(*engine, documents, own, own_seed, appends_left); });
      }
      for (std::thread& thread : threads) thread.join();
      AddStats(*engine);
      if (crashes_left == 0) break;
      totals_.crashes += 1;
      engine = nullptr;  // not drained, with work under way: as a crash leaves it
      for (Stream& stream : streams) stream.look_again = true;
    }
    if (HasFailure()) return;

    std::vector<Outcome> outcomes;
    for (const Stream& stream : streams) {
      std::string answers;
      for (const auto& [place, answer] : stream.answers) answers += answer;
      outcomes.push_back(Look(*engine, stream.id, answers));
      totals_.questions += stream.answers.size();
    }
    EXPECT_OK(engine->Drain(absl::Now() + kPatience));
    engine = nullptr;
    std::map<std::string, std::string> states = StoredStates(options);
    for (size_t i = 0; i < streams.size(); ++i) {
      const Outcome& want = expected[streams[i].document];
      EXPECT_EQ(outcomes[i].accepted, want.accepted) << streams[i].id;
      EXPECT_EQ(outcomes[i].accepted_bytes, want.accepted_bytes) << streams[i].id;
      EXPECT_TRUE(outcomes[i].answers == want.answers) << streams[i].id << " answers otherwise";
      EXPECT_TRUE(states[streams[i].id] == want.state) << streams[i].id << " has another state";
      totals_.sessions += 1;
      totals_.tokens += outcomes[i].accepted;
    }
  }

  static TempFolder* pieces_;  // a SentencePiece model
  std::vector<Engine::ModelSource> sources_;
  std::string weights_;
  std::vector<ModelConfig> configs_;  // of the sources
  Totals totals_;
};
TempFolder* SplitAndBatch::pieces_ = nullptr;

TEST_F(SplitAndBatch, EqualContentHasEqualBits) {
  const uint64_t seed = TestSeed();
  const int64_t cases = Cases(15, 500);
  int64_t i = 0;
  for (; i < cases && !HasFailure(); ++i) {
    SCOPED_TRACE(Repeat(seed + i));
    RunCase(seed + i);
    std::filesystem::remove_all(folder_.File("disturbed"));
    std::filesystem::remove_all(folder_.File("undisturbed"));
    if ((i + 1) % 100 == 0) {
      std::printf("%lld cases\n", static_cast<long long>(i + 1));
      std::fflush(stdout);
    }
  }
  std::printf(
      "%lld cases: %lld sessions, %lld tokens, %lld appends, %lld cuts inside a character, %lld questions remembered,\n"
      "  %lld crashes, %lld evictions, %lld reloads, %lld tokens replayed\n",
      static_cast<long long>(i), static_cast<long long>(totals_.sessions), static_cast<long long>(totals_.tokens),
      static_cast<long long>(totals_.appends), static_cast<long long>(totals_.cuts_in_characters),
      static_cast<long long>(totals_.questions), static_cast<long long>(totals_.crashes),
      static_cast<long long>(totals_.evictions), static_cast<long long>(totals_.reloads),
      static_cast<long long>(totals_.replayed_tokens));
}

}  // namespace
}  // namespace mnemosyne

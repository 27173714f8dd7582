// Damage to any file of a data folder is harmless or reported by name; it never makes a session answer otherwise.
//
// Three folders are built: one after an orderly end, one as a crash leaves it, one of a crash with two write-ahead
// logs. Each case damages one file of a copy, starts an engine on it and looks at every session. Engines run in child
// processes only: one that crashes or hangs is a failure like any other.
//
// While a folder is built, what all of its sessions look like is written down after every operation: a point. What
// nobody can tell from a write that a crash cut short, damage to the end of the newest write-ahead log, may take the
// folder back to an earlier point that was whole before the damage begins, and to nothing else.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "tests/core/engine/engine_fixture.h"
#include "tests/torture/torture.h"

namespace mnemosyne {
namespace {

namespace fs = std::filesystem;
using Random = std::mt19937_64;
using Looks = std::map<std::string, std::string>;  // by session: what can be seen of it

struct Point {
  std::string log;       // the newest write-ahead log
  int64_t log_size = 0;  // of it
  Looks looks;
};

struct Folder {
  std::string name, path;
  std::vector<Point> points;  // the last: as it is
};

// What a child found.
struct Found {
  bool ended = false;   // of its own will
  std::string refused;  // the status that the engine did not start with
  Looks looks;
  std::map<std::string, std::string> errors;  // of sessions that were refused
};

std::string NewestLog(const std::string& path) {
  std::string newest;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename();
    if (absl::EndsWith(name, ".log")) newest = std::max(newest, name);
  }
  return newest;
}

std::string KindOf(const std::string& file) {
  for (const absl::string_view end : {".sst", ".blob", ".log"}) {
    if (absl::EndsWith(file, end)) return absl::StrCat("*", end);
  }
  return file.substr(0, file.find_first_of("-."));
}

enum class Damage { kFlip, kZero, kCut, kDelete, kDrop, kRepeat };
constexpr const char* kDamageNames[] = {"flip a bit of", "zero a range of", "cut the end of",
                                        "delete",        "drop bytes of",   "repeat a range of"};

class DamageTest : public EngineTest {
 protected:
  Engine::Options FolderOptions(const std::string& path) const {
    Engine::Options options = Options();
    options.data_path = path;
    options.models.pop_back();
    options.workers = 1;
    options.snapshot_every_tokens = 64;
    return options;
  }

  // Runs `work`, which returns its result, in a child; false: it crashed, or took over a minute.
  static bool InChild(const std::function<std::string()>& work, std::string* result) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    std::fflush(stdout);
    const bool had_failure = HasFailure();
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      alarm(60);
      const std::string text = work();
      for (size_t done = 0; done < text.size();) {
        const ssize_t more = write(ends[1], text.data() + done, text.size() - done);
        if (more <= 0) _exit(1);
        done += more;
      }
      _exit(HasFailure() && !had_failure ? 1 : 0);
    }
    close(ends[1]);
    char buffer[65536];
    for (ssize_t more; (more = read(ends[0], buffer, sizeof(buffer))) > 0;) result->append(buffer, more);
    close(ends[0]);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) absl::StrAppend(result, "\nended by signal ", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  // All that can be seen of a session, as text.
  static absl::StatusOr<std::string> Look(Engine& engine, const std::string& id) {
    const absl::StatusOr<SessionInfo> info = engine.GetSession(id);
    if (!info.ok()) return info.status();
    auto observer = std::make_shared<RecordingQuery>();
    const auto handle = engine.StartQuery({.session_id = id, .prompt = Text("and then?"), .max_tokens = 12}, observer);
    if (!handle.ok()) return handle.status();
    const auto summary = observer->Wait();
    if (!summary.ok()) return summary.status();
    return absl::StrCat(info->watermarks.accepted, " tokens, ", info->watermarks.accepted_bytes, " bytes, sequence ",
                        info->next_sequence, ", epoch ", info->epoch, ", ",
                        absl::StrJoin(info->labels, "; ", absl::PairFormatter("=")), ", answers ",
                        absl::BytesToHexString(observer->Digest()));
  }

  Found LookAtAll(const std::string& path) const {
    std::string text;
    Found found;
    found.ended = InChild(
        [&] {
          std::string lines;
          const auto engine = Engine::Start(FolderOptions(path));
          if (!engine.ok()) return absl::StrCat("refused\t", OneLine(engine.status()), "\n");
          for (const SessionInfo& one : (*engine)->ListSessions({}, "", 1000).sessions) {
            const auto look = Look(**engine, one.id);
            if (look.ok()) absl::StrAppend(&lines, "look\t", one.id, "\t", *look, "\n");
            if (!look.ok()) absl::StrAppend(&lines, "error\t", one.id, "\t", OneLine(look.status()), "\n");
          }
          return lines;
        },
        &text);
    if (!found.ended) found.refused = text;
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> words = absl::StrSplit(line, '\t');
      if (words[0] == "refused") found.refused = words.at(1);
      if (words[0] == "look") found.looks[words.at(1)] = words.at(2);
      if (words[0] == "error") found.errors[words.at(1)] = words.at(2);
    }
    return found;
  }
  static std::string OneLine(const absl::Status& status) {
    std::string text = status.ToString();
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
    return text;
  }

  // ---- Building

  struct Builder {
    Engine* engine;
    std::string path;
    Random random;
    std::vector<Point> points;

    // The session has changed, or is gone; the others have not.
    void Note(const std::string& id) {
      Point point = points.empty() ? Point() : points.back();
      const auto look = Look(*engine, id);
      point.looks.erase(id);
      if (look.ok()) point.looks[id] = *look;
      EXPECT_TRUE(look.ok() || absl::IsNotFound(look.status())) << look.status();
      point.log = NewestLog(path);
      point.log_size = fs::file_size(fs::path(path) / point.log);
      points.push_back(std::move(point));
    }
    void Append(const std::string& id, int64_t bytes) {
      StreamText(*engine, id, RandomText(bytes, random), {1000});
      Note(id);
    }
    void Fork(const std::string& from, const std::string& to, std::optional<int64_t> offset) {
      EXPECT_OK(engine->ForkSession({.source_id = from, .fork_id = to, .offset = offset}));
      Note(to);
    }
  };

  static void BuildSessions(Builder& to) {
    const SessionSettings trim = {.retention = Retention::kTrim};
    EXPECT_OK(to.engine->CreateSession("trimmed", {.settings = trim}));
    for (int i = 0; i < 12; ++i) to.Append("trimmed", 70);
    for (int i = 0; i < 8; ++i) to.Append("plain", 130);
    for (int i = 0; i < 3; ++i) to.Append("short", 11);
    to.Fork("plain", "fork", std::nullopt);
    to.Fork("plain", "past", 333);
    to.Append("fork", 200);
    to.Append("reset", 500);
    EXPECT_OK(to.engine->Reset("reset", 217));
    to.Note("reset");
    to.Append("erased", 700);
    EXPECT_OK(to.engine->EraseSpan("erased", 100, 350));
    to.Note("erased");
    to.Append("gone", 300);
    EXPECT_OK(to.engine->DeleteSession("gone"));
    to.Note("gone");
  }

  static void GoOn(Builder& to) {
    to.Append("plain", 90);
    to.Append("late", 150);
    to.Append("trimmed", 200);
    EXPECT_OK(to.engine->Reset("plain", 700));
    to.Note("plain");
    to.Append("erased", 77);
    to.Fork("erased", "later", 120);
    to.Append("short", 5);
    EXPECT_OK(to.engine->DeleteSession("past"));
    to.Note("past");
    EXPECT_OK(to.engine->UpdateSession("short", {.labels = {{{"kind", "short"}}}}));
    to.Note("short");
    for (int i = 0; i < 6; ++i) to.Append(i % 2 == 0 ? "fork" : "late", 40);
  }

  // Labels enough to fill the memory of one column family, so that it alone is flushed and the log is switched.
  static void FillOneFamily(Builder& to) {
    to.Append("labelled", 10);
    std::map<std::string, std::string> labels;
    const auto update = [&] { EXPECT_OK(to.engine->UpdateSession("labelled", {.labels = labels})); };
    for (int i = 0; i < 64; ++i) labels[absl::StrCat("label", i)] = std::string(255, 'x');
    for (const std::string first = NewestLog(to.path); NewestLog(to.path) == first && !HasFailure();) update();
    to.Note("labelled");
    labels.clear();
    update();
    to.Note("labelled");
    for (int i = 0; i < 3; ++i) to.Append("short", 9);
  }

  Folder Build(const std::string& name, bool ends_orderly, bool has_two_logs) const {
    Folder folder = {name, folder_.File(name), {}};
    std::string text;
    const auto build = [&] {
      Builder to = {.path = folder.path, .random = Random(7)};
      {
        auto engine = Engine::Start(FolderOptions(folder.path));
        EXPECT_OK(engine);
        if (!engine.ok()) return std::string();
        to.engine = engine->get();
        BuildSessions(to);
        EXPECT_OK((*engine)->Drain(absl::Now() + kPatience));
      }
      auto engine = Engine::Start(FolderOptions(folder.path));
      EXPECT_OK(engine);
      if (!engine.ok()) return std::string();
      to.engine = engine->get();
      if (has_two_logs) {
        to.Append("late", 150);
        FillOneFamily(to);
      }
      GoOn(to);
      EXPECT_OK(ends_orderly ? (*engine)->Drain(absl::Now() + kPatience) : absl::OkStatus());
      *engine = nullptr;
      std::string lines;
      for (const Point& point : to.points) {
        absl::StrAppend(&lines, "point\t", point.log, "\t", point.log_size, "\n");
        for (const auto& [id, look] : point.looks) absl::StrAppend(&lines, "look\t", id, "\t", look, "\n");
      }
      return lines;
    };
    EXPECT_TRUE(InChild(build, &text)) << name << " was not built: " << text;
    for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> words = absl::StrSplit(line, '\t');
      if (words[0] == "point") folder.points.push_back({words[1], std::stoll(words[2]), {}});
      if (words[0] == "look") folder.points.back().looks[words[1]] = words[2];
    }
    return folder;
  }

  // ---- Damaging

  // Damages a random file; returns what was done. `begin`: the first byte that is not as it was; `reaches_end`: nor is
  // anything behind it.
  static std::string DamageOne(const std::string& path, Random& random, std::string* file, int64_t* begin,
                               bool* reaches_end) {
    const bool has_sessions = random() % 3 != 0;  // two times in three, however few such files there are
    std::map<std::string, std::vector<std::string>> kinds;
    for (const auto& entry : fs::directory_iterator(path)) {
      const std::string name = entry.path().filename(), kind = KindOf(name);
      if (has_sessions && (entry.file_size() == 0 || (kind[0] != '*' && kind != "MANIFEST"))) continue;
      kinds[kind].push_back(name);
    }
    auto kind = kinds.begin();
    std::advance(kind, random() % kinds.size());
    std::sort(kind->second.begin(), kind->second.end());
    *file = kind->second[random() % kind->second.size()];
    const std::string whole = absl::StrCat(path, "/", *file);
    std::string bytes = *ReadFile(whole);
    const int64_t size = bytes.size();
    Damage damage = static_cast<Damage>(random() % 6);
    if (size == 0) damage = Damage::kDelete;
    // Somewhere, or near either end, where the small and dense structures are.
    int64_t at = size == 0 ? 0 : random() % size;
    const int64_t near = std::min<int64_t>(size, 300);
    if (size > 0 && random() % 4 == 0) at = random() % near;
    if (size > 0 && random() % 4 == 0) at = size - 1 - random() % near;
    int64_t count = std::min<int64_t>(1 + random() % (1 << random() % 13), size - at);
    const std::string before = bytes;
    switch (damage) {
      case Damage::kFlip:
        bytes[at] ^= 1 << random() % 8;
        count = 1;
        break;
      case Damage::kZero:
        std::fill_n(bytes.begin() + at, count, '\0');
        break;
      case Damage::kCut:
        bytes.resize(at);
        count = size - at;
        break;
      case Damage::kDelete:
        at = 0;
        count = size;
        break;
      case Damage::kDrop:
        bytes.erase(at, count);
        break;
      case Damage::kRepeat:
        bytes.insert(at, bytes.substr(at, count));
        break;
    }
    *begin = std::mismatch(before.begin(), before.end(), bytes.begin(), bytes.end()).first - before.begin();
    *reaches_end = at + count == size && damage != Damage::kRepeat;
    if (damage == Damage::kDelete) {
      *begin = 0;
      fs::remove(whole);
    } else {
      std::ofstream(whole, std::ios::binary | std::ios::trunc) << bytes;
    }
    return absl::StrCat(kDamageNames[static_cast<int>(damage)], " ", *file, " (", size, " bytes): ", count,
                        " bytes at ", at);
  }

  // The refusal has a code that says so, and a name.
  static bool IsRefusal(const std::string& status, const std::string& name) {
    for (const absl::string_view code : {"DATA_LOSS", "FAILED_PRECONDITION", "UNAVAILABLE", "PERMISSION_DENIED"}) {
      if (absl::StartsWith(status, code)) return absl::StrContains(status, name);
    }
    return false;
  }

  // Empty: as it was before the damage, all of it.
  static std::string Differences(const Found& found, const Looks& want, int* refused) {
    std::string out;
    for (const auto& [id, look] : want) {
      if (const auto error = found.errors.find(id); error != found.errors.end()) {
        *refused += 1;
        const bool is_named = IsRefusal(error->second, "session number") || IsRefusal(error->second, id) ||
                              IsRefusal(error->second, ".sst") || IsRefusal(error->second, ".blob");
        if (!is_named) absl::StrAppend(&out, "session '", id, "' was refused with: ", error->second, "\n");
        continue;
      }
      const auto seen = found.looks.find(id);
      if (seen == found.looks.end()) {
        absl::StrAppend(&out, "session '", id, "' is gone\n");
      } else if (seen->second != look) {
        absl::StrAppend(&out, "session '", id, "' is\n  ", seen->second, "\nand not\n  ", look, "\n");
      }
    }
    for (const auto& [id, look] : found.looks) {
      if (!want.contains(id)) absl::StrAppend(&out, "there is a session '", id, "'\n");
    }
    return out;
  }

  std::map<std::string, std::map<std::string, int>> outcomes_;  // by folder and kind of file
};

TEST_F(DamageTest, IsHarmlessOrReportedByName) {
  const uint64_t seed = TestSeed();
  const std::vector<Folder> folders = {Build("orderly", true, false), Build("crashed", false, false),
                                       Build("two-logs", false, true)};
  ASSERT_FALSE(HasFailure());
  for (const Folder& folder : folders) {  // without damage all is as it was
    const std::string copy = folder_.File("copy");
    fs::copy(folder.path, copy);
    const Found found = LookAtAll(copy);
    int refused = 0;
    ASSERT_TRUE(found.ended && found.refused.empty()) << folder.name << ": " << found.refused;
    ASSERT_EQ(Differences(found, folder.points.back().looks, &refused), "") << folder.name;
    ASSERT_EQ(refused, 0);
    fs::remove_all(copy);
  }

  const int64_t cases = Cases(40, 1000);
  int wrong = 0;
  for (int64_t i = 0; i < cases && wrong < 50; ++i) {
    Random random(seed + i);
    const Folder& folder = folders[random() % folders.size()];
    const std::string copy = folder_.File("copy");
    fs::copy(folder.path, copy);
    std::string file;
    int64_t begin = 0;
    bool reaches_end = false;
    const std::string done = DamageOne(copy, random, &file, &begin, &reaches_end);
    const Found found = LookAtAll(copy);
    std::string problem, outcome = "harmless";
    if (!found.ended) {
      problem = absl::StrCat("the engine crashed or hung: ", found.refused);
    } else if (!found.refused.empty()) {
      outcome = "folder refused";
      if (!IsRefusal(found.refused, copy)) problem = absl::StrCat("refused without a name: ", found.refused);
    } else {
      int refused = 0;
      problem = Differences(found, folder.points.back().looks, &refused);
      if (refused > 0) outcome = "session refused";
      const bool is_newest_log = file == NewestLog(folder.path);
      for (size_t point = folder.points.size() - 1; !problem.empty() && is_newest_log && point-- > 0;) {
        if (!Differences(found, folder.points[point].looks, &refused).empty()) continue;
        // What was whole before the damage is still there; and whole records behind it would have told of it.
        const Point& next = folder.points[point + 1];
        const bool may_be_lost = next.log == file && next.log_size > begin;
        const bool looks_cut = reaches_end || point + 2 == folder.points.size();
        if (!may_be_lost || !looks_cut) break;
        problem.clear();
        outcome = "shorter, as after a crash";
      }
    }
    if (!problem.empty()) {
      wrong += 1;
      outcome = "WRONG";
      ADD_FAILURE() << folder.name << ": " << done << "\n" << problem << "\n" << Repeat(seed + i);
    }
    outcomes_[absl::StrCat(folder.name, " ", KindOf(file))][outcome] += 1;
    fs::remove_all(copy);
    if ((i + 1) % 100 == 0) {
      std::printf("%lld cases\n", static_cast<long long>(i + 1));
      std::fflush(stdout);
    }
  }
  for (const auto& [kind, counts] : outcomes_) {
    std::printf("%-20s %s\n", kind.c_str(), absl::StrJoin(counts, ", ", [](std::string* out, const auto& one) {
                                              absl::StrAppend(out, one.second, " ", one.first);
                                            }).c_str());
  }
}

}  // namespace
}  // namespace mnemosyne

#include "train/babi_world.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mnemosyne {

namespace {

constexpr std::array kRooms = {"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"};
constexpr std::array kThings = {"apple", "football", "milk"};
constexpr std::array kPersons = {"Daniel", "John", "Mary", "Sandra"};
constexpr std::array kGivers = {"Bill", "Fred", "Jeff", "Mary"};  // of qa5
constexpr std::array kGo = {"journeyed to", "moved to", "travelled to", "went back to", "went to"};
constexpr std::array kTake = {"got", "grabbed", "picked up", "took"};
constexpr std::array kDrop = {"discarded", "dropped", "left", "put down"};
constexpr std::array kGive = {"gave", "handed", "passed"};

template <typename List>
auto Any(const List& list, Random& random) {
  return list[random() % list.size()];
}

bool Chance(double share, Random& random) { return std::uniform_real_distribution<double>(0, 1)(random) < share; }

// How often a sentence about taking or dropping ends with "there", by task.
constexpr std::array kTakeThere = {0.0, 1.0, 0.14, 0.0, 1.0};
constexpr std::array kDropThere = {0.0, 0.15, 0.24, 0.0, 0.15};

constexpr size_t kRecent = 5;  // a question is about something that one of so many last statements touched
constexpr int kQuestions = 5;  // of a whole story in bAbI; ours ends at any of them

// Statements are added one by one; after each, all that can be asked is added too.
class World {
 public:
  World(int task, Random& random) : task_(task), names_(task == 5 ? kGivers : kPersons), random_(random) {
    for (Person& person : persons_) person.room = Draw(kRooms.size());
    for (Thing& thing : things_) thing.room = Draw(kRooms.size());
  }

  // Something happens.
  void Step() {
    while (!(task_ == 1 ? Go(Draw(persons_.size())) : task_ == 5 ? GiverActs() : CarrierActs())) {
    }
    AddQuestions();
  }
  // Whether there is something to ask after the last statement.
  bool CanAsk() const { return !story_.questions.empty() && story_.questions.back().after == story_.statements.size(); }
  size_t told() const { return story_.statements.size(); }
  // With one of the questions about the end, drawn at random, as its last.
  BabiStory Finish() {
    std::vector<BabiStory::Question>& questions = story_.questions;
    const auto first = std::find_if(questions.begin(), questions.end(), [&](const BabiStory::Question& question) {
      return question.after == story_.statements.size();
    });
    std::swap(*(first + static_cast<int64_t>(Draw(questions.end() - first))), questions.back());
    return std::move(story_);
  }

 private:
  struct Person {
    size_t room;         // told or not
    size_t gone_at = 0;  // statements told when their last walk was; 0: never, and nobody knows the room
  };
  struct Thing {
    size_t room;
    std::optional<size_t> holder;
    size_t touched_at = 0;                  // statements told when it was last taken or dropped; 0: never
    std::optional<size_t> known;            // the room that follows from the statements
    std::vector<size_t> walks;              // rooms that its holder went to, since it was last taken
    size_t given_at = 0, from = 0, to = 0;  // its last gift; 0: none
  };

  size_t Draw(size_t count) { return random_() % count; }
  bool Tell(std::string statement) {
    story_.statements.push_back(std::move(statement));
    return true;
  }
  const char* End(double there) { return Chance(there, random_) ? " there." : "."; }

  // qa2, qa3: one person walks, or does what can be done. False: there is nothing to do.
  bool CarrierActs() {
    const size_t who = Draw(persons_.size());
    if (Chance(0.4, random_)) return Go(who);
    std::vector<std::pair<bool, size_t>> can;  // take?, thing
    for (size_t t = 0; t < things_.size(); ++t) {
      if (CanTake(who, t)) can.emplace_back(true, t);
      if (things_[t].holder == who) can.emplace_back(false, t);
    }
    if (can.empty()) return false;
    const auto [takes, thing] = can[Draw(can.size())];
    return takes ? Take(who, thing) : Drop(who, thing);
  }

  // qa5: walking and giving are twice as likely as taking, four times as likely as dropping.
  bool GiverActs() {
    const size_t pick = Draw(11);
    if (pick < 4) return Go(Draw(persons_.size()));
    struct Act {
      size_t who, thing, to;
    };
    std::vector<Act> can;
    for (size_t who = 0; who < persons_.size(); ++who) {
      for (size_t t = 0; t < things_.size(); ++t) {
        if (pick < 6 ? CanTake(who, t) : pick < 7 && things_[t].holder == who) can.push_back({who, t, 0});
        for (size_t to = 0; pick >= 7 && things_[t].holder == who && to < persons_.size(); ++to) {
          if (to != who && persons_[to].room == persons_[who].room) can.push_back({who, t, to});
        }
      }
    }
    if (can.empty()) return false;
    const Act act = can[Draw(can.size())];
    return pick < 6 ? Take(act.who, act.thing) : pick < 7 ? Drop(act.who, act.thing) : Give(act.who, act.thing, act.to);
  }

  bool CanTake(size_t who, size_t thing) const {
    return !things_[thing].holder && things_[thing].room == persons_[who].room;
  }

  bool Go(size_t who) {
    Person& person = persons_[who];
    person.room = (person.room + 1 + Draw(kRooms.size() - 1)) % kRooms.size();
    Tell(absl::StrCat(names_[who], " ", Any(kGo, random_), " the ", kRooms[person.room], "."));
    person.gone_at = told();
    for (Thing& thing : things_) {
      if (thing.holder != who) continue;
      thing.known = thing.room = person.room;
      thing.walks.push_back(person.room);
    }
    return true;
  }
  bool Take(size_t who, size_t t) {
    Thing& thing = things_[t];
    thing.holder = who;
    thing.walks.clear();
    Tell(absl::StrCat(names_[who], " ", Any(kTake, random_), " the ", kThings[t], End(kTakeThere[task_ - 1])));
    thing.touched_at = told();
    return true;
  }
  bool Drop(size_t who, size_t t) {
    Thing& thing = things_[t];
    thing.holder.reset();
    if (persons_[who].gone_at > 0) thing.known = persons_[who].room;
    Tell(absl::StrCat(names_[who], " ", Any(kDrop, random_), " the ", kThings[t], End(kDropThere[task_ - 1])));
    thing.touched_at = told();
    return true;
  }
  bool Give(size_t who, size_t t, size_t to) {
    Thing& thing = things_[t];
    thing.holder = to;
    Tell(absl::StrCat(names_[who], " ", Any(kGive, random_), " the ", kThings[t], " to ", names_[to], "."));
    last_gift_[{who, to}] = t;
    thing.given_at = told();
    thing.from = who;
    thing.to = to;
    return true;
  }

  bool IsRecent(size_t at) const { return at > 0 && at + kRecent > told(); }
  void Ask(std::string question, const char* answer) {
    story_.questions.push_back({told(), std::move(question), answer});
  }
  void AddQuestions() {
    for (size_t p = 0; task_ == 1 && p < persons_.size(); ++p) {
      if (IsRecent(persons_[p].gone_at)) Ask(absl::StrCat("Where is ", names_[p], "?"), kRooms[persons_[p].room]);
    }
    for (size_t t = 0; task_ > 1 && t < things_.size(); ++t) {
      const Thing& thing = things_[t];
      if (task_ == 5 && IsRecent(thing.given_at)) AddGiftQuestions(t);
      if (task_ == 5 || !IsRecent(thing.touched_at)) continue;
      if (task_ == 2 && thing.known && (!thing.holder || !thing.walks.empty())) {
        Ask(absl::StrCat("Where is the ", kThings[t], "?"), kRooms[*thing.known]);
      }
      if (task_ == 3) AddJourneyQuestions(t);
    }
  }
  void AddJourneyQuestions(size_t t) {
    const std::vector<size_t>& walks = things_[t].walks;
    for (size_t i = 1; i < walks.size(); ++i) {
      // A room that was visited again would be asked about its last visit.
      if (std::find(walks.begin() + static_cast<int64_t>(i) + 1, walks.end(), walks[i]) != walks.end()) continue;
      Ask(absl::StrCat("Where was the ", kThings[t], " before the ", kRooms[walks[i]], "?"), kRooms[walks[i - 1]]);
    }
  }
  // One in three asks what was given, as in bAbI; not where another thing was given so later.
  void AddGiftQuestions(size_t t) {
    const Thing& thing = things_[t];
    const char* const from = names_[thing.from];
    const char* const to = names_[thing.to];
    const bool is_last = last_gift_.at({thing.from, thing.to}) == t;
    for (int i = 0; is_last && i < 2; ++i) Ask(absl::StrCat("What did ", from, " give to ", to, "?"), kThings[t]);
    Ask(absl::StrCat("Who did ", from, " give the ", kThings[t], " to?"), to);
    Ask(absl::StrCat("Who gave the ", kThings[t], " to ", to, "?"), from);
    Ask(absl::StrCat("Who gave the ", kThings[t], "?"), from);
    Ask(absl::StrCat("Who received the ", kThings[t], "?"), to);
  }

  const int task_;
  const std::array<const char*, 4> names_;
  Random& random_;
  BabiStory story_;
  std::array<Person, kPersons.size()> persons_{};
  std::array<Thing, kThings.size()> things_{};
  std::map<std::pair<size_t, size_t>, size_t> last_gift_;  // by giver and receiver: which thing
};

// Three rooms on one axis, in two statements. The answer is the subject of one of them, as in bAbI.
BabiStory Directions(Random& random) {
  constexpr std::array kDirections = {"north", "south", "east", "west"};
  std::array rooms = kRooms;
  std::shuffle(rooms.begin(), rooms.end(), random);
  const char* const a = rooms[0];
  const char* const b = rooms[1];
  const char* const c = rooms[2];
  struct Statement {
    const char* subject;
    size_t direction;
    const char* object;
  };
  const size_t direction = random() % kDirections.size(), back = direction ^ 1;
  const double shape = std::uniform_real_distribution<double>(0, 1)(random);
  const Statement first = {a, direction, b};
  const Statement second = shape < 0.44   ? Statement{c, back, b}       // a common object
                           : shape < 0.72 ? Statement{c, direction, a}  // a chain
                           : shape < 0.86 ? Statement{b, direction, c}  // a chain
                                          : Statement{a, back, c};      // a common subject
  BabiStory story;
  for (const Statement& one : {first, second}) {
    story.statements.push_back(
        absl::StrCat("The ", one.subject, " is ", kDirections[one.direction], " of the ", one.object, "."));
    story.questions.push_back(
        {2, absl::StrCat("What is ", kDirections[one.direction], " of the ", one.object, "?"), one.subject});
    story.questions.push_back(
        {2, absl::StrCat("What is the ", one.object, " ", kDirections[one.direction ^ 1], " of?"), one.subject});
  }
  std::shuffle(story.questions.begin(), story.questions.end(), random);
  return story;
}

}  // namespace

BabiStory MakeBabiStory(int task, Random& random) {
  if (task == 4) return Directions(random);
  World world(task, random);
  // After every two statements a question is asked, when there is one.
  int questions = 1 + static_cast<int>(random() % kQuestions);
  while (questions > 0) {
    world.Step();
    world.Step();
    if (world.CanAsk()) --questions;
  }
  return world.Finish();
}

std::string ScatterStory(const BabiStory& story, const Haystack& haystack, int64_t bytes, Random& random) {
  int64_t used = 0;
  for (const std::string& statement : story.statements) used += static_cast<int64_t>(statement.size()) + 1;
  // Every statement comes after a space, and so does every sentence.
  const std::string hay =
      bytes > used ? absl::StrCat(" ", haystack.Draw(std::max<int64_t>(1, bytes - used - 1), random)) : "";
  std::vector<size_t> ends = {0};
  for (size_t i = 0; i + 1 < hay.size(); ++i) {
    if ((hay[i] == '.' || hay[i] == '!' || hay[i] == '?') && hay[i + 1] == ' ') ends.push_back(i + 1);
  }
  ends.push_back(hay.size());
  std::vector<size_t> places(story.statements.size());
  for (size_t& place : places) place = Any(ends, random);
  std::sort(places.begin(), places.end());
  std::string text;
  size_t done = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    absl::StrAppend(&text, hay.substr(done, places[i] - done), " ", story.statements[i]);
    done = places[i];
  }
  absl::StrAppend(&text, hay.substr(done));
  return text.substr(1);
}

}  // namespace mnemosyne

#include "train/babi_world.h"

#include <algorithm>
#include <array>
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

// Statements are added one by one; after each, what can be asked is added too.
class World {
 public:
  World(int task, Random& random) : task_(task), persons_(task == 5 ? kGivers : kPersons), random_(random) {
    for (int& room : thing_room_) room = static_cast<int>(random_() % kRooms.size());
  }

  // One person goes somewhere, or takes, drops or gives a thing.
  void Step() {
    const int person = static_cast<int>(random_() % persons_.size());
    if (task_ == 1 || !room_[person] || random_() % 2 == 0 || !Handle(person)) Go(person);
    AddQuestions();
  }
  // Whether the last statement left something to ask.
  bool CanAsk() const { return !story_.questions.empty() && story_.questions.back().after == story_.statements.size(); }
  // With one of the questions about the end as its last, drawn at random.
  BabiStory Finish() {
    std::vector<BabiStory::Question>& questions = story_.questions;
    const auto first = std::find_if(questions.begin(), questions.end(), [&](const BabiStory::Question& question) {
      return question.after == story_.statements.size();
    });
    std::swap(*(first + static_cast<int64_t>(random_() % (questions.end() - first))), questions.back());
    return std::move(story_);
  }

 private:
  struct Gift {
    int from, to, thing;
  };

  void Tell(std::string statement) { story_.statements.push_back(std::move(statement)); }
  const char* There() { return random_() % 4 == 0 ? " there." : "."; }

  void Go(int person) {
    int to;
    do {
      to = static_cast<int>(random_() % kRooms.size());
    } while (room_[person] && to == *room_[person]);
    room_[person] = to;
    Tell(absl::StrCat(persons_[person], " ", Any(kGo, random_), " the ", kRooms[to], "."));
    for (size_t thing = 0; thing < kThings.size(); ++thing) {
      if (holder_[thing] == person) ComesTo(thing, to);
    }
  }

  // False when there is nothing that this person can do with any thing.
  bool Handle(int person) {
    std::vector<size_t> here, held;
    for (size_t thing = 0; thing < kThings.size(); ++thing) {
      if (holder_[thing] == person) held.push_back(thing);
      if (!holder_[thing] && thing_room_[thing] == *room_[person]) here.push_back(thing);
    }
    std::vector<int> near;
    for (int other = 0; task_ == 5 && other < static_cast<int>(persons_.size()); ++other) {
      if (other != person && room_[other] == room_[person]) near.push_back(other);
    }
    if (!held.empty() && !near.empty()) {
      Give(person, near[random_() % near.size()], held[random_() % held.size()]);
    } else if (!here.empty() && (held.empty() || random_() % 2 == 0)) {
      Take(person, here[random_() % here.size()]);
    } else if (!held.empty()) {
      Drop(person, held[random_() % held.size()]);
    } else {
      return false;
    }
    return true;
  }

  void Take(int person, size_t thing) {
    holder_[thing] = person;
    Tell(absl::StrCat(persons_[person], " ", Any(kTake, random_), " the ", kThings[thing], There()));
    ComesTo(thing, *room_[person]);
  }
  void Drop(int person, size_t thing) {
    holder_[thing].reset();
    Tell(absl::StrCat(persons_[person], " ", Any(kDrop, random_), " the ", kThings[thing], There()));
  }
  void Give(int person, int to, size_t thing) {
    holder_[thing] = to;
    gift_ = Gift{person, to, static_cast<int>(thing)};
    Tell(absl::StrCat(persons_[person], " ", Any(kGive, random_), " the ", kThings[thing], " to ", persons_[to], "."));
  }

  // A thing that has been handled is where the reader knows it to be.
  void ComesTo(size_t thing, int room) {
    thing_room_[thing] = room;
    if (journey_[thing].empty() || journey_[thing].back() != room) journey_[thing].push_back(room);
  }

  void Ask(std::string question, const char* answer) {
    story_.questions.push_back({story_.statements.size(), std::move(question), answer});
  }
  void AddQuestions() {
    switch (task_) {
      case 1:
        for (size_t person = 0; person < persons_.size(); ++person) {
          if (room_[person]) Ask(absl::StrCat("Where is ", persons_[person], "?"), kRooms[*room_[person]]);
        }
        break;
      case 2:
        for (size_t thing = 0; thing < kThings.size(); ++thing) {
          if (!journey_[thing].empty()) {
            Ask(absl::StrCat("Where is the ", kThings[thing], "?"), kRooms[journey_[thing].back()]);
          }
        }
        break;
      case 3:
        for (size_t thing = 0; thing < kThings.size(); ++thing) {
          const std::vector<int>& journey = journey_[thing];
          if (journey.size() < 2) continue;
          Ask(absl::StrCat("Where was the ", kThings[thing], " before the ", kRooms[journey.back()], "?"),
              kRooms[journey[journey.size() - 2]]);
        }
        break;
      case 5:
        if (gift_) AddGiftQuestions();
        break;
    }
  }
  void AddGiftQuestions() {
    const char* const from = persons_[gift_->from];
    const char* const to = persons_[gift_->to];
    const char* const thing = kThings[gift_->thing];
    Ask(absl::StrCat("What did ", from, " give to ", to, "?"), thing);
    Ask(absl::StrCat("Who did ", from, " give the ", thing, " to?"), to);
    Ask(absl::StrCat("Who gave the ", thing, " to ", to, "?"), from);
    Ask(absl::StrCat("Who gave the ", thing, "?"), from);
    Ask(absl::StrCat("Who received the ", thing, "?"), to);
  }

  const int task_;
  const std::array<const char*, 4> persons_;
  Random& random_;
  BabiStory story_;
  std::array<std::optional<int>, kPersons.size()> room_;   // by person; told
  std::array<std::optional<int>, kThings.size()> holder_;  // by thing
  std::array<int, kThings.size()> thing_room_{};           // where it lies, or was taken to
  std::array<std::vector<int>, kThings.size()> journey_;   // rooms it was in, as far as it is told
  std::optional<Gift> gift_;                               // the last
};

// Three rooms in two statements; the question is about the one in the middle.
BabiStory Directions(Random& random) {
  constexpr std::array kDirections = {"north", "south", "east", "west"};
  const auto opposite = [](size_t direction) { return direction ^ 1; };
  std::array rooms = kRooms;
  std::shuffle(rooms.begin(), rooms.end(), random);
  const char* const middle = rooms[0];
  // Where the two others lie, seen from the middle.
  std::array<size_t, 2> lies;
  lies[0] = random() % kDirections.size();
  do {
    lies[1] = random() % kDirections.size();
  } while (lies[1] == lies[0]);
  BabiStory story;
  for (size_t i = 0; i < lies.size(); ++i) {
    const char* const other = rooms[i + 1];
    story.statements.push_back(
        random() % 2 == 0
            ? absl::StrCat("The ", other, " is ", kDirections[lies[i]], " of the ", middle, ".")
            : absl::StrCat("The ", middle, " is ", kDirections[opposite(lies[i])], " of the ", other, "."));
  }
  for (size_t i = 0; i < lies.size(); ++i) {
    story.questions.push_back(
        {2, absl::StrCat("What is ", kDirections[lies[i]], " of the ", middle, "?"), rooms[i + 1]});
    story.questions.push_back(
        {2, absl::StrCat("What is the ", middle, " ", kDirections[opposite(lies[i])], " of?"), rooms[i + 1]});
  }
  std::shuffle(story.questions.begin(), story.questions.end(), random);
  return story;
}

int64_t Uniform(int64_t low, int64_t high, Random& random) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

}  // namespace

BabiStory MakeBabiStory(int task, Random& random) {
  if (task == 4) return Directions(random);
  World world(task, random);
  // Statements a story, about those of bAbI.
  constexpr std::array<std::pair<int64_t, int64_t>, kBabiTasks> kStatements = {
      {{2, 10}, {6, 40}, {12, 90}, {2, 2}, {6, 40}}};
  const auto [least, most] = kStatements[task - 1];
  const int64_t wanted = Uniform(least, most, random);
  for (int64_t i = 0; i < wanted || !world.CanAsk(); ++i) world.Step();
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

// An oracle for stories of the bAbI world: reads statements as text, keeps what they say, and answers questions from
// it. Knows nothing of how the stories were made.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace mnemosyne {

class BabiReader {
 public:
  void Read(absl::string_view statement) {
    std::vector<std::string> words = absl::StrSplit(absl::StripSuffix(statement, "."), ' ');
    if (words.back() == "there") words.pop_back();
    const std::string who = words[0], last = words.back(), verb = words[1];
    if (who == "The") {  // The A is north of the B.
      lies_[{words[3], last}] = words[1];
      lies_[{Opposite(words[3]), words[1]}] = last;
    } else if (verb == "picked" || verb == "put" || verb == "got" || verb == "grabbed" || verb == "took") {
      verb == "put" ? Drop(who, last) : Take(who, last);
    } else if (verb == "discarded" || verb == "dropped" || verb == "left") {
      Drop(who, last);
    } else if (verb == "gave" || verb == "handed" || verb == "passed") {  // gave the THING to WHOM
      has_[words[3]] = last;
      gifts_.push_back({who, words[3], last});
    } else {
      room_[who] = last;
      for (const auto& [thing, holder] : has_) {
        if (holder == who) Comes(thing, last);
      }
    }
  }

  // "" when it does not follow from what was read.
  std::string Answer(absl::string_view question) const {
    const std::vector<std::string> words = absl::StrSplit(absl::StripSuffix(question, "?"), ' ');
    const std::string start = absl::StrJoin(words.begin(), words.begin() + 2, " ");
    if (start == "Where is" && words.size() == 3) return Get(room_, words[2]);
    if (start == "Where is") return journey_.contains(words[3]) ? journey_.at(words[3]).back() : "";
    if (start == "Where was") {
      const std::vector<std::string>& journey = journey_.at(words[3]);
      for (size_t i = journey.size(); i-- > 1;) {
        if (journey[i] == words.back()) return journey[i - 1];
      }
      return "";
    }
    if (start == "What is") {
      if (words[2] == "the") return Get(lies_, std::pair(Opposite(words[4]), words[3]));  // What is the A north of?
      return Get(lies_, std::pair(words[2], words.back()));                               // What is north of the A?
    }
    for (size_t i = gifts_.size(); i-- > 0;) {  // the last that fits
      const auto& [from, thing, to] = gifts_[i];
      const std::map<std::string, std::string> answers = {
          {absl::StrCat("What did ", from, " give to ", to, "?"), thing},
          {absl::StrCat("Who did ", from, " give the ", thing, " to?"), to},
          {absl::StrCat("Who gave the ", thing, " to ", to, "?"), from},
          {absl::StrCat("Who gave the ", thing, "?"), from},
          {absl::StrCat("Who received the ", thing, "?"), to}};
      if (answers.contains(std::string(question))) return answers.at(std::string(question));
    }
    return "";
  }
  bool is_broken() const { return is_broken_; }  // a statement contradicts those before it

 private:
  struct Gift {
    std::string from, thing, to;
  };
  static std::string Opposite(const std::string& direction) {
    return direction == "north" ? "south" : direction == "south" ? "north" : direction == "east" ? "west" : "east";
  }
  template <typename Map, typename Key>
  static std::string Get(const Map& map, const Key& key) {
    const auto found = map.find(key);
    return found == map.end() ? "" : found->second;
  }
  void Take(const std::string& who, const std::string& thing) {
    has_[thing] = who;
    if (room_.contains(who)) Comes(thing, room_.at(who));
  }
  void Drop(const std::string& who, const std::string& thing) {
    if (has_.at(thing) != who) is_broken_ = true;
    has_.erase(thing);
  }
  void Comes(const std::string& thing, const std::string& room) {
    std::vector<std::string>& journey = journey_[thing];
    if (journey.empty() || journey.back() != room) journey.push_back(room);
  }

  std::map<std::string, std::string> room_, has_;
  std::map<std::string, std::vector<std::string>> journey_;
  std::map<std::pair<std::string, std::string>, std::string> lies_;  // {direction, of what} -> what
  std::vector<Gift> gifts_;
  bool is_broken_ = false;
};

}  // namespace mnemosyne

// Words and names in WordNet's formats, a few hundred of each, for tests.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/base/file.h"
#include "tests/status_matchers.h"

namespace mnemosyne {

inline void WriteWordFiles(const std::string& folder) {
  std::string words = "  1 a licence line\n", synsets = words;
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'p'; ++b) {
      words += std::string{a, b, 'o', 'n', 'y'} + " n 4 1 @ 4 1 0\n";
      const std::string name = {static_cast<char>(a - 'a' + 'A'), b, 'n', 'a'};
      synsets += "00000001 18 n 01 " + name + "_of_" + name + " 0 001 @i 00000002 n 0000 | not a plain name\n";
      synsets += "00000001 18 n 02 " + name + "_" + name + "by 0 Another 0 001 @i 00000002 n 0000 | a person\n";
      synsets += "00000001 15 n 01 " + name + "ville 0 001 @i 00000002 n 0000 | a place\n";
      synsets += "00000001 15 n 01 " + name + "field 0 001 @ 00000002 n 0000 | a kind of place\n";
    }
  }
  ASSERT_OK(WriteFileAtomically(folder + "/index.adj", words));
  ASSERT_OK(WriteFileAtomically(folder + "/index.noun", words));
  ASSERT_OK(WriteFileAtomically(folder + "/data.noun", synsets));
}

}  // namespace mnemosyne

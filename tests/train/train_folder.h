// What tests of training documents read: a folder with words in WordNet's index format and some text.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/base/file.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "train/document.h"

namespace mnemosyne {

class TrainFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string words, text;
    for (char a = 'a'; a <= 'z'; ++a) {
      for (char b = 'a'; b <= 'p'; ++b) words += std::string{a, b, 'e', 'l'} + " n 4 1 @ 4 1 0\n";
    }
    for (int i = 0; i < 2000; ++i) text += "jumps over the lazy dog. ";
    ASSERT_OK(WriteFileAtomically(folder_.File("index.adj"), words));
    ASSERT_OK(WriteFileAtomically(folder_.File("index.noun"), words));
    ASSERT_OK(WriteFileAtomically(folder_.File("text.txt"), text));
  }
  Vocabulary Words() const { return *Vocabulary::Load(folder_.path()); }
  Haystack English() const { return *Haystack::FromFiles({folder_.File("text.txt")}); }

  TempFolder folder_;
};

}  // namespace mnemosyne

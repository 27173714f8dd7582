// What tests of training documents read: a folder with words in WordNet's formats and some text.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/base/file.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"
#include "tests/train/word_files.h"
#include "train/document.h"

namespace mnemosyne {

class TrainFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteWordFiles(folder_.path());
    std::string text;
    for (int i = 0; i < 2000; ++i) text += "jumps over the lazy dog. ";
    ASSERT_OK(WriteFileAtomically(folder_.File("text.txt"), text));
  }
  Vocabulary Words() const { return *Vocabulary::Load(folder_.path()); }
  Haystack English() const { return *Haystack::FromFiles({folder_.File("text.txt")}); }

  TempFolder folder_;
};

}  // namespace mnemosyne

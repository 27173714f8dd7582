#include "core/model/tokenizer.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "gtest/gtest.h"
#include "tests/core/model/sentencepiece_training.h"
#include "tests/status_matchers.h"
#include "tests/temp_folder.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> Bytes(int64_t vocab_size) {
  ModelConfig config;
  config.vocab_size = vocab_size;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(config, "");
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

// The tokens of a stream that arrives in these parts, and what still waits at its end.
struct Streamed {
  std::vector<int32_t> tokens;
  std::string pending;
};
Streamed Stream(const Tokenizer& tokenizer, const std::vector<std::string>& parts) {
  Streamed out;
  for (const std::string& part : parts) {
    out.pending += part;
    while (const std::optional<size_t> size = tokenizer.NextPiece(out.pending)) {
      const absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(out.pending.substr(0, *size));
      EXPECT_OK(tokens);
      out.tokens.insert(out.tokens.end(), tokens->begin(), tokens->end());
      out.pending.erase(0, *size);
    }
  }
  return out;
}

TEST(BytesTokenizer, EveryByteIsItsOwnToken) {
  const std::unique_ptr<Tokenizer> tokenizer = Bytes(256);
  std::string text;
  for (int i = 0; i < 256; ++i) text.push_back(static_cast<char>(i));
  EXPECT_EQ(tokenizer->NextPiece(""), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece(text), 256);
  const absl::StatusOr<std::vector<int32_t>> tokens = tokenizer->Encode(text);
  ASSERT_OK(tokens);
  for (int i = 0; i < 256; ++i) EXPECT_EQ((*tokens)[i], i);
  EXPECT_EQ(tokenizer->Decode(*tokens), text);
}

TEST(BytesTokenizer, SpecialTokensAreThereWhenTheVocabularyHasRoom) {
  EXPECT_EQ(Bytes(256)->end_of_answer(), std::nullopt);
  EXPECT_EQ(Bytes(256)->question(), std::nullopt);
  EXPECT_EQ(Bytes(257)->end_of_answer(), kByteEndOfAnswer);
  EXPECT_EQ(Bytes(257)->question(), std::nullopt);
  EXPECT_EQ(Bytes(258)->end_of_answer(), kByteEndOfAnswer);
  EXPECT_EQ(Bytes(258)->question(), kByteQuestion);
  EXPECT_EQ(Bytes(300)->Decode({257, 'a', 256, 299, 'b'}), "ab");
}

TEST(NoTokenizer, RefusesTextAndDecodesToNothing) {
  ModelConfig config;
  config.tokenizer.kind = TokenizerKind::kNone;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(config, "");
  ASSERT_OK(tokenizer);
  EXPECT_THAT((*tokenizer)->Encode("text"), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no tokenizer")));
  EXPECT_EQ((*tokenizer)->Decode({1, 2}), "");
  EXPECT_EQ((*tokenizer)->end_of_answer(), std::nullopt);
  EXPECT_EQ((*tokenizer)->question(), std::nullopt);
}

// Models of several kinds, trained once for all tests below.
class SentencePieceTokenizer : public testing::Test {
 protected:
  static std::vector<std::string> Sentences() {
    std::vector<std::string> out;
    const std::vector<std::string> nouns = {"garden", "number", "window", "letter", "mountain", "river"};
    const std::vector<std::string> verbs = {"remembers", "forgets", "answers", "keeps", "reads"};
    for (const std::string& noun : nouns) {
      for (const std::string& verb : verbs) {
        for (const std::string& other : nouns)
          out.push_back(absl::StrCat("The ", noun, " ", verb, " one ", other, ": 1234567890."));
      }
    }
    return out;
  }

  static void SetUpTestSuite() {
    folder_ = new TempFolder();
    const std::vector<std::string> sentences = Sentences();
    Train(sentences, "unigram", "--model_type=unigram --vocab_size=80 --hard_vocab_limit=false");
    Train(sentences, "bpe", "--model_type=bpe --vocab_size=340 --byte_fallback=true");
    Train(sentences, "keep",
          "--model_type=bpe --vocab_size=340 --byte_fallback=true --normalization_rule_name=identity "
          "--remove_extra_whitespaces=false --add_dummy_prefix=false");
    Train(sentences, "no_end", "--model_type=bpe --vocab_size=80 --eos_id=-1");
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static void Train(const std::vector<std::string>& sentences, const std::string& name, const std::string& flags) {
    ASSERT_NE(TrainSentencePieces(sentences, flags, folder_->File(name)), "") << name;
  }

  // The vocabulary's size as the trainer wrote it: a line a piece.
  static int64_t Pieces(const std::string& name) {
    const absl::StatusOr<std::string> vocabulary = ReadFile(folder_->File(name + ".vocab"));
    EXPECT_OK(vocabulary);
    return std::count(vocabulary->begin(), vocabulary->end(), '\n');
  }
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const std::string& file, int64_t vocab_size) {
    ModelConfig config;
    config.vocab_size = vocab_size;
    config.tokenizer.kind = TokenizerKind::kSentencePiece;
    config.tokenizer.file = file;
    return Tokenizer::Create(config, folder_->path());
  }
  static std::unique_ptr<Tokenizer> Load(const std::string& name) {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Create(name + ".model", Pieces(name));
    EXPECT_OK(tokenizer);
    return *std::move(tokenizer);
  }

  static TempFolder* folder_;
};
TempFolder* SentencePieceTokenizer::folder_ = nullptr;

const char* const kTexts[] = {
    "The garden remembers one letter: 1234567890.",  " The number  keeps   two spaces, and one behind ", "   ", "a",
    "The river reads a word it never saw: zyxw-qq.",
};

TEST_F(SentencePieceTokenizer, DecodingGivesTheTextBack) {
  for (const char* name : {"bpe", "keep"}) {
    const std::unique_ptr<Tokenizer> tokenizer = Load(name);
    for (const std::string text : kTexts) {
      const absl::StatusOr<std::vector<int32_t>> tokens = tokenizer->Encode(text);
      ASSERT_OK(tokens);
      EXPECT_EQ(tokenizer->Decode(*tokens), text) << name;
      EXPECT_LT(tokens->size(), text.size() + 3);
      // Token by token, as an answer is decoded.
      std::string decoded;
      for (const int32_t token : *tokens) decoded += tokenizer->Decode({token});
      EXPECT_EQ(decoded, text) << name;
    }
  }
}

TEST_F(SentencePieceTokenizer, TokensDoNotDependOnTheCuts) {
  for (const char* name : {"unigram", "bpe", "keep"}) {
    const std::unique_ptr<Tokenizer> tokenizer = Load(name);
    for (const std::string text : kTexts) {
      const Streamed whole = Stream(*tokenizer, {text});
      std::vector<std::string> single;
      for (const char byte : text) single.emplace_back(1, byte);
      const Streamed bytewise = Stream(*tokenizer, single);
      EXPECT_EQ(bytewise.tokens, whole.tokens) << name << ": " << text;
      EXPECT_EQ(bytewise.pending, whole.pending);
      for (size_t cut = 0; cut <= text.size(); ++cut) {
        const Streamed parted = Stream(*tokenizer, {text.substr(0, cut), text.substr(cut)});
        EXPECT_EQ(parted.tokens, whole.tokens) << name << " cut at " << cut << ": " << text;
        EXPECT_EQ(parted.pending, whole.pending);
      }
    }
  }
}

TEST_F(SentencePieceTokenizer, PiecesHaveTheTokensOfTheirText) {
  const std::unique_ptr<Tokenizer> tokenizer = Load("bpe");
  for (const std::string text : kTexts) {
    Streamed streamed = Stream(*tokenizer, {text});
    const absl::StatusOr<std::vector<int32_t>> last = tokenizer->Encode(streamed.pending);
    ASSERT_OK(last);
    streamed.tokens.insert(streamed.tokens.end(), last->begin(), last->end());
    EXPECT_EQ(streamed.tokens, *tokenizer->Encode(text)) << text;
    EXPECT_EQ(tokenizer->Decode(streamed.tokens), text);
  }
}

TEST_F(SentencePieceTokenizer, APieceEndsBeforeASpaceThatFollowsSomethingElse) {
  const std::unique_ptr<Tokenizer> tokenizer = Load("bpe");
  EXPECT_EQ(tokenizer->NextPiece(""), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece("word"), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece("   "), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece("  word"), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece("word "), 4);
  EXPECT_EQ(tokenizer->NextPiece("  word  next"), 6);
  EXPECT_EQ(tokenizer->NextPiece("line\nline "), 9);
}

TEST_F(SentencePieceTokenizer, ALongWordIsCutBetweenCharacters) {
  const std::unique_ptr<Tokenizer> tokenizer = Load("bpe");
  EXPECT_EQ(tokenizer->NextPiece(std::string(4096, 'a')), std::nullopt);
  EXPECT_EQ(tokenizer->NextPiece(std::string(4097, 'a')), 4096);
  EXPECT_EQ(tokenizer->NextPiece(std::string(4096, 'a') + " "), 4096);
  std::string wide = "a";
  while (wide.size() < 9000) wide += "\xe2\x82\xac";  // 3 bytes each, at 1, 4, 7 ... 4096
  EXPECT_EQ(tokenizer->NextPiece(wide), 4096);
  EXPECT_EQ(tokenizer->NextPiece("a" + wide), 4094);
  EXPECT_EQ(tokenizer->NextPiece("aa" + wide), 4095);
  EXPECT_EQ(tokenizer->NextPiece(std::string(9000, '\x80')), 4096);  // no character at all

  const Streamed streamed = Stream(*tokenizer, {"aa" + wide});
  EXPECT_EQ(tokenizer->Decode(streamed.tokens) + streamed.pending, "aa" + wide);
}

TEST_F(SentencePieceTokenizer, SpecialTokensHaveNoBytesAndWhatIsUnknownShows) {
  const std::unique_ptr<Tokenizer> tokenizer = Load("unigram");
  ASSERT_EQ(tokenizer->end_of_answer(), 2);
  EXPECT_EQ(tokenizer->question(), std::nullopt);
  EXPECT_EQ(tokenizer->Decode({1, 2}), "");
  EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode("a€")), "a\xef\xbf\xbd");  // a model without byte_fallback
  EXPECT_EQ(Load("no_end")->end_of_answer(), std::nullopt);
}

TEST_F(SentencePieceTokenizer, TextThatSpellsASpecialTokenIsOnlyText) {
  const std::unique_ptr<Tokenizer> tokenizer = Load("bpe");
  const std::vector<int32_t> tokens = *tokenizer->Encode("</s>");
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), *tokenizer->end_of_answer()), 0);
  EXPECT_EQ(tokenizer->Decode(tokens), "</s>");
}

TEST_F(SentencePieceTokenizer, AFileThatDoesNotFitIsNamed) {
  EXPECT_THAT(Create("gone.model", 80), StatusIs(absl::StatusCode::kNotFound, HasSubstr("gone.model")));
  EXPECT_THAT(Create("bpe.txt", 340),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bpe.txt' is not a sentencepiece model")));
  EXPECT_THAT(Create("bpe.model", Pieces("bpe") + 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("bpe.model' has 340 pieces"), HasSubstr("'vocab_size' is 341"))));
  const std::string model = *ReadFile(folder_->File("bpe.model"));
  for (const size_t size : {size_t{0}, size_t{1}, model.size() / 2, model.size() - 1}) {
    ASSERT_OK(WriteFileAtomically(folder_->File("short.model"), absl::string_view(model).substr(0, size)));
    EXPECT_THAT(Create("short.model", 340), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("short.model'")))
        << size;
  }
}

}  // namespace
}  // namespace mnemosyne

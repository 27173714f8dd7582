#include "core/base/status_macros.h"

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/status_matchers.h"

namespace mnemosyne {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<int>> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return std::make_unique<int>(number / 2);
}

absl::StatusOr<int> Quarter(int number) {
  ASSIGN_OR_RETURN(std::unique_ptr<int> half, Half(number));  // a type that only moves
  ASSIGN_OR_RETURN(half, Half(*half));                        // two in one scope, the second into what is there
  return *half;
}

absl::Status Check(int number, int* reached) {
  RETURN_IF_ERROR(Quarter(number).status());
  ++*reached;
  return absl::OkStatus();
}

TEST(AssignOrReturn, AssignsTheValueOrReturnsTheError) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
  EXPECT_THAT(Quarter(7), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
}

TEST(ReturnIfError, ReturnsOnlyAnError) {
  int reached = 0;
  EXPECT_OK(Check(4, &reached));
  EXPECT_EQ(reached, 1);
  EXPECT_THAT(Check(3, &reached), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
  EXPECT_EQ(reached, 1);
}

TEST(ReturnIfError, IsOneStatementUnderAnElse) {
  const auto choose = [](bool check) -> absl::Status {
    if (check)
      RETURN_IF_ERROR(absl::InternalError("seen"));
    else
      return absl::OkStatus();
    return absl::OkStatus();
  };
  EXPECT_OK(choose(false));
  EXPECT_THAT(choose(true), StatusIs(absl::StatusCode::kInternal, HasSubstr("seen")));
}

}  // namespace
}  // namespace mnemosyne

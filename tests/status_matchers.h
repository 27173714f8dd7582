// Matchers for Status and StatusOr under upstream's names; Abseil 20220623 has none.
//
//   ASSERT_OK(store.Put("a"));
//   EXPECT_THAT(ParseModelConfig("{}"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'dim'")));
#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mnemosyne {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, "is OK") {
  if (StatusOf(arg).ok()) return true;
  *result_listener << "whose status is " << StatusOf(arg).ToString();
  return false;
}

MATCHER_P2(StatusIs, code, message, "has code " + absl::StatusCodeToString(code) + " and a message that matches") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << "whose status is " << status.ToString();
  return status.code() == code && testing::ExplainMatchResult(message, std::string(status.message()), result_listener);
}

MATCHER_P(StatusIs, code, "has code " + absl::StatusCodeToString(code)) {
  const absl::Status& status = StatusOf(arg);
  *result_listener << "whose status is " << status.ToString();
  return status.code() == code;
}

#define ASSERT_OK(expression) ASSERT_THAT(expression, ::mnemosyne::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT(expression, ::mnemosyne::IsOk())

}  // namespace mnemosyne

// RETURN_IF_ERROR and ASSIGN_OR_RETURN under their upstream names; Abseil 20220623 has neither.
//
//   RETURN_IF_ERROR(file.Sync());
//   ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define MNEMOSYNE_CONCAT_INNER(a, b) a##b
#define MNEMOSYNE_CONCAT(a, b) MNEMOSYNE_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                                                \
  do {                                                                                             \
    if (::absl::Status status_of_call = (expression); !status_of_call.ok()) return status_of_call; \
  } while (false)

#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_INNER(MNEMOSYNE_CONCAT(status_or_, __LINE__), declaration, expression)

#define ASSIGN_OR_RETURN_INNER(status_or, declaration, expression) \
  auto status_or = (expression);                                   \
  if (!status_or.ok()) return std::move(status_or).status();       \
  declaration = *std::move(status_or)

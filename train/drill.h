// Drills: many facts in little text and a question about each, of which only keys, queries and values are computed.
//
// What a linear memory confuses is decided by what the keys of different facts have in common. Rows of documents meet
// few facts in a step; a drill has as many as a long session, for the price of the blocks before the memory.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "core/model/titans.h"
#include "train/document.h"

namespace mnemosyne {

// Tokens before a value that a drill's keys and queries may depend on through the convolution.
inline constexpr int64_t kDrillReach = 48;

// Whether the first block with a memory is lmm, mag or mal: keys and queries of others are not to be had alone.
bool HasAddresses(const ModelConfig& config);

struct Drill {
  at::Tensor tokens;       // [N, T]
  at::Tensor told, asked;  // [F], of N * T: the first characters of values in statements and in answers
  at::Tensor fact, place;  // [n]: which fact a value's character is of, and which of the value's it is
  int64_t longest = 0;     // a value, in characters
  Drill On(at::Device device) const;
};

// `facts` facts of the kinds and wordings of `options`, in rows of `row_tokens` (256 or more) tokens.
Drill MakeDrill(const DocumentOptions& options, int64_t facts, int64_t row_tokens, const Vocabulary& vocabulary,
                const Haystack& english, const Haystack& noise, Random& random);

struct DrillScore {
  at::Tensor loss;      // a number; see the formula in drill.cc
  double found = 0;     // share of characters whose own key is the nearest of all
  double noise = 0;     // what the other keys of 20 facts add to a readout, mean square, against the own key's
  double confused = 0;  // of values: how far equal characters are from parallel and others from orthogonal
};
// `taps`: of the memory's convolution, at most kDrillReach.
DrillScore ScoreDrill(const Titans& titans, int64_t taps, const Drill& drill);

}  // namespace mnemosyne

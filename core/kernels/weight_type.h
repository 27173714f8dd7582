// How kernels keep a model's weights. Sums are single precision either way.
#pragma once

namespace mnemosyne {

enum class WeightType {
  kFloat32,
  kBFloat16,  // half the bytes, 8 bits of mantissa: rounded to the nearest when a model is loaded
};

}  // namespace mnemosyne

// How kernels keep a model's weights. Sums are single precision in any case.
#pragma once

namespace mnemosyne {

enum class WeightType {
  kFloat32,
  kBFloat16,          // half the bytes, 8 bits of mantissa: rounded to the nearest when a model is loaded
  kBFloat16Products,  // and what they are multiplied by is rounded, too: by tile_product.h, where the CPU has tiles
};

}  // namespace mnemosyne

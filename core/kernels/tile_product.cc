#include "core/kernels/tile_product.h"

#include <algorithm>
#include <cstring>

#include "core/kernels/bfloat16.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/kernels/workspace.h"
#define MNEMOSYNE_HAS_TILES 1
#endif

namespace mnemosyne {

namespace {

// A tile of the left side is [kSide rows, kDepth inputs], of the right one [kDepth / 2 pairs of inputs, kSide outputs],
// a pair's two values side by side; of sums [kSide, kSide].
constexpr int64_t kSide = 16, kDepth = 32, kTile = kSide * kDepth;
constexpr int64_t kPanel = 2 * kSide;  // outputs that are computed together

constexpr int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

}  // namespace

int64_t TiledValues(int64_t outputs, int64_t inputs) { return RoundUp(outputs, kPanel) * RoundUp(inputs, kDepth); }

void PackTiles(const float* values, int64_t outputs, int64_t inputs, hwy::bfloat16_t* to) {
  for (int64_t first = 0; first < outputs; first += kPanel) {
    for (int64_t k = 0; k < inputs; k += kDepth) {
      for (int64_t half = first; half < first + kPanel; half += kSide) {
        for (int64_t i = 0; i < kTile; ++i) {
          const int64_t output = half + i / 2 % kSide, input = k + i / (2 * kSide) * 2 + i % 2;
          const bool is_inside = output < outputs && input < inputs;
          *to++ = ToBFloat16(is_inside ? values[output * inputs + input] : 0.0f);
        }
      }
    }
  }
}

#ifdef MNEMOSYNE_HAS_TILES

// Only what has this attribute may use the instructions: nothing of a header is compiled for them.
#define MNEMOSYNE_TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512bf16")))

namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr TileConfig EightFullTiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = kSide;
  }
  return config;
}
constexpr TileConfig kConfig = EightFullTiles();

// [rows, depth] of x to bfloat16, zeros beside and below it.
MNEMOSYNE_TILES void RoundRows(const float* x, int64_t x_stride, int64_t rows, int64_t inputs, int64_t all_rows,
                               int64_t depth, uint16_t* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < depth; i += 16) {
      const int64_t left = std::clamp<int64_t>(inputs - i, 0, 16);
      const __m512 values = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), x + r * x_stride + i);
      const __m256bh narrow = _mm512_cvtneps_pbh(values);
      std::memcpy(to + r * depth + i, &narrow, sizeof(narrow));
    }
  }
  std::memset(to + rows * depth, 0, (all_rows - rows) * depth * sizeof(uint16_t));
}

// Sums of a panel's outputs for kSide rows (two of them with `second`), to `sums` [1 or 2, 2, kSide, kSide].
MNEMOSYNE_TILES void SumPanel(const uint16_t* rows, int64_t depth, bool second, const hwy::bfloat16_t* panel,
                              float* sums) {
  const int64_t stride = depth * static_cast<int64_t>(sizeof(uint16_t));
  _tile_zero(0);
  _tile_zero(1);
  if (second) {
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += kDepth, panel += 2 * kTile) {
      _tile_loadd(6, panel, 64);
      _tile_loadd(7, panel + kTile, 64);
      _tile_loadd(4, rows + k, stride);
      _tile_loadd(5, rows + kSide * depth + k, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(2, sums + 2 * kSide * kSide, 64);
    _tile_stored(3, sums + 3 * kSide * kSide, 64);
  } else {
    for (int64_t k = 0; k < depth; k += kDepth, panel += 2 * kTile) {
      _tile_loadd(6, panel, 64);
      _tile_loadd(7, panel + kTile, 64);
      _tile_loadd(4, rows + k, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kSide * kSide, 64);
}

MNEMOSYNE_TILES void LoadTileConfig() { _tile_loadconfig(&kConfig); }
MNEMOSYNE_TILES void ReleaseTiles() { _tile_release(); }

}  // namespace

bool HasTiles() {
  static const bool has = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    __builtin_cpu_init();
    return __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-tile") &&
           __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

void MultiplyByTiles(const float* x, int64_t x_stride, const hwy::bfloat16_t* weight, int64_t outputs, int64_t inputs,
                     int64_t rows, float* y, int64_t y_stride) {
  const int64_t depth = RoundUp(inputs, kDepth), all_rows = RoundUp(rows, kSide);
  Workspace space(all_rows * depth / 2 + 4 * kSide * kSide, 2);
  auto* const narrow = reinterpret_cast<uint16_t*>(space.Take(all_rows * depth / 2));
  float* const sums = space.Take(4 * kSide * kSide);
  RoundRows(x, x_stride, rows, inputs, all_rows, depth, narrow);
  LoadTileConfig();
  for (int64_t first = 0; first < outputs; first += kPanel) {
    const hwy::bfloat16_t* const panel = weight + first * depth;
    for (int64_t r = 0; r < rows; r += 2 * kSide) {
      SumPanel(narrow + r * depth, depth, /*second=*/r + kSide < rows, panel, sums);
      for (int64_t i = 0; i < std::min(2 * kSide, rows - r); ++i) {
        const float* const row = sums + i / kSide * 2 * kSide * kSide + i % kSide * kSide;
        float* const to = y + (r + i) * y_stride + first;
        const int64_t left = outputs - first;
        std::memcpy(to, row, std::min(kSide, left) * sizeof(float));
        if (left > kSide) std::memcpy(to + kSide, row + kSide * kSide, std::min(kSide, left - kSide) * sizeof(float));
      }
    }
  }
  ReleaseTiles();
}

#else

bool HasTiles() { return false; }
void MultiplyByTiles(const float*, int64_t, const hwy::bfloat16_t*, int64_t, int64_t, int64_t, float*, int64_t) {}

#endif

}  // namespace mnemosyne

// What the kernels of this folder share: vectors as wide as the processor's registers, the functions of softmax and
// SiLU on them, and the register tile of a matrix product. The compiler takes AVX-512 or AVX2 if the processor has it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int PANEL = 2 * LANES;  // columns of a tile

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline vec load(const float* from) { return *reinterpret_cast<const vec*>(from); }
inline void store(float* to, vec x) { *reinterpret_cast<vec*>(to) = x; }
inline vec splat(float x) { return x - vec{}; }
inline int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

inline float sum(vec x) {
  float total = 0.0f;
  for (int lane = 0; lane < LANES; lane++) total += x[lane];
  return total;
}

inline vec smaller(vec x, vec y) {  // y if one of them is NaN
#if defined(__AVX512F__)
  return (vec)_mm512_min_ps((__m512)x, (__m512)y);
#else
  return x < y ? x : y;
#endif
}

// Cephes' expf: 2^n times a polynomial; inf from 88.4 on, and e^-87 below -87.
inline vec exponential(vec x) {
  x = smaller(splat(88.8f), x);
  x = -smaller(splat(87.0f), -x);
  const vec shifted = x * 1.44269504088896341f + 12582912.0f;
  const vec n = shifted - 12582912.0f;
  const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + (r + 1.0f);
  const ints power = ((ints)shifted - 0x4B400000 + 127) << 23;
  return y * (vec)power;
}

// 1 / x for x >= 1; 0 for inf. A division takes three times as long as an estimate and a step of Newton's method.
inline vec reciprocal(vec x) {
#if defined(__AVX512F__)
  const vec guess = (vec)_mm512_rcp14_ps((__m512)x);
  const vec better = guess * (2.0f - x * guess);
  return x > 1e37f ? splat(0.0f) : better;
#else
  return 1.0f / x;
#endif
}

inline vec sigmoid(vec x) { return reciprocal(1.0f + exponential(-x)); }

// The derivative of silu(x) = x sigmoid(x), of which `s` is the sigmoid.
inline vec silu_slope(vec x, vec s) { return s * (1.0f + x * (1.0f - s)); }

struct Tile {
  vec at[ROWS][2];
};

// tile[r] += sum_s a[r * a_row + s * a_step] b[s * b_step : + PANEL]
inline __attribute__((always_inline)) void multiply(Tile& tile, const float* a, int64_t a_row, int64_t a_step,
                                                    const float* b, int64_t b_step, int64_t steps) {
  vec c[ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) c[r][0] = tile.at[r][0], c[r][1] = tile.at[r][1];
  for (int64_t s = 0; s < steps; s++, a += a_step, b += b_step) {
    const vec left = load(b), right = load(b + LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const vec x = splat(a[r * a_row]);
      c[r][0] += x * left;
      c[r][1] += x * right;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) tile.at[r][0] = c[r][0], tile.at[r][1] = c[r][1];
}

// to[rows][PANEL] += sum_s a[r * a_row + s * a_step] b[s * b_step]
inline void add_product(float* to, int64_t to_row, int64_t rows, const float* a, int64_t a_row, int64_t a_step,
                        const float* b, int64_t b_step, int64_t steps) {
  Tile tile{};
  for (int r = 0; r < ROWS; r++)
    if (r < rows) tile.at[r][0] = load(to + r * to_row), tile.at[r][1] = load(to + r * to_row + LANES);
  multiply(tile, a, a_row, a_step, b, b_step, steps);
  for (int r = 0; r < ROWS; r++)
    if (r < rows) store(to + r * to_row, tile.at[r][0]), store(to + r * to_row + LANES, tile.at[r][1]);
}

inline void add_scaled(float* to, const float* from, float factor, int64_t width) {
  for (int64_t d = 0; d < width; d += LANES) store(to + d, load(to + d) + load(from + d) * factor);
}

// Uninitialised memory, given out in pieces that begin at a multiple of 16 floats.
class Scratch {
 public:
  float* take(int64_t count) {
    float* begin = at_;
    at_ += up(count, 16);
    return begin;
  }
  explicit Scratch(int64_t count) : owned_(new float[count + 16 * 32]), at_(owned_.get()) {
    at_ += (64 - reinterpret_cast<uintptr_t>(at_) % 64) % 64 / sizeof(float);
  }

 private:
  std::unique_ptr<float[]> owned_;
  float* at_;
};

}  // namespace

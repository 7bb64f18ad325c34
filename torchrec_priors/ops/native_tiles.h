// What the kernels of this folder share: vectors as wide as the processor's registers, the functions of softmax and
// SiLU on them, and the register tile of a matrix product. The compiler takes AVX-512 or AVX2 if the processor has it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define WIDE 1
#include <immintrin.h>
#else
#define WIDE 0
#endif

namespace {

#if WIDE
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

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

// x, but at least `least` and at most `most`; NaN if x is NaN.
inline vec between(float least, vec x, float most) {
#if WIDE
  // These instructions return their second operand if one of them is NaN.
  return (vec)_mm512_max_ps((__m512)splat(least), _mm512_min_ps((__m512)splat(most), (__m512)x));
#else
  x = x > most ? splat(most) : x;
  return x < least ? splat(least) : x;
#endif
}

// x, but at least -most and at most `most`; if x is NaN, any number between them, or NaN.
inline vec within(vec x, float most) {
#if WIDE
  return (vec)_mm512_range_ps((__m512)x, (__m512)splat(most), 2);  // the smaller magnitude, the sign of x
#else
  return between(-most, x, most);
#endif
}

// e^x = rest scale for -88.1 <= x <= 88.8. `scale` is a power of 2, or 0 or inf at the ends of the range.
struct Power {
  vec rest, scale;
};

inline Power power_of_e(vec x) {
  constexpr float BASE = 1.44269504088896341f;  // log2 e
  constexpr float SHIFT = 12582912.0f + 127.0f;  // then the last bits of a sum are a rounded number, plus 127
  const vec shifted = x * BASE + SHIFT;
  const vec r = x * BASE - (shifted - SHIFT);  // exact but for one rounding, where products and sums are fused
  vec y = r * 1.326464483e-3f + 9.671576762e-3f;
  y = y * r + 5.550734520e-2f;
  y = y * r + 2.402224111e-1f;
  y = y * r + 6.931469769e-1f;
  y = y * r + 1.0f;
  return {y, (vec)((ints)shifted << 23)};
}

// e^x; inf from 88.4 on, and 0 below -87.7.
inline vec exponential(vec x) {
  const Power power = power_of_e(between(-88.1f, x, 88.8f));
  return power.rest * power.scale;
}

// 1 / x for 1 <= x < 2^126. A division takes three times as long as an estimate and a step of Newton's method.
inline vec reciprocal(vec x) {
#if WIDE
  const vec guess = (vec)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

// It is at least e^-87; the result for NaN is not defined, but x sigmoid(x) is NaN.
inline vec sigmoid(vec x) {
  const Power power = power_of_e(-within(x, 87.0f));
  return reciprocal(1.0f + power.rest * power.scale);
}

// The derivative of silu(x), from y = silu(x) = x s and s = sigmoid(x).
inline vec silu_slope(vec y, vec s) { return s + (y - y * s); }

// to[column][row] = from[row][column] for LANES rows and columns.
inline void transpose(float* to, int64_t to_row, const float* from, int64_t from_row) {
#if WIDE
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  __m512 rows[2][LANES];
  for (int i = 0; i < LANES; i++) rows[0][i] = (__m512)load(from + i * from_row);
  // A number's row and column are 8 bits. Each round moves the first of them to the end.
#pragma GCC unroll 4
  for (int round = 0; round < 4; round++)
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      const __m512 *x = rows[round % 2] + i, *y = x + LANES / 2;
      rows[1 - round % 2][2 * i] = _mm512_permutex2var_ps(*x, low, *y);
      rows[1 - round % 2][2 * i + 1] = _mm512_permutex2var_ps(*x, high, *y);
    }
  for (int i = 0; i < LANES; i++) store(to + i * to_row, (vec)rows[0][i]);
#else
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < LANES; j++) to[j * to_row + i] = from[i * from_row + j];
#endif
}

// Rows of vectors that stay in registers while they are computed.
template <int R, int V>
struct Tile {
  static constexpr int ROWS = R, VECS = V, COLUMNS = V * LANES;
  vec at[R][V];
};

// With AVX-512, four rows of four vectors need half a load for each product. Narrow tiles are for what is left.
#if WIDE
using WideTile = Tile<4, 4>;
using NarrowTile = Tile<8, 2>;
#else
using WideTile = Tile<4, 2>;
using NarrowTile = Tile<4, 2>;
#endif

#define INLINE inline __attribute__((always_inline))

// tile[r] += sum_s a[r * a_row + s * a_step] b[s * b_step], for the first USED vectors of each row
template <int USED, int ROWS, int VECS>
INLINE void multiply_first(Tile<ROWS, VECS>& tile, const float* a, int64_t a_row, int64_t a_step, const float* b,
                           int64_t b_step, int64_t steps) {
  vec c[ROWS][USED];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int i = 0; i < USED; i++) c[r][i] = tile.at[r][i];
  for (int64_t s = 0; s < steps; s++, a += a_step, b += b_step) {
    vec right[USED];
#pragma GCC unroll 4
    for (int i = 0; i < USED; i++) right[i] = load(b + i * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const vec left = splat(a[r * a_row]);
#pragma GCC unroll 4
      for (int i = 0; i < USED; i++) c[r][i] += left * right[i];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int i = 0; i < USED; i++) tile.at[r][i] = c[r][i];
}

template <int ROWS, int VECS>
INLINE void multiply(Tile<ROWS, VECS>& tile, const float* a, int64_t a_row, int64_t a_step, const float* b,
                     int64_t b_step, int64_t steps) {
  multiply_first<VECS>(tile, a, a_row, a_step, b, b_step, steps);
}

// Calls use(vector, row, column) for all vectors of a tile.
template <int ROWS, int VECS, class Use>
INLINE void each(Tile<ROWS, VECS>& tile, Use use) {
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int i = 0; i < VECS; i++) use(tile.at[r][i], r, i * LANES);
}

// Loads and stores the first `rows` rows of a tile that is at to[row * step].
template <int ROWS, int VECS>
INLINE void load(Tile<ROWS, VECS>& tile, const float* from, int64_t step, int64_t rows = ROWS) {
  each(tile, [=](vec& x, int r, int column) { x = r < rows ? load(from + r * step + column) : vec{}; });
}

template <int ROWS, int VECS>
INLINE void store(float* to, int64_t step, Tile<ROWS, VECS>& tile, int64_t rows = ROWS) {
  each(tile, [=](vec x, int r, int column) {
    if (r < rows) store(to + r * step + column, x);
  });
}

// Calls use(first column, tile of zeros) for `width` columns, a multiple of those of a narrow tile.
template <class Use>
INLINE void for_columns(int64_t width, Use use) {
  int64_t column = 0;
  for (; column + WideTile::COLUMNS <= width; column += WideTile::COLUMNS) use(column, WideTile{});
  for (; column < width; column += NarrowTile::COLUMNS) use(column, NarrowTile{});
}

// to[rows][columns of a tile] += sum_s a[r * a_row + s * a_step] b[s * b_step], for at most a tile's rows
template <class AnyTile>
INLINE void add_product(AnyTile tile, float* to, int64_t to_row, int64_t rows, const float* a, int64_t a_row,
                        int64_t a_step, const float* b, int64_t b_step, int64_t steps) {
  const bool whole = rows >= AnyTile::ROWS;
  whole ? load(tile, to, to_row) : load(tile, to, to_row, rows);
  multiply(tile, a, a_row, a_step, b, b_step, steps);
  whole ? store(to, to_row, tile) : store(to, to_row, tile, rows);
}

inline void add_scaled(float* to, const float* from, float factor, int64_t width) {
  for (int64_t d = 0; d < width; d += LANES) store(to + d, load(to + d) + load(from + d) * factor);
}

// Loads a row into the nearest cache before it is used. The processor does not guess it where rows are far apart.
template <bool WRITTEN = false>
inline void prefetch(const float* row, int64_t width) {
  for (int64_t d = 0; d < width; d += 16) __builtin_prefetch(row + d, WRITTEN);
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

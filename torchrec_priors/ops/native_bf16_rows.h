// Products of single pieces with AVX512-BF16: an instruction adds the products of 16 pairs to 16 float32 sums. For the
// layout of both sides see `native_bf16.h`, which includes this file.

#pragma once

#include "native_tiles.h"

namespace {

constexpr int ROWS_AT_ONCE = 8;

// A pair of numbers of a sum, in all 16 places.
INLINE __m512bh pair_at(const Piece* from) {
  int32_t pair;
  std::memcpy(&pair, from, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

// sums, 8 rows of 32 columns, += left right
INLINE void add_pairs(Tile<ROWS_AT_ONCE, 2>& sums, const Piece* left, const Piece* right, int64_t right_apart) {
  for (int64_t n = 0; n < SIDE; n++) {
    const __m512bh first = (__m512bh)_mm512_load_si512(right + n * DEPTH);
    const __m512bh second = (__m512bh)_mm512_load_si512(right + right_apart + n * DEPTH);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS_AT_ONCE; r++) {
      const __m512bh pair = pair_at(left + r * DEPTH + 2 * n);
      sums.at[r][0] = (vec)_mm512_dpbf16_ps((__m512)sums.at[r][0], pair, first);
      sums.at[r][1] = (vec)_mm512_dpbf16_ps((__m512)sums.at[r][1], pair, second);
    }
  }
}

// to[rows][columns] += left right. Rows and columns are multiples of 32.
template <int P>
INLINE void add_product_of_pieces(float* to, int64_t to_row, const Piece* left, const Piece* right, int64_t rows,
                                  int64_t columns, int64_t depth) {
  static_assert(P == 1 && SIDE % ROWS_AT_ONCE == 0);
  const int64_t apart = piece_count(SIDE, depth, P);
  for (int64_t j = 0; j < columns; j += 2 * SIDE)
    for (int64_t i = 0; i < rows; i += ROWS_AT_ONCE) {
      const Piece* a = left + i / SIDE * apart + i % SIDE * DEPTH;
      const Piece* b = right + j / SIDE * apart;
      Tile<ROWS_AT_ONCE, 2> sums;
      load(sums, to + i * to_row + j, to_row);
      for (int64_t step = 0; step < depth / DEPTH; step++)
        add_pairs(sums, a + step * NUMBERS, b + step * NUMBERS, apart);
      store(to + i * to_row + j, to_row, sums);
    }
}

}  // namespace

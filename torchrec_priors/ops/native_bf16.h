// Products of float32 matrices from pieces of bfloat16, on processors that multiply bfloat16.
//
//   x = x_0 + x_1 + x_2,   each piece has 8 bits of x
//   a b ~ sum of a_p b_q over p + q < P, with P pieces
//
// Three pieces have all 24 bits of a float32, and six products leave out what is below its last bit. Two pieces have 16
// bits, and one has 8. Sums are float32.
//
// A tile has 16 rows and 32 numbers of a sum. Two numbers of a sum that are 16 apart become neighbours in a tile, on
// both sides: so two vectors become a row of a tile without moving numbers between lanes.
//
//   left    [rows / 16, steps, P, 16 rows, 32]           row i: (a_i,n  a_i,n+16) for n < 16
//   right   [columns / 16, steps, P, 16, 16 columns, 2]  row n: (b_n,j  b_n+16,j) for the columns j
//
// AMX multiplies tiles (`native_bf16_amx.h`). AVX512-BF16 multiplies rows of them at twice the rate of float32
// (`native_bf16_rows.h`), so only the single product of one piece is worth while there.

#pragma once

#include "native_tiles.h"

#include <type_traits>

#if WIDE && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define MOST_PIECES 3
#elif WIDE && defined(__AVX512BW__) && defined(__AVX512BF16__)
#define MOST_PIECES 1
#else
#define MOST_PIECES 0
#endif

namespace {

constexpr int64_t DEPTH = 32;             // numbers of a sum in a step
constexpr int64_t SIDE = 16;              // rows of a tile
constexpr int64_t NUMBERS = SIDE * DEPTH;  // of a tile

using Piece = uint16_t;

// How many pieces the tiles of so many rows and numbers of a sum have.
inline int64_t piece_count(int64_t rows, int64_t depth, int64_t pieces) { return rows * depth * pieces; }

#if MOST_PIECES

// Writes a row of P tiles; `first` and `second` are 16 numbers of a sum apart.
template <int P>
INLINE void split(Piece* row, vec first, vec second) {
  const ints half = (ints)_mm512_set1_epi32(0x8000), kept = (ints)_mm512_set1_epi32(0xffff0000);
#pragma GCC unroll 3
  for (int p = 0; p < P; p++) {
    const ints low = (ints)first + half, high = (ints)second + half;  // rounded, in the upper 16 bits
    const __m512i pairs = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32((__m512i)low, 16), (__m512i)high);
    _mm512_store_si512(row + p * NUMBERS, pairs);
    first -= (vec)(low & kept), second -= (vec)(high & kept);
  }
}

// Writes the left side of a product: from[row][number of a sum]; both counts are multiples of a tile's.
template <int P>
INLINE void split_left(Piece* to, const float* from, int64_t from_row, int64_t rows, int64_t depth) {
  for (int64_t i = 0; i < rows; i += SIDE)
    for (int64_t n = 0; n < depth; n += DEPTH, to += P * NUMBERS)
      for (int64_t r = 0; r < SIDE; r++) {
        const float* at = from + (i + r) * from_row + n;
        split<P>(to + r * DEPTH, load(at), load(at + SIDE));
      }
}

// Writes the right side of a product: from[number of a sum][column].
template <int P>
INLINE void split_right(Piece* to, const float* from, int64_t from_row, int64_t depth, int64_t columns) {
  for (int64_t j = 0; j < columns; j += SIDE)
    for (int64_t n = 0; n < depth; n += DEPTH, to += P * NUMBERS)
      for (int64_t r = 0; r < SIDE; r++) {
        const float* at = from + (n + r) * from_row + j;
        split<P>(to + r * DEPTH, load(at), load(at + SIDE * from_row));
      }
}

#else

// Kernels with pieces are never instantiated here.
template <int P>
void split_left(Piece* to, const float* from, int64_t from_row, int64_t rows, int64_t depth);
template <int P>
void split_right(Piece* to, const float* from, int64_t from_row, int64_t depth, int64_t columns);
template <int P>
void add_product_of_pieces(float* to, int64_t to_row, const Piece* left, const Piece* right, int64_t rows,
                           int64_t columns, int64_t depth);

#endif

}  // namespace

#if MOST_PIECES == 3
#include "native_bf16_amx.h"
#else
#if MOST_PIECES
#include "native_bf16_rows.h"
#endif
namespace {

inline bool is_granted() { return true; }

template <int P>
class UseOfTiles {};

}  // namespace
#endif

namespace {

// Calls run(number of pieces, a constant), and returns its result.
template <class Run>
auto with_pieces([[maybe_unused]] int64_t pieces, Run run) {
#if MOST_PIECES
  if (pieces == 1) return run(std::integral_constant<int, 1>{});
#endif
#if MOST_PIECES == 3
  if (pieces == 2) return run(std::integral_constant<int, 2>{});
  if (pieces == 3) return run(std::integral_constant<int, 3>{});
#endif
  return run(std::integral_constant<int, 0>{});
}

}  // namespace

// Returns the most pieces that the kernel can take on this machine; 0 if it multiplies float32 only.
extern "C" int most_pieces() { return is_granted() ? MOST_PIECES : 0; }

// Products of float32 matrices from pieces of bfloat16, on processors with AMX.
//
//   x = x_0 + x_1 + x_2,   each piece has 8 bits of x
//   a b ~ sum of a_p b_q over p + q < P, with P pieces
//
// Three pieces have all 24 bits of a float32, and six products leave out what is below its last bit. Two pieces have 16
// bits, and one has 8. Sums are float32.
//
// A tile has 16 rows and 32 numbers of a sum. Two numbers of a sum that are 16 apart are neighbours in a tile, on both
// sides: so two vectors become a row of a tile without moving numbers between lanes.
//
//   left    [rows / 16, steps, P, 16 rows, 32]           row i: (a_i,n  a_i,n+16) for n < 16
//   right   [columns / 16, steps, P, 16, 16 columns, 2]  row n: (b_n,j  b_n+16,j) for the columns j

#pragma once

#include "native_tiles.h"

#include <type_traits>

#if WIDE && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <new>
#else
#define AMX 0
#endif

namespace {

constexpr int64_t DEPTH = 32;             // numbers of a sum in a step
constexpr int64_t SIDE = 16;              // rows of a tile
constexpr int64_t NUMBERS = SIDE * DEPTH;  // of a tile

using Piece = uint16_t;

// How many pieces the tiles of so many rows and numbers of a sum have.
inline int64_t piece_count(int64_t rows, int64_t depth, int64_t pieces) { return rows * depth * pieces; }

#if AMX

// Asks Linux for the registers of AMX, once for the process.
inline bool has_tiles() {
  constexpr long ASK = 0x1023, TILES = 18;
  static const bool granted = syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return granted;
}

// The thread that makes it may use tiles until it is destroyed, if P is not 0.
template <int P>
class TilesOfThread {
 public:
  TilesOfThread() {
    if (!P) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, unused[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = 64, shape.rows[tile] = SIDE;
    asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
  }
  TilesOfThread(const TilesOfThread&) = delete;
  TilesOfThread& operator=(const TilesOfThread&) = delete;
  ~TilesOfThread() {
    if (P) asm volatile("tilerelease");
  }
};

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

// The intrinsics of tiles do not tell the compiler that they read memory.
template <int TILE>
INLINE void load_tile(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(TILE) : "memory");
}

template <int TILE>
INLINE void store_tile(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(TILE) : "memory");
}

template <int SUM, int LEFT, int RIGHT>
INLINE void add_tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}

// Loads a piece of two tiles that are `apart` numbers apart.
template <int TILE>
INLINE void load_piece(const Piece* from, int64_t apart, int64_t piece) {
  load_tile<TILE>(from + piece * NUMBERS, 64), load_tile<TILE + 1>(from + apart + piece * NUMBERS, 64);
}

// The tiles 0 to 3, 32 rows and columns, += left right. Small products come first, and each step loads one side only.
template <int P>
INLINE void add_tiles(const Piece* a, int64_t a_apart, const Piece* b, int64_t b_apart, int64_t steps) {
  const auto left = [&](int64_t piece) { load_piece<4>(a, a_apart, piece); };
  const auto right = [&](int64_t piece) { load_piece<6>(b, b_apart, piece); };
  const auto add = [] {
    add_tile_product<0, 4, 6>(), add_tile_product<1, 4, 7>();
    add_tile_product<2, 5, 6>(), add_tile_product<3, 5, 7>();
  };
  for (int64_t step = 0; step < steps; step++, a += P * NUMBERS, b += P * NUMBERS) {
    if constexpr (P == 1) {
      left(0), right(0), add();
    } else if constexpr (P == 2) {
      left(0), right(1), add(), right(0), add(), left(1), add();
    } else {
      left(0), right(2), add(), right(1), add(), left(1), add(), right(0), add(), left(0), add(), left(2), add();
    }
  }
}

inline void load_tiles(const float* from, int64_t row) {
  load_tile<0>(from, 4 * row), load_tile<1>(from + SIDE, 4 * row);
  load_tile<2>(from + SIDE * row, 4 * row), load_tile<3>(from + SIDE * row + SIDE, 4 * row);
}

inline void store_tiles(float* to, int64_t row) {
  store_tile<0>(to, 4 * row), store_tile<1>(to + SIDE, 4 * row);
  store_tile<2>(to + SIDE * row, 4 * row), store_tile<3>(to + SIDE * row + SIDE, 4 * row);
}

// to[rows][columns] += left right. Rows and columns are multiples of 32.
template <int P>
INLINE void add_product_of_pieces(float* to, int64_t to_row, const Piece* left, const Piece* right, int64_t rows,
                                  int64_t columns, int64_t depth) {
  const int64_t apart = piece_count(SIDE, depth, P);
  for (int64_t j = 0; j < columns; j += 2 * SIDE)
    for (int64_t i = 0; i < rows; i += 2 * SIDE) {
      float* at = to + i * to_row + j;
      load_tiles(at, to_row);
      add_tiles<P>(left + i / SIDE * apart, apart, right + j / SIDE * apart, apart, depth / DEPTH);
      store_tiles(at, to_row);
    }
}

#else

inline bool has_tiles() { return false; }

// Kernels with pieces are never instantiated here.
template <int P>
class TilesOfThread {};
template <int P>
void split_left(Piece* to, const float* from, int64_t from_row, int64_t rows, int64_t depth);
template <int P>
void split_right(Piece* to, const float* from, int64_t from_row, int64_t depth, int64_t columns);
template <int P>
void add_product_of_pieces(float* to, int64_t to_row, const Piece* left, const Piece* right, int64_t rows,
                           int64_t columns, int64_t depth);

#endif

// Calls run(number of pieces, a constant), and returns its result.
template <class Run>
auto with_pieces(int64_t pieces, Run run) {
#if AMX
  if (pieces == 1) return run(std::integral_constant<int, 1>{});
  if (pieces == 2) return run(std::integral_constant<int, 2>{});
  if (pieces == 3) return run(std::integral_constant<int, 3>{});
#endif
  return run(std::integral_constant<int, 0>{});
}

}  // namespace

// Returns how many pieces the kernel can take on this machine: 3, or 0 if it has no AMX.
extern "C" int most_pieces() { return has_tiles() ? 3 : 0; }

// Products of pieces with AMX, whose registers are tiles. For the layout of both sides see `native_bf16.h`, which includes
// this file.

#pragma once

#include "native_tiles.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Asks Linux for the registers of AMX, once for the process.
inline bool is_granted() {
  constexpr long ASK = 0x1023, TILES = 18;
  static const bool granted = syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return granted;
}

// The thread that makes it may use tiles until it is destroyed, if P is not 0.
template <int P>
class UseOfTiles {
 public:
  UseOfTiles() {
    if (!P) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, unused[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = 64, shape.rows[tile] = SIDE;
    asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
  }
  UseOfTiles(const UseOfTiles&) = delete;
  UseOfTiles& operator=(const UseOfTiles&) = delete;
  ~UseOfTiles() {
    if (P) asm volatile("tilerelease");
  }
};

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

}  // namespace

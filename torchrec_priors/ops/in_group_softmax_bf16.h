// The products of the in-group softmax from pieces of bfloat16 (`native_bf16.h`). e is [panels, negatives, PANEL].

#pragma once

#include "in_group_softmax_sizes.h"
#include "native_bf16.h"
#include "native_tiles.h"

namespace {

// The pieces of a block and of a strip of negatives, v.
template <int P>
class SoftmaxPieces {
 public:
  explicit SoftmaxPieces(int64_t width) : width_(width), scratch_(size(width)) {
    queries_ = take(MOST_QUERIES, width), weighed_ = take(width, MOST_QUERIES);
    strip_ = take(STRIP, width), across_ = take(width, STRIP);
    e_right_ = take(PANEL, STRIP), e_left_ = take(2 * SIDE, QUERIES);
    through_ = scratch_.take(width * THROUGH), turned_ = scratch_.take(width * STRIP);
    rest_ = scratch_.take(2 * SIDE * width);
  }

  // Takes the queries of a block, [queries / PANEL, d, PANEL].
  void begin_block(const float* panels, int64_t queries) {
    queries_in_block_ = queries;
    for (int64_t panel = 0; panel < queries; panel += PANEL)
      split_right<P>(queries_ + piece_count(panel, width_, P), panels + panel * width_, PANEL, width_, PANEL);
    std::fill_n(through_, width_ * THROUGH, 0.0f);
  }

  // Takes a strip of negatives, [STRIP, row], with zeros as padding.
  void load_strip(const float* strip, int64_t row) {
    split_left<P>(strip_, strip, row, STRIP, width_);
    for (int64_t j = 0; j < STRIP; j += LANES)
      for (int64_t d = 0; d < width_; d += LANES) transpose(turned_ + d * STRIP + j, STRIP, strip + j * row + d, row);
    split_left<P>(across_, turned_, STRIP, width_, STRIP);
  }

  // e, [STRIP, PANEL], += the strip's logits for a panel
  void add_logits(float* e, int64_t panel) {
    add_product_of_pieces<P>(e, PANEL, strip_, queries_ + piece_count(panel, width_, P), STRIP, PANEL, width_);
  }

  // through[panel's queries] += e^T v
  void add_to_queries(const float* e, int64_t panel) {
    split_right<P>(e_right_, e, PANEL, STRIP, PANEL);
    add_product_of_pieces<P>(through_ + panel, THROUGH, across_, e_right_, width_, PANEL, STRIP);
  }

  // Writes the block's sums e^T v, [queries, row].
  void write_through(float* to, int64_t row) const {
    for (int64_t r = 0; r < queries_in_block_; r += LANES)
      for (int64_t d = 0; d < width_; d += LANES) transpose(to + r * row + d, row, through_ + d * THROUGH + r, THROUGH);
  }

  // Takes w q of the block's queries, [d / columns, MOST_QUERIES, columns], and sets those of its padding to 0.
  void load_weighed(float* weighed) {
    const int64_t padded = up(queries_in_block_, PANEL);
    for_columns(width_, [&](int64_t d, auto tile) {
      float* from = weighed + d * MOST_QUERIES;
      std::fill(from + queries_in_block_ * tile.COLUMNS, from + padded * tile.COLUMNS, 0.0f);
      for (int64_t first = 0; first < padded; first += QUERIES)
        for (int64_t column = 0; column < tile.COLUMNS; column += SIDE)
          split_right<P>(weighed_of(d + column, first), from + first * tile.COLUMNS + column, tile.COLUMNS,
                         std::min(QUERIES, padded - first), SIDE);
    });
  }

  // grad[the strip's first rows] += e (w q). e_of(panel) is e of the strip and a panel.
  template <class Of>
  void add_to_negatives(float* grad, int64_t rows, Of e_of) {
    const int64_t padded = up(queries_in_block_, PANEL);
    for (int64_t i = 0; i < rows; i += 2 * SIDE) {
      const bool whole = i + 2 * SIDE <= rows;
      float* to = whole ? grad + i * width_ : rest_;
      if (!whole) std::fill_n(rest_, 2 * SIDE * width_, 0.0f);
      for (int64_t first = 0; first < padded; first += QUERIES) {
        const int64_t depth = std::min(QUERIES, padded - first);
        for (int64_t side = 0; side < 2; side++)
          for (int64_t panel = 0; panel < depth; panel += PANEL)
            split_left<P>(e_left_ + piece_count(SIDE, side * depth + panel, P),
                          e_of(first + panel) + (i + side * SIDE) * PANEL, PANEL, SIDE, PANEL);
        for (int64_t d = 0; d < width_; d += 2 * SIDE)
          add_product_of_pieces<P>(to + d, width_, e_left_, weighed_of(d, first), 2 * SIDE, 2 * SIDE, depth);
      }
      if (!whole) add_scaled(grad + i * width_, rest_, 1.0f, (rows - i) * width_);
    }
  }

 private:
  static constexpr int64_t THROUGH = MOST_QUERIES + APART;

  static int64_t size(int64_t width) {
    const int64_t pieces = 2 * MOST_QUERIES * width + 2 * STRIP * width + PANEL * STRIP + 2 * SIDE * QUERIES;
    return pieces * P / 2 + width * (THROUGH + STRIP + 2 * SIDE) + 6 * 16;
  }

  Piece* take(int64_t rows, int64_t depth) {
    return reinterpret_cast<Piece*>(scratch_.take(piece_count(rows, depth, P) / 2));
  }

  // w q of 16 columns and the queries from `first` on: [QUERIES-blocks, columns / 16, steps, P, 16, 16, 2].
  Piece* weighed_of(int64_t column, int64_t first) const {
    const int64_t depth = std::min(QUERIES, up(queries_in_block_, PANEL) - first);
    return weighed_ + piece_count(width_, first, P) + piece_count(column, depth, P);
  }

  UseOfTiles<P> tiles_;
  int64_t width_, queries_in_block_ = 0;
  Scratch scratch_;
  Piece *queries_, *weighed_, *strip_, *across_, *e_right_, *e_left_;
  float *through_, *turned_, *rest_;  // sums, [d, THROUGH]; the strip, [d, STRIP]; the last rows of grad
};

// Nothing: products of float32 need no pieces.
template <>
class SoftmaxPieces<0> {
 public:
  explicit SoftmaxPieces(int64_t) {}
  void begin_block(const float*, int64_t) {}
  void load_strip(const float*, int64_t) {}
  void write_through(float*, int64_t) {}
  void load_weighed(float*) {}
};

}  // namespace

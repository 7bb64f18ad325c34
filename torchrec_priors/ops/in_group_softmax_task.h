// A task of the in-group softmax: some queries of one set. For symbols see `in_group_softmax_native.cpp`.
//
//   for each block of queries whose e fit into the cache of a core
//     for each strip of negatives and panel of queries:  l, e, Z, and the strip's part of sum_j e_rj v_j
//     for each positive:                                 nll, w, by_score
//     for each strip of negatives:                       the block's part of grad v
//
// e is [queries / PANEL, negatives, PANEL], so that sums over negatives are sums of vectors. A logit becomes its
// exponential while it is still in a register. With products from pieces (`native_bf16.h`), it goes through memory.

#pragma once

#include "in_group_softmax_bf16.h"
#include "in_group_softmax_hidden.h"
#include "in_group_softmax_sizes.h"
#include "native_tiles.h"

#include <cfloat>

namespace {

constexpr int64_t BLOCK = 1 << 19;  // floats of a block's e
constexpr float NEVER = -1e30f;     // the logit of a hidden negative

struct Input {
  const float* query;  // [P, d]
  const float* vectors;  // [n, d]: negatives of the sets, then those that all queries share
  const float* shifts;   // [n], or none
  const float* items;    // [X, d]
  const int64_t *first_query, *first_negative;  // [S + 1]
  const int64_t *source, *query_of;             // [M]
  const int64_t* first_positive;                // [P + 1]
  const float *weight, *copies;                 // [M]
  const int64_t* hidden;                        // negatives, or none
  const int64_t *first_hidden, *hidden_count;   // [pools, P]
  int64_t width, queries, sets, shared, item_count, positives;
  int64_t safe, with_grads, threads, pieces;  // of `native_bf16.h`; 0 for float32
};

struct Output {
  float *nll, *grad_query, *grad_items, *grad_vectors;
};

struct Pool {  // negatives
  int64_t first, count, column;  // the column is the place of the first negative in e
};

struct Task {
  int64_t set, start, end;  // queries
};

inline float dot(const float* a, const float* b, int64_t width) {
  vec total{};
  for (int64_t d = 0; d < width; d += LANES) total += load(a + d) * load(b + d);
  return sum(total);
}

// How many queries a block has, a multiple of PANEL.
int64_t block_queries(int64_t negatives) {
  const int64_t fitting = BLOCK / std::max<int64_t>(negatives, 1) / PANEL * PANEL;
  return std::clamp<int64_t>(fitting, PANEL, MOST_QUERIES);
}

template <int P>  // pieces; 0 for products of float32
class Worker {    // what a thread needs
 public:
  Worker(const Input& in, const Output& out, float* by_score, int64_t most_floats)
      : in_(in),
        out_(out),
        by_score_(by_score),
        row_(in.width + APART),
        scratch_(size(in, most_floats)),
        pieces_(in.width) {
    e_ = scratch_.take(most_floats);
    panels_ = scratch_.take(MOST_QUERIES * in.width), weighed_ = scratch_.take(MOST_QUERIES * in.width);
    through_ = scratch_.take(MOST_QUERIES * row_);
    strip_ = scratch_.take(STRIP * row_);
    top_ = scratch_.take(MOST_QUERIES), sum_ = scratch_.take(MOST_QUERIES);
  }

  // Adds the gradients of the task's negatives to `grad`: those of the set, then the shared ones.
  void run(const Task& task, float* grad) {
    const int64_t first = in_.first_negative[task.set], own = in_.first_negative[task.set + 1] - first;
    pools_[0] = {first, own, 0};
    pools_[1] = {in_.first_negative[in_.sets], in_.shared, up(own, STRIP)};
    columns_ = pools_[1].column + up(in_.shared, STRIP);
    const int64_t step = block_queries(own + in_.shared);
    for (start_ = task.start; start_ < task.end; start_ += step) {
      count_ = std::min(step, task.end - start_);
      begin_block();
      if (!in_.safe) find_tops();
      for (const Pool& pool : pools_)
        for (int64_t j = 0; j < pool.count; j += STRIP) {
          load_strip(pool, j);
          for (int64_t panel = 0; panel < count_; panel += PANEL) {
            compute_e(pool, j, panel);
            if (in_.with_grads) add_to_queries(pool, j, panel);
          }
        }
      positives();
      if (!in_.with_grads) continue;
      add_to_negatives(pools_[0], grad);
      add_to_negatives(pools_[1], grad + own * in_.width);
    }
  }

  static int64_t floats(const Input& in, int64_t set) {
    const int64_t own = in.first_negative[set + 1] - in.first_negative[set];
    return (up(own, STRIP) + up(in.shared, STRIP)) * block_queries(own + in.shared);
  }

 private:
  static int64_t size(const Input& in, int64_t floats) {
    return floats + MOST_QUERIES * (3 * in.width + APART + 2) + STRIP * (in.width + APART);
  }

  int64_t strip_rows(const Pool& pool, int64_t j) const { return std::min(STRIP, pool.count - j); }

  // e of a negative and a panel of queries.
  float* e(int64_t column, int64_t panel) const { return e_ + panel * columns_ + column * PANEL; }

  // Copies queries to [queries / PANEL, d, PANEL], with zeros as padding.
  void begin_block() {
    std::fill(panels_, panels_ + up(count_, PANEL) * in_.width, 0.0f);
    for (int64_t r = 0; r < count_; r += LANES) {
      const float* q = in_.query + (start_ + r) * in_.width;
      float* to = panels_ + r / PANEL * PANEL * in_.width + r % PANEL;
      for (int64_t d = 0; d < in_.width; d += LANES) {
        if (r + LANES <= count_) {
          transpose(to + d * PANEL, PANEL, q + d, in_.width);
          continue;
        }
        for (int64_t i = r; i < count_; i++)
          for (int64_t n = d; n < d + LANES; n++) to[n * PANEL + i - r] = q[(i - r) * in_.width + n];
      }
    }
    std::fill(top_, top_ + MOST_QUERIES, 0.0f);
    std::fill(sum_, sum_ + MOST_QUERIES, 0.0f);
    std::fill(through_, through_ + MOST_QUERIES * row_, 0.0f);
    pieces_.begin_block(panels_, count_);
    if (in_.hidden) find_hidden();
  }

  // Copies a strip of negatives, with zeros as padding.
  void load_strip(const Pool& pool, int64_t j) {
    const int64_t rows = strip_rows(pool, j);
    for (int64_t i = 0; i < rows; i++)
      std::memcpy(strip_ + i * row_, in_.vectors + (pool.first + j + i) * in_.width, sizeof(float) * in_.width);
    std::memset(strip_ + rows * row_, 0, sizeof(float) * (STRIP - rows) * row_);
    pieces_.load_strip(strip_, row_);
  }

  // Calls use(tile, i) with the logits of ROWS negatives, beginning with j + i, and a panel of queries.
  template <class Use>
  void products(const Pool& pool, int64_t j, int64_t panel, Use use) {
    const int64_t rows = strip_rows(pool, j);
    for (int64_t i = 0; i < rows; i += ROWS) {
      WideTile tile{};
      multiply(tile, strip_ + i * row_, row_, 1, panels_ + panel * in_.width, PANEL, in_.width);
      if (in_.shifts)
        each(tile, [&](vec& l, int r, int) { l += i + r < rows ? in_.shifts[pool.first + j + i + r] : 0.0f; });
      use(tile, i);
    }
  }

  // Calls each(place of e) for the hidden negatives of a strip and a panel, and returns whether there are any.
  template <class Each>
  bool hidden(const Pool& pool, int64_t j, int64_t panel, Each each) {
    if (!in_.hidden) return false;
    const auto [first, end] = hidden_.of(pool.column + j, panel);
    for (const HiddenCell* cell = first; cell < end; cell++) each(e(cell->column, panel) + cell->query % PANEL);
    return first < end;
  }

  // Finds the block's hidden negatives.
  void find_hidden() {
    hidden_.begin(count_, columns_);
    for (int64_t number = 0; number < (in_.shared ? 2 : 1); number++)
      for (int64_t r = 0; r < count_; r++) {
        const int64_t at = number * in_.queries + start_ + r, first = in_.first_hidden[at];
        for (int64_t i = first; i < first + in_.hidden_count[at]; i++)
          hidden_.add(in_.hidden[i] - pools_[number].first + pools_[number].column, r);
      }
    hidden_.sort();
  }

  // Computes all logits of the block, and the largest one of each query.
  void find_tops() {
    std::fill(top_, top_ + MOST_QUERIES, NEVER);
    for (const Pool& pool : pools_)
      for (int64_t j = 0; j < pool.count; j += STRIP) {
        load_strip(pool, j);
        for (int64_t panel = 0; panel < count_; panel += PANEL) {
          logits(pool, j, panel);
          for (int64_t r = panel; r < panel + PANEL; r += LANES) {
            vec largest = load(top_ + r);
            for (int64_t i = 0; i < strip_rows(pool, j); i++) {
              const vec l = load(e(pool.column + j + i, panel) + r - panel);
              largest = l > largest ? l : largest;
            }
            store(top_ + r, largest);
          }
        }
      }
    // Without a negative, top must not be NEVER, as exp(NEVER - NEVER) would be 1.
    for (int64_t r = 0; r < count_; r++) top_[r] = top_[r] > 0.5f * NEVER ? top_[r] : 0.0f;
  }

  // Writes the logits of a strip and a panel to the places of their e.
  void logits(const Pool& pool, int64_t j, int64_t panel) {
    if constexpr (P) {
      float* to = e(pool.column + j, panel);
      for (int64_t i = 0; i < STRIP; i++) {
        const bool shifted = in_.shifts && i < strip_rows(pool, j);
        std::fill_n(to + i * PANEL, PANEL, shifted ? in_.shifts[pool.first + j + i] : 0.0f);
      }
      pieces_.add_logits(to, panel);
    } else {
      products(pool, j, panel, [&](WideTile& tile, int64_t i) {
        store(e(pool.column + j + i, panel), PANEL, tile);
      });
    }
    hidden(pool, j, panel, [](float* at) { *at = NEVER; });
  }

  // Computes e of a strip and a panel, and adds to the sums. The logits are there already if they are not safe.
  void compute_e(const Pool& pool, int64_t j, int64_t panel) {
    if (in_.safe && !P) return exponentials_of_products(pool, j, panel);
    if (in_.safe) logits(pool, j, panel);
    exponentials(pool, j, panel);
    if (!P) return;
    const int64_t rows = strip_rows(pool, j);
    std::fill_n(e(pool.column + j + rows, panel), (STRIP - rows) * PANEL, 0.0f);
  }

  // Computes e of a strip and a panel without keeping logits, and adds to the sums.
  void exponentials_of_products(const Pool& pool, int64_t j, int64_t panel) {
    const int64_t rows = strip_rows(pool, j);
    Tile<1, WideTile::VECS> total{};
    products(pool, j, panel, [&](WideTile& tile, int64_t i) {
      each(tile, [&](vec& l, int, int) { l = exponential(l); });
      each(tile, [&](vec value, int r, int column) {
        if (i + r < rows) total.at[0][column / LANES] += value;
      });
      store(e(pool.column + j + i, panel), PANEL, tile);
    });
    if (hidden(pool, j, panel, [](float* at) { *at = 0.0f; })) return add_to_sums(pool, j, panel);
    each(total, [&](vec x, int, int column) { store(sum_ + panel + column, load(sum_ + panel + column) + x); });
  }

  // Replaces the logits of a strip and a panel by e, and adds to the sums.
  void exponentials(const Pool& pool, int64_t j, int64_t panel) {
    for (int64_t r = panel; r < panel + PANEL; r += LANES) {
      const vec top = load(top_ + r);
      for (int64_t i = 0; i < strip_rows(pool, j); i++) {
        float* at = e(pool.column + j + i, panel) + r - panel;
        store(at, exponential(load(at) - top));
      }
    }
    add_to_sums(pool, j, panel);
  }

  void add_to_sums(const Pool& pool, int64_t j, int64_t panel) {
    for (int64_t r = panel; r < panel + PANEL; r += LANES) {
      vec total{};
      for (int64_t i = 0; i < strip_rows(pool, j); i++) total += load(e(pool.column + j + i, panel) + r - panel);
      store(sum_ + r, load(sum_ + r) + total);
    }
  }

  // through[query] += e^T v
  void add_to_queries(const Pool& pool, int64_t j, int64_t panel) {
    if constexpr (P) return pieces_.add_to_queries(e(pool.column + j, panel), panel);
    for_columns(in_.width, [&](int64_t d, auto tile) {
      for (int64_t r = 0; r < PANEL; r += tile.ROWS)
        add_product(tile, through_ + (panel + r) * row_ + d, row_, tile.ROWS, e(pool.column + j, panel) + r, 1, PANEL,
                    strip_ + d, row_, strip_rows(pool, j));
    });
  }

  // grad[negative] += e (w q)
  void add_to_negatives(const Pool& pool, float* grad) {
    if constexpr (P) {
      for (int64_t j = 0; j < pool.count; j += STRIP)
        pieces_.add_to_negatives(grad + j * in_.width, strip_rows(pool, j),
                                 [&](int64_t panel) { return e(pool.column + j, panel); });
      return;
    }
    for (int64_t j = 0; j < pool.count; j += STRIP)
      for (int64_t first = 0; first < count_; first += QUERIES)
        for_columns(in_.width, [&](int64_t d, auto zeros) {
          for (int64_t i = j; i < j + strip_rows(pool, j); i += zeros.ROWS) {
            auto tile = zeros;
            float* to = grad + i * in_.width + d;
            load(tile, to, in_.width, pool.count - i);
            for (int64_t panel = first; panel < std::min(first + QUERIES, count_); panel += PANEL)
              multiply(tile, e(pool.column + i, panel), PANEL, 1, weighed_ + d * MOST_QUERIES + panel * zeros.COLUMNS,
                       zeros.COLUMNS, std::min<int64_t>(PANEL, count_ - panel));
            store(to, in_.width, tile, pool.count - i);
          }
        });
  }

  // Losses and derivatives of the block's positives, and the gradients of its queries.
  void positives() {
    if (in_.with_grads) pieces_.write_through(through_, row_);
    for (int64_t r = 0; r < count_; r++) {
      const int64_t query = start_ + r, end = in_.first_positive[query + 1];
      const float* q = in_.query + query * in_.width;
      float* grad = out_.grad_query + query * in_.width;
      float by_sum = 0.0f;
      const float log_sum = std::log(sum_[r]) + top_[r];
      for (int64_t m = in_.first_positive[query]; m < end; m++) {
        if (m + 2 < in_.positives) prefetch(in_.items + in_.source[m + 2] * in_.width, in_.width);
        by_sum += positive(m, r, log_sum, dot(q, in_.items + in_.source[m] * in_.width, in_.width));
      }
      if (!in_.with_grads) continue;
      for_columns(in_.width, [&](int64_t d, auto tile) {
        for (int64_t i = 0; i < tile.COLUMNS; i += LANES) {
          store(weighed_ + d * MOST_QUERIES + r * tile.COLUMNS + i, load(q + d + i) * by_sum);
          store(grad + d + i, load(through_ + r * row_ + d + i) * by_sum);
        }
      });
      for (int64_t m = in_.first_positive[query]; m < end; m++)
        add_scaled(grad, in_.items + in_.source[m] * in_.width, by_score_[m], in_.width);
    }
    if (in_.with_grads) pieces_.load_weighed(weighed_);
  }

  // Writes nll and by_score of a positive, and returns its part of w. All numbers are divided by e^{the largest one}.
  float positive(int64_t m, int64_t r, float log_sum, float score) {
    const float raw = std::exp(score - top_[r]);
    const float own_in_sum = FLT_MAX < raw ? FLT_MAX : raw;  // as 0 times inf would be NaN
    const float others_in_sum = sum_[r] - in_.copies[m] * own_in_sum;
    if (others_in_sum <= 0.0f) {  // there are no negatives but copies
      out_.nll[m] = by_score_[m] = 0.0f;
      return 0.0f;
    }
    const float largest = std::max(score, log_sum), own = std::exp(score - largest);
    const float others = std::max(std::exp(log_sum - largest) - in_.copies[m] * own, 0.0f);
    out_.nll[m] = largest + std::log(others + own) - score;
    by_score_[m] = in_.weight[m] * (own * (1.0f - in_.copies[m]) / (others + own) - 1.0f);
    return in_.weight[m] / (others_in_sum + own_in_sum);
  }

  const Input& in_;
  const Output& out_;
  float* by_score_;
  int64_t row_, columns_ = 0, start_ = 0, count_ = 0;  // distance of rows; places for negatives; queries of the block
  Pool pools_[2];
  Scratch scratch_;
  SoftmaxPieces<P> pieces_;
  float *e_, *panels_, *weighed_, *through_, *strip_, *top_, *sum_;
  HiddenCells hidden_;
};

}  // namespace

// Jagged causal SiLU attention on a CPU. One thread computes one head of one sequence; the result does not depend on
// the rest of the batch.
//
//   s_ij = alpha q_i . k_j + bias[i - j] + time bias,  out_i = 1 / divisor sum_{j <= i} silu(s_ij) v_j
//
// A block of PANEL queries goes through the keys, PANEL at a time, so that scores and all that they are multiplied with
// fit into the nearest cache. Of a block's last keys, a tile computes only half if its queries see no more, and sets
// what they do not see to 0. Scores are computed again in backward.

#include "native_tiles.h"

#include <omp.h>

#include <new>
#include <vector>

namespace {

constexpr int ROWS = NarrowTile::ROWS, PANEL = NarrowTile::COLUMNS;  // as heads are narrow
static_assert(PANEL == 2 * LANES && PANEL % ROWS == 0);
constexpr int BUCKETS = 40;  // buckets of time
constexpr int64_t AHEAD = 12;  // rows that are loaded ahead

struct Heads {  // [N, H, D] with D contiguous
  float* data;
  int64_t token, head;
};

struct Batch {
  const int64_t* offsets;
  const int64_t* order;  // sequences, the longest first
  int64_t sequences, heads, width, longest;
  const float* bias;  // [H, L]
  int64_t bias_row;
  const int64_t* times;     // [N], or none
  const float* time_bias;   // [H, BUCKETS], or none
  float alpha, divisor;
  int64_t threads;
  int64_t activates;  // whether q, k and v are silu of the inputs
};

// One head of one sequence: its inputs, padded with zeros, and scratch memory.
struct Head {
  const Batch& batch;
  int64_t padded, wide, zero;  // tokens and width, rounded up to panels; index of the bias of distance 0
  int64_t start = 0, length = 0, head = 0;
  float *q, *k, *v, *k_panels, *bias, *of_time;
  float *slope_q = nullptr, *slope_k = nullptr, *slope_v = nullptr;  // derivatives of silu of the inputs, for backward
  int32_t *bucket, *seen;

  static int64_t size(const Batch& b) {
    const int64_t padded = up(b.longest, PANEL), wide = up(b.width, PANEL);
    return 4 * padded * wide + 2 * PANEL * padded + padded + 6 * PANEL;
  }

  Head(const Batch& b, Scratch& scratch)
      : batch(b), padded(up(b.longest, PANEL)), wide(up(b.width, PANEL)), zero(up(b.longest, PANEL) + PANEL) {
    q = scratch.take(padded * wide), k = scratch.take(padded * wide), v = scratch.take(padded * wide);
    k_panels = scratch.take(padded * wide);
    bias = scratch.take(zero + 2 * PANEL);
    of_time = scratch.take(PANEL * padded);
    bucket = reinterpret_cast<int32_t*>(scratch.take(PANEL * padded));
    seen = reinterpret_cast<int32_t*>(scratch.take(3 * PANEL));
    for (int i = 0; i < 3 * PANEL; i++) seen[i] = i <= PANEL ? -1 : 0;
  }

  void begin(int64_t sequence, int64_t number, const Heads& from_q, const Heads& from_k, const Heads& from_v) {
    start = batch.offsets[sequence], length = batch.offsets[sequence + 1] - start, head = number;
    if (batch.activates) {
      activate(q, slope_q, from_q, batch.alpha), activate(k, slope_k, from_k, 1.0f), activate(v, slope_v, from_v, 1.0f);
    } else {
      rows(from_q, [&](int64_t at, vec x) { store(q + at, x * batch.alpha); });
      rows(from_k, [&](int64_t at, vec x) { store(k + at, x); });
      rows(from_v, [&](int64_t at, vec x) { store(v + at, x); });
    }
    panels(k_panels, k);
    const int64_t end = up(length, PANEL);
    for (int64_t distance = 0; distance <= end; distance++)
      bias[zero - distance] = distance < length ? batch.bias[head * batch.bias_row + distance] : 0.0f;
    std::fill(bias + zero + 1, bias + zero + 2 * PANEL, 0.0f);
  }

  // Calls use(place in [T, width], numbers) for one head's numbers, with zeros as padding.
  template <class Use>
  void rows(const Heads& from, Use use) const {
    const int64_t whole = batch.width / LANES * LANES, rest = batch.width - whole, end = up(length, PANEL);
    for (int64_t i = 0; i < length; i++) {
      const float* x = from.data + (start + i) * from.token + head * from.head;
      if (i + AHEAD < length) prefetch(x + AHEAD * from.token, batch.width);
      for (int64_t d = 0; d < whole; d += LANES) use(i * wide + d, load(x + d));
      if (whole == wide) continue;
      float last[LANES] = {};
      std::copy_n(x + whole, rest, last);
      for (int64_t d = whole; d < wide; d += LANES) use(i * wide + d, d == whole ? load(last) : vec{});
    }
    for (int64_t at = length * wide; at < end * wide; at += LANES) use(at, vec{});
  }

  // Writes factor * silu(x) to [T, width], and the derivative of silu if it is needed.
  void activate(float* to, float* slope, const Heads& from, float factor) const {
    rows(from, [=](int64_t at, vec x) {
      const vec share = sigmoid(x), y = x * share;
      store(to + at, y * factor);
      if (slope) store(slope + at, silu_slope(y, share));
    });
  }

  // Copies such rows to [T / PANEL, width, PANEL], for products with keys in their columns.
  void panels(float* to, const float* from) const {
    for (int64_t panel = 0; panel < up(length, PANEL); panel += PANEL)
      for (int64_t i = 0; i < PANEL; i += LANES)
        for (int64_t d = 0; d < wide; d += LANES)
          transpose(to + panel * wide + d * PANEL + i, PANEL, from + (panel + i) * wide + d, wide);
  }

  // Writes the time biases of a block's rows, and their buckets: of_time and bucket, [PANEL, padded].
  void time_rows(int64_t block, int64_t rows) {
    const int64_t* t = batch.times + start;
    const int64_t keys = block + PANEL, last = std::min(keys, length);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t now = t[std::min(block + r, length - 1)];
      int32_t* found = bucket + r * padded;
      float* value = of_time + r * padded;
      for (int64_t j = 0; j < last; j++) {
        const int64_t gap = now - t[j];
        const double ratio = ((gap > 0 ? static_cast<double>(gap) : 0.0) + 1000.0) / 1000.0;
        int64_t bits;
        std::memcpy(&bits, &ratio, 8);
        found[j] = static_cast<int32_t>(std::min<int64_t>((bits >> 52) - 1023, BUCKETS - 1));
      }
      std::fill(found + last, found + keys, 0);
      for (int64_t j = 0; j < keys; j++) value[j] = batch.time_bias[head * BUCKETS + found[j]];
    }
  }

  // Scores of ROWS queries with a panel of keys, or with its first half.
  template <int HALVES>
  void scores(NarrowTile& tile, int64_t row, int64_t panel) const {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < HALVES; half++)
        tile.at[r][half] = load(bias + zero - (row + r) + panel + half * LANES);
    if (batch.times)
      for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < HALVES; half++)
          tile.at[r][half] += load(of_time + (row % PANEL + r) * padded + panel + half * LANES);
    multiply_first<HALVES>(tile, q + row * wide, wide, 1, k_panels + panel * wide, PANEL, batch.width);
  }

  // Whether the first of ROWS queries does not see all keys of a tile.
  template <int HALVES>
  static bool hides(int64_t row, int64_t panel) {
    return panel + HALVES * LANES > row + 1;
  }

  // x, and 0 for keys that a query does not see.
  vec visible(vec x, int64_t row, int64_t key) const {
    return (vec)((ints)x & *reinterpret_cast<const ints*>(seen + PANEL + key - row));
  }

  // Writes the first rows of a block: factor * from, [PANEL, width], times slopes if there are any, [T, width].
  void write(const Heads& to, float factor, const float* from, const float* slope, int64_t block) const {
    const int64_t end = std::min(block + PANEL, length);
    for (int64_t i = block; i < end; i++) {
      float* row = to.data + (start + i) * to.token + head * to.head;
      if (i + AHEAD < end) prefetch<true>(row + AHEAD * to.token, batch.width);
      const float* x = from + (i - block) * wide;
      if (slope)
        for (int64_t d = 0; d < batch.width; d++) row[d] = factor * x[d] * slope[i * wide + d];
      else
        for (int64_t d = 0; d < batch.width; d++) row[d] = factor * x[d];
    }
  }
};

// How many keys of a panel ROWS queries see.
inline int64_t seen_keys(int64_t row, int64_t panel) { return std::min<int64_t>(PANEL, row + ROWS - panel); }

struct Forward {
  float *sums, *weights;  // [PANEL, width] and [ROWS, PANEL]

  static int64_t size(const Batch& b) { return PANEL * (up(b.width, PANEL) + ROWS); }

  Forward(const Head& h, Scratch& scratch) : sums(scratch.take(PANEL * h.wide)), weights(scratch.take(ROWS * PANEL)) {}

  template <int HALVES>
  void tile(const Head& h, int64_t row, int64_t panel) {
    NarrowTile tile;
    h.scores<HALVES>(tile, row, panel);
    const bool hides = Head::hides<HALVES>(row, panel);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < HALVES; half++) {
        const vec s = tile.at[r][half];
        vec y = s * sigmoid(s);
        if (hides) y = h.visible(y, row + r, panel + half * LANES);
        store(weights + r * PANEL + half * LANES, y);
      }
    for (int64_t d = 0; d < h.batch.width; d += PANEL)
      add_product(NarrowTile{}, sums + row % PANEL * h.wide + d, h.wide, ROWS, weights, PANEL, 1,
                  h.v + panel * h.wide + d, h.wide, seen_keys(row, panel));
  }

  void run(Head& h, const Heads& out) {
    for (int64_t block = 0; block < h.length; block += PANEL) {
      const int64_t rows = std::min<int64_t>(PANEL, up(h.length - block, ROWS));
      if (h.batch.times) h.time_rows(block, rows);
      std::memset(sums, 0, sizeof(float) * PANEL * h.wide);
      for (int64_t panel = 0; panel <= block; panel += PANEL)
        for (int64_t row = block; row < block + rows; row += ROWS)
          seen_keys(row, panel) > LANES ? tile<2>(h, row, panel) : tile<1>(h, row, panel);
      h.write(out, 1.0f / h.batch.divisor, sums, nullptr, block);
    }
  }
};

struct Gradients {
  Heads q, k, v;
  float* bias;       // [H, N]: for each sequence, one number per distance
  double* of_time;   // [sequences, H, BUCKETS], or none
};

struct Backward {
  float *out, *v_panels, *sum_q, *sum_k, *sum_v;  // [padded, width], but sum_q is [PANEL, width]
  float *weights, *of_scores;                     // [PANEL, PANEL]: silu of a block's scores, and their gradients
  // Row r has sums for the rows r of tiles, by the distance of the tile's first row to the key. If all rows had the
  // same sums, each would have to wait until the row before has been written.
  float* diagonals;  // [ROWS, apart]
  int64_t apart;

  static int64_t size(const Batch& b) {
    const int64_t padded = up(b.longest, PANEL), wide = up(b.width, PANEL);
    return (b.activates ? 7 : 4) * padded * wide + PANEL * wide + 2 * PANEL * PANEL + ROWS * (padded + 3 * PANEL);
  }

  Backward(Head& h, Scratch& scratch) : apart(h.zero + 2 * PANEL) {
    out = scratch.take(h.padded * h.wide), v_panels = scratch.take(h.padded * h.wide);
    sum_k = scratch.take(h.padded * h.wide), sum_v = scratch.take(h.padded * h.wide);
    sum_q = scratch.take(PANEL * h.wide);
    weights = scratch.take(PANEL * PANEL), of_scores = scratch.take(PANEL * PANEL);
    diagonals = scratch.take(ROWS * apart);
    if (!h.batch.activates) return;
    h.slope_q = scratch.take(h.padded * h.wide), h.slope_k = scratch.take(h.padded * h.wide);
    h.slope_v = scratch.take(h.padded * h.wide);
  }

  // Computes silu of a tile's scores and the gradients of the scores, and adds to those of the queries and the biases.
  template <int HALVES>
  void tile(const Head& h, int64_t row, int64_t panel) {
    NarrowTile tile;
    h.scores<HALVES>(tile, row, panel);
    const int64_t first = row % PANEL * PANEL;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < HALVES; half++) {
        const vec s = tile.at[r][half], share = sigmoid(s), y = s * share;
        store(weights + first + r * PANEL + half * LANES, y);
        store(of_scores + first + r * PANEL + half * LANES, silu_slope(y, share));
      }

    tile = NarrowTile{};
    multiply_first<HALVES>(tile, out + row * h.wide, h.wide, 1, v_panels + panel * h.wide, PANEL, h.batch.width);
    const bool hides = Head::hides<HALVES>(row, panel);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < HALVES; half++) {
        float* at = of_scores + first + r * PANEL + half * LANES;
        vec g = tile.at[r][half] * load(at);
        if (hides) {
          float* weight = weights + first + r * PANEL + half * LANES;
          g = h.visible(g, row + r, panel + half * LANES);
          store(weight, h.visible(load(weight), row + r, panel + half * LANES));
        }
        store(at, g);
        float* diagonal = diagonals + r * apart + h.zero - row + panel + half * LANES;
        store(diagonal, load(diagonal) + g);
      }
    for (int64_t d = 0; d < h.batch.width; d += PANEL)
      add_product(NarrowTile{}, sum_q + row % PANEL * h.wide + d, h.wide, ROWS, of_scores + first, PANEL, 1,
                  h.k + panel * h.wide + d, h.wide, seen_keys(row, panel));
  }

  // sum[keys of the panel] += left[rows of the block, keys]^T b[rows of the block]
  void add_to_keys(const Head& h, float* sum, const float* left, const float* b, int64_t block, int64_t panel,
                   int64_t rows) const {
    for (int64_t key = 0; key < std::min<int64_t>(PANEL, block + rows - panel); key += ROWS) {
      const int64_t first = std::max<int64_t>(0, panel + key - block);  // queries before the key do not see it
      for (int64_t d = 0; d < h.batch.width; d += PANEL)
        add_product(NarrowTile{}, sum + (panel + key) * h.wide + d, h.wide, ROWS, left + first * PANEL + key, 1, PANEL,
                    b + (block + first) * h.wide + d, h.wide, rows - first);
    }
  }

  void add_to_buckets(const Head& h, double* sums, int64_t block, int64_t panel, int64_t rows) const {
    for (int64_t r = 0; r < std::min(rows, h.length - block); r++) {
      const float* g = of_scores + r * PANEL;
      const int32_t* found = h.bucket + r * h.padded + panel;
      double sum = 0.0;
      int32_t last = 0;
      for (int64_t j = 0; j < std::min<int64_t>(PANEL, block + r + 1 - panel); j++) {
        if (found[j] != last) sums[last] += sum, sum = 0.0, last = found[j];
        sum += g[j];
      }
      sums[last] += sum;
    }
  }

  void run(Head& h, const Heads& grad, const Gradients& to, int64_t sequence) {
    const int64_t end = up(h.length, PANEL);
    const float share = 1.0f / h.batch.divisor;
    h.rows(grad, [&](int64_t at, vec x) { store(out + at, x * share); });
    h.panels(v_panels, h.v);
    std::memset(sum_k, 0, sizeof(float) * end * h.wide), std::memset(sum_v, 0, sizeof(float) * end * h.wide);
    std::fill(diagonals, diagonals + ROWS * apart, 0.0f);
    for (int64_t block = 0; block < h.length; block += PANEL) {
      const int64_t rows = std::min<int64_t>(PANEL, up(h.length - block, ROWS));
      if (h.batch.times) h.time_rows(block, rows);
      std::memset(sum_q, 0, sizeof(float) * PANEL * h.wide);
      for (int64_t panel = 0; panel <= block; panel += PANEL) {
        for (int64_t row = block; row < block + rows; row += ROWS)
          seen_keys(row, panel) > LANES ? tile<2>(h, row, panel) : tile<1>(h, row, panel);
        add_to_keys(h, sum_v, weights, out, block, panel, rows);
        add_to_keys(h, sum_k, of_scores, h.q, block, panel, rows);
        if (!to.of_time) continue;
        add_to_buckets(h, to.of_time + (sequence * h.batch.heads + h.head) * BUCKETS, block, panel, rows);
      }
      h.write(to.q, h.batch.alpha, sum_q, h.slope_q, block);
    }
    for (int64_t block = 0; block < h.length; block += PANEL) {
      h.write(to.k, 1.0f, sum_k + block * h.wide, h.slope_k, block);
      h.write(to.v, 1.0f, sum_v + block * h.wide, h.slope_v, block);
    }
    for (int64_t i = 0; i < h.length; i++) {
      float sum = 0.0f;
      for (int r = 0; r < ROWS; r++) sum += diagonals[r * apart + h.zero - i + r];
      to.bias[h.head * h.batch.offsets[h.batch.sequences] + h.start + i] = sum;
    }
  }
};

template <class Each>
int parallel(const Batch& batch, int64_t size, Each each) {
  std::vector<Scratch> scratch;
  try {
    for (int64_t i = 0; i < batch.threads; i++) scratch.emplace_back(size);
  } catch (const std::bad_alloc&) {
    return 1;
  }
#pragma omp parallel num_threads(batch.threads)
  {
    Scratch& own = scratch[omp_get_thread_num()];
    Head head(batch, own);
    each(head, own);
  }
  return 0;
}

}  // namespace

extern "C" {

int hstu_forward(const Batch* batch, const Heads* q, const Heads* k, const Heads* v, const Heads* out) {
  return parallel(*batch, Head::size(*batch) + Forward::size(*batch), [&](Head& head, Scratch& scratch) {
    Forward forward(head, scratch);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < batch->sequences * batch->heads; item++) {
      head.begin(batch->order[item / batch->heads], item % batch->heads, *q, *k, *v);
      forward.run(head, *out);
    }
  });
}

int hstu_backward(const Batch* batch, const Heads* q, const Heads* k, const Heads* v, const Heads* grad,
                  const Gradients* to) {
  return parallel(*batch, Head::size(*batch) + Backward::size(*batch), [&](Head& head, Scratch& scratch) {
    Backward backward(head, scratch);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < batch->sequences * batch->heads; item++) {
      const int64_t sequence = batch->order[item / batch->heads];
      head.begin(sequence, item % batch->heads, *q, *k, *v);
      backward.run(head, *grad, *to, sequence);
    }
  });
}
}

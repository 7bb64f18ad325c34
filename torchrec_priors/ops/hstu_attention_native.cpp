// Jagged causal SiLU attention on a CPU. One thread computes one head of one sequence; the result does not depend on
// the rest of the batch.
//
//   s_ij = alpha q_i . k_j + bias[i - j] + time bias,  out_i = 1 / divisor sum_{j <= i} silu(s_ij) v_j
//
// Products are register tiles of ROWS x 2 vectors. Scores are kept in a strip of a few rows and are computed again in
// backward. Scores above the diagonal get the bias NEVER, with which silu and its derivative are exactly 0.

#include "native_tiles.h"

#include <omp.h>

#include <new>
#include <vector>

namespace {

static_assert(PANEL % ROWS == 0);
constexpr float NEVER = -1e30f;
constexpr int BUCKETS = 40;  // buckets of time

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
  float *q, *k, *v, *k_panels, *bias, *strip, *of_time;
  int32_t* bucket;

  static int64_t size(const Batch& b) {
    const int64_t padded = up(b.longest, PANEL), wide = up(b.width, PANEL);
    return 4 * padded * wide + 4 * PANEL * padded + 2 * (padded + 4 * PANEL);
  }

  Head(const Batch& b, Scratch& scratch)
      : batch(b), padded(up(b.longest, PANEL)), wide(up(b.width, PANEL)), zero(up(b.longest, PANEL) + PANEL) {
    q = scratch.take(padded * wide), k = scratch.take(padded * wide), v = scratch.take(padded * wide);
    k_panels = scratch.take(padded * wide);
    bias = scratch.take(zero + 2 * PANEL);
    strip = scratch.take(PANEL * padded);
    of_time = scratch.take(PANEL * padded);
    bucket = reinterpret_cast<int32_t*>(scratch.take(PANEL * padded));
  }

  void begin(int64_t sequence, int64_t number, const Heads& from_q, const Heads& from_k, const Heads& from_v) {
    start = batch.offsets[sequence], length = batch.offsets[sequence + 1] - start, head = number;
    rows(q, from_q), rows(k, from_k), rows(v, from_v);
    const int64_t numbers = up(length, PANEL) * wide;
    if (batch.activates) activate(q, numbers), activate(k, numbers), activate(v, numbers);
    scale(q, numbers, batch.alpha);
    panels(k_panels, k);
    const int64_t end = up(length, PANEL);
    for (int64_t distance = 0; distance <= end; distance++)
      bias[zero - distance] = distance < length ? batch.bias[head * batch.bias_row + distance] : 0.0f;
    std::fill(bias + zero + 1, bias + zero + 2 * PANEL, NEVER);
  }

  // Copies one head's rows to [T, width], with zeros as padding.
  void rows(float* to, const Heads& from) const {
    const int64_t end = up(length, PANEL);
    std::memset(to, 0, sizeof(float) * end * wide);
    for (int64_t i = 0; i < length; i++)
      std::copy_n(from.data + (start + i) * from.token + head * from.head, batch.width, to + i * wide);
  }

  static void activate(float* x, int64_t numbers) {
    for (int64_t i = 0; i < numbers; i += LANES) store(x + i, load(x + i) * sigmoid(load(x + i)));
  }

  static void scale(float* x, int64_t numbers, float factor) {
    for (int64_t i = 0; i < numbers; i += LANES) store(x + i, load(x + i) * factor);
  }

  // Multiplies gradients of silu of the inputs by its derivative.
  void through_activation(const Heads& grad, const Heads& from) const {
    const auto change = [](float* g, const float* x) {
      const vec input = load(x);
      store(g, load(g) * silu_slope(input, sigmoid(input)));
    };
    const int64_t whole = batch.width / LANES * LANES, rest = batch.width - whole;
    for (int64_t i = 0; i < length; i++) {
      float* g = grad.data + (start + i) * grad.token + head * grad.head;
      const float* x = from.data + (start + i) * from.token + head * from.head;
      for (int64_t d = 0; d < whole; d += LANES) change(g + d, x + d);
      if (!rest) continue;
      float last[2][LANES] = {};
      std::copy_n(g + whole, rest, last[0]), std::copy_n(x + whole, rest, last[1]);
      change(last[0], last[1]);
      std::copy_n(last[0], rest, g + whole);
    }
  }

  // Copies such rows to [T / PANEL, width, PANEL], for products with keys in their columns.
  void panels(float* to, const float* from) const {
    for (int64_t panel = 0; panel < up(length, PANEL); panel += PANEL)
      for (int64_t i = 0; i < PANEL; i++)
        for (int64_t d = 0; d < batch.width; d++)
          to[panel * wide + d * PANEL + i] = from[(panel + i) * wide + d];
  }

  // Writes the time biases of ROWS rows, and their buckets: of_time and bucket, [ROWS, padded].
  void time_rows(int64_t row, int64_t keys) {
    const int64_t* t = batch.times + start;
    for (int r = 0; r < ROWS; r++) {
      const int64_t last = std::min(keys, length), now = t[std::min(row + r, length - 1)];
      int32_t* found = bucket + (row % PANEL + r) * padded;
      float* value = of_time + (row % PANEL + r) * padded;
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

  // Scores of ROWS queries against PANEL keys.
  void scores(Tile& tile, int64_t row, int64_t panel) const {
    tile = Tile{};
    multiply(tile, q + row * wide, wide, 1, k_panels + panel * wide, PANEL, batch.width);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const float* of_distance = bias + zero - (row + r) + panel;
      tile.at[r][0] += load(of_distance);
      tile.at[r][1] += load(of_distance + LANES);
      if (batch.times) {
        const float* more = of_time + (row % PANEL + r) * padded + panel;
        tile.at[r][0] += load(more);
        tile.at[r][1] += load(more + LANES);
      }
    }
  }

  // to[rows from `row`] = factor * left[ROWS, steps] b[steps, width]
  void product(const Heads& to, float factor, const float* left, const float* b, int64_t row, int64_t steps) const {
    for (int64_t d = 0; d < batch.width; d += PANEL) {
      Tile tile{};
      multiply(tile, left, padded, 1, b + d, wide, steps);
      for (int r = 0; r < ROWS && row + r < length; r++) {
        float* out = to.data + (start + row + r) * to.token + head * to.head + d;
        if (d + PANEL <= batch.width) {
          store(out, tile.at[r][0] * factor), store(out + LANES, tile.at[r][1] * factor);
        } else {
          float whole[PANEL];
          store(whole, tile.at[r][0] * factor), store(whole + LANES, tile.at[r][1] * factor);
          std::copy(whole, whole + (batch.width - d), out);
        }
      }
    }
  }
};

void forward(Head& h, const Heads& out) {
  for (int64_t row = 0; row < h.length; row += ROWS) {
    const int64_t keys = up(row + ROWS, PANEL);
    if (h.batch.times) h.time_rows(row, keys);
    for (int64_t panel = 0; panel < keys; panel += PANEL) {
      Tile tile;
      h.scores(tile, row, panel);
      for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < 2; half++) {
          const vec s = tile.at[r][half];
          store(h.strip + r * h.padded + panel + half * LANES, s * sigmoid(s));
        }
    }
    h.product(out, 1.0f / h.batch.divisor, h.strip, h.v, row, row + ROWS);
  }
}

struct Gradients {
  Heads q, k, v;
  float* bias;       // [H, N]: for each sequence, one number per distance
  double* of_time;   // [sequences, H, BUCKETS], or none
};

struct Backward {
  float *out, *v_panels, *sum_k, *sum_v, *of_scores, *diagonals;

  static int64_t size(const Batch& b) {
    const int64_t padded = up(b.longest, PANEL), wide = up(b.width, PANEL);
    return 4 * padded * wide + PANEL * padded + padded + 4 * PANEL;
  }

  Backward(const Head& h, Scratch& scratch) {
    out = scratch.take(h.padded * h.wide), v_panels = scratch.take(h.padded * h.wide);
    sum_k = scratch.take(h.padded * h.wide), sum_v = scratch.take(h.padded * h.wide);
    of_scores = scratch.take(PANEL * h.padded);
    diagonals = scratch.take(h.zero + 2 * PANEL);
  }

  // Computes silu of a strip's scores, and the gradients of the scores.
  void strip(Head& h, int64_t row, int64_t keys) {
    for (int64_t panel = 0; panel < keys; panel += PANEL) {
      Tile tile, grad{};
      h.scores(tile, row, panel);
      const int64_t at = row % PANEL * h.padded + panel;
      for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < 2; half++) {
          const vec s = tile.at[r][half], share = sigmoid(s);
          store(h.strip + at + r * h.padded + half * LANES, s * share);
          tile.at[r][half] = silu_slope(s, share);
        }
      multiply(grad, out + row * h.wide, h.wide, 1, v_panels + panel * h.wide, PANEL, h.batch.width);
      for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < 2; half++) {
          const vec g = grad.at[r][half] * tile.at[r][half];
          store(of_scores + at + r * h.padded + half * LANES, g);
          float* diagonal = diagonals + h.zero - (row + r) + panel + half * LANES;
          store(diagonal, load(diagonal) + g);
        }
    }
  }

  // sum[key] += left[rows, key]^T b[rows]
  void add_to_keys(const Head& h, float* sum, const float* left, const float* b, int64_t row, int64_t rows) const {
    for (int64_t key = 0; key < row + rows; key += ROWS) {
      const int64_t first = std::max<int64_t>(0, key - row);  // queries before the key do not see it
      for (int64_t d = 0; d < h.batch.width; d += PANEL) {
        Tile tile;
        for (int r = 0; r < ROWS; r++)
          for (int half = 0; half < 2; half++) tile.at[r][half] = load(sum + (key + r) * h.wide + d + half * LANES);
        multiply(tile, left + first * h.padded + key, 1, h.padded, b + (row + first) * h.wide + d, h.wide,
                 rows - first);
        for (int r = 0; r < ROWS; r++)
          for (int half = 0; half < 2; half++) store(sum + (key + r) * h.wide + d + half * LANES, tile.at[r][half]);
      }
    }
  }

  void add_to_buckets(const Head& h, double* sums, int64_t row, int64_t rows) const {
    for (int64_t r = 0; r < rows; r++) {
      const float* g = of_scores + r * h.padded;
      const int32_t* found = h.bucket + r * h.padded;
      double sum = 0.0;
      int32_t last = 0;
      for (int64_t j = 0; j <= row + r && row + r < h.length; j++) {
        if (found[j] != last) sums[last] += sum, sum = 0.0, last = found[j];
        sum += g[j];
      }
      sums[last] += sum;
    }
  }

  void run(Head& h, const Heads& grad, const Gradients& to, int64_t sequence) {
    const int64_t end = up(h.length, PANEL);
    h.rows(out, grad);
    h.scale(out, end * h.wide, 1.0f / h.batch.divisor);
    h.panels(v_panels, h.v);
    std::memset(sum_k, 0, sizeof(float) * end * h.wide), std::memset(sum_v, 0, sizeof(float) * end * h.wide);
    std::fill(diagonals, diagonals + h.zero + 2 * PANEL, 0.0f);
    for (int64_t row = 0; row < h.length; row += PANEL) {
      const int64_t rows = std::min<int64_t>(PANEL, up(h.length - row, ROWS));
      for (int64_t r = 0; r < rows; r += ROWS) {
        if (h.batch.times) h.time_rows(row + r, row + PANEL);
        strip(h, row + r, row + PANEL);
        h.product(to.q, h.batch.alpha, of_scores + r * h.padded, h.k, row + r, row + r + ROWS);
      }
      add_to_keys(h, sum_v, h.strip, out, row, rows);
      add_to_keys(h, sum_k, of_scores, h.q, row, rows);
      if (to.of_time) add_to_buckets(h, to.of_time + (sequence * h.batch.heads + h.head) * BUCKETS, row, rows);
    }
    for (int64_t i = 0; i < h.length; i++) {
      std::copy_n(sum_k + i * h.wide, h.batch.width, to.k.data + (h.start + i) * to.k.token + h.head * to.k.head);
      std::copy_n(sum_v + i * h.wide, h.batch.width, to.v.data + (h.start + i) * to.v.token + h.head * to.v.head);
      to.bias[h.head * h.batch.offsets[h.batch.sequences] + h.start + i] = diagonals[h.zero - i];
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
  return parallel(*batch, Head::size(*batch), [&](Head& head, Scratch&) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < batch->sequences * batch->heads; item++) {
      head.begin(batch->order[item / batch->heads], item % batch->heads, *q, *k, *v);
      forward(head, *out);
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
      if (!batch->activates) continue;
      head.through_activation(to->q, *q), head.through_activation(to->k, *k), head.through_activation(to->v, *v);
    }
  });
}
}

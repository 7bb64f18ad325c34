// The in-group softmax on a CPU: losses and all gradients, with each logit computed once and kept only in a cache.
//
//   l_rj = q_r . v_j + shift_j        e_rj = exp(l_rj - top_r)        Z_r = sum_j e_rj
//   D_m  = Z_r - copies_m own_m + own_m,   own_m = exp(s_m - top_r)   for a positive m of query r
//   nll_m       = log D_m + top_r - s_m
//   w_r         = sum_m weight_m / D_m
//   by_score_m  = weight_m (own_m (1 - copies_m) / D_m - 1)
//   grad q_r    = w_r sum_j e_rj v_j + sum_m by_score_m item_m
//   grad v_j    = sum_r e_rj w_r q_r
//   grad item_x = sum of by_score_m q_m over the positives m of x
//
// A task has up to CHUNK queries of one set:
//
//   for each block of queries whose e fit into the cache of a core
//     for each strip of negatives:  l, e, Z, and the strip's part of sum_j e_rj v_j
//     for each positive:            nll, w, by_score
//     for each strip of negatives:  the block's part of grad v
//
// e is [negatives, queries], so that sums over negatives are sums of vectors. Threads take tasks one by one. Every
// task has its own grad v, and these are added in the order of the tasks, so results do not depend on the threads.

#include "native_tasks.h"
#include "native_tiles.h"

#include <cfloat>

namespace {

constexpr int64_t CHUNK = 1024;         // queries of a task
constexpr int64_t BLOCK = 1 << 19;      // floats of a block's e
constexpr int64_t MOST_QUERIES = 256;   // of a block
constexpr int64_t STRIP = 64;           // negatives
constexpr int64_t APART = 16;           // floats between rows, so that they do not share places of a cache
constexpr int64_t ITEMS = 64;           // whose gradients a thread computes at a time
constexpr float NEVER = -1e30f;         // the logit of a hidden negative
static_assert(STRIP % ROWS == 0 && STRIP % PANEL == 0);

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
  int64_t safe, with_grads, threads;
};

struct Output {
  float *nll, *grad_query, *grad_items, *grad_vectors;
};

struct Pool {  // negatives
  int64_t first, count, column;  // the column is that of the first negative in e
};

struct Task {
  int64_t set, start, end;  // queries
};

struct Cell {
  int32_t column, query;
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

class Worker {  // what a thread needs
 public:
  Worker(const Input& in, const Output& out, float* by_score, int64_t most_floats)
      : in_(in), out_(out), by_score_(by_score), row_(in.width + APART), scratch_(size(in, most_floats)) {
    e_ = scratch_.take(most_floats);
    panels_ = scratch_.take(MOST_QUERIES * in.width);
    weighed_ = scratch_.take(MOST_QUERIES * row_), through_ = scratch_.take(MOST_QUERIES * row_);
    strip_ = scratch_.take(STRIP * row_);
    top_ = scratch_.take(MOST_QUERIES), sum_ = scratch_.take(MOST_QUERIES);
  }

  // Adds the gradients of the task's negatives to `grad`: those of the set, then the shared ones.
  void run(const Task& task, float* grad) {
    const int64_t first = in_.first_negative[task.set], own = in_.first_negative[task.set + 1] - first;
    pools_[0] = {first, own, 0};
    pools_[1] = {in_.first_negative[in_.sets], in_.shared, up(own, STRIP)};
    const int64_t step = block_queries(own + in_.shared);
    apart_ = step + APART;
    for (start_ = task.start; start_ < task.end; start_ += step) {
      count_ = std::min(step, task.end - start_);
      begin_block();
      if (!in_.safe) find_tops();
      for (const Pool& pool : pools_)
        for (int64_t j = 0; j < pool.count; j += STRIP) {
          load_strip(pool, j);
          if (in_.safe) logits(pool, j);
          exponentials(pool, j);
          if (in_.with_grads) add_to_queries(pool, j);
        }
      positives();
      if (!in_.with_grads) continue;
      add_to_negatives(pools_[0], grad);
      add_to_negatives(pools_[1], grad + own * in_.width);
    }
  }

  static int64_t floats(const Input& in, int64_t set) {
    const int64_t own = in.first_negative[set + 1] - in.first_negative[set];
    return (up(own, STRIP) + up(in.shared, STRIP)) * (block_queries(own + in.shared) + APART);
  }

 private:
  static int64_t size(const Input& in, int64_t floats) {
    return floats + MOST_QUERIES * (3 * in.width + 2 * APART + 2) + STRIP * (in.width + APART);
  }

  int64_t strip_rows(const Pool& pool, int64_t j) const { return std::min(STRIP, pool.count - j); }
  float* e(const Pool& pool, int64_t j) const { return e_ + (pool.column + j) * apart_; }

  // Copies queries to [queries / PANEL, d, PANEL], with zeros as padding.
  void begin_block() {
    for (int64_t panel = 0; panel < count_; panel += PANEL)
      for (int64_t r = panel; r < panel + PANEL; r++) {
        const float* q = in_.query + (start_ + r) * in_.width;
        float* to = panels_ + panel * in_.width + r - panel;
        for (int64_t d = 0; d < in_.width; d++) to[d * PANEL] = r < count_ ? q[d] : 0.0f;
      }
    std::fill(top_, top_ + MOST_QUERIES, 0.0f);
    std::fill(sum_, sum_ + MOST_QUERIES, 0.0f);
    std::fill(through_, through_ + MOST_QUERIES * row_, 0.0f);
    if (in_.hidden) find_cells();
  }

  // Copies a strip of negatives, with zeros as padding.
  void load_strip(const Pool& pool, int64_t j) {
    const int64_t rows = strip_rows(pool, j);
    for (int64_t i = 0; i < rows; i++)
      std::memcpy(strip_ + i * row_, in_.vectors + (pool.first + j + i) * in_.width, sizeof(float) * in_.width);
    std::memset(strip_ + rows * row_, 0, sizeof(float) * (STRIP - rows) * row_);
  }

  void logits(const Pool& pool, int64_t j) {
    const int64_t rows = strip_rows(pool, j);
    for (int64_t panel = 0; panel < count_; panel += PANEL)
      for (int64_t i = 0; i < rows; i += ROWS) {
        Tile tile{};
        multiply(tile, strip_ + i * row_, row_, 1, panels_ + panel * in_.width, PANEL, in_.width);
        float* to = e(pool, j + i) + panel;
        for (int r = 0; r < ROWS; r++) {
          const float shift = in_.shifts && i + r < rows ? in_.shifts[pool.first + j + i + r] : 0.0f;
          store(to + r * apart_, tile.at[r][0] + shift), store(to + r * apart_ + LANES, tile.at[r][1] + shift);
        }
      }
    if (!in_.hidden) return;
    const int64_t number = (pool.column + j) / STRIP;
    for (int64_t cell = first_cell_[number]; cell < first_cell_[number + 1]; cell++)
      e_[cells_[cell].column * apart_ + cells_[cell].query] = NEVER;
  }

  // Finds the block's hidden negatives, sorted by strip.
  void find_cells() {
    const int64_t strips = (pools_[1].column + up(in_.shared, STRIP)) / STRIP;
    first_cell_.assign(strips + 2, 0);
    unsorted_.clear();
    for (int64_t number = 0; number < (in_.shared ? 2 : 1); number++)
      for (int64_t r = 0; r < count_; r++) {
        const int64_t at = number * in_.queries + start_ + r, first = in_.first_hidden[at];
        for (int64_t i = first; i < first + in_.hidden_count[at]; i++) {
          const int64_t column = in_.hidden[i] - pools_[number].first + pools_[number].column;
          unsorted_.push_back({static_cast<int32_t>(column), static_cast<int32_t>(r)});
          first_cell_[column / STRIP + 2]++;
        }
      }
    for (int64_t strip = 2; strip < strips + 2; strip++) first_cell_[strip] += first_cell_[strip - 1];
    cells_.resize(unsorted_.size());
    for (const Cell& cell : unsorted_) cells_[first_cell_[cell.column / STRIP + 1]++] = cell;
  }

  // Computes all logits of the block, and the largest one of each query.
  void find_tops() {
    std::fill(top_, top_ + MOST_QUERIES, NEVER);
    for (const Pool& pool : pools_)
      for (int64_t j = 0; j < pool.count; j += STRIP) {
        load_strip(pool, j), logits(pool, j);
        for (int64_t r = 0; r < count_; r += LANES) {
          vec largest = load(top_ + r);
          for (int64_t i = 0; i < strip_rows(pool, j); i++) {
            const vec l = load(e(pool, j + i) + r);
            largest = l > largest ? l : largest;
          }
          store(top_ + r, largest);
        }
      }
    // Without a negative, top must not be NEVER, as exp(NEVER - NEVER) would be 1.
    for (int64_t r = 0; r < count_; r++) top_[r] = top_[r] > 0.5f * NEVER ? top_[r] : 0.0f;
  }

  void exponentials(const Pool& pool, int64_t j) {
    for (int64_t r = 0; r < count_; r += LANES) {
      const vec top = load(top_ + r);
      vec total{};
      for (int64_t i = 0; i < strip_rows(pool, j); i++) {
        float* at = e(pool, j + i) + r;
        const vec l = load(at) - top;
        const vec value = l < 0.5f * NEVER ? splat(0.0f) : exponential(l);
        store(at, value);
        total += value;
      }
      store(sum_ + r, load(sum_ + r) + total);
    }
  }

  // through[query] += e^T v
  void add_to_queries(const Pool& pool, int64_t j) {
    for (int64_t d = 0; d < in_.width; d += PANEL)
      for (int64_t r = 0; r < count_; r += ROWS)
        add_product(through_ + r * row_ + d, row_, ROWS, e(pool, j) + r, 1, apart_, strip_ + d, row_,
                    strip_rows(pool, j));
  }

  // grad[negative] += e (w q)
  void add_to_negatives(const Pool& pool, float* grad) {
    for (int64_t j = 0; j < pool.count; j += STRIP)
      for (int64_t d = 0; d < in_.width; d += PANEL)
        for (int64_t i = j; i < std::min(j + STRIP, pool.count); i += ROWS)
          add_product(grad + i * in_.width + d, in_.width, pool.count - i, e(pool, i), apart_, 1, weighed_ + d, row_,
                      count_);
  }

  // Losses and derivatives of the block's positives, and the gradients of its queries.
  void positives() {
    for (int64_t r = 0; r < count_; r++) {
      const int64_t query = start_ + r, end = in_.first_positive[query + 1];
      const float* q = in_.query + query * in_.width;
      float* grad = out_.grad_query + query * in_.width;
      float by_sum = 0.0f;
      const float log_sum = std::log(sum_[r]) + top_[r];
      for (int64_t m = in_.first_positive[query]; m < end; m++) {
        if (m + 2 < in_.positives) __builtin_prefetch(in_.items + in_.source[m + 2] * in_.width);
        by_sum += positive(m, r, log_sum, dot(q, in_.items + in_.source[m] * in_.width, in_.width));
      }
      if (!in_.with_grads) continue;
      for (int64_t d = 0; d < in_.width; d += LANES) {
        store(weighed_ + r * row_ + d, load(q + d) * by_sum);
        store(grad + d, load(through_ + r * row_ + d) * by_sum);
      }
      for (int64_t m = in_.first_positive[query]; m < end; m++)
        add_scaled(grad, in_.items + in_.source[m] * in_.width, by_score_[m], in_.width);
    }
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
  int64_t row_, apart_ = 0, start_ = 0, count_ = 0;  // distances of rows; queries of the block
  Pool pools_[2];
  Scratch scratch_;
  float *e_, *panels_, *weighed_, *through_, *strip_, *top_, *sum_;
  std::vector<Cell> cells_, unsorted_;
  std::vector<int64_t> first_cell_;
};

// The tasks that take longest come first; those of a set are equally long.
std::vector<Task> make_tasks(const Input& in) {
  std::vector<Task> tasks;
  for (int64_t set = 0; set < in.sets; set++) {
    const int64_t first = in.first_query[set], queries = in.first_query[set + 1] - first;
    const int64_t parts = (queries + CHUNK - 1) / CHUNK;
    for (int64_t part = 0; part < parts; part++) {
      const int64_t end = std::min(up((part + 1) * queries / parts, PANEL), queries);
      tasks.push_back({set, first + std::min(up(part * queries / parts, PANEL), queries), first + end});
    }
  }
  const auto cost = [&](const Task& task) {
    return (task.end - task.start) * (in.first_negative[task.set + 1] - in.first_negative[task.set] + in.shared);
  };
  std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) { return cost(a) > cost(b); });
  return tasks;
}

// The positives of each item: those of item x are order[first[x]] to order[first[x + 1] - 1], ascending.
void sort_by_item(const Input& in, std::vector<int64_t>& first, std::vector<int64_t>& order) {
  first.assign(in.item_count + 2, 0), order.resize(in.positives);
  for (int64_t m = 0; m < in.positives; m++) first[in.source[m] + 2]++;
  for (int64_t x = 2; x < in.item_count + 2; x++) first[x] += first[x - 1];
  for (int64_t m = 0; m < in.positives; m++) order[first[in.source[m] + 1]++] = m;
}

}  // namespace

// Returns 1 if there is not enough memory.
extern "C" int in_group_softmax(const Input* given, const Output* out) try {
  const Input& in = *given;
  const std::vector<Task> tasks = make_tasks(in);
  std::vector<float> by_score(in.positives);
  int64_t most_floats = 0;
  for (const Task& task : tasks) most_floats = std::max(most_floats, Worker::floats(in, task.set));

  const auto own = [&](int64_t number) {
    return in.first_negative[tasks[number].set + 1] - in.first_negative[tasks[number].set];
  };
  InOrder sums(tasks.size(), [&](int64_t number, const float* grad) {
    const int64_t of_set = own(number) * in.width;
    add_scaled(out->grad_vectors + in.first_negative[tasks[number].set] * in.width, grad, 1.0f, of_set);
    add_scaled(out->grad_vectors + in.first_negative[in.sets] * in.width, grad + of_set, 1.0f, in.shared * in.width);
  });
  const bool enough = take_tasks(
      in.threads, tasks.size(), [&] { return std::make_unique<Worker>(in, *out, by_score.data(), most_floats); },
      [&](Worker& worker, int64_t number) {
        std::vector<float> grad;
        if (in.with_grads) grad = sums.begin((own(number) + in.shared) * in.width);
        worker.run(tasks[number], grad.data());
        if (in.with_grads) sums.end(number, std::move(grad));
      });
  if (!enough || !in.with_grads) return !enough;

  std::vector<int64_t> first, order;
  sort_by_item(in, first, order);
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.threads)
  for (int64_t start = 0; start < in.item_count; start += ITEMS)
    for (int64_t x = start; x < std::min(start + ITEMS, in.item_count); x++)
      for (int64_t i = first[x]; i < first[x + 1]; i++)
        add_scaled(out->grad_items + x * in.width, in.query + in.query_of[order[i]] * in.width, by_score[order[i]],
                   in.width);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

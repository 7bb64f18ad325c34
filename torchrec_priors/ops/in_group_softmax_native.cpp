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
// A task has up to CHUNK queries of one set, and `in_group_softmax_task.h` computes it. Threads take tasks one by one.
// Every task has its own grad v, and these are added in the order of the tasks, so results do not depend on the
// threads.

#include "in_group_softmax_task.h"
#include "native_tasks.h"

namespace {

constexpr int64_t CHUNK = 1024;  // queries of a task
constexpr int64_t ITEMS = 64;    // whose gradients a thread computes at a time

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

// Computes all tasks. Returns false if there is not enough memory.
template <int P>
bool run_tasks(const Input& in, const Output* out, const std::vector<Task>& tasks, float* by_score) {
  int64_t most_floats = 0;
  for (const Task& task : tasks) most_floats = std::max(most_floats, Worker<P>::floats(in, task.set));

  const auto own = [&](int64_t number) {
    return in.first_negative[tasks[number].set + 1] - in.first_negative[tasks[number].set];
  };
  InOrder sums(tasks.size(), [&](int64_t number, const float* grad) {
    const int64_t of_set = own(number) * in.width;
    add_scaled(out->grad_vectors + in.first_negative[tasks[number].set] * in.width, grad, 1.0f, of_set);
    add_scaled(out->grad_vectors + in.first_negative[in.sets] * in.width, grad + of_set, 1.0f, in.shared * in.width);
  });
  return take_tasks(
      in.threads, tasks.size(), [&] { return std::make_unique<Worker<P>>(in, *out, by_score, most_floats); },
      [&](Worker<P>& worker, int64_t number) {
        std::vector<float> grad;
        if (in.with_grads) grad = sums.begin((own(number) + in.shared) * in.width);
        worker.run(tasks[number], grad.data());
        if (in.with_grads) sums.end(number, std::move(grad));
      });
}

}  // namespace

// Returns 1 if there is not enough memory.
extern "C" int in_group_softmax(const Input* given, const Output* out) try {
  const Input& in = *given;
  const std::vector<Task> tasks = make_tasks(in);
  std::vector<float> by_score(in.positives);
  const bool enough = with_pieces(in.pieces, [&](auto pieces) {
    return run_tasks<pieces>(in, out, tasks, by_score.data());
  });
  if (!enough || !in.with_grads) return !enough;

  std::vector<int64_t> first, order;
  sort_by_item(in, first, order);
#pragma omp parallel for schedule(dynamic, 1) num_threads(in.threads)
  for (int64_t start = 0; start < in.item_count; start += ITEMS)
    for (int64_t x = start; x < std::min(start + ITEMS, in.item_count); x++)
      for (int64_t i = first[x]; i < first[x + 1]; i++) {
        if (i + 2 < in.positives) prefetch(in.query + in.query_of[order[i + 2]] * in.width, in.width);
        add_scaled(out->grad_items + x * in.width, in.query + in.query_of[order[i]] * in.width, by_score[order[i]],
                   in.width);
      }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

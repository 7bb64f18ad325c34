// Picks the columns that may be among a user's best: the largest of their p scores reaches the user's threshold.
//
// Scores [p, rows, columns] are read once, and only the picked columns are written.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int BLOCK = 64;  // columns that are compared together
constexpr int64_t ENOUGH = 1 << 15;  // columns of a thread; to wake a thread takes as long as to read some thousands

// Memory for users x columns results. A thread writes the columns of a user into `places`, and their number into
// `counts`. Then the results of all users are copied into `user` and `column`, one after another.
struct Found {
  int32_t *places, *counts;
  int64_t *user, *column;
  int64_t threads;
};

// Picks the columns with a highest score that reaches the user's threshold, writes them sorted by user, and returns
// their number. A row has `columns` columns, a multiple of BLOCK. Only the first `items` of them are items.
template <typename Score, typename Highest>
int64_t scan(const Score* scores, int64_t columns, int64_t users, int64_t items, const float* threshold,
             const Found& found, Highest highest_of) {
  const int64_t threads = std::min(found.threads, 1 + users * items / ENOUGH);
  // Users are taken one by one, so that a thread that has lost its core leaves the others to the rest.
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t user = 0; user < users; user++) {
    int32_t* mine = found.places + user * columns;
    int32_t count = 0;
    for (int64_t first = 0; first < items; first += BLOCK) {
      float highest[BLOCK];
      highest_of(scores + user * columns + first, first, user, highest);
      int32_t any = 0;
      for (int n = 0; n < BLOCK; n++) any |= highest[n] >= threshold[user];
      if (any)
        for (int n = 0; n < BLOCK && first + n < items; n++)
          if (highest[n] >= threshold[user]) mine[count++] = static_cast<int32_t>(first + n);
    }
    found.counts[user] = count;
  }
  int64_t total = 0;
  for (int64_t user = 0; user < users; user++)
    for (int32_t i = 0; i < found.counts[user]; i++, total++)
      found.user[total] = user, found.column[total] = found.places[user * columns + i];
  return total;
}

}  // namespace

extern "C" {

// A column's highest score is the largest score + bias[p, user] of all p. If `bias` is null, there are no biases.
int64_t reaching_scores(const float* scores, const float* bias, int64_t paths, int64_t rows, int64_t columns,
                        int64_t users, int64_t items, const float* threshold, const Found* found) {
  return scan(scores, columns, users, items, threshold, *found,
       [=](const float* block, int64_t, int64_t user, float* highest) {
         for (int64_t p = 0; p < paths; p++) {
           const float* row = block + p * rows * columns;
           const float added = bias ? bias[p * users + user] : 0.0f;
           for (int n = 0; n < BLOCK; n++) {
             const float score = row[n] + added;
             highest[n] = p == 0 || score > highest[n] ? score : highest[n];
           }
         }
       });
}

// A column's highest score is (largest product + margin[user]) * step[column].
int64_t reaching_bounds(const int32_t* products, const float* margin, const float* step, int64_t paths, int64_t rows,
                        int64_t columns, int64_t users, int64_t items, const float* threshold, const Found* found) {
  return scan(products, columns, users, items, threshold, *found,
       [=](const int32_t* block, int64_t first, int64_t user, float* highest) {
         int32_t largest[BLOCK];
         std::memcpy(largest, block, sizeof largest);
         for (int64_t p = 1; p < paths; p++) {
           const int32_t* row = block + p * rows * columns;
           for (int n = 0; n < BLOCK; n++) largest[n] = row[n] > largest[n] ? row[n] : largest[n];
         }
         for (int n = 0; n < BLOCK; n++)
           highest[n] = (static_cast<float>(largest[n]) + margin[user]) * step[first + n];
       });
}

}

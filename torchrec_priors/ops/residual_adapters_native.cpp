// The adapters of many runs of rows on a CPU, in one parallel region. All rows of a run have the same adapter.
//
//   forward    y_r = x_r + silu(p_r) + b,   p_r = W x_r,   x_r = z[row_r]
//   backward   with g_r = grad y_r,         i_r = g_r silu'(p_r):
//     grad x_r = g_r + W^T i_r,   grad z_n = sum of grad x_r over the rows r of n
//     grad W   = sum_r i_r x_r^T, grad b   = sum_r g_r
//
// A task has up to CHUNK rows of a run, and goes through them in blocks that fit into the nearest cache. A thread
// copies its W to panels of columns, and the transpose of W as well, so that products read memory in order. A panel has
// the columns of a tile, [d, columns]. Every task has its own grad W and grad b, which are added in the order of the
// tasks. Products are of float32, or from pieces of bfloat16 (`native_bf16.h`).

#include "native_bf16.h"
#include "native_tasks.h"
#include "native_tiles.h"

namespace {

constexpr int64_t CHUNK = 512;  // rows of a task
constexpr int64_t BLOCK = 64;   // rows
constexpr int64_t APART = 16;   // floats between rows, so that they do not share places of a cache
constexpr int64_t TOKENS = 64;  // whose gradients a thread adds at a time
constexpr int64_t PADDED = 32;  // rows of a block are padded to a multiple of it
static_assert(BLOCK % PADDED == 0 && PADDED % WideTile::ROWS == 0 && PADDED % NarrowTile::ROWS == 0);

struct Input {
  const float* z;                 // [N, d]
  const int64_t* row;             // [R]
  const int64_t *adapter, *rows;  // [A]: of each run; adapter -1 leaves its rows unchanged
  const float* weight;            // [G, d, d]
  const float* bias;              // [G, d], or none
  int64_t tokens, width, total_rows, runs, threads, pieces;  // of `native_bf16.h`; 0 for float32
};

struct Gradients {
  const float* y;                 // [R, d]
  float *through, *z;             // [R, d] and [N, d]
  float *weight, *bias;           // [G, d, d] and [G, d]; no bias if there is none
};

struct Task {
  int64_t run, start, count;
};

std::vector<Task> make_tasks(const Input& in) {
  std::vector<Task> tasks;
  int64_t start = 0;
  for (int64_t run = 0; run < in.runs; start += in.rows[run++])
    for (int64_t at = 0; at < in.rows[run]; at += CHUNK)
      tasks.push_back({run, start + at, std::min(CHUNK, in.rows[run] - at)});
  return tasks;
}

template <int P>  // pieces; 0 for products of float32
class Worker {    // what a thread needs
 public:
  explicit Worker(const Input& in)
      : in_(in), row_(in.width + APART), square_(in.width * in.width), scratch_(size(in.width)) {
    x_ = scratch_.take(BLOCK * row_), g_ = scratch_.take(BLOCK * row_), inner_ = scratch_.take(BLOCK * row_);
    panels_ = scratch_.take(square_), transposed_ = scratch_.take(square_);
    if (!P) return;
    product_ = scratch_.take(BLOCK * row_), turned_ = scratch_.take(in.width * BLOCK);
    left_ = take_pieces(BLOCK), right_ = take_pieces(BLOCK);
    of_transposed_ = take_pieces(in.width), of_panels_ = take_pieces(in.width);
  }

  void forward(const Task& task, float* y) {
    const int64_t adapter = in_.adapter[task.run];
    if (adapter >= 0) load_transposed(adapter);
    for (int64_t at = 0; at < task.count; at += BLOCK) {
      const int64_t start = task.start + at, rows = std::min(BLOCK, task.count - at);
      gather(start, rows);
      if (adapter < 0) {
        for (int64_t r = 0; r < rows; r++) std::copy_n(x_ + r * row_, in_.width, y + (start + r) * in_.width);
        continue;
      }
      products(rows, [&](vec p, int64_t r, int64_t d) {
        if (r >= rows) return;
        vec out = load(x_ + r * row_ + d) + p * sigmoid(p);
        if (in_.bias) out += load(in_.bias + adapter * in_.width + d);
        store(y + (start + r) * in_.width + d, out);
      });
    }
  }

  // Writes the gradients of the task's x, and adds those of W and b to `sums`, [d, d] and [d].
  void backward(const Task& task, const Gradients& grad, float* sums) {
    const int64_t adapter = in_.adapter[task.run];
    if (adapter >= 0) load_transposed(adapter), load_panels(adapter);
    for (int64_t at = 0; at < task.count; at += BLOCK) {
      const int64_t start = task.start + at, rows = std::min(BLOCK, task.count - at);
      float* through = grad.through + start * in_.width;
      std::copy_n(grad.y + start * in_.width, rows * in_.width, through);
      if (adapter < 0) continue;
      copy(g_, rows, [&](int64_t r) { return grad.y + (start + r) * in_.width; });
      gather(start, rows);
      products(rows, [&](vec p, int64_t r, int64_t d) {
        const vec share = sigmoid(p);
        store(inner_ + r * row_ + d, load(g_ + r * row_ + d) * silu_slope(p * share, share));
      });
      to_inputs(rows, through);
      to_parameters(rows, sums);
    }
  }

 private:
  static int64_t size(int64_t width) {
    const int64_t rows = BLOCK * (width + APART), floats = 3 * rows + 2 * width * width;
    if (!P) return floats;
    return floats + rows + width * BLOCK + piece_count(2 * BLOCK + 2 * width, width, P) / 2 + 6 * 16;
  }

  Piece* take_pieces(int64_t rows) {
    return reinterpret_cast<Piece*>(scratch_.take(piece_count(rows, in_.width, P) / 2));
  }

  // Writes the pieces of panels, [d, columns], as the right side of a product.
  void split_panels(Piece* to, const float* panels) {
    if constexpr (P) {
      for_columns(in_.width, [&](int64_t column, auto tile) {
        split_right<P>(to + piece_count(column, in_.width, P), panels + column * in_.width, tile.COLUMNS, in_.width,
                       tile.COLUMNS);
      });
    }
  }

  // product = rows times the panels' matrix
  void multiply_rows(const float* rows, int64_t count, const Piece* panels) {
    if constexpr (P) {
      std::fill_n(product_, count * row_, 0.0f);
      split_left<P>(left_, rows, row_, count, in_.width);
      add_product_of_pieces<P>(product_, row_, left_, panels, count, in_.width, in_.width);
    }
  }

  void load_panels(int64_t adapter) {
    const float* from = in_.weight + adapter * square_;
    for_columns(in_.width, [&](int64_t d, auto tile) {
      for (int64_t o = 0; o < in_.width; o++)
        std::copy_n(from + o * in_.width + d, tile.COLUMNS, panels_ + d * in_.width + o * tile.COLUMNS);
    });
    split_panels(of_panels_, panels_);
  }

  void load_transposed(int64_t adapter) {
    const float* from = in_.weight + adapter * square_;
    for_columns(in_.width, [&](int64_t o, auto tile) {
      for (int64_t i = 0; i < tile.COLUMNS; i += LANES)
        for (int64_t d = 0; d < in_.width; d += LANES)
          transpose(transposed_ + o * in_.width + d * tile.COLUMNS + i, tile.COLUMNS,
                    from + (o + i) * in_.width + d, in_.width);
    });
    split_panels(of_transposed_, transposed_);
  }

  // Copies rows to [rows, d], with zeros as padding.
  template <class From>
  void copy(float* to, int64_t rows, From from) {
    for (int64_t r = 0; r < rows; r++) std::copy_n(from(r), in_.width, to + r * row_);
    std::fill(to + rows * row_, to + up(rows, PADDED) * row_, 0.0f);
  }

  void gather(int64_t start, int64_t rows) {
    copy(x_, rows, [&](int64_t r) { return in_.z + in_.row[start + r] * in_.width; });
  }

  // Calls use(vector, row, column) with vectors of W x, also for rows of padding.
  template <class Use>
  void products(int64_t rows, Use use) {
    if constexpr (P) {
      multiply_rows(x_, up(rows, PADDED), of_transposed_);
      for (int64_t r = 0; r < up(rows, PADDED); r++)
        for (int64_t d = 0; d < in_.width; d += LANES) use(load(product_ + r * row_ + d), r, d);
      return;
    }
    for_columns(in_.width, [&](int64_t d, auto zeros) {
      for (int64_t r = 0; r < rows; r += zeros.ROWS) {
        auto tile = zeros;
        multiply(tile, x_ + r * row_, row_, 1, transposed_ + d * in_.width, zeros.COLUMNS, in_.width);
        each(tile, [&](vec p, int i, int column) { use(p, r + i, d + column); });
      }
    });
  }

  // through += W^T i
  void to_inputs(int64_t rows, float* through) {
    if constexpr (P) {
      multiply_rows(inner_, up(rows, PADDED), of_panels_);
      for (int64_t r = 0; r < rows; r++) add_scaled(through + r * in_.width, product_ + r * row_, 1.0f, in_.width);
      return;
    }
    for_columns(in_.width, [&](int64_t d, auto tile) {
      for (int64_t r = 0; r < rows; r += tile.ROWS)
        add_product(tile, through + r * in_.width + d, in_.width, rows - r, inner_ + r * row_, row_, 1,
                    panels_ + d * in_.width, tile.COLUMNS, in_.width);
    });
  }

  void to_parameters(int64_t rows, float* sums) {
    if constexpr (P) {
      add_to_matrix(up(rows, PADDED), sums);
    } else {
      for_columns(in_.width, [&](int64_t d, auto tile) {
        for (int64_t o = 0; o < in_.width; o += tile.ROWS)
          add_product(tile, sums + o * in_.width + d, in_.width, tile.ROWS, inner_ + o, 1, row_, x_ + d, row_, rows);
      });
    }
    for (int64_t r = 0; r < rows; r++) add_scaled(sums + square_, g_ + r * row_, 1.0f, in_.width);
  }

  // sums += i^T x
  void add_to_matrix(int64_t rows, float* sums) {
    if constexpr (P) {
      for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t o = 0; o < in_.width; o += LANES)
          transpose(turned_ + o * BLOCK + r, BLOCK, inner_ + r * row_ + o, row_);
      split_left<P>(left_, turned_, BLOCK, in_.width, rows);
      split_right<P>(right_, x_, row_, rows, in_.width);
      add_product_of_pieces<P>(sums, in_.width, left_, right_, in_.width, in_.width, rows);
    }
  }

  const Input& in_;
  int64_t row_, square_;  // the distance of rows; numbers of W
  Scratch scratch_;
  UseOfTiles<P> tiles_;
  float *x_, *g_, *inner_, *panels_, *transposed_;
  float *product_ = nullptr, *turned_ = nullptr;  // rows times a matrix; i^T
  Piece *left_ = nullptr, *right_ = nullptr, *of_transposed_ = nullptr, *of_panels_ = nullptr;
};

// The rows of each vector: those of n are order[first[n]] to order[first[n + 1] - 1], ascending.
void sort_by_token(const Input& in, std::vector<int64_t>& first, std::vector<int64_t>& order) {
  first.assign(in.tokens + 2, 0), order.resize(in.total_rows);
  for (int64_t r = 0; r < in.total_rows; r++) first[in.row[r] + 2]++;
  for (int64_t n = 2; n < in.tokens + 2; n++) first[n] += first[n - 1];
  for (int64_t r = 0; r < in.total_rows; r++) order[first[in.row[r] + 1]++] = r;
}

}  // namespace

// Forward and backward return 1 if there is not enough memory.
extern "C" {

int adapters_forward(const Input* in, float* y) try {
  const std::vector<Task> tasks = make_tasks(*in);
  return with_pieces(in->pieces, [&](auto pieces) {
    return !take_tasks(
        in->threads, tasks.size(), [&] { return std::make_unique<Worker<pieces>>(*in); },
        [&](Worker<pieces>& worker, int64_t number) { worker.forward(tasks[number], y); });
  });
} catch (const std::bad_alloc&) {
  return 1;
}

int adapters_backward(const Input* in, const Gradients* grad) try {
  const int64_t width = in->width, square = width * width;
  const std::vector<Task> tasks = make_tasks(*in);
  InOrder sums(tasks.size(), [&](int64_t number, const float* from) {
    const int64_t adapter = in->adapter[tasks[number].run];
    if (adapter < 0) return;
    add_scaled(grad->weight + adapter * square, from, 1.0f, square);
    if (grad->bias) add_scaled(grad->bias + adapter * width, from + square, 1.0f, width);
  });
  const bool enough = with_pieces(in->pieces, [&](auto pieces) {
    return take_tasks(
        in->threads, tasks.size(), [&] { return std::make_unique<Worker<pieces>>(*in); },
        [&](Worker<pieces>& worker, int64_t number) {
          std::vector<float> own = sums.begin(square + width);
          worker.backward(tasks[number], *grad, own.data());
          sums.end(number, std::move(own));
        });
  });
  if (!enough) return 1;

  std::vector<int64_t> first, order;
  sort_by_token(*in, first, order);
#pragma omp parallel for schedule(dynamic, 1) num_threads(in->threads)
  for (int64_t start = 0; start < in->tokens; start += TOKENS)
    for (int64_t n = start; n < std::min(start + TOKENS, in->tokens); n++)
      for (int64_t i = first[n]; i < first[n + 1]; i++) {
        if (i + 2 < in->total_rows) prefetch(grad->through + order[i + 2] * width, width);
        add_scaled(grad->z + n * width, grad->through + order[i] * width, 1.0f, width);
      }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}
}

// Layer norm of rows on a CPU, with what an HSTU layer does next: each row is read once and written once.
//
//   forward    y = n silu(u) keep,     n = t weight + bias,   t = (x - mean(x)) / sqrt(variance(x) + eps)
//   backward   with g = grad y keep,   b = g silu(u) weight:
//     grad u      = g n silu'(u)
//     grad x      = (b - mean(b) - t mean(b t)) / sqrt(variance(x) + eps) + more
//     grad weight = sum over rows of g silu(u) t
//     grad bias   = sum over rows of g silu(u)
//
// Without a gate, silu(u) is 1; without dropout, keep is 1; without a residual connection, more is 0. Threads take
// chunks of rows. Every chunk has its own sums, which are added in the order of the chunks.

#include "native_tiles.h"

#include <omp.h>

#include <new>
#include <vector>

namespace {

constexpr int64_t CHUNK = 128;  // rows
constexpr int64_t AHEAD = 4;    // rows of the gate that are loaded ahead

struct Matrix {  // [N, d] with d contiguous; no data if there is none
  float* data;
  int64_t step;
  float* row(int64_t number) const { return data + number * step; }
};

struct Norm {
  int64_t rows, width;
  const float *weight, *bias;
  float eps;
  int64_t threads;
  Matrix x, gate, keep;
  float* moments;  // [N, 2]: mean and 1 / sqrt(variance + eps)
};

void moments(const Norm& norm, const float* x, float* to) {
  vec total{}, squares{};
  for (int64_t d = 0; d < norm.width; d += LANES) total += load(x + d);
  const float mean = sum(total) / norm.width;
  for (int64_t d = 0; d < norm.width; d += LANES) {
    const vec apart = load(x + d) - mean;
    squares += apart * apart;
  }
  to[0] = mean;
  to[1] = 1.0f / std::sqrt(sum(squares) / norm.width + norm.eps);
}

void forward(const Norm& norm, int64_t row, float* y) {
  const float* x = norm.x.row(row);
  float* found = norm.moments + 2 * row;
  if (norm.gate.data && row + AHEAD < norm.rows) prefetch(norm.gate.row(row + AHEAD), norm.width);
  moments(norm, x, found);
  for (int64_t d = 0; d < norm.width; d += LANES) {
    vec out = (load(x + d) - found[0]) * found[1] * load(norm.weight + d) + load(norm.bias + d);
    if (norm.gate.data) {
      const vec u = load(norm.gate.row(row) + d);
      out *= u * sigmoid(u);
    }
    if (norm.keep.data) out *= load(norm.keep.row(row) + d);
    store(y + d, out);
  }
}

struct Gradients {
  Matrix y, more, x, gate;
  float* weight_and_bias;  // [2, d]
};

// `sums` has the chunk's part of the gradients of weight and bias, [2, d].
void backward(const Norm& norm, const Gradients& grad, int64_t row, float* by_unit, float* sums) {
  const float *x = norm.x.row(row), *found = norm.moments + 2 * row;
  if (norm.gate.data && row + AHEAD < norm.rows) {
    prefetch(norm.gate.row(row + AHEAD), norm.width);
    prefetch<true>(grad.gate.row(row + AHEAD), norm.width);
  }
  vec total{}, along{};
  for (int64_t d = 0; d < norm.width; d += LANES) {
    const vec unit = (load(x + d) - found[0]) * found[1], weight = load(norm.weight + d);
    vec g = load(grad.y.row(row) + d);
    if (norm.keep.data) g *= load(norm.keep.row(row) + d);
    if (norm.gate.data) {
      const vec u = load(norm.gate.row(row) + d), share = sigmoid(u);
      store(grad.gate.row(row) + d, g * (unit * weight + load(norm.bias + d)) * silu_slope(u * share, share));
      g *= u * share;
    }
    store(sums + d, load(sums + d) + g * unit);
    store(sums + norm.width + d, load(sums + norm.width + d) + g);
    const vec b = g * weight;
    store(by_unit + d, b);
    total += b, along += b * unit;
  }

  const float mean = sum(total) / norm.width, mean_along = sum(along) / norm.width;
  for (int64_t d = 0; d < norm.width; d += LANES) {
    const vec unit = (load(x + d) - found[0]) * found[1];
    vec out = (load(by_unit + d) - mean - unit * mean_along) * found[1];
    if (grad.more.data) out += load(grad.more.row(row) + d);
    store(grad.x.row(row) + d, out);
  }
}

}  // namespace

extern "C" {

void norm_forward(const Norm* norm, const Matrix* y) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(norm->threads)
  for (int64_t start = 0; start < norm->rows; start += CHUNK)
    for (int64_t row = start; row < std::min(start + CHUNK, norm->rows); row++) forward(*norm, row, y->row(row));
}

int norm_backward(const Norm* norm, const Gradients* grad) {
  const int64_t chunks = (norm->rows + CHUNK - 1) / CHUNK, width = norm->width;
  std::vector<float> sums, scratch;
  try {
    sums.resize(chunks * 2 * width), scratch.resize(norm->threads * width);
  } catch (const std::bad_alloc&) {
    return 1;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(norm->threads)
  for (int64_t chunk = 0; chunk < chunks; chunk++)
    for (int64_t row = chunk * CHUNK; row < std::min((chunk + 1) * CHUNK, norm->rows); row++)
      backward(*norm, *grad, row, scratch.data() + omp_get_thread_num() * width, sums.data() + chunk * 2 * width);
  std::fill(grad->weight_and_bias, grad->weight_and_bias + 2 * width, 0.0f);
  for (int64_t chunk = 0; chunk < chunks; chunk++)
    for (int64_t d = 0; d < 2 * width; d++) grad->weight_and_bias[d] += sums[chunk * 2 * width + d];
  return 0;
}
}

// Searches the candidates of a rank for some users: products, fusion and the best items in one pass.
//
// Candidates are stored in blocks of LANES, dimension by dimension, so that one instruction handles a block. A score is
// one chain of fused multiply-adds in the order of the dimensions. So it depends on the query and the item only: not on
// the block, on other users, on threads or on ranks.
//
// List 0 has all candidates in order. Each further list has the candidates of one item set. An item set is searched in
// its own list or, if it has many candidates, in list 0 with a mask, together with the other sets in list 0. Lists are
// cut into tiles of the same candidates.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
constexpr int PATHS = 4;     // paths of a product
constexpr int AT_ONCE = 64;  // paths whose scores of a block are kept
constexpr int64_t ENOUGH = 1 << 13;  // candidates of a thread: waking one takes as long as searching some thousands
constexpr uint32_t ALL_LANES = (1u << LANES) - 1;
constexpr float NONE = -std::numeric_limits<float>::infinity();
constexpr float LOWEST = -std::numeric_limits<float>::max();

enum Fusion : int64_t { MAX, HIERARCHICAL, MEAN };

// The candidates of this rank.
struct Index {
  const float* packed;          // [blocks][dim][LANES]
  const int32_t* position;      // [blocks][LANES]: the candidate of each lane; -1 if there is none
  const int64_t* item;          // [candidates]: row ids in the data set, ascending
  const int64_t* block_at;      // [lists][tiles + 1]: the first block of each tile
  const int64_t* list_of_set;   // [sets]
  const uint16_t* const* mask;  // [sets]: the lanes of each block of list 0 that are in the set; null for all lanes
  const int64_t* set_of_path;   // [paths], ascending
  // Copies of the vectors with a byte for each number (`int8_search.py`), and the vectors themselves, for MAX only.
  const int8_t* bytes;     // [blocks][quads][LANES][4]: four dimensions of each candidate side by side
  const float* step;       // [blocks][LANES]: a vector is its bytes times its step, and a rounding error
  const float* rows;       // [rows][dim]
  const int64_t* row;      // [candidates]
  const float* divisor;    // [candidates]: a vector is its row divided by it; null for 1
  int64_t candidates, dim, tile, tiles, sets, paths;
  float rounding, length;  // the largest rounding error in steps, and the largest length of bytes
};

// How the scores of an item become one (`fusion.py`).
struct Rule {
  int64_t kind, calibrated, blocks;
  const int32_t* block_of_path;   // [paths], for HIERARCHICAL
  const double* weight_of_path;   // [paths], for MEAN; null if all are 1
  const int64_t* branch_of_path;  // [paths], for calibrated MEAN; null for one branch
  const double* log_alternatives; // [branches][candidates], for calibrated MEAN
};

// The users of a call.
struct Users {
  int64_t users, k, threads;
  const float* vector;           // [users][paths][dim]
  const float* bias;             // [users][paths]; -inf for a path that is closed to the user
  const int64_t* seen;           // for one user after another, ascending: row ids that must not be found
  const int64_t* first_seen;     // [users + 1]
  const uint64_t* const* allow;  // [users]: a bit for each row id that may be found; null for all
  const uint64_t* const* deny;   // [users]: a bit for each row id that must not be found; null for none
};

inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline bool has(const uint64_t* bits, int64_t item) { return bits[item >> 6] >> (item & 63) & 1; }

// Scores of P queries for B blocks: out[p][b * LANES + lane].
template <int P, int B>
void product(const float* const* query, const float* const* block, int64_t dim, float (*out)[LANES]) {
  float sum[P][B][LANES];
  for (int p = 0; p < P; p++)
    for (int b = 0; b < B; b++)
      for (int l = 0; l < LANES; l++) sum[p][b][l] = 0.0f;
  for (int64_t j = 0; j < dim; j++)
    for (int p = 0; p < P; p++) {
      const float q = query[p][j];
      for (int b = 0; b < B; b++)
        for (int l = 0; l < LANES; l++) sum[p][b][l] = fused(q, block[b][j * LANES + l], sum[p][b][l]);
    }
  for (int p = 0; p < P; p++)
    for (int b = 0; b < B; b++) std::memcpy(out[p * B + b], sum[p][b], sizeof sum[p][b]);
}

// The same for any number of paths up to AT_ONCE and one block.
void products(const float* const* query, int64_t paths, const float* block, int64_t dim, float (*out)[LANES]) {
  int64_t p = 0;
  for (; p + PATHS <= paths; p += PATHS) product<PATHS, 1>(query + p, &block, dim, out + p);
  switch (paths - p) {
    case 1: product<1, 1>(query + p, &block, dim, out + p); break;
    case 2: product<2, 1>(query + p, &block, dim, out + p); break;
    case 3: product<3, 1>(query + p, &block, dim, out + p); break;
  }
}

// exp(x) in double precision for x up to 700; 0 below -700. The relative error is below 1e-15.
inline double exponential(double x) {
  const double bounded = x < -700.0 ? -700.0 : x;
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
  const double shifted = bounded * 1.4426950408889634 + magic;
  const double n = shifted - magic;
  const double r = (bounded - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double e = 1.0 / 6227020800.0;
  constexpr double inverse[] = {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
                                1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,     1.0 / 24.0,     1.0 / 6.0,
                                0.5,               1.0,              1.0};
  for (double coefficient : inverse) e = e * r + coefficient;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 52) + 0x3FF0000000000000ull;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -700.0 ? 0.0 : e * power;
}

// The open paths of a user: first those of the sets in list 0, then those of each further set.
struct Open {
  std::vector<const float*> query;
  std::vector<float> bias;
  std::vector<int32_t> path;
  std::vector<int64_t> first;  // of each set that has a list of its own, and the number of all open paths
  int64_t shared = 0;          // paths of the sets in list 0
  bool has_whole = false;      // whether one of these sets has all candidates

  Open(const Index& index, const float* vector, const float* biases) : first(index.sets + 1) {
    const auto add = [&](int64_t p) {
      if (biases[p] == NONE) return;
      query.push_back(vector + p * index.dim);
      bias.push_back(biases[p]);
      path.push_back(static_cast<int32_t>(p));
    };
    for (int64_t p = 0; p < index.paths; p++) {
      if (index.list_of_set[index.set_of_path[p]]) continue;
      add(p);
      has_whole |= biases[p] != NONE && !index.mask[index.set_of_path[p]];
    }
    shared = query.size();
    int64_t set = 0;
    for (int64_t p = 0; p < index.paths; p++) {
      for (; set <= index.set_of_path[p]; set++) first[set] = query.size();
      if (index.list_of_set[index.set_of_path[p]]) add(p);
    }
    for (; set <= index.sets; set++) first[set] = query.size();
  }

  int64_t set_of(const Index& index, int64_t p) const { return index.set_of_path[path[p]]; }
};

// The bytes of a query, four dimensions in each number. Without the instruction for products of bytes they are widened
// to 16 bits, as the products need.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
using Quad = int64_t;
#else
using Quad = int32_t;
#endif

// A query with a byte for each number, and the largest error of its products with bytes, in steps.
struct Rounded {
  std::vector<Quad> quads;
  float step, margin;
  int32_t sum = 0;  // of all numbers

  Rounded(const Index& index, const float* query) : quads((index.dim + 3) / 4) {
    constexpr int bits = 2 * sizeof(Quad);
    float largest = 0.0f;
    for (int64_t j = 0; j < index.dim; j++) largest = std::max(largest, std::abs(query[j]));
    step = largest > 0.0f ? largest / 127.0f : 1.0f;
    double square = 0.0, error = 0.0;
    for (int64_t j = 0; j < index.dim; j++) {
      const float number = std::nearbyint(query[j] / step);
      const double missing = static_cast<double>(query[j]) - static_cast<double>(number) * step;
      square += static_cast<double>(query[j]) * query[j];
      error += missing * missing;
      sum += static_cast<int32_t>(number);
      const auto digits = static_cast<uint64_t>(static_cast<int64_t>(number)) & ((1ull << bits) - 1);
      quads[j / 4] |= static_cast<Quad>(digits << (bits * (j % 4)));
    }
    // The last summand bounds the rounding errors of the score itself, a chain of `dim` additions.
    const double length = std::sqrt(square), whole = index.length + index.rounding;
    margin = static_cast<float>(
        1.001 * (length * index.rounding + std::sqrt(error) * index.length + length * whole * index.dim * 6e-8) / step);
  }
};

// As many products as fit into the registers.
#ifdef __AVX512VNNI__
constexpr int SOME = 6;
#else
constexpr int SOME = 3;
#endif

// Bytes that are asked for before they are needed: the processor itself does not read ahead beyond a page.
constexpr int64_t AHEAD = 4096;

// Products of the bytes of P queries and a block.
template <int P>
void byte_products(const Rounded* const* query, const int8_t* block, int64_t quads, int32_t (*out)[LANES]) {
#if defined(__AVX512VNNI__)
  // The instruction takes bytes without a sign from the block: each is 128 too large.
  const __m512i shift = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i sum[P][2];
  for (int p = 0; p < P; p++) {
    sum[p][0] = _mm512_set1_epi32(-128 * query[p]->sum);
    sum[p][1] = _mm512_setzero_si512();
  }
  const auto add = [&](int64_t j, int half) {
    const int8_t* at = block + j * 4 * LANES;
    _mm_prefetch(reinterpret_cast<const char*>(at) + AHEAD, _MM_HINT_T0);
    const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(at), shift);
    for (int p = 0; p < P; p++)
      sum[p][half] = _mm512_dpbusd_epi32(sum[p][half], bytes, _mm512_set1_epi32(query[p]->quads[j]));
  };
  // Two sums, so that an addition need not wait for the one before.
  int64_t j = 0;
  for (; j + 2 <= quads; j += 2) {
    add(j, 0);
    add(j + 1, 1);
  }
  if (j < quads) add(j, 0);
  for (int p = 0; p < P; p++) _mm512_storeu_si512(out[p], _mm512_add_epi32(sum[p][0], sum[p][1]));
#elif defined(__AVX2__)
  constexpr int PARTS = LANES / 4;  // of four candidates
  __m256i sum[P][PARTS];
  for (int p = 0; p < P; p++)
    for (int part = 0; part < PARTS; part++) sum[p][part] = _mm256_setzero_si256();
  for (int64_t j = 0; j < quads; j++) {
    const auto* bytes = reinterpret_cast<const __m128i*>(block + j * 4 * LANES);
    for (int part = 0; part < PARTS; part++) {
      const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + part));
      for (int p = 0; p < P; p++) {
        const __m256i q = _mm256_set1_epi64x(query[p]->quads[j]);
        sum[p][part] = _mm256_add_epi32(sum[p][part], _mm256_madd_epi16(wide, q));
      }
    }
  }
  // Each candidate has two sums side by side.
  for (int p = 0; p < P; p++)
    for (int part = 0; part < PARTS; part += 2) {
      const __m256i both = _mm256_hadd_epi32(sum[p][part], sum[p][part + 1]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[p] + part * 4), _mm256_permute4x64_epi64(both, 0xD8));
    }
#else
  for (int p = 0; p < P; p++)
    for (int l = 0; l < LANES; l++) out[p][l] = 0;
  for (int64_t j = 0; j < quads; j++)
    for (int p = 0; p < P; p++)
      for (int i = 0; i < 4; i++) {
        const int32_t number = static_cast<int8_t>(query[p]->quads[j] >> (8 * i));
        for (int l = 0; l < LANES; l++) out[p][l] += number * block[(j * LANES + l) * 4 + i];
      }
#endif
}

// The lanes whose upper bounds, from products of bytes, are at least `least`.
inline uint32_t reaching(const int32_t* product, const float* step, const Rounded& query, float bias, float least) {
#ifdef __AVX512F__
  const __m512 unit = _mm512_mul_ps(_mm512_loadu_ps(step), _mm512_set1_ps(query.step));
  const __m512 most = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(product)), _mm512_set1_ps(query.margin));
  const __m512 upper = _mm512_add_ps(_mm512_mul_ps(most, unit), _mm512_set1_ps(bias));
  return _mm512_cmp_ps_mask(upper, _mm512_set1_ps(least), _CMP_GE_OQ);
#else
  uint32_t lanes = 0;
  for (int l = 0; l < LANES; l++) {
    const float upper = (static_cast<float>(product[l]) + query.margin) * (step[l] * query.step) + bias;
    lanes |= static_cast<uint32_t>(upper >= least) << l;
  }
  return lanes;
#endif
}

// The exact score of a candidate, without bias: the same chain as in `product`.
inline float exact(const Index& index, const float* query, int64_t candidate) {
  const float* row = index.rows + index.row[candidate] * index.dim;
  const float divisor = index.divisor ? index.divisor[candidate] : 1.0f;
  float sum = 0.0f;
  if (index.divisor)
    for (int64_t j = 0; j < index.dim; j++) sum = fused(query[j], row[j] / divisor, sum);
  else
    for (int64_t j = 0; j < index.dim; j++) sum = fused(query[j], row[j], sum);
  return sum;
}

struct Best {
  float score;
  int64_t item;
  int32_t path;
};

// A user's k best items so far: by score, then by row id.
struct Top {
  std::vector<Best> best;
  int64_t k;
  float threshold = LOWEST;

  void offer(float score, int64_t item, int32_t path) {
    if (static_cast<int64_t>(best.size()) == k) {
      if (score == best.back().score && item > best.back().item) return;
      best.pop_back();
    }
    const auto place = std::lower_bound(best.begin(), best.end(), score, [item](const Best& other, float value) {
      return other.score > value || (other.score == value && other.item < item);
    });
    best.insert(place, Best{score, item, path});
    if (static_cast<int64_t>(best.size()) == k) threshold = best.back().score;
  }
};

// Like `Top`, for items that several paths may offer: an item is kept once, with its best score.
struct TopOnce : Top {
  void offer_once(float score, int64_t item, int32_t path) {
    for (auto kept = best.begin(); kept != best.end(); ++kept) {
      if (kept->item != item) continue;
      if (kept->score > score || (kept->score == score && kept->path <= path)) return;
      best.erase(kept);
      threshold = LOWEST;
      break;
    }
    offer(score, item, path);
  }
};

// The lanes of a block that hold a candidate of the allow list, if there is one.
inline uint32_t lanes_of(const Index& index, int64_t block, const uint64_t* allow) {
  uint32_t lanes = ALL_LANES;
  if (!allow) return lanes;
  const int32_t* position = index.position + block * LANES;
  for (int l = 0; l < LANES; l++)
    if (position[l] < 0 || !has(allow, index.item[position[l]])) lanes &= ~(1u << l);
  return lanes;
}

// The lanes of a block of list 0 that are in the set of an open path.
inline uint32_t lanes_of_path(const Index& index, const Open& open, int64_t p, int64_t block) {
  if (p >= open.shared) return ALL_LANES;
  const uint16_t* mask = index.mask[open.set_of(index, p)];
  return mask ? mask[block] : ALL_LANES;
}

// Calls `visit(lanes, block, first path, number of paths, scores)` for the blocks of some open paths in a tile.
template <typename Visit>
void visit_paths(const Index& index, const Open& open, int64_t list, int64_t first, int64_t last, int64_t tile,
                 const uint64_t* allow, Visit& visit) {
  if (first == last) return;
  const int64_t* block_at = index.block_at + list * (index.tiles + 1) + tile;
  const bool any_lane = list || open.has_whole;
  const auto lanes_in = [&](int64_t block) {
    const uint32_t lanes = lanes_of(index, block, allow);
    if (!lanes || any_lane) return lanes;
    uint32_t of_sets = 0;
    for (int64_t p = first; p < last; p++) of_sets |= lanes_of_path(index, open, p, block);
    return lanes & of_sets;
  };
  float scores[AT_ONCE][LANES];

  if (last - first == 1) {  // blocks are taken together instead of paths, so that the processor has enough to do
    const float* query = open.query[first];
    const float* blocks[PATHS];
    int64_t number[PATHS];
    uint32_t lanes[PATHS];
    int waiting = 0;
    for (int64_t block = block_at[0]; block < block_at[1]; block++) {
      lanes[waiting] = lanes_in(block);
      if (!lanes[waiting]) continue;
      number[waiting] = block;
      blocks[waiting++] = index.packed + block * index.dim * LANES;
      if (waiting < PATHS) continue;
      product<1, PATHS>(&query, blocks, index.dim, scores);
      for (int b = 0; b < PATHS; b++) visit(lanes[b], number[b], first, int64_t{1}, scores + b);
      waiting = 0;
    }
    for (int b = 0; b < waiting; b++) {
      product<1, 1>(&query, blocks + b, index.dim, scores);
      visit(lanes[b], number[b], first, int64_t{1}, scores);
    }
    return;
  }
  for (int64_t block = block_at[0]; block < block_at[1]; block++) {
    const uint32_t lanes = lanes_in(block);
    if (!lanes) continue;
    for (int64_t p = first; p < last; p += AT_ONCE) {
      const int64_t paths = std::min<int64_t>(AT_ONCE, last - p);
      products(open.query.data() + p, paths, index.packed + block * index.dim * LANES, index.dim, scores);
      visit(lanes, block, p, paths, scores);
    }
  }
}

// The same for all open paths.
template <typename Visit>
void visit_tile(const Index& index, const Open& open, int64_t tile, const uint64_t* allow, Visit visit) {
  visit_paths(index, open, 0, 0, open.shared, tile, allow, visit);
  for (int64_t set = 0; set < index.sets; set++)
    if (index.list_of_set[set])
      visit_paths(index, open, index.list_of_set[set], open.first[set], open.first[set + 1], tile, allow, visit);
}

// The fused scores of the candidates of a tile, for one user.
class Tile {
 public:
  Tile(const Index& index, const Rule& rule) : index_(index), rule_(rule) {
    const int64_t rows = rule.kind == HIERARCHICAL ? rule.blocks : 1;
    best_.resize(rows * index.tile);
    path_.resize(rows * index.tile);
    if (rule.kind == MEAN) {
      top_.resize(index.tile);
      sum_.resize(index.tile);
      weight_.resize(index.tile);
    }
  }

  void search(const Open& open, int64_t tile, const uint64_t* allow) {
    first_ = tile * index_.tile;
    size_ = std::min(index_.tile, index_.candidates - first_);
    std::fill(best_.begin(), best_.end(), NONE);
    if (rule_.kind == MEAN) {
      std::fill(top_.begin(), top_.end(), -std::numeric_limits<double>::infinity());
      std::fill(sum_.begin(), sum_.end(), 0.0);
      std::fill(weight_.begin(), weight_.end(), 0.0);
    }
    visit_tile(index_, open, tile, allow,
               [&](uint32_t lanes, int64_t block, int64_t p, int64_t paths, float(*scores)[LANES]) {
                 add(open, lanes, block, p, paths, scores);
               });
  }

  // Offers the user's best items those of the tile. `banned(item)` says which are left out.
  template <typename Banned>
  void offer(Top& top, Banned banned) {
    for (int64_t c = 0; c < size_; c++) {
      float upper = best_[c];
      if (rule_.kind == HIERARCHICAL)
        for (int64_t b = 1; b < rule_.blocks; b++) upper = std::max(upper, best_[b * index_.tile + c]);
      // The mean of blocks is at most their maximum, up to rounding.
      if (rule_.kind != MEAN && upper < top.threshold - std::abs(top.threshold) * 1e-6f) continue;
      int32_t path = 0;
      const float score = result(c, path);
      if (!(score >= top.threshold) || banned(index_.item[first_ + c])) continue;
      top.offer(score + 0.0f, index_.item[first_ + c], path);
    }
  }

 private:
  void add(const Open& open, uint32_t lanes, int64_t block, int64_t p, int64_t paths, float (*scores)[LANES]) {
    const int32_t* position = index_.position + block * LANES;
    if (rule_.kind == MEAN) {
      for (int64_t i = 0; i < paths; i++) {
        const uint32_t of_path = lanes & lanes_of_path(index_, open, p + i, block);
        for (int l = 0; l < LANES; l++)
          if (of_path >> l & 1 && position[l] >= 0) add_to_mean(open, p + i, position[l], scores[i][l]);
      }
      return;
    }
    int64_t i = 0;
    while (i < paths) {
      // Paths of one block of the hierarchy that follow each other.
      const int64_t row = row_of(open, p + i);
      float best[LANES];
      int32_t winner[LANES];
      for (int l = 0; l < LANES; l++) best[l] = NONE, winner[l] = 0;
      for (; i < paths && row_of(open, p + i) == row; i++) {
        const float bias = open.bias[p + i];
        const int32_t path = open.path[p + i];
        const uint32_t of_path = lanes_of_path(index_, open, p + i, block);
        for (int l = 0; l < LANES; l++) {
          const float value = scores[i][l] + bias;
          const bool better = value > best[l] && (of_path >> l & 1);
          best[l] = better ? value : best[l];
          winner[l] = better ? path : winner[l];
        }
      }
      // If scores are equal, the smaller path wins; sets with lists of their own come after all others.
      float* kept = best_.data() + row * index_.tile;
      int32_t* kept_path = path_.data() + row * index_.tile;
      for (int l = 0; l < LANES; l++) {
        if (!(lanes >> l & 1) || position[l] < 0 || best[l] == NONE) continue;
        const int64_t c = position[l] - first_;
        if (best[l] > kept[c] || (best[l] == kept[c] && winner[l] < kept_path[c])) {
          kept[c] = best[l];
          kept_path[c] = winner[l];
        }
      }
    }
  }

  int64_t row_of(const Open& open, int64_t p) const {
    return rule_.kind == HIERARCHICAL ? rule_.block_of_path[open.path[p]] : 0;
  }

  void add_to_mean(const Open& open, int64_t p, int64_t c, float raw) {
    const double score = static_cast<double>(raw + open.bias[p]);
    const int64_t path = open.path[p];
    double weight = rule_.weight_of_path ? rule_.weight_of_path[path] : 1.0;
    double contribution = score;
    const int64_t at = c - first_;
    if (rule_.calibrated) {
      const int64_t branch = rule_.branch_of_path ? rule_.branch_of_path[path] : 0;
      weight *= exponential(-rule_.log_alternatives[branch * index_.candidates + c]);
      contribution += std::log(weight);
      // `sum_` is relative to the largest contribution so far.
      if (contribution > top_[at])
        sum_[at] = sum_[at] * exponential(top_[at] - contribution) + 1.0;
      else
        sum_[at] += exponential(contribution - top_[at]);
    } else {
      sum_[at] += score * weight;
    }
    weight_[at] += weight;
    if (contribution > top_[at] || (contribution == top_[at] && path < path_[at])) {
      top_[at] = contribution;
      path_[at] = static_cast<int32_t>(path);
    }
  }

  // The fused score of a candidate of the tile, and the path that contributed most.
  float result(int64_t c, int32_t& path) const {
    path = path_[c];
    if (rule_.kind == MAX || (rule_.kind == HIERARCHICAL && rule_.blocks == 1)) return best_[c];
    if (rule_.kind == MEAN) {
      if (weight_[c] == 0.0) return NONE;
      if (!rule_.calibrated) return static_cast<float>(sum_[c] / weight_[c]);
      const double log_sum = top_[c] + std::log(sum_[c]);
      return static_cast<float>(rule_.weight_of_path ? log_sum - std::log(weight_[c]) : log_sum);
    }
    float best = NONE;
    int count = 0;
    for (int64_t b = 0; b < rule_.blocks; b++) {
      const float value = best_[b * index_.tile + c];
      count += value != NONE;
      if (value > best) {
        best = value;
        path = path_[b * index_.tile + c];
      }
    }
    if (!count) return NONE;
    double sum = 0.0;
    for (int64_t b = 0; b < rule_.blocks; b++) {
      const float value = best_[b * index_.tile + c];
      if (value == NONE) continue;
      sum += rule_.calibrated ? exponential(static_cast<double>(value) - best) : static_cast<double>(value);
    }
    if (!rule_.calibrated) return static_cast<float>(sum / count);
    return static_cast<float>(best + std::log(sum) - std::log(static_cast<double>(count)));
  }

  const Index& index_;
  const Rule& rule_;
  int64_t first_ = 0, size_ = 0;
  std::vector<float> best_;                 // of each row: [rows][tile]
  std::vector<int32_t> path_;               // the path of the best score
  std::vector<double> top_, sum_, weight_;  // MEAN: the largest contribution, the sum, the sum of weights
};

// Offers a user's best items the candidates of a tile, by their bytes: exact scores are computed only where the upper
// bound of a score reaches the threshold. `banned(item)` says which are left out.
template <typename Banned>
void search_bytes(const Index& index, const Open& open, const std::vector<Rounded>& rounded, int64_t tile,
                  const uint64_t* allow, TopOnce& top, Banned banned) {
  const int64_t quads = (index.dim + 3) / 4;
  int32_t products[SOME][LANES];
  const Rounded* query[SOME];

  const auto visit_list = [&](int64_t list, int64_t first, int64_t last) {
    if (first == last) return;
    const int64_t* block_at = index.block_at + list * (index.tiles + 1) + tile;
    for (int64_t block = block_at[0]; block < block_at[1]; block++) {
      const uint32_t lanes = lanes_of(index, block, allow);
      if (!lanes) continue;
      const int8_t* bytes = index.bytes + block * quads * 4 * LANES;
      const float* step = index.step + block * LANES;
      const int32_t* position = index.position + block * LANES;
      for (int64_t p = first; p < last; p += SOME) {
        const int some = static_cast<int>(std::min<int64_t>(SOME, last - p));
        for (int i = 0; i < some; i++) query[i] = &rounded[p + i];
        switch (some) {
          case 1: byte_products<1>(query, bytes, quads, products); break;
          case 2: byte_products<2>(query, bytes, quads, products); break;
#ifdef __AVX512VNNI__
          case 3: byte_products<3>(query, bytes, quads, products); break;
          case 4: byte_products<4>(query, bytes, quads, products); break;
          case 5: byte_products<5>(query, bytes, quads, products); break;
#endif
          default: byte_products<SOME>(query, bytes, quads, products);
        }
        for (int i = 0; i < some; i++) {
          const float bias = open.bias[p + i];
          const float slack = (std::abs(bias) + std::abs(top.threshold)) * 1e-6f;
          uint32_t left = reaching(products[i], step, rounded[p + i], bias, top.threshold - slack);
          if (!left) continue;
          left &= lanes & lanes_of_path(index, open, p + i, block);
          for (; left; left &= left - 1) {
            const int32_t c = position[__builtin_ctz(left)];
            if (c < 0 || banned(index.item[c])) continue;
            const float score = exact(index, open.query[p + i], c) + bias;
            if (score >= top.threshold) top.offer_once(score + 0.0f, index.item[c], open.path[p + i]);
          }
        }
      }
    }
  };
  visit_list(0, 0, open.shared);
  for (int64_t set = 0; set < index.sets; set++)
    if (index.list_of_set[set]) visit_list(index.list_of_set[set], open.first[set], open.first[set + 1]);
}

// Adds exp(score - offset) of some lanes to their sums. The offset is the largest score of the first block; if a score
// is much larger, it becomes the offset.
void add_exponentials(uint32_t lanes, const float* score, double& offset, double* sum) {
  if (!lanes) return;
  double kept[LANES];
  float largest = NONE;
  for (int l = 0; l < LANES; l++) {
    kept[l] = lanes >> l & 1 ? 1.0 : 0.0;
    const float value = lanes >> l & 1 ? score[l] : NONE;
    largest = value > largest ? value : largest;
  }
  if (!(largest - offset < 300.0)) {
    for (int l = 0; l < LANES; l++) sum[l] = sum[l] == 0.0 ? 0.0 : sum[l] * exponential(offset - largest);
    offset = largest;
  }
  for (int l = 0; l < LANES; l++) sum[l] += kept[l] * exponential(kept[l] * (static_cast<double>(score[l]) - offset));
}

}  // namespace

extern "C" {

// A set with more than a 1 / `resident_dense()` of the candidates is searched among all of them. Products of bytes take
// less time than reading a second copy of the bytes, if the processor has an instruction for them.
int64_t resident_dense(int64_t as_bytes) {
#ifdef __AVX512VNNI__
  return as_bytes ? 32 : 3;
#else
  (void)as_bytes;
  return 3;
#endif
}

// Writes the k best items of each user: scores (-inf at the end of a shorter list), row ids and paths. If the index has
// bytes, the rule is MAX. Threads take one tile after another, so a thread that has lost its core leaves the others to
// the rest. The result does not depend on who takes which.
void resident_search(const Index* index, const Rule* rule, const Users* users, float* score, int64_t* item,
                     int64_t* path) {
  const int64_t worth = 1 + users->users * index->candidates / ENOUGH;
  const int64_t threads = std::max<int64_t>(1, std::min({users->threads, index->tiles, worth}));
  std::vector<Open> open;
  std::vector<TopOnce> tops(users->users);
  std::vector<std::vector<Rounded>> rounded(users->users);
  for (int64_t u = 0; u < users->users; u++) {
    open.emplace_back(*index, users->vector + u * index->paths * index->dim, users->bias + u * index->paths);
    tops[u].k = users->k;
    if (index->bytes)
      for (const float* query : open[u].query) rounded[u].emplace_back(*index, query);
  }
  std::vector<Tile> scratch;
  std::vector<std::vector<TopOnce>> of_thread(threads, tops);
  for (int64_t t = 0; t < threads; t++) {
    if (!index->bytes) scratch.emplace_back(*index, *rule);
    for (TopOnce& top : of_thread[t]) top.best.reserve(users->k + 1);
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < index->tiles; t++) {
    const int thread = omp_get_thread_num();
    for (int64_t u = 0; u < users->users; u++) {
      const uint64_t *allow = users->allow[u], *deny = users->deny[u];
      const int64_t* seen = users->seen + users->first_seen[u];
      const int64_t* seen_end = users->seen + users->first_seen[u + 1];
      const auto banned = [=](int64_t i) {
        return (allow && !has(allow, i)) || (deny && has(deny, i)) || std::binary_search(seen, seen_end, i);
      };
      if (index->bytes) {
        search_bytes(*index, open[u], rounded[u], t, allow, of_thread[thread][u], banned);
      } else {
        scratch[thread].search(open[u], t, allow);
        scratch[thread].offer(of_thread[thread][u], banned);
      }
    }
  }
  // Threads have different items.
  tops = std::move(of_thread[0]);
  for (int64_t t = 1; t < threads; t++)
    for (int64_t u = 0; u < users->users; u++)
      for (const Best& best : of_thread[t][u].best)
        if (best.score >= tops[u].threshold) tops[u].offer(best.score, best.item, best.path);
  for (int64_t u = 0; u < users->users; u++)
    for (int64_t i = 0; i < users->k; i++) {
      const bool found = i < static_cast<int64_t>(tops[u].best.size());
      score[u * users->k + i] = found ? tops[u].best[i].score : NONE;
      item[u * users->k + i] = found ? tops[u].best[i].item : -1;
      path[u * users->k + i] = found ? tops[u].best[i].path : 0;
    }
}

// Writes log sum exp(q_k . e_i) over the candidates i of each path k, without those that a user has seen, as
// [users][paths].
// It is -inf for closed paths and paths without candidates. `log_weight` is added to the paths of each set.
void resident_log_sums(const Index* index, const Users* users, const double* log_weight, double* sums) {
  std::vector<uint8_t> keep(index->tile, 1);
  for (int64_t u = 0; u < users->users; u++) {
    const Open open(*index, users->vector + u * index->paths * index->dim, users->bias + u * index->paths);
    const int64_t paths = open.query.size();
    std::vector<double> sum(paths * LANES, 0.0), offset(paths, std::numeric_limits<double>::quiet_NaN());

    // Seen items as candidates, ascending: each tile takes its own.
    std::vector<int64_t> seen;
    const int64_t* next = index->item;
    for (int64_t i = users->first_seen[u]; i < users->first_seen[u + 1]; i++) {
      next = std::lower_bound(next, index->item + index->candidates, users->seen[i]);
      if (next < index->item + index->candidates && *next == users->seen[i]) seen.push_back(next - index->item);
    }
    auto seen_at = seen.begin();
    for (int64_t t = 0; t < index->tiles; t++) {
      const int64_t first = t * index->tile;
      const auto seen_from = seen_at;
      for (; seen_at < seen.end() && *seen_at < first + index->tile; seen_at++) keep[*seen_at - first] = 0;
      visit_tile(*index, open, t, nullptr,
                 [&](uint32_t, int64_t block, int64_t p, int64_t count, float(*scores)[LANES]) {
                   const int32_t* position = index->position + block * LANES;
                   uint32_t unseen = 0;
                   for (int l = 0; l < LANES; l++)
                     unseen |= static_cast<uint32_t>(position[l] >= 0 && keep[position[l] - first]) << l;
                   for (int64_t i = 0; i < count; i++)
                     add_exponentials(unseen & lanes_of_path(*index, open, p + i, block), scores[i], offset[p + i],
                                      sum.data() + (p + i) * LANES);
                 });
      for (auto i = seen_from; i < seen_at; i++) keep[*i - first] = 1;
    }

    double* out = sums + u * index->paths;
    std::fill(out, out + index->paths, -std::numeric_limits<double>::infinity());
    for (int64_t p = 0; p < paths; p++) {
      double total = 0.0;
      for (int l = 0; l < LANES; l++) total += sum[p * LANES + l];
      if (total > 0.0) out[open.path[p]] = offset[p] + std::log(total) + log_weight[index->set_of_path[open.path[p]]];
    }
  }
}

// Writes the scores of some vectors [items][dim] for all paths of one user, without biases: [items][paths].
void resident_scores(const float* vectors, int64_t items, const float* query, int64_t paths, int64_t dim, float* out) {
  std::vector<float> block(dim * LANES);
  std::vector<const float*> queries(paths);
  for (int64_t p = 0; p < paths; p++) queries[p] = query + p * dim;
  float scores[AT_ONCE][LANES];
  for (int64_t first = 0; first < items; first += LANES) {
    const int64_t count = std::min<int64_t>(LANES, items - first);
    std::fill(block.begin(), block.end(), 0.0f);
    for (int64_t l = 0; l < count; l++)
      for (int64_t j = 0; j < dim; j++) block[j * LANES + l] = vectors[(first + l) * dim + j];
    for (int64_t p = 0; p < paths; p += AT_ONCE) {
      const int64_t some = std::min<int64_t>(AT_ONCE, paths - p);
      products(queries.data() + p, some, block.data(), dim, scores);
      for (int64_t i = 0; i < some; i++)
        for (int64_t l = 0; l < count; l++) out[(first + l) * paths + p + i] = scores[i][l];
    }
  }
}

// Writes the length of each vector [rows][dim], and 1e-12 for shorter ones. It depends on the vector only.
void resident_lengths(const float* vectors, int64_t rows, int64_t dim, float* out) {
  for (int64_t r = 0; r < rows; r++) {
    double sum = 0.0;
    for (int64_t j = 0; j < dim; j++) sum += static_cast<double>(vectors[r * dim + j]) * vectors[r * dim + j];
    out[r] = std::max(static_cast<float>(std::sqrt(sum)), 1e-12f);
  }
}

// Copies vectors [rows][dim] into blocks: row[lane] is the row of each lane; -1 for zeros. If there is a divisor for each
// row, the row is divided by it.
void resident_pack(const float* vectors, const int64_t* row, const float* divisor, int64_t blocks, int64_t dim,
                   float* packed) {
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t l = 0; l < LANES; l++) {
      const int64_t from = row[b * LANES + l];
      for (int64_t j = 0; j < dim; j++) {
        float value = from < 0 ? 0.0f : vectors[from * dim + j];
        if (from >= 0 && divisor) value /= divisor[from];
        packed[(b * dim + j) * LANES + l] = value;
      }
    }
}

}

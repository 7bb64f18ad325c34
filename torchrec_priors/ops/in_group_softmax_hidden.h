// The negatives that are hidden from a block's queries, sorted by the part of e that they are in.

#pragma once

#include "in_group_softmax_sizes.h"

#include <utility>
#include <vector>

namespace {

struct HiddenCell {
  int32_t column, query;
};

// A part is a strip of negatives and a panel of queries.
class HiddenCells {
 public:
  // Begins a block of queries and columns; there are none yet.
  void begin(int64_t queries, int64_t columns) {
    strips_ = columns / STRIP;
    first_.assign(up(queries, PANEL) / PANEL * strips_ + 2, 0);
    unsorted_.clear();
  }

  void add(int64_t column, int64_t query) {
    unsorted_.push_back({static_cast<int32_t>(column), static_cast<int32_t>(query)});
    first_[part(column, query) + 2]++;
  }

  void sort() {
    for (size_t part = 2; part < first_.size(); part++) first_[part] += first_[part - 1];
    sorted_.resize(unsorted_.size());
    for (const HiddenCell& cell : unsorted_) sorted_[first_[part(cell.column, cell.query) + 1]++] = cell;
  }

  // Those of the strip and the panel that begin with a column and a query: the first, and the end.
  std::pair<const HiddenCell*, const HiddenCell*> of(int64_t column, int64_t query) const {
    const int64_t number = part(column, query);
    return {sorted_.data() + first_[number], sorted_.data() + first_[number + 1]};
  }

 private:
  int64_t part(int64_t column, int64_t query) const { return query / PANEL * strips_ + column / STRIP; }

  int64_t strips_ = 0;
  std::vector<HiddenCell> sorted_, unsorted_;
  std::vector<int64_t> first_;
};

}  // namespace

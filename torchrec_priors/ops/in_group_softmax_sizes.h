// The parts in which the in-group softmax is computed. For symbols see `in_group_softmax_native.cpp`.

#pragma once

#include "native_tiles.h"

namespace {

constexpr int64_t MOST_QUERIES = 256;  // of a block
constexpr int64_t QUERIES = 128;       // of a block, whose gradients go to negatives at a time
constexpr int64_t STRIP = 64;          // negatives
constexpr int64_t APART = 16;          // floats between rows, so that they do not share places of a cache
constexpr int64_t ROWS = WideTile::ROWS, PANEL = WideTile::COLUMNS;  // negatives and queries of a tile of logits
static_assert(STRIP % ROWS == 0 && MOST_QUERIES % PANEL == 0 && QUERIES % PANEL == 0);
static_assert(STRIP % NarrowTile::ROWS == 0 && PANEL % NarrowTile::ROWS == 0);

}  // namespace

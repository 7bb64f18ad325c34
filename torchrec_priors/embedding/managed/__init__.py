"""The item table with TorchRec's managed collisions: few rows for many items.

During training, items are admitted, which gives each of them a row of the table, and later evicted.
TorchRec's `MCHManagedCollisionModule` keeps ids and counters, and decides which items to evict.
`Blocks` combines several of these modules so that no result depends on the number of ranks:

- `spread` turns the row ids of items into ids between 0 and 2^40.
- These ids are cut into a fixed number of blocks, and the table's rows into the same number. The
  ids of a block only get rows of the block with the same number.
- The last row of a block is shared by all ids of the block that are not admitted.
- Each rank has whole blocks.
"""

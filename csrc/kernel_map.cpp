// Kernel maps from sorted 64-bit keys. Adding a kernel offset to a key is adding a constant, so the shifted keys stay
// sorted and one linear merge per offset finds every neighbour: no hash table, no random access.

#include <cstdint>
#include <cstring>
#include <vector>

#include "conv.h"
#include "parallel.h"

using lidistill::kTile;
using lidistill::parallel_for;

extern "C" {

int lidistill_tile() { return kTile; }

// order: int32 [n], the stable permutation that sorts keys (int64 [n], non-negative). LSD radix sort, 11 bits a pass.
void lidistill_argsort(const int64_t* keys, int64_t n, int32_t* order) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  int64_t all = 0;
  bool sorted = true;
  for (int64_t i = 0; i < n; ++i) {
    order[i] = static_cast<int32_t>(i);
    if (i) {
      sorted &= keys[i - 1] <= keys[i];
      all |= keys[i] ^ keys[0];  // only digits that differ somewhere need a pass
    }
  }
  if (sorted) return;
  std::vector<int32_t> other(n);
  int32_t *from = order, *to = other.data();
  for (int shift = 0; shift < 63; shift += kBits) {
    if (((all >> shift) & (kBuckets - 1)) == 0) continue;
    std::vector<int64_t> start(kBuckets + 1, 0);
    for (int64_t i = 0; i < n; ++i) ++start[((keys[i] >> shift) & (kBuckets - 1)) + 1];
    for (int b = 0; b < kBuckets; ++b) start[b + 1] += start[b];
    for (int64_t i = 0; i < n; ++i) to[start[(keys[from[i]] >> shift) & (kBuckets - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != order) std::memcpy(order, from, sizeof(int32_t) * n);
}

// table: int32 [volume, n_out]: row of the input whose key is out_key + delta[k], or -1.
// keys are sorted; order maps sorted position -> row. symmetric: input and output are the same set and
// delta[volume-1-k] == -delta[k], so only half of the merges are made.
void lidistill_neighbours(const int64_t* in_keys, const int32_t* in_order, int64_t n_in, const int64_t* out_keys,
                          const int32_t* out_order, int64_t n_out, const int64_t* delta, int volume, int symmetric,
                          int32_t* table, int threads) {
  const int merges = symmetric ? (volume + 1) / 2 : volume;
  parallel_for(merges, threads, [&](int64_t k, int) {
    int32_t* row = table + k * n_out;
    int32_t* mirror = symmetric ? table + (volume - 1 - k) * n_out : nullptr;
    std::memset(row, 0xff, sizeof(int32_t) * n_out);
    if (mirror && mirror != row) std::memset(mirror, 0xff, sizeof(int32_t) * n_out);
    int64_t i = 0;
    for (int64_t o = 0; o < n_out && i < n_in; ++o) {
      const int64_t wanted = out_keys[o] + delta[k];
      while (i < n_in && in_keys[i] < wanted) ++i;
      if (i < n_in && in_keys[i] == wanted) {
        const int32_t from = in_order[i], to = out_order[o];
        row[to] = from;
        if (mirror) mirror[from] = to;
      }
    }
  });
}

// Pairs of each (tile, offset): ptr int64 [tiles * volume + 1]. Returns the number of pairs.
int64_t lidistill_count_tiles(const int32_t* table, int volume, int64_t n_out, int64_t* ptr, int threads) {
  const int64_t tiles = (n_out + kTile - 1) / kTile;
  parallel_for(tiles, threads, [&](int64_t tile, int) {
    const int64_t begin = tile * kTile, end = begin + kTile < n_out ? begin + kTile : n_out;
    for (int k = 0; k < volume; ++k) {
      int64_t count = 0;
      for (int64_t o = begin; o < end; ++o) count += table[k * n_out + o] >= 0;
      ptr[tile * volume + k + 1] = count;
    }
  });
  ptr[0] = 0;
  for (int64_t i = 0; i < tiles * volume; ++i) ptr[i + 1] += ptr[i];
  return ptr[tiles * volume];
}

// Fills pairs tile by tile, within a tile offset by offset, within an offset by output row.
void lidistill_fill_tiles(const int32_t* table, int volume, int64_t n_out, const int64_t* ptr, int32_t* pair_in,
                          int32_t* pair_out, int threads) {
  const int64_t tiles = (n_out + kTile - 1) / kTile;
  parallel_for(tiles, threads, [&](int64_t tile, int) {
    const int64_t begin = tile * kTile, end = begin + kTile < n_out ? begin + kTile : n_out;
    for (int k = 0; k < volume; ++k) {
      int64_t at = ptr[tile * volume + k];
      for (int64_t o = begin; o < end; ++o) {
        const int32_t from = table[k * n_out + o];
        if (from < 0) continue;
        pair_in[at] = from;
        pair_out[at++] = static_cast<int32_t>(o);
      }
    }
  });
}

// The same pairs offset by offset: ptr int64 [volume + 1] is filled too.
void lidistill_fill_offsets(const int32_t* table, int volume, int64_t n_out, int64_t* ptr, int32_t* pair_in,
                            int32_t* pair_out, int threads) {
  parallel_for(volume, threads, [&](int64_t k, int) {
    int64_t count = 0;
    for (int64_t o = 0; o < n_out; ++o) count += table[k * n_out + o] >= 0;
    ptr[k + 1] = count;
  });
  ptr[0] = 0;
  for (int k = 0; k < volume; ++k) ptr[k + 1] += ptr[k];
  parallel_for(volume, threads, [&](int64_t k, int) {
    int64_t at = ptr[k];
    for (int64_t o = 0; o < n_out; ++o) {
      const int32_t from = table[k * n_out + o];
      if (from < 0) continue;
      pair_in[at] = from;
      pair_out[at++] = static_cast<int32_t>(o);
    }
  });
}

// transposed: int32 [volume, n_in]: output row that reads this input row through offset k, or -1.
void lidistill_transpose(const int32_t* table, int volume, int64_t n_out, int64_t n_in, int32_t* transposed, int threads) {
  parallel_for(volume, threads, [&](int64_t k, int) {
    int32_t* row = transposed + k * n_in;
    std::memset(row, 0xff, sizeof(int32_t) * n_in);
    for (int64_t o = 0; o < n_out; ++o)
      if (table[k * n_out + o] >= 0) row[table[k * n_out + o]] = static_cast<int32_t>(o);
  });
}

}  // extern "C"

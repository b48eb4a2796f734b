// Passes over a row of logits (see sample.h).
#include "sample.h"

#include "simd.h"

namespace stoker::STOKER_ISA {
extern const SampleKernels sample_kernels;
namespace {

// Sixteen numbers from x[i], or what is left of n with `rest` behind.
STOKER_INLINE Vec load_rest(const float* x, int i, int n, float rest) {
  return i + kLanes <= n ? load(x + i)
                         : select(lanes_between(0, n - i), load_first(x + i, n - i), splat(rest));
}

STOKER_INLINE uint32_t not_below(Vec x, Vec cut) { return ~mask_bits(x < cut) & 0xffffu; }

int argmax(const float* x, int n) {
  const float lowest = -__builtin_inff();
  Vec top = splat(lowest);
  for (int i = 0; i < n; i += kLanes) top = max(load_rest(x, i, n, lowest), top);
  const float maximum = reduce_max(top);
  if (maximum == lowest) return -1;
  int i = 0;
  while (!not_below(load_rest(x, i, n, lowest), splat(maximum))) i += kLanes;
  while (x[i] < maximum) ++i;
  return i;
}

bool all_finite(const float* x, int n) {
  // x - x is 0 for a number and NaN for the others, and NaN stays in a sum.
  Vec sum = splat(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = load_rest(x, i, n, 0.0f);
    sum = sum + (v - v);
  }
  return reduce_add(sum) == 0.0f;
}

void weights(const float* x, int n, float top, float temperature, float least, float* out) {
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = load_rest(x, i, n, -__builtin_inff());
    const Vec w = exp((v - splat(top)) / splat(temperature));
    const Vec kept = select(w < splat(least), splat(0.0f), w);
    if (i + kLanes <= n)
      store(out + i, kept);
    else
      store_first(out + i, kept, n - i);
  }
}

double sum_exp(const float* x, int n, float top) {
  double total = 0;
  for (int start = 0; start < n; start += kSampleBlock) {
    Vec sum = splat(0.0f);
    const int end = start + kSampleBlock < n ? start + kSampleBlock : n;
    for (int i = start; i < end; i += kLanes)
      sum = sum + exp(load_rest(x, i, n, -__builtin_inff()) - splat(top));
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

void block_sums(const float* x, int n, double* sums) {
  for (int start = 0; start < n; start += kSampleBlock) {
    Vec sum = splat(0.0f);
    const int end = start + kSampleBlock < n ? start + kSampleBlock : n;
    for (int i = start; i < end; i += kLanes) sum = sum + load_rest(x, i, n, 0.0f);
    *sums++ = static_cast<double>(reduce_add(sum));
  }
}

void sums_above(const float* x, int n, const float* cuts, double* sums) {
  for (int j = 0; j < kSampleCuts; ++j) sums[j] = 0;
  for (int start = 0; start < n; start += kSampleBlock) {
    Vec sum[kSampleCuts];
    for (int j = 0; j < kSampleCuts; ++j) sum[j] = splat(0.0f);
    const int end = start + kSampleBlock < n ? start + kSampleBlock : n;
    for (int i = start; i < end; i += kLanes) {
      const Vec v = load_rest(x, i, n, 0.0f);
      for (int j = 0; j < kSampleCuts; ++j)
        sum[j] = sum[j] + select(v < splat(cuts[j]), splat(0.0f), v);
    }
    for (int j = 0; j < kSampleCuts; ++j) sums[j] += static_cast<double>(reduce_add(sum[j]));
  }
}

void lane_maxima(const float* x, int n, float* maxima) {
  const float lowest = -__builtin_inff();
  for (int start = 0; start < n; start += kSampleBlock, maxima += kLanes) {
    Vec top = splat(lowest);
    const int end = start + kSampleBlock < n ? start + kSampleBlock : n;
    for (int i = start; i < end; i += kLanes) top = max(load_rest(x, i, n, lowest), top);
    store(maxima, top);
  }
}

int collect(const float* x, int n, float cut, int most, int32_t* ids, float* values) {
  int count = 0;
  for (int i = 0; i < n; i += kLanes) {
    uint32_t bits = not_below(load_rest(x, i, n, -__builtin_inff()), splat(cut));
    if (i + kLanes > n) bits &= (1u << (n - i)) - 1u;
    for (; bits; bits &= bits - 1, ++count) {
      if (count >= most) continue;
      ids[count] = i + __builtin_ctz(bits);
      values[count] = x[ids[count]];
    }
  }
  return count;
}

int count_before(const float* x, int n, int index) {
  const float value = x[index];
  int count = 0;
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = load_rest(x, i, n, -__builtin_inff());
    const uint32_t greater = mask_bits(splat(value) < v);
    const uint32_t equal = not_below(v, splat(value)) & ~greater;
    count += __builtin_popcount(greater);
    if (i < index) {
      const int before = index - i;
      count += __builtin_popcount(before >= kLanes ? equal : equal & ((1u << before) - 1u));
    }
  }
  return count;
}

}  // namespace

const SampleKernels sample_kernels{
    .argmax = argmax,
    .all_finite = all_finite,
    .weights = weights,
    .sum_exp = sum_exp,
    .block_sums = block_sums,
    .sums_above = sums_above,
    .lane_maxima = lane_maxima,
    .collect = collect,
    .count_before = count_before,
};

}  // namespace stoker::STOKER_ISA

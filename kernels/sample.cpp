#include "sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace stoker {

#if defined(__x86_64__)
namespace avx2 { extern const SampleKernels sample_kernels; }
namespace avx512 { extern const SampleKernels sample_kernels; }
namespace amx { extern const SampleKernels sample_kernels; }
#endif
namespace portable { extern const SampleKernels sample_kernels; }

const SampleKernels& sample_kernels(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return amx::sample_kernels;
    case Isa::avx512: return avx512::sample_kernels;
    case Isa::avx2: return avx2::sample_kernels;
    case Isa::portable: break;
  }
#else
  (void)isa;
#endif
  return portable::sample_kernels;
}

double uniform(uint64_t seed, uint32_t step) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = step, c1 = 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return static_cast<double>((uint64_t{c1} << 32 | c0) >> 11) * 0x1p-53;
}

namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
int blocks_of(int n) { return (n + kSampleBlock - 1) / kSampleBlock; }

void penalize(const SampleExtras& extras, const SampleScratch& scratch) {
  int32_t* counts = scratch.counts;
  const double repetition = extras.repetition_penalty;
  // Each token is scaled when it is met first: a count, or a mark below it, says it has been.
  const auto repeat = [&](int32_t id) {
    const double x = scratch.adjusted[id];
    scratch.adjusted[id] = static_cast<float>(x > 0 ? x / repetition : x * repetition);
  };
  constexpr int32_t kInPrompt = 1 << 30;
  for (int32_t id : extras.output_ids)
    if (counts[id]++ == 0) repeat(id);
  for (int32_t id : extras.prompt_ids)
    if (counts[id] == 0) {
      repeat(id);
      counts[id] = kInPrompt;
    }
  for (int32_t id : extras.prompt_ids)
    if (counts[id] == kInPrompt) counts[id] = 0;
  for (int32_t id : extras.output_ids) {
    if (counts[id] == 0) continue;
    scratch.adjusted[id] = static_cast<float>(
        scratch.adjusted[id] - double{extras.frequency_penalty} * counts[id] -
        double{extras.presence_penalty});
    counts[id] = 0;
  }
}

// Penalties, biases, bans: `adjusted` holds a copy of the logits.
void adjust(const SampleExtras& extras, int vocab, const SampleScratch& scratch) {
  float* x = scratch.adjusted;
  if (extras.has_penalties()) penalize(extras, scratch);
  for (int i = 0; i < extras.bias_ids.size; ++i)
    x[extras.bias_ids.data[i]] += extras.bias_values.data[i];
  for (int32_t id : extras.banned_ids) x[id] = kForbidden;
  if (extras.allowed_mask.size == 0) return;
  for (int base = 0; base < vocab; base += 32) {
    uint32_t banned = ~extras.allowed_mask.data[base / 32];
    if (base + 32 > vocab) banned &= (1u << (vocab - base)) - 1u;
    for (; banned; banned &= banned - 1) x[base + __builtin_ctz(banned)] = kForbidden;
  }
}

// A number that at least `count` of x are not below, found without looking at them all: each of
// many lanes has its own greatest number, so the count-th of those will do.
float lower_bound_of_top(const SampleKernels& kernels, const float* x, int n, int count,
                         float* scratch) {
  const int lanes = blocks_of(n) * 16;
  if (count > lanes) return kForbidden;
  kernels.lane_maxima(x, n, scratch);
  std::nth_element(scratch, scratch + count - 1, scratch + lanes, std::greater<float>());
  return scratch[count - 1];
}

// The `count`-th greatest of the weights, 0 < count < vocab.
float kth_weight(const SampleKernels& kernels, int vocab, int count, const SampleScratch& scratch) {
  const float bound = std::max(
      lower_bound_of_top(kernels, scratch.weights, vocab, count, scratch.values), 0.0f);
  const int found =
      kernels.collect(scratch.weights, vocab, bound, vocab, scratch.ids, scratch.values);
  std::nth_element(scratch.values, scratch.values + count - 1, scratch.values + found,
                   std::greater<float>());
  return scratch.values[count - 1];
}

// The least weight that top_p keeps: the more likely ones have less than top_p of the mass.
// `cut` is the least weight there is to consider.
float top_p_weight(const SampleKernels& kernels, int vocab, float top_p, float cut,
                   const SampleScratch& scratch) {
  // The first cut whose weights hold enough mass bounds how many need be ordered.
  float cuts[kSampleCuts];
  double sums[kSampleCuts];
  for (int j = 0; j < kSampleCuts - 1; ++j) cuts[j] = std::max(cut, std::ldexp(1.0f, -2 * j - 2));
  cuts[kSampleCuts - 1] = cut;
  kernels.sums_above(scratch.weights, vocab, cuts, sums);
  const double goal = static_cast<double>(top_p) * sums[kSampleCuts - 1];
  int chosen = 0;
  while (chosen < kSampleCuts - 1 && sums[chosen] < goal) ++chosen;
  const int found = kernels.collect(scratch.weights, vocab, cuts[chosen], vocab, scratch.ids,
                                    scratch.values);
  std::sort(scratch.values, scratch.values + found, std::greater<float>());
  double before = 0;
  float least = scratch.values[0];
  for (int i = 0; i < found && before < goal; ++i) {
    least = scratch.values[i];
    before += least;
  }
  return least;
}

// The first index at which the running sum of numbers exceeds `draw` of their total.
int draw_from(const float* weights, int count, double draw) {
  double total = 0;
  for (int i = 0; i < count; ++i) total += weights[i];
  const double goal = draw * total;
  double running = 0;
  int last = 0;
  for (int i = 0; i < count; ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    running += weights[i];
    if (running > goal) break;
  }
  return last;
}

int draw_from_all(const SampleKernels& kernels, int vocab, double draw,
                  const SampleScratch& scratch) {
  kernels.block_sums(scratch.weights, vocab, scratch.sums);
  const int blocks = blocks_of(vocab);
  double total = 0;
  for (int b = 0; b < blocks; ++b) total += scratch.sums[b];
  const double goal = draw * total;
  double running = 0;
  int block = 0, last = 0;
  for (int b = 0; b < blocks; ++b) {
    if (scratch.sums[b] <= 0) continue;
    block = last = b;
    if (running + scratch.sums[b] > goal) break;
    running += scratch.sums[b];
  }
  const int start = block * kSampleBlock, end = std::min(start + kSampleBlock, vocab);
  last = start;
  for (int i = start; i < end; ++i) {
    if (scratch.weights[i] <= 0) continue;
    last = i;
    running += scratch.weights[i];
    if (running > goal) break;
  }
  return last;
}

}  // namespace

size_t sample_scratch_bytes(int vocab) {
  return 3 * aligned(sizeof(float) * vocab) + 2 * aligned(sizeof(int32_t) * vocab) +
         aligned(sizeof(double) * blocks_of(vocab)) +
         aligned(sizeof(float) * blocks_of(vocab) * 16);
}

SampleScratch lay_out_sample_scratch(void* memory, int vocab) {
  auto* next = static_cast<uint8_t*>(memory);
  const auto take = [&](size_t bytes) {
    uint8_t* p = next;
    next += aligned(bytes);
    return p;
  };
  SampleScratch s;
  s.adjusted = reinterpret_cast<float*>(take(sizeof(float) * vocab));
  s.weights = reinterpret_cast<float*>(take(sizeof(float) * vocab));
  // The maxima of lanes may outnumber a small vocabulary.
  s.values = reinterpret_cast<float*>(
      take(sizeof(float) * std::max(vocab, blocks_of(vocab) * 16)));
  s.ids = reinterpret_cast<int32_t*>(take(sizeof(int32_t) * vocab));
  s.counts = reinterpret_cast<int32_t*>(take(sizeof(int32_t) * vocab));
  s.sums = reinterpret_cast<double*>(take(sizeof(double) * blocks_of(vocab)));
  return s;
}

int sample_row(const SampleKernels& kernels, const float* logits, int vocab,
               const SampleRequest& request, const SampleScratch& scratch) {
  if (!kernels.all_finite(logits, vocab)) return -1;
  if (request.extras) {
    std::copy_n(logits, vocab, scratch.adjusted);
    adjust(*request.extras, vocab, scratch);
    logits = scratch.adjusted;
  }
  const int best = kernels.argmax(logits, vocab);
  if (best < 0 || request.temperature == 0) return best;

  kernels.weights(logits, vocab, logits[best], request.temperature, request.min_p,
                  scratch.weights);
  const double draw = uniform(request.seed, request.step);
  // The least weight kept so far; any is at least the least positive number.
  float cut = std::numeric_limits<float>::min();
  bool few = request.min_p > 0;
  if (request.top_k > 0 && request.top_k < vocab) {
    cut = std::max(cut, kth_weight(kernels, vocab, request.top_k, scratch));
    few = true;
  }
  if (request.top_p < 1) {
    cut = top_p_weight(kernels, vocab, request.top_p, cut, scratch);
    few = true;
  }
  if (!few) return draw_from_all(kernels, vocab, draw, scratch);
  const int found =
      kernels.collect(scratch.weights, vocab, cut, vocab, scratch.ids, scratch.values);
  return scratch.ids[draw_from(scratch.values, found, draw)];
}

void token_logprobs(const SampleKernels& kernels, const float* logits, int vocab, int token,
                    int count, const TokenLogprobs& out, const SampleScratch& scratch) {
  *out.logprob = kForbidden;
  *out.rank = 0;
  for (int i = 0; i < count; ++i) {
    out.top_ids[i] = 0;
    out.top_logprobs[i] = kForbidden;
  }
  if (token < 0 || !kernels.all_finite(logits, vocab)) return;
  const float top = logits[kernels.argmax(logits, vocab)];
  const double log_sum = std::log(kernels.sum_exp(logits, vocab, top));
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x) - static_cast<double>(top) - log_sum);
  };
  *out.logprob = logprob(logits[token]);
  *out.rank = 1 + kernels.count_before(logits, vocab, token);

  count = std::min(count, vocab);
  if (count == 0) return;
  const float bound = lower_bound_of_top(kernels, logits, vocab, count, scratch.values);
  const int found = kernels.collect(logits, vocab, bound, vocab, scratch.ids, scratch.values);
  std::partial_sort(scratch.ids, scratch.ids + count, scratch.ids + found,
                    [logits](int32_t a, int32_t b) {
                      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
                    });
  for (int i = 0; i < count; ++i) {
    out.top_ids[i] = scratch.ids[i];
    out.top_logprobs[i] = logprob(logits[scratch.ids[i]]);
  }
}

}  // namespace stoker

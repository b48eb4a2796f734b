// Sampling: from a row of logits to a token, and log-probabilities of the model's own distribution.
//
// What is computed, and in which order, is written down in `runner/sampling.py`. Nothing here
// sorts the vocabulary: filters find their threshold among the few tokens that can matter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu_features.h"

namespace stoker {

template <typename T>
struct View {
  const T* data = nullptr;
  int size = 0;
  const T* begin() const { return data; }
  const T* end() const { return data + size; }
};

// What only some rows ask for: `runner.base.SampleExtras`.
struct SampleExtras {
  View<int32_t> prompt_ids, output_ids;
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  View<int32_t> bias_ids;
  View<float> bias_values;       // as many
  View<int32_t> banned_ids;
  View<uint32_t> allowed_mask;   // empty, or ceil(vocab / 32) words

  bool has_penalties() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

struct SampleRequest {
  int row = 0;  // of the batch
  float temperature = 0.0f;
  int top_k = 0;
  float top_p = 1.0f, min_p = 0.0f;
  uint64_t seed = 0;
  uint32_t step = 0;
  int num_logprobs = -1;
  const SampleExtras* extras = nullptr;
};

// A token that is known already, whose log-probability is wanted.
struct ScoreRequest {
  int row = 0;
  int target = 0;
  int num_logprobs = 0;
};

// Log-probability and rank of one token, and the most likely tokens beside it.
struct TokenLogprobs {
  float* logprob;
  int32_t* rank;
  int32_t* top_ids;      // [num_logprobs]
  float* top_logprobs;
};

// Passes over a row of n numbers, one table per instruction set.
struct SampleKernels {
  // The index of the greatest number, the lowest of equals; -1 if that is -inf. No NaN
  // may be among them.
  int (*argmax)(const float* x, int n);
  bool (*all_finite)(const float* x, int n);
  // out[i] = e^((x[i] - top) / temperature), or 0 where that is below `least`.
  void (*weights)(const float* x, int n, float top, float temperature, float least, float* out);
  // Σ e^(x[i] - top)
  double (*sum_exp)(const float* x, int n, float top);
  // sums[b] = Σ of block b of 256 numbers.
  void (*block_sums)(const float* x, int n, double* sums);
  // Σ of the x[i] ≥ cuts[j], for each of 8 cuts.
  void (*sums_above)(const float* x, int n, const float* cuts, double* sums);
  // maxima[16 b + l] = the greatest of the numbers at 256 b + 16 i + l, for all i.
  void (*lane_maxima)(const float* x, int n, float* maxima);
  // Indices (ascending) and values of the numbers ≥ cut, at most `most`; returns how many there are.
  int (*collect)(const float* x, int n, float cut, int most, int32_t* ids, float* values);
  // How many numbers are greater than x[index], or equal to it at a lower index.
  int (*count_before)(const float* x, int n, int index);
};

const SampleKernels& sample_kernels(Isa isa);

inline constexpr int kSampleBlock = 256;
inline constexpr int kSampleCuts = 8;

// A thread's memory for sampling from rows of `vocab` logits.
struct SampleScratch {
  float* adjusted;    // [vocab] logits with penalties, biases and bans
  float* weights;     // [vocab]
  float* values;      // [vocab]
  int32_t* ids;       // [vocab]
  int32_t* counts;    // [vocab] zero between calls
  double* sums;       // [ceil(vocab / 256)]
};
size_t sample_scratch_bytes(int vocab);
SampleScratch lay_out_sample_scratch(void* memory, int vocab);

// The token that a row of raw logits gives; -1 where one is not finite or all are forbidden.
int sample_row(const SampleKernels& kernels, const float* logits, int vocab,
               const SampleRequest& request, const SampleScratch& scratch);

// Log-probabilities of `token` and the `count` most likely tokens. Where token is -1 or a logit is
// not finite: rank 0 and -inf.
void token_logprobs(const SampleKernels& kernels, const float* logits, int vocab, int token,
                    int count, const TokenLogprobs& out, const SampleScratch& scratch);

// A draw from [0, 1) that depends on its arguments alone: the upper 53 bits of words 1 and 0 of
// Philox4x32-10 (Salmon et al. 2011) with key `seed` and counter `step`.
double uniform(uint64_t seed, uint32_t step);

}  // namespace stoker

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "batch.h"
#include "forward.h"

namespace stoker {

// A batch whose views point into arrays that it holds on to.
struct BoundBatch {
  Batch batch;
  std::vector<nanobind::object> arrays;
  nanobind::object block_tables;
  nanobind::object before_sampling = nanobind::none();
  std::vector<int32_t> sampled;                    // what the last run of it gave
  std::vector<int32_t> token_ids, context_lens;    // of a batch that was advanced
};

// From a `stoker.runner.base.Batch`. Throws std::invalid_argument, naming the field, for arrays of
// the wrong type or length.
BoundBatch bind_batch(nanobind::handle batch);

// To the step after the one it describes, as `stoker.runner.base.Batch.next` does. `block_tables` is
// None where they are as before. Throws std::invalid_argument if it was not run or cannot go on.
void advance(BoundBatch& bound, nanobind::handle block_tables);

// Only the samples, from a `stoker.runner.base.SampleRows`.
void bind_samples(nanobind::handle samples, BoundBatch& bound);

template <typename T>
nanobind::ndarray<nanobind::numpy, T> new_array(std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (size_t n : shape) size *= n;
  auto* data = new T[size]();
  nanobind::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nanobind::ndarray<nanobind::numpy, T>(data, shape, owner);
}

// Arrays for n rows of log-probabilities, `width` beside each; the first is None if width < 0.
struct LogprobResult {
  nanobind::object arrays = nanobind::none();
  LogprobArrays views;

  LogprobResult(size_t n, int width) {
    if (width < 0) return;
    const auto columns = static_cast<size_t>(width);
    auto logprobs = new_array<float>({n});
    auto ranks = new_array<int32_t>({n});
    auto top_ids = new_array<int32_t>({n, columns});
    auto top_logprobs = new_array<float>({n, columns});
    views = {width, logprobs.data(), ranks.data(), top_ids.data(), top_logprobs.data()};
    std::fill_n(top_logprobs.data(), n * columns, -std::numeric_limits<float>::infinity());
    arrays = nanobind::make_tuple(logprobs, ranks, top_ids, top_logprobs);
  }
};

}  // namespace stoker

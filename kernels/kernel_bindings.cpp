// Python access to single kernels: what tests compare with NumPy and benchmarks time.
#include "kernel_bindings.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "batch_bindings.h"
#include "kv_cache.h"
#include "memory.h"
#include "names.h"
#include "ops.h"
#include "sample.h"

namespace nb = nanobind;

namespace stoker {
namespace {

using Vector1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Heads = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float>;

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

Result copy_of(const Matrix& x) {
  auto out = new_array<float>({x.shape(0), x.shape(1)});
  std::copy_n(x.data(), x.size(), out.data());
  return out;
}

// Calls row(pointer, columns) for each row of a copy of x.
template <typename Row>
Result map_rows(const Matrix& x, Row row) {
  Result out = copy_of(x);
  const auto cols = static_cast<int>(x.shape(1));
  for (size_t i = 0; i < x.shape(0); ++i) row(out.data() + i * x.shape(1), cols);
  return out;
}

Result rms_norm(const Matrix& x, const Vector1& weight, float eps, const std::string& isa) {
  require(weight.shape(0) == x.shape(1), "rms_norm: one weight for each column");
  const Ops& ops = ops_for(isa_from(isa));
  return map_rows(x, [&](float* row, int n) { ops.rms_norm(row, weight.data(), eps, n, row); });
}

Result layer_norm(const Matrix& x, const Vector1& weight, const Vector1& bias, float eps,
                  const std::string& isa) {
  require(weight.shape(0) == x.shape(1) && bias.shape(0) == x.shape(1),
          "layer_norm: one weight and one bias for each column");
  const Ops& ops = ops_for(isa_from(isa));
  return map_rows(x, [&](float* row, int n) {
    ops.layer_norm(row, weight.data(), bias.data(), eps, n, row);
  });
}

Result rope(const Matrix& x, const Vector1& cosines, const Vector1& sines, const std::string& isa) {
  require(cosines.shape(0) == sines.shape(0) && 2 * cosines.shape(0) <= x.shape(1),
          "rope: as many cosines as sines, at most half the columns");
  const Ops& ops = ops_for(isa_from(isa));
  return map_rows(x, [&](float* row, int) {
    ops.rope(row, cosines.data(), sines.data(), static_cast<int>(cosines.shape(0)));
  });
}

Result gate(const std::string& activation, const Matrix& gates, const Matrix& up,
            const std::string& isa) {
  require(gates.shape(0) == up.shape(0) && gates.shape(1) == up.shape(1),
          "gate: two matrices of one shape");
  const Ops& ops = ops_for(isa_from(isa));
  const Activation kind = activation_from(activation);
  const float* next = gates.data();
  return map_rows(up, [&](float* row, int n) {
    ops.gate(kind, next, row, n, row);
    next += n;
  });
}

Result activate(const std::string& activation, const Matrix& x, const std::string& isa) {
  const Ops& ops = ops_for(isa_from(isa));
  const Activation kind = activation_from(activation);
  return map_rows(x, [&](float* row, int n) { ops.activate(kind, n, row); });
}

Result softcap(const Matrix& x, float cap, const std::string& isa) {
  const Ops& ops = ops_for(isa_from(isa));
  return map_rows(x, [&](float* row, int n) { ops.softcap(cap, n, row); });
}

// Attention of the last queries of one sequence, in items of `chunk` queries.
Result attend(const Heads& q, const Heads& k, const Heads& v, const Ids& block_table,
              int64_t num_blocks, float scale, float softcap, int window, int chunk, bool split,
              const std::string& kv_dtype, const std::string& isa) {
  const auto queries = static_cast<int>(q.shape(0)), context = static_cast<int>(k.shape(0));
  const auto kv_heads = static_cast<int>(k.shape(1)), dim = static_cast<int>(k.shape(2));
  const auto group = static_cast<int>(q.shape(1)) / kv_heads;
  require(q.shape(2) == k.shape(2) && v.shape(0) == k.shape(0) && v.shape(1) == k.shape(1) &&
              v.shape(2) == k.shape(2) && q.shape(1) % k.shape(1) == 0 && dim % 2 == 0 && dim <= kMaxHeadDim,
          "attend: q [queries, heads, dim], k and v [context, kv heads, dim], dim even");
  require(queries <= context && chunk >= 1 && group <= kMaxGroup &&
              (chunk == 1 || chunk * group <= kItemRows) && (chunk == 1 || !split),
          "attend: no more queries than context, and a chunk that fits an item");
  require(static_cast<int>(block_table.shape(0)) * kBlockTokens >= context,
          "attend: a block table that holds the context");
  for (size_t b = 0; b < block_table.shape(0); ++b)
    require(block_table.data()[b] >= 0 && block_table.data()[b] < num_blocks,
            "attend: block numbers below num_blocks");

  const AttentionKernels& kernels = attention_kernels(isa_from(isa));
  const AttentionShape shape =
      attention_shape(kv_type_from(kv_dtype), dim, group, scale, softcap);
  const KVCache cache(shape, 1, kv_heads, num_blocks);
  // What was never written must never matter: make it poisonous.
  for (int h = 0; h < kv_heads; ++h)
    for (int64_t b = 0; b < num_blocks; ++b)
      std::fill_n(cache.head(0, h) + b * cache.block_stride(), shape.head_bytes, uint8_t{0xff});
  for (int t = 0; t < context; ++t)
    for (int h = 0; h < kv_heads; ++h) {
      const ptrdiff_t from = (static_cast<ptrdiff_t>(t) * kv_heads + h) * dim;
      kernels.write(shape,
                    cache.head(0, h) + block_table.data()[t / kBlockTokens] * cache.block_stride(),
                    t % kBlockTokens, k.data() + from, v.data() + from);
    }

  const Memory scratch(attention_scratch_bytes(shape));
  auto out = new_array<float>({q.shape(0), q.shape(1), q.shape(2)});
  const ptrdiff_t stride = static_cast<ptrdiff_t>(q.shape(1)) * dim;
  for (int h = 0; h < kv_heads; ++h)
    for (int start = 0; start < queries; start += chunk) {
      const ptrdiff_t offset = start * stride + static_cast<ptrdiff_t>(h) * group * dim;
      AttentionItem item{.cache = cache.head(0, h),
                         .block_stride = cache.block_stride(),
                         .block_table = block_table.data(),
                         .first_position = context - queries + start,
                         .queries = std::min(chunk, queries - start),
                         .window = window,
                         .q = q.data() + offset,
                         .q_stride = stride,
                         .out = out.data() + offset,
                         .out_stride = stride,
                         .partial = nullptr,
                         .partition = -1};
      if (!split) {
        kernels.attend(shape, item, scratch.data());
        continue;
      }
      const PartitionRange range = visible_partitions(item.first_position, window);
      const size_t floats = partial_floats(shape) * group;
      std::vector<float> partials(floats * (range.end - range.begin));
      for (int p = range.begin; p < range.end; ++p) {
        item.partition = p;
        item.partial = partials.data() + floats * (p - range.begin);
        kernels.attend(shape, item, scratch.data());
      }
      kernels.merge(shape, partials.data(), range.end - range.begin, scratch.data(), item.out);
    }
  return out;
}

// `samples` is a stoker.runner.base.SampleRows; row i of the logits is its entry i.
nb::object sample(const Matrix& logits, nb::handle samples, const std::string& isa) {
  BoundBatch bound;
  bind_samples(samples, bound);
  require(bound.batch.samples.size() == logits.shape(0), "sample: a row of logits for each sample");
  const auto vocab = static_cast<int>(logits.shape(1));
  for (const SampleExtras& extras : bound.batch.extras) check(extras, vocab);
  const Memory memory(sample_scratch_bytes(vocab));
  const SampleScratch scratch = lay_out_sample_scratch(memory.data(), vocab);
  auto tokens = new_array<int32_t>({logits.shape(0)});
  for (size_t i = 0; i < logits.shape(0); ++i)
    tokens.data()[i] =
        sample_row(sample_kernels(isa_from(isa)), logits.data() + i * logits.shape(1), vocab,
                   bound.batch.samples[i], scratch);
  return nb::cast(tokens);
}

// As runner.sampling.top_logprobs: (chosen, ranks, ids, logprobs).
nb::tuple top_logprobs(const Matrix& logits, const Ids& chosen, int count,
                       const std::string& isa) {
  require(chosen.shape(0) == logits.shape(0), "top_logprobs: a token for each row of logits");
  const auto vocab = static_cast<int>(logits.shape(1));
  for (size_t i = 0; i < chosen.shape(0); ++i)
    require(chosen.data()[i] >= -1 && chosen.data()[i] < vocab, "top_logprobs: tokens below vocab");
  const Memory memory(sample_scratch_bytes(vocab));
  const SampleScratch scratch = lay_out_sample_scratch(memory.data(), vocab);
  LogprobResult result(logits.shape(0), std::clamp(count, 0, vocab));
  for (size_t i = 0; i < logits.shape(0); ++i)
    token_logprobs(sample_kernels(isa_from(isa)), logits.data() + i * logits.shape(1), vocab,
                   chosen.data()[i], result.views.width, result.views.of(static_cast<int>(i)),
                   scratch);
  return nb::cast<nb::tuple>(result.arrays);
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("isa"));
  m.def("layer_norm", &layer_norm, nb::arg("x"), nb::arg("weight"), nb::arg("bias"),
        nb::arg("eps"), nb::arg("isa"));
  m.def("rope", &rope, nb::arg("x"), nb::arg("cosines"), nb::arg("sines"), nb::arg("isa"),
        "Rotate the first 2 · len(cosines) columns of each row of x.");
  m.def("gate", &gate, nb::arg("activation"), nb::arg("gates"), nb::arg("up"), nb::arg("isa"));
  m.def("activate", &activate, nb::arg("activation"), nb::arg("x"), nb::arg("isa"));
  m.def("softcap", &softcap, nb::arg("x"), nb::arg("cap"), nb::arg("isa"));
  m.def("attend", &attend, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("block_table"),
        nb::arg("num_blocks"), nb::arg("scale"), nb::arg("softcap"), nb::arg("window"),
        nb::arg("chunk"), nb::arg("split"), nb::arg("kv_dtype"), nb::arg("isa"),
        "Causal attention of the last queries of a sequence over a paged cache, `chunk` queries at "
        "a time; slots of the cache that hold no token are filled with NaN.");
  m.def("sample", &sample, nb::arg("logits"), nb::arg("samples"), nb::arg("isa"),
        "A token for each row of logits; as stoker.runner.sampling.sample.");
  m.def("top_logprobs", &top_logprobs, nb::arg("logits"), nb::arg("chosen"), nb::arg("count"),
        nb::arg("isa"), "As stoker.runner.sampling.top_logprobs.");
}

}  // namespace stoker

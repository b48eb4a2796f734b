// Python access to a whole model: `runner/cpu.py` is its only user.
#include "model_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>

#include "batch_bindings.h"
#include "model.h"
#include "names.h"

namespace nb = nanobind;

namespace stoker {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;

template <typename T>
T field(nb::handle object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

// None is 0: no cap, no window.
template <typename T>
T optional_field(nb::handle object, const char* name) {
  return nb::cast<std::optional<T>>(object.attr(name)).value_or(T{0});
}

// A `stoker.model.spec.ModelSpec`.
ModelConfig config_from(nb::handle spec) {
  ModelConfig c;
  c.vocab_size = field<int>(spec, "vocab_size");
  c.hidden_size = field<int>(spec, "hidden_size");
  c.intermediate_size = field<int>(spec, "intermediate_size");
  c.num_heads = field<int>(spec, "num_heads");
  c.num_kv_heads = field<int>(spec, "num_kv_heads");
  c.head_dim = field<int>(spec, "head_dim");
  c.max_position = field<int>(spec, "max_position");
  for (nb::handle layer : spec.attr("layers"))
    c.layers.push_back({.window = optional_field<int>(layer, "window"),
                        .rope = nb::cast<std::optional<int>>(layer.attr("rope")).value_or(-1)});
  for (nb::handle rope : spec.attr("ropes"))
    c.ropes.push_back({.dim = field<int>(rope, "dim"),
                       .inv_freq = field<std::vector<double>>(rope, "inv_freq"),
                       .attention_factor = field<double>(rope, "attention_factor")});
  c.norm = field<std::string>(spec, "norm") == "rms" ? NormKind::rms : NormKind::layer;
  c.norm_eps = static_cast<float>(field<double>(spec, "norm_eps"));
  c.activation = activation_from(field<std::string>(spec, "activation"));
  c.gated = field<bool>(spec, "gated");
  c.attention_scale = static_cast<float>(field<double>(spec, "attention_scale"));
  c.attention_softcap = static_cast<float>(optional_field<double>(spec, "attention_softcap"));
  c.logit_softcap = static_cast<float>(optional_field<double>(spec, "logit_softcap"));
  c.embedding_scale = static_cast<float>(field<double>(spec, "embedding_scale"));
  c.qkv_bias = field<bool>(spec, "qkv_bias");
  c.output_bias = field<bool>(spec, "output_bias");
  c.mlp_bias = field<bool>(spec, "mlp_bias");
  c.head_norm = field<bool>(spec, "head_norm");
  c.post_norms = field<bool>(spec, "post_norms");
  c.learned_positions = field<bool>(spec, "learned_positions");
  c.tied_embeddings = field<bool>(spec, "tied_embeddings");
  return c;
}

void make_model(Model* model, nb::handle spec, int64_t num_blocks, const std::string& kv_dtype,
                int max_num_batched_tokens, int max_num_seqs, int threads,
                const std::string& isa) {
  new (model) Model(config_from(spec), {.blocks = num_blocks,
                                        .kv_type = kv_type_from(kv_dtype),
                                        .max_tokens = max_num_batched_tokens,
                                        .max_sequences = max_num_seqs,
                                        .threads = threads,
                                        .isa = isa_from(isa)});
}

struct Formats {
  TensorType type;
  WeightFormat format;
};

Formats formats_from(const std::string& type_name, const std::optional<std::string>& wanted) {
  const auto type = tensor_type_from_name(type_name);
  if (!type) throw std::invalid_argument("unknown tensor type '" + type_name + "'");
  const auto format = wanted ? format_from_name(*wanted) : natural_format(*type);
  if (!format)
    throw std::invalid_argument("unknown weight format '" + *wanted +
                                "'; expected q4, q8 or bf16");
  return {*type, *format};
}

void load_matrix(Model& model, const std::string& name, const Rows& data,
                 const std::string& type_name, int64_t cols,
                 const std::optional<std::string>& wanted) {
  const auto [type, format] = formats_from(type_name, wanted);
  const size_t row_bytes = encoded_row_bytes(type, cols);
  if (data.shape(1) != row_bytes || data.stride(1) != 1 || data.stride(0) < 0)
    throw std::invalid_argument(name + ": " + type_name + " rows of " + std::to_string(cols) +
                                " columns are " + std::to_string(row_bytes) +
                                " contiguous bytes; got " + std::to_string(data.shape(1)));
  const EncodedMatrix source{data.data(), type, static_cast<int64_t>(data.shape(0)), cols,
                             static_cast<size_t>(data.stride(0))};
  nb::gil_scoped_release release;
  model.weights().load_matrix(name, source, format, model.pool());
}

// What packing would take; the memory is only reserved, and given back.
nb::tuple packed_size(const std::string& type_name, int64_t rows, int64_t cols,
                      const std::optional<std::string>& wanted) {
  const auto [type, format] = formats_from(type_name, wanted);
  const EncodedMatrix source{nullptr, type, rows, cols, encoded_row_bytes(type, cols)};
  return nb::make_tuple(allocate_packed(source, format).nbytes(),
                        std::string(format_name(format)));
}

nb::object seconds(const Timings& timings) {
  nb::dict result;
  for (int part = 0; part < kParts; ++part) result[kPartNames[part]] = timings.seconds[part];
  return result;
}

// (token ids, log-probabilities of samples, of scores, embeddings, seconds by part of the step)
nb::tuple run(Model& model, BoundBatch& bound, bool measure) {
  Batch& batch = bound.batch;
  const int vocab = model.config().vocab_size;
  int sample_width = -1, score_width = batch.scores.empty() ? -1 : 0;
  for (auto& sample : batch.samples) {
    sample.num_logprobs = std::min(sample.num_logprobs, vocab);
    sample_width = std::max(sample_width, sample.num_logprobs);
  }
  for (auto& score : batch.scores) {
    score.num_logprobs = std::clamp(score.num_logprobs, 0, vocab);
    score_width = std::max(score_width, score.num_logprobs);
  }
  const LogprobResult samples(batch.samples.size(), sample_width);
  const LogprobResult scores(batch.scores.size(), score_width);
  Timings timings;
  bound.sampled.clear();
  std::vector<int32_t> sampled(batch.samples.size());
  StepOutput output{.token_ids = sampled.data(),
                    .samples = samples.views,
                    .scores = scores.views,
                    .timings = measure ? &timings : nullptr};
  nb::object embeddings = nb::none();
  if (batch.embeds > 0) {
    auto array = new_array<float>(
        {static_cast<size_t>(batch.embeds), static_cast<size_t>(model.config().hidden_size)});
    output.embeddings = array.data();
    embeddings = nb::cast(array);
  }
  std::exception_ptr failure;
  if (!bound.before_sampling.is_none())
    batch.before_sampling = [&] {
      nb::gil_scoped_acquire acquire;
      try {
        bound.before_sampling();
      } catch (...) {
        failure = std::current_exception();
      }
    };
  {
    nb::gil_scoped_release release;
    model.run(batch, output);
  }
  if (failure) std::rethrow_exception(failure);
  auto token_ids = new_array<int32_t>({sampled.size()});
  std::copy(sampled.begin(), sampled.end(), token_ids.data());
  bound.sampled.swap(sampled);
  return nb::make_tuple(token_ids, samples.arrays, scores.arrays, embeddings,
                        measure ? seconds(timings) : nb::none());
}

}  // namespace

void bind_model(nb::module_& m) {
  m.def("packed_size", &packed_size, nb::arg("type"), nb::arg("rows"), nb::arg("cols"),
        nb::arg("format") = nb::none(), "(bytes, format) of a matrix when it is packed.");
  m.def("block_bytes",
        [](nb::handle spec, const std::string& kv_dtype) {
          return block_bytes(config_from(spec), kv_type_from(kv_dtype));
        }, nb::arg("spec"), nb::arg("kv_dtype"),
        "Bytes of one block of 16 tokens of the cache, all layers together.");
  m.def("workspace_bytes",
        [](nb::handle spec, const std::string& kv_dtype, int max_num_batched_tokens,
           int max_num_seqs, int threads, bool int8, bool bf16) {
          return workspace_bytes(config_from(spec), kv_type_from(kv_dtype),
                                 {.max_tokens = max_num_batched_tokens,
                                  .max_sequences = max_num_seqs,
                                  .threads = threads,
                                  .int8 = int8,
                                  .bf16 = bf16});
        }, nb::arg("spec"), nb::arg("kv_dtype"), nb::arg("max_num_batched_tokens"),
        nb::arg("max_num_seqs"), nb::arg("threads"), nb::arg("int8"), nb::arg("bf16"),
        "Bytes that steps work in; int8 and bf16 are the kinds of activations that the weights "
        "need.");
  nb::class_<BoundBatch>(m, "BoundBatch",
                         "A step as native code sees it: of a stoker.runner.base.Batch.")
      .def("__init__",
           [](BoundBatch* bound, nb::handle batch) { new (bound) BoundBatch(bind_batch(batch)); },
           nb::arg("batch"))
      .def("advance", &advance, nb::arg("block_tables").none(),
           "Make it the step after the one that was run.");
  nb::class_<Model>(m, "Model", "A model's weights, paged cache and threads.")
      .def("__init__", &make_model, nb::arg("spec"), nb::arg("num_blocks"), nb::arg("kv_dtype"),
           nb::arg("max_num_batched_tokens"), nb::arg("max_num_seqs"), nb::arg("threads"),
           nb::arg("isa"))
      .def("load_matrix", &load_matrix, nb::arg("name"), nb::arg("data"), nb::arg("type"),
           nb::arg("cols"), nb::arg("format") = nb::none())
      .def("load_vector",
           [](Model& model, const std::string& name, const Floats& values) {
             model.weights().load_vector(name, values.data(), values.shape(0));
           }, nb::arg("name"), nb::arg("values"))
      .def("finish_loading", &Model::finish_loading)
      .def_prop_ro("workspace_bytes", &Model::workspace_bytes)
      .def_prop_ro("weight_bytes", [](Model& model) { return model.weights().nbytes(); })
      .def("run", &run, nb::arg("batch"), nb::arg("measure"),
           "Compute a step: (token ids, log-probabilities of samples and of scores as (logprobs, "
           "ranks, top ids, top logprobs) or None, embeddings or None, seconds by part of the step "
           "or None if they are not to be measured).");
}

}  // namespace stoker

// From the Python description of a step to the native one.
#include "batch_bindings.h"

#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace stoker {
namespace {

template <typename T, int kDims>
using Array = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

template <typename T>
constexpr const char* kTypeName = "";
template <>
constexpr const char* kTypeName<int32_t> = "int32";
template <>
constexpr const char* kTypeName<uint32_t> = "uint32";
template <>
constexpr const char* kTypeName<uint64_t> = "uint64";
template <>
constexpr const char* kTypeName<float> = "float32";

// Reads arrays from an object's attributes and keeps them alive.
class Reader {
 public:
  explicit Reader(std::vector<nb::object>& arrays) : arrays_(arrays) {}

  template <typename T, int kDims = 1>
  Array<T, kDims> array(nb::handle object, const char* name) {
    nb::object value = object.attr(name);
    Array<T, kDims> array;
    if (!nb::try_cast(value, array, false))
      throw std::invalid_argument(std::string("batch: ") + name + " must be a contiguous array of " +
                                  kTypeName<T> + " with " + std::to_string(kDims) +
                                  (kDims == 1 ? " dimension" : " dimensions"));
    arrays_.push_back(std::move(value));
    return array;
  }

  template <typename T>
  View<T> view(nb::handle object, const char* name) {
    if (object.attr(name).is_none()) return {};
    const auto a = array<T>(object, name);
    return {a.data(), static_cast<int>(a.shape(0))};
  }

  // As many entries as something else has.
  template <typename T>
  const T* column(nb::handle object, const char* name, size_t expected) {
    const auto a = array<T>(object, name);
    if (a.shape(0) != expected)
      throw std::invalid_argument(std::string("batch: ") + name + " has " +
                                  std::to_string(a.shape(0)) + " entries; expected " +
                                  std::to_string(expected));
    return a.data();
  }

 private:
  std::vector<nb::object>& arrays_;
};

SampleExtras read_extras(Reader& reader, nb::handle object) {
  return {.prompt_ids = reader.view<int32_t>(object, "prompt_ids"),
          .output_ids = reader.view<int32_t>(object, "output_ids"),
          .repetition_penalty = nb::cast<float>(object.attr("repetition_penalty")),
          .presence_penalty = nb::cast<float>(object.attr("presence_penalty")),
          .frequency_penalty = nb::cast<float>(object.attr("frequency_penalty")),
          .bias_ids = reader.view<int32_t>(object, "bias_ids"),
          .bias_values = reader.view<float>(object, "bias_values"),
          .banned_ids = reader.view<int32_t>(object, "banned_ids"),
          .allowed_mask = reader.view<uint32_t>(object, "allowed_mask")};
}

void read_samples(Reader& reader, nb::handle object, Batch& batch) {
  const auto rows = reader.array<int32_t>(object, "rows");
  const size_t count = rows.shape(0);
  const auto* temperature = reader.column<float>(object, "temperature", count);
  const auto* top_k = reader.column<int32_t>(object, "top_k", count);
  const auto* top_p = reader.column<float>(object, "top_p", count);
  const auto* min_p = reader.column<float>(object, "min_p", count);
  const auto* seeds = reader.column<uint64_t>(object, "seeds", count);
  const auto* steps = reader.column<int32_t>(object, "steps", count);
  const auto* num_logprobs = reader.column<int32_t>(object, "num_logprobs", count);
  batch.samples.resize(count);
  for (size_t i = 0; i < count; ++i)
    batch.samples[i] = {.row = rows.data()[i],
                        .temperature = temperature[i],
                        .top_k = top_k[i],
                        .top_p = top_p[i],
                        .min_p = min_p[i],
                        .seed = seeds[i],
                        .step = static_cast<uint32_t>(steps[i]),
                        .num_logprobs = num_logprobs[i]};

  const nb::object extras = object.attr("extras");
  const size_t given = nb::len(extras);
  if (given == 0) return;
  if (given != count)
    throw std::invalid_argument("batch: extras has " + std::to_string(given) +
                                " entries; expected none or " + std::to_string(count));
  batch.extras.reserve(count);  // samples point into it
  for (size_t i = 0; i < count; ++i) {
    const nb::object one = extras[i];
    if (one.is_none()) continue;
    batch.extras.push_back(read_extras(reader, one));
    batch.samples[i].extras = &batch.extras.back();
  }
}

void read_scores(Reader& reader, nb::handle object, Batch& batch) {
  const auto rows = reader.array<int32_t>(object, "rows");
  const auto* targets = reader.column<int32_t>(object, "targets", rows.shape(0));
  const auto* num_logprobs = reader.column<int32_t>(object, "num_logprobs", rows.shape(0));
  batch.scores.resize(rows.shape(0));
  for (size_t i = 0; i < rows.shape(0); ++i)
    batch.scores[i] = {rows.data()[i], targets[i], num_logprobs[i]};
}

void read_block_tables(nb::handle object, BoundBatch& bound) {
  Array<int32_t, 2> tables;
  if (!nb::try_cast(object, tables, false))
    throw std::invalid_argument(
        "batch: block_tables must be a contiguous array of int32 with 2 dimensions");
  if (tables.shape(0) != static_cast<size_t>(bound.batch.sequences))
    throw std::invalid_argument("batch: block_tables has " + std::to_string(tables.shape(0)) +
                                " rows; expected " + std::to_string(bound.batch.sequences));
  bound.block_tables = nb::borrow(object);
  bound.batch.block_tables = tables.data();
  bound.batch.table_width = static_cast<int>(tables.shape(1));
}

}  // namespace

void bind_samples(nb::handle samples, BoundBatch& bound) {
  Reader reader(bound.arrays);
  read_samples(reader, samples, bound.batch);
}

BoundBatch bind_batch(nb::handle object) {
  BoundBatch bound;
  Reader reader(bound.arrays);
  Batch& batch = bound.batch;

  const auto token_ids = reader.array<int32_t>(object, "token_ids");
  const auto context_lens = reader.array<int32_t>(object, "context_lens");
  batch.tokens = static_cast<int>(token_ids.shape(0));
  batch.sequences = static_cast<int>(context_lens.shape(0));
  batch.token_ids = token_ids.data();
  batch.context_lens = context_lens.data();
  batch.query_starts =
      reader.column<int32_t>(object, "query_starts", context_lens.shape(0) + 1);
  read_block_tables(object.attr("block_tables"), bound);

  if (!object.attr("block_copies").is_none()) {
    const auto copies = reader.array<int32_t, 2>(object, "block_copies");
    if (copies.shape(1) != 2)
      throw std::invalid_argument("batch: block_copies must be pairs (from, to)");
    batch.copies = static_cast<int>(copies.shape(0));
    batch.block_copies = copies.data();
  }
  const View<int32_t> embeds = reader.view<int32_t>(object, "embed_rows");
  batch.embeds = embeds.size;
  batch.embed_rows = embeds.data;

  read_samples(reader, object.attr("sample"), batch);
  if (!object.attr("score").is_none()) read_scores(reader, object.attr("score"), batch);
  bound.before_sampling = object.attr("before_sampling");
  return bound;
}

void advance(BoundBatch& bound, nb::handle block_tables) {
  Batch& batch = bound.batch;
  const auto sequences = static_cast<size_t>(batch.sequences);
  const bool goes_on = batch.tokens == batch.sequences && bound.sampled.size() == sequences &&
                       batch.extras.empty() && batch.scores.empty() && batch.embeds == 0;
  if (!goes_on)
    throw std::invalid_argument(
        "a batch goes on only after it was run, and with one token and one sample of each sequence "
        "and nothing else");
  if (!block_tables.is_none()) read_block_tables(block_tables, bound);
  if (bound.context_lens.empty())
    bound.context_lens.assign(batch.context_lens, batch.context_lens + sequences);
  for (int32_t& length : bound.context_lens) ++length;
  for (SampleRequest& sample : batch.samples) ++sample.step;
  bound.token_ids.swap(bound.sampled);
  bound.sampled.clear();
  batch.token_ids = bound.token_ids.data();
  batch.context_lens = bound.context_lens.data();
  batch.copies = 0;
}

}  // namespace stoker

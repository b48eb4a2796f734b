#include "model_weights.h"

#include <stdexcept>

namespace stoker {

ModelWeights::ModelWeights(const ModelConfig& c)
    : layers(c.layers.size()), tied_(c.tied_embeddings) {
  const auto matrix = [&](const std::string& name, PackedMatrix& m, int rows, int cols) {
    slots_[name + ".weight"] = {.matrix = &m, .rows = rows, .cols = cols};
  };
  const auto vector = [&](const std::string& name, Vector& v, int64_t size) {
    slots_[name] = {.vector = &v, .rows = 1, .cols = size};
  };
  const auto norms = [&](const std::string& name, NormWeights& n) {
    vector(name + ".weight", n.weight, c.hidden_size);
    if (c.norm == NormKind::layer) vector(name + ".bias", n.bias, c.hidden_size);
  };

  matrix("embed", embed, c.vocab_size, c.hidden_size);
  if (!c.tied_embeddings) matrix("lm_head", lm_head, c.vocab_size, c.hidden_size);
  if (c.learned_positions)
    vector("positions.weight", positions, int64_t{c.max_position} * c.hidden_size);
  norms("norm", norm);
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerWeights& w = layers[i];
    const std::string prefix = "layers." + std::to_string(i) + ".";
    norms(prefix + "attn_norm", w.attn_norm);
    norms(prefix + "mlp_norm", w.mlp_norm);
    if (c.post_norms) {
      norms(prefix + "post_attn_norm", w.post_attn_norm);
      norms(prefix + "post_mlp_norm", w.post_mlp_norm);
    }
    const auto linear = [&](const std::string& name, PackedMatrix& m, Vector& bias, int rows,
                            int cols, bool has_bias) {
      matrix(prefix + name, m, rows, cols);
      if (has_bias) vector(prefix + name + ".bias", bias, rows);
    };
    linear("q", w.q, w.q_bias, c.q_size(), c.hidden_size, c.qkv_bias);
    linear("k", w.k, w.k_bias, c.kv_size(), c.hidden_size, c.qkv_bias);
    linear("v", w.v, w.v_bias, c.kv_size(), c.hidden_size, c.qkv_bias);
    linear("o", w.o, w.o_bias, c.hidden_size, c.q_size(), c.output_bias);
    if (c.gated) matrix(prefix + "gate", w.gate, c.intermediate_size, c.hidden_size);
    linear("up", w.up, w.up_bias, c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear("down", w.down, w.down_bias, c.hidden_size, c.intermediate_size, c.mlp_bias);
    if (c.head_norm) {
      vector(prefix + "q_norm.weight", w.q_norm, c.head_dim);
      vector(prefix + "k_norm.weight", w.k_norm, c.head_dim);
    }
  }
}

ModelWeights::Slot& ModelWeights::slot(const std::string& name, int64_t rows, int64_t cols,
                                       bool matrix) {
  const auto found = slots_.find(name);
  if (found == slots_.end() || (found->second.matrix != nullptr) != matrix)
    throw std::invalid_argument("the model has no " + std::string(matrix ? "matrix" : "vector") +
                                " named '" + name + "'");
  Slot& slot = found->second;
  if (slot.rows != rows || slot.cols != cols)
    throw std::invalid_argument(name + " is [" + std::to_string(rows) + ", " +
                                std::to_string(cols) + "]; the model's is [" +
                                std::to_string(slot.rows) + ", " + std::to_string(slot.cols) + "]");
  return slot;
}

void ModelWeights::load_matrix(const std::string& name, const EncodedMatrix& source,
                               WeightFormat format, ThreadPool& pool) {
  Slot& target = slot(name, source.rows, source.cols, true);
  PackedMatrix packed = allocate_packed(source, format);
  pool.run([&](int thread) {
    const Share panels = share_of(packed.panels(), thread, pool.size());
    pack_panels(packed, source, panels.begin, panels.end);
  });
  *target.matrix = packed;
  target.loaded = true;
}

void ModelWeights::load_vector(const std::string& name, const float* values, int64_t size) {
  Slot& target = slot(name, 1, size, false);
  target.vector->assign(values, values + size);
  target.loaded = true;
}

void ModelWeights::check_complete() const {
  std::string missing;
  for (const auto& [name, slot] : slots_)
    if (!slot.loaded) missing += (missing.empty() ? "" : ", ") + name;
  if (!missing.empty()) throw std::invalid_argument("weights are missing: " + missing);
}

size_t ModelWeights::nbytes() const {
  size_t total = 0;
  for (const auto& [name, slot] : slots_)
    total += slot.matrix ? slot.matrix->nbytes() : slot.vector->size() * sizeof(float);
  return total;
}

}  // namespace stoker

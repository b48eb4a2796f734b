// The weights of a model, by the canonical names of `model/weights/base.py`.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model_config.h"
#include "packed_matrix.h"
#include "thread_pool.h"

namespace stoker {

using Vector = std::vector<float>;  // empty: the model has none

// A norm's weight and, for layer norms, its bias.
struct NormWeights {
  Vector weight, bias;
};

struct LayerWeights {
  NormWeights attn_norm, mlp_norm, post_attn_norm, post_mlp_norm;
  PackedMatrix q, k, v, o, gate, up, down;
  Vector q_bias, k_bias, v_bias, o_bias, up_bias, down_bias;
  Vector q_norm, k_norm;
};

class ModelWeights {
 public:
  explicit ModelWeights(const ModelConfig& config);
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  // Where a tensor goes.
  struct Slot {
    PackedMatrix* matrix = nullptr;  // else a vector
    Vector* vector = nullptr;
    int64_t rows = 0, cols = 0;      // of a vector: rows = 1
    bool loaded = false;
  };
  const std::map<std::string, Slot>& slots() const { return slots_; }

  // Both throw std::invalid_argument when the name or the shape is not one of the model's.
  void load_matrix(const std::string& name, const EncodedMatrix& source, WeightFormat format,
                   ThreadPool& pool);
  void load_vector(const std::string& name, const float* values, int64_t size);
  // Throws std::invalid_argument, naming them, when tensors have not been loaded.
  void check_complete() const;
  size_t nbytes() const;

  const PackedMatrix& output_projection() const { return tied_ ? embed : lm_head; }

  PackedMatrix embed, lm_head;
  Vector positions;  // [max_position, hidden]
  NormWeights norm;
  std::vector<LayerWeights> layers;

 private:
  Slot& slot(const std::string& name, int64_t rows, int64_t cols, bool matrix);
  bool tied_;
  std::map<std::string, Slot> slots_;
};

}  // namespace stoker

// What the forward pass needs to know of an architecture: the native side of `ModelSpec`.
#pragma once

#include <vector>

#include "ops.h"

namespace stoker {

enum class NormKind : int { rms, layer };

struct RopeConfig {
  int dim = 0;  // rotated elements at the start of a head
  std::vector<double> inv_freq;
  double attention_factor = 1.0;
};

struct LayerConfig {
  int window = 0;  // 0: none
  int rope = -1;   // index into ropes; -1: none
};

struct ModelConfig {
  int vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, max_position = 0;
  std::vector<LayerConfig> layers;
  std::vector<RopeConfig> ropes;
  NormKind norm = NormKind::rms;
  float norm_eps = 1e-5f;
  Activation activation = Activation::silu;
  bool gated = true;
  float attention_scale = 1.0f;
  float attention_softcap = 0.0f;  // 0: none
  float logit_softcap = 0.0f;      // 0: none
  float embedding_scale = 1.0f;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool head_norm = false, post_norms = false, learned_positions = false, tied_embeddings = false;

  int q_size() const { return num_heads * head_dim; }
  int kv_size() const { return num_kv_heads * head_dim; }
  int qkv_size() const { return q_size() + 2 * kv_size(); }
  int group() const { return num_heads / num_kv_heads; }
  int num_layers() const { return static_cast<int>(layers.size()); }
};

// Throws std::invalid_argument, naming the field, where the forward pass could not run it.
void check(const ModelConfig& config);

}  // namespace stoker

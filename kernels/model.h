// A model on the CPU: its weights, its cache, its threads, and one call per engine step.
#pragma once

#include <memory>
#include <string>

#include "forward.h"

namespace stoker {

struct ModelOptions {
  int64_t blocks = 0;
  KVType kv_type = KVType::bf16;
  int max_tokens = 0, max_sequences = 0, threads = 1;
  Isa isa = Isa::portable;
};

class Model {
 public:
  // Throws std::invalid_argument for a configuration that cannot run, std::bad_alloc.
  Model(ModelConfig config, const ModelOptions& options);

  const ModelConfig& config() const { return config_; }
  const ModelOptions& options() const { return options_; }
  ModelWeights& weights() { return weights_; }
  ThreadPool& pool() { return pool_; }
  // 0 before finish_loading.
  size_t workspace_bytes() const { return forward_ ? forward_->workspace_bytes() : 0; }

  // To be called once, when the weights are loaded, before the first step.
  void finish_loading();
  // Checks the batch, then computes it. Throws std::invalid_argument.
  void run(const Batch& batch, StepOutput& output);

 private:
  const ModelConfig config_;
  const ModelOptions options_;
  const AttentionShape shape_;
  ThreadPool pool_;
  ModelWeights weights_;
  KVCache cache_;
  std::unique_ptr<Forward> forward_;
};

AttentionShape attention_shape(const ModelConfig& config, KVType type);

// Bytes of one block of the cache, all layers together.
size_t block_bytes(const ModelConfig& config, KVType type);
// Bytes of the memory that steps work in.
size_t workspace_bytes(const ModelConfig& config, KVType type, const WorkspaceLimits& limits);

}  // namespace stoker

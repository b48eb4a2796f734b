#include "model.h"

#include <stdexcept>
#include <utility>

namespace stoker {
namespace {

ModelConfig checked(ModelConfig config) {
  check(config);
  return config;
}

}  // namespace

AttentionShape attention_shape(const ModelConfig& c, KVType type) {
  return attention_shape(type, c.head_dim, c.group(), c.attention_scale, c.attention_softcap);
}

size_t block_bytes(const ModelConfig& config, KVType type) {
  return attention_shape(config, type).head_bytes * config.num_kv_heads * config.num_layers();
}

size_t workspace_bytes(const ModelConfig& config, KVType type, const WorkspaceLimits& limits) {
  check(config);
  return Workspace(config, attention_shape(config, type), limits, nullptr).bytes;
}

Model::Model(ModelConfig config, const ModelOptions& options)
    : config_(checked(std::move(config))),
      options_(options),
      shape_(attention_shape(config_, options.kv_type)),
      pool_(options.threads),
      weights_(config_),
      cache_(shape_, config_.num_layers(), config_.num_kv_heads, options.blocks) {}

void Model::finish_loading() {
  weights_.check_complete();
  WorkspaceLimits limits{.max_tokens = options_.max_tokens,
                         .max_sequences = options_.max_sequences,
                         .threads = pool_.size(),
                         .int8 = false,
                         .bf16 = false};
  for (const auto& [name, slot] : weights_.slots())
    if (slot.matrix)
      (activation_format(slot.matrix->format()) == ActivationFormat::int8 ? limits.int8
                                                                          : limits.bf16) = true;
  forward_ = std::make_unique<Forward>(config_, weights_, cache_, shape_, options_.isa, limits,
                                       pool_);
}

void Model::run(const Batch& batch, StepOutput& output) {
  if (!forward_) throw std::invalid_argument("the model's weights are not loaded");
  check(batch, config_, {.max_tokens = options_.max_tokens,
                         .max_sequences = options_.max_sequences,
                         .blocks = options_.blocks});
  forward_->run(batch, output);
}

}  // namespace stoker

#include "model_config.h"

#include <stdexcept>
#include <string>

#include "attention.h"

namespace stoker {
namespace {

void require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument("this model cannot run on the CPU: " + message);
}

}  // namespace

void check(const ModelConfig& c) {
  for (auto [name, value] : {std::pair{"vocab_size", c.vocab_size},
                             {"hidden_size", c.hidden_size},
                             {"intermediate_size", c.intermediate_size},
                             {"num_heads", c.num_heads},
                             {"num_kv_heads", c.num_kv_heads},
                             {"head_dim", c.head_dim},
                             {"max_position", c.max_position},
                             {"number of layers", c.num_layers()}})
    require(value > 0, std::string(name) + " is " + std::to_string(value));
  require(c.head_dim % 2 == 0, "head_dim " + std::to_string(c.head_dim) + " is odd");
  require(c.head_dim <= kMaxHeadDim, "head_dim " + std::to_string(c.head_dim) + " is above " +
                                         std::to_string(kMaxHeadDim));
  require(c.num_heads % c.num_kv_heads == 0,
          std::to_string(c.num_heads) + " heads are not shared evenly by " +
              std::to_string(c.num_kv_heads) + " key-value heads");
  require(c.group() <= kMaxGroup, std::to_string(c.group()) +
                                      " query heads share a key-value head; at most " +
                                      std::to_string(kMaxGroup) + " can");
  for (const auto& rope : c.ropes) {
    require(rope.dim % 2 == 0 && rope.dim > 0 && rope.dim <= c.head_dim,
            "a rotary embedding of " + std::to_string(rope.dim) + " elements, in heads of " +
                std::to_string(c.head_dim));
    require(static_cast<int>(rope.inv_freq.size()) == rope.dim / 2,
            "a rotary embedding of " + std::to_string(rope.dim) + " elements has " +
                std::to_string(rope.inv_freq.size()) + " frequencies");
  }
  for (const auto& layer : c.layers) {
    require(layer.rope < static_cast<int>(c.ropes.size()),
            "a layer uses rotary embedding " + std::to_string(layer.rope) + " of " +
                std::to_string(c.ropes.size()));
    require(layer.window >= 0, "a window of " + std::to_string(layer.window) + " tokens");
  }
}

}  // namespace stoker

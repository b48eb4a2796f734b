#include "names.h"

#include <stdexcept>

namespace stoker {

Activation activation_from(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  throw std::invalid_argument("unknown activation '" + name +
                              "'; expected silu, gelu_tanh or gelu");
}

KVType kv_type_from(const std::string& name) {
  if (name == "bfloat16") return KVType::bf16;
  if (name == "float32") return KVType::fp32;
  if (name == "int8") return KVType::int8;
  throw std::invalid_argument("unknown type of key-value cache '" + name +
                              "'; expected bfloat16, float32 or int8");
}

Isa isa_from(const std::string& name) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx})
    if (isa_name(isa) == name && isa_available(isa)) return isa;
  throw std::invalid_argument("instruction set '" + name +
                              "' cannot be used here; available_isas() lists those that can");
}

}  // namespace stoker

// Names as Python writes them → the native side's enumerations.
#pragma once

#include <string>

#include "attention.h"
#include "cpu_features.h"
#include "ops.h"

namespace stoker {

// All throw std::invalid_argument, saying what is expected.
Activation activation_from(const std::string& name);
KVType kv_type_from(const std::string& name);
// Only an instruction set that can be used here.
Isa isa_from(const std::string& name);

}  // namespace stoker

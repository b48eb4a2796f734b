#pragma once

#include <nanobind/nanobind.h>

namespace stoker {

// PackedMatrix, pack, quantize_activations and matmul.
void bind_matmul(nanobind::module_& m);

}  // namespace stoker

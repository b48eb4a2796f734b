#pragma once

#include <nanobind/nanobind.h>

namespace stoker {

// Single kernels, for tests and benchmarks: norms, rotary, activations, attention, sampling.
void bind_kernels(nanobind::module_& m);

}  // namespace stoker

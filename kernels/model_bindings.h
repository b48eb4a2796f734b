#pragma once

#include <nanobind/nanobind.h>

namespace stoker {

// Model: loading weights and running steps.
void bind_model(nanobind::module_& m);

}  // namespace stoker

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "batch.h"

namespace stoker {

// A batch whose views point into arrays that it holds on to.
struct BoundBatch {
  Batch batch;
  std::vector<nanobind::object> arrays;
};

// From a `stoker.runner.base.Batch`. Throws std::invalid_argument, naming the field, for arrays of
// the wrong type or length.
BoundBatch bind_batch(nanobind::handle batch);

template <typename T>
nanobind::ndarray<nanobind::numpy, T> new_array(std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (size_t n : shape) size *= n;
  auto* data = new T[size]();
  nanobind::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nanobind::ndarray<nanobind::numpy, T>(data, shape, owner);
}

}  // namespace stoker

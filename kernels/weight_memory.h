// Memory for weights: large regions on huge pages, which many matrices share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace stoker {

// `bytes` of zeroed memory aligned to 64. Small requests are cut from a common region of huge pages,
// so that a model of many small matrices streams with few page-table walks; a region is given back
// to the system when the last of its requests is gone. Throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_weights(size_t bytes);

}  // namespace stoker

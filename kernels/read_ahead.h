// What waiting threads do between two steps: they fetch the weights that the next step begins with
// into the caches they share.
//
// The memory is idle while the engine takes in a step's results and prepares the next, and a small
// batch takes as long as reading its weights does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model_weights.h"

namespace stoker {

class ReadAhead {
 public:
  // The first `bytes` of the weights, in the order in which a step reads them.
  ReadAhead(const ModelWeights& weights, size_t bytes);

  // Fetches piece `index` of those of `reader` among `readers`; false if there is none.
  bool fetch(size_t index, int reader, int readers) const;

 private:
  struct Piece {
    const uint8_t* data;
    size_t bytes;
  };
  void add(const void* data, size_t bytes);

  std::vector<Piece> pieces_;
  size_t left_;
};

}  // namespace stoker

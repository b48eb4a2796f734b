#include "ops.h"

namespace stoker {

#if defined(__x86_64__)
namespace avx2 { extern const Ops ops; }
namespace avx512 { extern const Ops ops; }
namespace amx { extern const Ops ops; }
#endif
namespace portable { extern const Ops ops; }

const Ops& ops_for(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::amx: return amx::ops;
    case Isa::avx512: return avx512::ops;
    case Isa::avx2: return avx2::ops;
    case Isa::portable: break;
  }
#else
  (void)isa;
#endif
  return portable::ops;
}

}  // namespace stoker

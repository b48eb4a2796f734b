// The Python module `stoker._kernels`. Each bind_* lives beside what it binds.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "cpu_features.h"
#include "kernel_bindings.h"
#include "matmul_bindings.h"
#include "model_bindings.h"

namespace nb = nanobind;

NB_MODULE(_kernels, m) {
  m.doc() = "Native kernels of Stoker's CPU runner.";
  m.def("available_isas", [] {
    nb::list names;
    for (auto isa : {stoker::Isa::portable, stoker::Isa::avx2, stoker::Isa::avx512,
                     stoker::Isa::amx})
      if (stoker::isa_available(isa)) names.append(std::string(stoker::isa_name(isa)));
    return names;
  }, "Names of the instruction sets that can run here, least able first.");
  m.def("available_cpus", &stoker::available_cpus,
        "Processors this process may use: its affinity mask, cut by the container's CPU quota.");
  stoker::bind_matmul(m);
  stoker::bind_kernels(m);
  stoker::bind_model(m);
}

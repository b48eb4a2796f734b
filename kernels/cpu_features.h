// Which instruction sets this processor and this operating system offer.
#pragma once

#include <string_view>

namespace stoker {

// From least to most able. Each includes those before it, amx excepted on machines that lack it.
enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

std::string_view isa_name(Isa isa);

// The best instruction set that can be used here. `amx` also asks the kernel for leave to use the
// tile registers (arch_prctl ARCH_REQ_XCOMP_PERM), which is given once per process.
Isa best_isa();

// Whether `isa` can run here.
bool isa_available(Isa isa);

// AVX512_BF16 (a dot product of bf16 pairs), which some AVX-512 processors lack.
bool has_avx512_bf16();

// AVX-VNNI (vpdpbusd on 256 bits), which many processors without AVX-512 have.
bool has_avx_vnni();

// Processors this process may use: the affinity mask, cut by the cgroup's CPU quota.
int available_cpus();

}  // namespace stoker

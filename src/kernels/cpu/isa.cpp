// Which instruction set: its name, its kernels, and what this machine runs.
#include <cstdlib>

#include "base/result.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_table.h"

namespace fl::cpu {

const MatmulTable& matmul_table(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512_vnni) {
    return kMatmulAvx512;
  }
  if (isa == Isa::avx2) {
    return kMatmulAvx2;
  }
#endif
  FL_CHECK(isa == Isa::portable, "an instruction set of another machine");
  return kMatmulPortable;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_vnni:
      return "avx512-vnni";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

Isa best_isa() {
  Isa best = Isa::portable;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = Isa::avx2;
  }
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    best = Isa::avx512_vnni;
  }
#endif
  if (const char* wanted = std::getenv("FREELUNCH_ISA")) {
    for (const Isa isa : {Isa::portable, Isa::avx2}) {
      if (isa < best && (isa == Isa::portable ? "portable" : "avx2") == std::string_view(wanted)) {
        return isa;
      }
    }
  }
  return best;
}

}  // namespace fl::cpu

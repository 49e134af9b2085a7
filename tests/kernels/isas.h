// The instruction sets that this machine can run, for tests that repeat over them.
#pragma once

#include <vector>

#include "kernels/cpu/matmul.h"

namespace fl::test {

inline std::vector<cpu::Isa> runnable_isas() {
  std::vector<cpu::Isa> isas;
  for (const cpu::Isa isa : {cpu::Isa::portable, cpu::Isa::avx2, cpu::Isa::avx512_vnni}) {
    if (isa <= cpu::best_isa()) {
      isas.push_back(isa);
    }
  }
  return isas;
}

}  // namespace fl::test

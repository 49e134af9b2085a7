#include "kernels/cpu/machine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/isas.h"

namespace fl::cpu {
namespace {

// How fast is not a test's business; that the numbers are rates of something possible is.
TEST(Machine, MeasuresEveryLimitOnEveryInstructionSet) {
  ThreadPool pool(2);
  for (const Isa isa : test::runnable_isas()) {
    const MachineSpeed speed = measure_machine(isa, pool);
    for (const double rate : {speed.read_bandwidth, speed.int8_ops, speed.f32_ops}) {
      EXPECT_TRUE(std::isfinite(rate)) << isa_name(isa);
      EXPECT_GT(rate, 1e6) << isa_name(isa);
      EXPECT_LT(rate, 1e15) << isa_name(isa) << ": faster than any machine: a loop was optimised away";
    }
  }
}

}  // namespace
}  // namespace fl::cpu

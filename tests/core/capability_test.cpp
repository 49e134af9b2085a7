// Which devices a program's code runs on.
#include "core/capability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fl {
namespace {

constexpr const char* kRelease = "80,86,89,90,120";

TEST(Capability, MachineCodeRunsOnItsMajorVersion) {
  for (const int arch : {80, 86, 87, 89, 90, 120, 121}) {
    EXPECT_TRUE(runs_device_code(kRelease, arch)) << arch;
  }
  EXPECT_FALSE(runs_device_code(kRelease, 75));
  EXPECT_FALSE(runs_device_code("86", 80));  // older than the code
}

TEST(Capability, OnlyTheNewestIntermediateCodeIsKept) {
  for (const int arch : {100, 103, 110}) {  // 8.x and 9.0 are other machines, and 12.0 is newer
    EXPECT_FALSE(runs_device_code(kRelease, arch)) << arch;
  }
  EXPECT_TRUE(runs_device_code("90", 100));
  EXPECT_TRUE(runs_device_code("80,89", 120));
  EXPECT_FALSE(runs_device_code("120", 90));
}

TEST(Capability, WhatIsNoNumberIsForTheRuntimeToSay) {
  EXPECT_TRUE(runs_device_code("90a-real", 120));
  EXPECT_TRUE(runs_device_code("native", 89));
  EXPECT_TRUE(runs_device_code("", 89));
}

TEST(Capability, WhatIsMissingNamesTheDeviceTheCodeAndTheWay) {
  EXPECT_EQ(missing_device_code("80,120", 100, "NVIDIA B200"),
            "NVIDIA B200 has compute capability 10.0, and this program's device code is for 8.0, 12.0: build "
            "it with "
            "-DFREELUNCH_CUDA_ARCHS=100");
}

}  // namespace
}  // namespace fl

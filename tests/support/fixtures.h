// Where published test data lies, and what a test does when it is missing: fail in CI, skip visibly
// elsewhere.
#pragma once

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

namespace fl::test {

inline std::filesystem::path fixtures_dir() {
  if (const char* dir = std::getenv("FREELUNCH_FIXTURES")) {
    return dir;
  }
  return std::filesystem::path(FL_SOURCE_DIR) / ".." / "shared" / "fixtures";
}

}  // namespace fl::test

/// `FL_FIXTURE(path, "tokenizer/ggml-vocab-qwen35.gguf");` declares `path`, or ends the test.
#define FL_FIXTURE(variable, relative)                                            \
  const std::filesystem::path variable = ::fl::test::fixtures_dir() / (relative); \
  if (!std::filesystem::exists(variable)) {                                       \
    if (std::getenv("CI") != nullptr) {                                           \
      FAIL() << "fixture missing: " << variable;                                  \
    }                                                                             \
    GTEST_SKIP() << "fixture missing: " << variable;                              \
  }                                                                               \
  static_assert(true)

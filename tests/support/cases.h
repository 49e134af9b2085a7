// Which of its cases a device test runs.
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <vector>

namespace fl::test {

/// Set by tests/device/run.py under compute-sanitizer, where an access takes ten to a hundred times as long
/// and a launch milliseconds.
inline bool few_cases() {
  return std::getenv("FREELUNCH_FEW_CASES") != nullptr;
}

/// `all`; with few_cases() `few`, which must still run every kernel and every instance of it, at shapes that
/// end inside a tile.
template <typename T>
std::vector<T> cases(std::initializer_list<T> all, std::initializer_list<T> few) {
  return few_cases() ? few : all;
}

}  // namespace fl::test

#include "core/capability.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include <fmt/format.h>

namespace fl {
namespace {

// Empty where an entry is no plain number.
std::optional<std::vector<int>> numbers_of(std::string_view archs) {
  std::vector<int> out;
  while (!archs.empty()) {
    const std::string_view entry = archs.substr(0, archs.find(','));
    archs.remove_prefix(std::min(archs.size(), entry.size() + 1));
    int number = 0;
    const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
    if (error != std::errc{} || end != entry.data() + entry.size()) {
      return std::nullopt;
    }
    out.push_back(number);
  }
  return out;
}

std::string capability_name(int arch) {
  return fmt::format("{}.{}", arch / 10, arch % 10);
}

}  // namespace

bool runs_device_code(std::string_view archs, int arch) {
  const auto built = numbers_of(archs);
  if (!built || built->empty()) {
    return true;
  }
  const auto machine_code = [&](int each) { return each / 10 == arch / 10 && each <= arch; };
  return std::ranges::any_of(*built, machine_code) || *std::ranges::max_element(*built) <= arch;
}

std::string missing_device_code(std::string_view archs, int arch, std::string_view device_name) {
  std::string names;
  for (const int each : numbers_of(archs).value_or(std::vector<int>{})) {
    names += (names.empty() ? "" : ", ") + capability_name(each);
  }
  return fmt::format(
      "{} has compute capability {}, and this program's device code is for {}: build it with "
      "-DFREELUNCH_CUDA_ARCHS={}",
      device_name, capability_name(arch), names, arch);
}

}  // namespace fl

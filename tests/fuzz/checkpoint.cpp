// Any bytes as the header of a safetensors file, and a valid file with any changes: an error that has a text,
// or tensors that can be read to their last element.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "apps/convert/safetensors.h"
#include "tests/apps/checkpoint.h"
#include "tests/fuzz/patches.h"

namespace {

using fl::test::HfCheckpoint;

std::string valid_file() {
  HfCheckpoint::Tensor tensor{{2, 3}, {1, 2, 3, 4, 5, 6}};
  HfCheckpoint::Tensor half{{4}, {1, 2, 3, 4}, "BF16"};
  return HfCheckpoint::safetensors({{"a", tensor}, {"b", half}});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string kValid = valid_file();
  static const std::filesystem::path kDir = "/dev/shm/fuzz_checkpoint_" + std::to_string(::getpid());
  if (size == 0) {
    return 0;
  }
  std::filesystem::create_directories(kDir);
  HfCheckpoint::write_text(
      kDir / "model.safetensors",
      data[0] % 4 == 0
          ? HfCheckpoint::with_header({reinterpret_cast<const char*>(data) + 1, size - 1}, "12345678")
          : fl::fuzz::patched(kValid, {data + 1, size - 1}));
  const auto checkpoint = fl::apps::convert::Checkpoint::open(kDir);
  if (!checkpoint && checkpoint.error().message.empty()) {
    std::abort();
  }
  for (const auto& [name, shape] : {std::pair{"a", std::vector<int64_t>{2, 3}}, {"b", {4}}}) {
    if (!checkpoint || !checkpoint->has(name)) {
      continue;
    }
    if (const auto tensor = checkpoint->find(name, shape)) {
      std::vector<float> values(static_cast<size_t>((*tensor)->elements()));
      (*tensor)->read(0, values);
    }
  }
  return 0;
}

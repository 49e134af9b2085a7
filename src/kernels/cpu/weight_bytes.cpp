#include "kernels/cpu/weight_bytes.h"

#include <mutex>

#include "kernels/cpu/aligned_bytes.h"
#include "kernels/cpu/pack.h"

namespace fl::cpu {
namespace {

constexpr uint64_t kSlabBytes = uint64_t{64} << 20;

/// The slab that is being filled. Pages of its unused end are never touched and cost nothing.
struct Filling {
  std::mutex mutex;
  std::weak_ptr<AlignedBytes> slab;
  uint64_t used = 0;
};

}  // namespace

WeightBytes::WeightBytes(uint64_t size) : size_(size) {
  if (size == 0) {
    return;
  }
  const auto taken = static_cast<uint64_t>(round_to_line(static_cast<int64_t>(size)));
  if (taken > kSlabBytes / 2) {
    const auto own = std::make_shared<AlignedBytes>(taken);
    data_ = std::shared_ptr<uint8_t>(own, own->data());
    return;
  }
  static Filling filling;
  const std::lock_guard lock(filling.mutex);
  std::shared_ptr<AlignedBytes> slab = filling.slab.lock();
  if (slab == nullptr || filling.used + taken > slab->size()) {
    slab = std::make_shared<AlignedBytes>(kSlabBytes);
    filling.slab = slab;
    filling.used = 0;
  }
  data_ = std::shared_ptr<uint8_t>(slab, slab->data() + filling.used);
  filling.used += taken;
}

}  // namespace fl::cpu

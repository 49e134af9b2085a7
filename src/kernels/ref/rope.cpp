#include "kernels/rope.h"

#include <cmath>

namespace fl::ref {

void rope(const RopeTable& table, std::array<int32_t, 3> position, double* head) {
  const int64_t pairs = table.pairs();
  for (int64_t i = 0; i < pairs; ++i) {
    const auto pos = static_cast<float>(position[table.axis[static_cast<size_t>(i)]]);
    const double phi = pos * table.frequency[static_cast<size_t>(i)];  // a float product, see the contract
    const double c = std::cos(phi) * table.magnitude;
    const double s = std::sin(phi) * table.magnitude;
    const double u = head[i];
    const double w = head[i + pairs];
    head[i] = u * c - w * s;
    head[i + pairs] = w * c + u * s;
  }
}

}  // namespace fl::ref

// Host bytes to the device, fast: several threads read into page-locked buffers, copies run behind them, and
// what shall happen with a piece on the device follows its copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/cuda/runtime.h"
#include "model/runners.h"
#include "model/weight_reader.h"

namespace fl::model {

class CudaUpload {
 public:
  /// Bytes of one piece at most.
  static constexpr uint64_t kPieceBytes = uint64_t{16} << 20;
  static constexpr int kReaders = 4;
  static constexpr int kBuffers = 8;  ///< page-locked, and as many on the device while run() works

  /// `use(stream, bytes on the device)` enqueues what the piece is for.
  using Use = std::function<void(cudaStream_t stream, const std::byte* device)>;
  void to_device(const std::byte* from, uint64_t bytes, Use use);
  /// For tables that stay in host memory: only read by the threads.
  void to_host(const std::byte* from, uint64_t bytes, std::byte* to);

  /// Does everything added, in order; returns when the device is done. `progress` is called with (bytes done,
  /// bytes in all). Throws cuda::DeviceFailure.
  void run(const cuda::DeviceInfo& device, const WeightReader& reader, Progress progress, void* context);

 private:
  struct Piece {
    const std::byte* from;
    uint64_t bytes;
    std::byte* host;  ///< where it goes when it stays on the host
    Use use;
  };
  std::vector<Piece> pieces_;
};

}  // namespace fl::model

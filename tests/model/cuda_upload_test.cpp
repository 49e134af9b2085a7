// The upload of weights: every byte arrives once and in order, whatever the sizes of the pieces; a failure
// ends it.
#include "model/cuda_upload.h"

#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>

#include <gtest/gtest.h>

#include "tests/support/device.h"

namespace fl::model {
namespace {

class CudaUploadTest : public test::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) {
      return;
    }
    std::mt19937_64 rng(5);
    bytes_.resize(CudaUpload::kPieceBytes * 5 + 12345);
    for (size_t at = 0; at + 8 <= bytes_.size(); at += 8) {
      const uint64_t word = rng();
      std::memcpy(bytes_.data() + at, &word, 8);
    }
  }

  // Cuts the bytes into pieces of uneven sizes and calls piece(offset, size).
  template <typename Piece>
  void cut(const Piece& piece) {
    std::mt19937 rng(6);
    for (uint64_t at = 0; at < bytes_.size();) {
      const uint64_t most = rng() % 3 == 0 ? CudaUpload::kPieceBytes : 100'000;
      const uint64_t n = std::min<uint64_t>(1 + rng() % most, bytes_.size() - at);
      piece(at, n);
      at += n;
    }
  }
  std::vector<std::byte> bytes_;
};

TEST_F(CudaUploadTest, BytesArriveInOrder) {
  const cuda::DeviceBuffer to(bytes_.size());
  std::vector<std::byte> table(bytes_.size());
  CudaUpload upload;
  uint64_t expected = 0;
  cut([&](uint64_t at, uint64_t n) {
    upload.to_device(bytes_.data() + at, n, [&, at, n](cudaStream_t stream, const std::byte* from) {
      EXPECT_EQ(expected, at);
      expected += n;
      cuda::check(cudaMemcpyAsync(to.data() + at, from, n, cudaMemcpyDeviceToDevice, stream), "copy");
    });
  });
  upload.to_host(bytes_.data(), bytes_.size(), table.data());
  std::pair<uint64_t, uint64_t> last{0, 0};
  upload.run(
      device_, WeightReader({}, false),
      [](void* context, uint64_t done, uint64_t total) {
        auto* seen = static_cast<std::pair<uint64_t, uint64_t>*>(context);
        EXPECT_GT(done, seen->first);
        *seen = {done, total};
      },
      &last);
  EXPECT_EQ(last.first, 2 * bytes_.size());
  EXPECT_EQ(last.second, 2 * bytes_.size());
  std::vector<std::byte> back(bytes_.size());
  cuda::check(cudaMemcpy(back.data(), to.data(), back.size(), cudaMemcpyDeviceToHost), "download");
  EXPECT_TRUE(back == bytes_);
  EXPECT_TRUE(table == bytes_);
}

TEST_F(CudaUploadTest, AFailureEndsIt) {
  CudaUpload upload;
  int uses = 0;
  cut([&](uint64_t at, uint64_t n) {
    upload.to_device(bytes_.data() + at, n, [&](cudaStream_t, const std::byte*) {
      if (++uses == 20) {
        throw std::runtime_error("planted");
      }
    });
  });
  EXPECT_THROW(upload.run(device_, WeightReader({}, false), nullptr, nullptr), std::runtime_error);
  EXPECT_EQ(uses, 20);
}

}  // namespace
}  // namespace fl::model

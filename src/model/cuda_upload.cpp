#include "model/cuda_upload.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "base/result.h"

namespace fl::model {
namespace {

struct Buffer {
  cuda::PinnedBuffer host;
  const std::byte* begin = nullptr;  ///< of the piece in it
  cuda::DeviceBuffer device;
  cuda::Event copied;
  cuda::Event used;
};

}  // namespace

void CudaUpload::to_device(const std::byte* from, uint64_t bytes, Use use) {
  FL_CHECK(bytes <= kPieceBytes, "a piece fits a buffer");
  pieces_.push_back({from, bytes, nullptr, std::move(use)});
}

void CudaUpload::to_host(const std::byte* from, uint64_t bytes, std::byte* to) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    pieces_.push_back({from + at, std::min(kPieceBytes, bytes - at), to + at, {}});
  }
}

void CudaUpload::run(const cuda::DeviceInfo& device, const WeightReader& reader, Progress progress,
                     void* context) {
  uint64_t total = 0;
  for (const Piece& piece : pieces_) {
    total += piece.bytes;
  }
  std::array<Buffer, kBuffers> buffers;
  for (Buffer& b : buffers) {
    b.host = cuda::PinnedBuffer(WeightReader::room(kPieceBytes));
    b.device = cuda::DeviceBuffer(kPieceBytes);
  }
  cuda::Stream copies;
  cuda::Stream work;

  // Piece i uses buffer i % kBuffers. A reader fills it when piece i - kBuffers has left the host buffer; the
  // caller's thread enqueues pieces in order.
  std::mutex mutex;
  std::condition_variable changed;
  size_t next = 0;      // for a reader to take
  size_t enqueued = 0;  // pieces before this one have their copies on the stream
  std::vector<bool> filled(pieces_.size(), false);
  bool stop = false;
  std::exception_ptr failure;

  const auto read = [&] {
    try {
      cuda::check(cudaSetDevice(device.device), "cudaSetDevice");
      for (;;) {
        size_t i = 0;
        {
          std::unique_lock lock(mutex);
          i = next++;
          if (i >= pieces_.size()) {
            return;
          }
          changed.wait(lock, [&] { return stop || i < enqueued + kBuffers; });
          if (stop) {
            return;
          }
        }
        const Piece& piece = pieces_[i];
        Buffer& b = buffers[i % kBuffers];
        b.copied.synchronize();  // of the piece before in this buffer
        b.begin = reader.read(piece.from, piece.bytes, b.host.data());
        if (piece.host != nullptr) {
          std::memcpy(piece.host, b.begin, piece.bytes);
        } else if (b.begin == piece.from) {
          std::memcpy(b.host.data(), piece.from, piece.bytes);
          b.begin = b.host.data();
        }
        {
          const std::lock_guard lock(mutex);
          filled[i] = true;
        }
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
      stop = true;
      changed.notify_all();
    }
  };

  std::vector<std::thread> readers;
  const auto join = [&] {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    for (std::thread& thread : readers) {
      thread.join();
    }
  };
  try {
    for (int i = 0; i < kReaders; ++i) {
      readers.emplace_back(read);
    }
    uint64_t done = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || filled[i]; });
        if (stop) {
          break;
        }
      }
      const Piece& piece = pieces_[i];
      if (piece.host == nullptr) {
        Buffer& b = buffers[i % kBuffers];
        copies.wait(b.used);
        cuda::check(cudaMemcpyAsync(b.device.data(), b.begin, piece.bytes, cudaMemcpyHostToDevice, copies),
                    "upload of weights");
        b.copied.record(copies);
        work.wait(b.copied);
        piece.use(work, b.device.data());
        b.used.record(work);
      }
      {
        const std::lock_guard lock(mutex);
        enqueued = i + 1;
      }
      changed.notify_all();
      done += piece.bytes;
      if (progress != nullptr) {
        progress(context, done, total);
      }
    }
    join();
  } catch (...) {
    join();
    cudaStreamSynchronize(copies);
    cudaStreamSynchronize(work);
    throw;
  }
  if (failure) {
    cudaStreamSynchronize(copies);
    cudaStreamSynchronize(work);
    std::rethrow_exception(failure);
  }
  work.synchronize();
  pieces_.clear();
}

}  // namespace fl::model

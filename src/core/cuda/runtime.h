// The CUDA runtime behind owning types: memory, streams, events, graphs. Every call is checked; a failure is
// a DeviceFailure, which names the call and says whether the device is lost (no later call can work).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

namespace fl::cuda {

class DeviceFailure : public std::runtime_error {
 public:
  DeviceFailure(const std::string& what, cudaError_t status);
  cudaError_t status;
  bool out_of_memory;
  bool lost;  ///< a sticky error: the context is gone
};

[[noreturn]] void fail_call(cudaError_t status, const char* call);

/// `check(cudaMemcpyAsync(...), "copy of the logits");`
inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    fail_call(status, call);
  }
}
/// After a launch written with <<<>>>.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

struct DeviceInfo {
  std::string name;  ///< "NVIDIA H200"
  int device = 0;
  int arch = 0;  ///< 10 * major + minor: 89, 90
  int n_sms = 0;
  uint64_t total_memory = 0;
  uint64_t free_memory = 0;
  uint64_t l2_bytes = 0;
  int max_shared_per_block = 0;  ///< with opt-in
  int max_shared_per_sm = 0;
  double memory_bandwidth = 0;  ///< bytes per second, by the memory's clock and width
};

/// Of the current device, such as cudaDevAttrMultiProcessorCount.
int device_attribute(cudaDeviceAttr attribute, const char* name);
/// Compute capability of the current device, like DeviceInfo::arch.
int device_arch();
/// Devices that this program can use (a driver, compute capability 8.0 or more); 0 without a driver.
int device_count();
/// Makes `device` the current one of this thread and describes it.
DeviceInfo use_device(int device);

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(uint64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Page-locked host memory: the device copies from and to it without the host's help, and can read it in
/// place. Large buffers are mapped in huge pages by several threads and locked then, several times as fast as
/// the driver allocates them.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(uint64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    PinnedBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  void swap(PinnedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(registered_, other.registered_);
  }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  bool registered_ = false;  ///< mapped by us and locked, not the driver's own
};

class Event {
 public:
  /// Timed events cost a little more; the others only order work.
  explicit Event(bool timed = false);
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();

  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream);
  void synchronize();
  bool done() const;
  /// Milliseconds between two timed events that have happened.
  float ms_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

class Stream {
 public:
  Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream();

  cudaStream_t get() const { return stream_; }
  operator cudaStream_t() const { return stream_; }
  void synchronize();
  void wait(const Event& event);

 private:
  cudaStream_t stream_ = nullptr;
};

/// A recorded sequence of launches on one stream, replayed with one call.
class Graph {
 public:
  Graph() = default;
  /// Records what `enqueue` puts on `stream` (nothing runs), instantiates and uploads it.
  static Graph capture(Stream& stream, const std::function<void()>& enqueue);
  Graph(Graph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  ~Graph();

  explicit operator bool() const { return exec_ != nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace fl::cuda

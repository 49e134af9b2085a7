#include "core/cuda/runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "core/capability.h"

namespace fl::cuda {
namespace {

constexpr int kMinArch = 80;
/// Bytes of a thread's stack on the device. The driver keeps this much for every thread that the chip can
/// hold (1 KiB, its own choice, is 264 MiB on an H100) and makes it more when a kernel needs more.
constexpr size_t kStackBytes = 16;
constexpr uint64_t kLargePinned = uint64_t{64} << 20;
constexpr unsigned kTouchThreads = 8;

// Whether kernels find memory that was locked later under the host's address, as they do the driver's own.
bool kernels_read_registered_memory() {
  return device_attribute(cudaDevAttrCanUseHostPointerForRegisteredMem, "access to registered memory") != 0;
}

// Gives every page its memory, from several threads: clearing pages is what costs.
void touch(std::byte* memory, uint64_t bytes) {
  constexpr uint64_t kPage = 4096;
  const unsigned n = std::clamp(std::thread::hardware_concurrency(), 1U, kTouchThreads);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < n; ++i) {
    threads.emplace_back([=] {
      const uint64_t end = bytes / n * (i + 1) + (i + 1 == n ? bytes % n : 0);
      for (uint64_t at = bytes / n * i; at < end; at += kPage) {
        *reinterpret_cast<volatile std::byte*>(memory + at) = std::byte{0};
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

// After these the context is unusable: every later call returns the same error.
bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoDevice:
    case cudaErrorAssert:
      return true;
    default:
      return false;
  }
}

// A build that tests an older device's code on a newer one (FREELUNCH_CUDA_ACTING in cmake/Cuda.cmake) sees
// that device's capability and shared memory; 0 otherwise.
#ifdef FREELUNCH_CUDA_AS
constexpr int kActingArch = FREELUNCH_CUDA_AS;
#else
constexpr int kActingArch = 0;
#endif

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
struct SharedMemory {
  int arch;
  int of_block;
  int of_sm;
};
constexpr SharedMemory kSharedMemory[] = {{80, 163 << 10, 164 << 10},
                                          {86, 99 << 10, 100 << 10},
                                          {87, 163 << 10, 164 << 10},
                                          {89, 99 << 10, 100 << 10}};

constexpr const SharedMemory* acting_memory() {
  for (const SharedMemory& each : kSharedMemory) {
    if (each.arch == kActingArch) {
      return &each;
    }
  }
  return nullptr;
}
static_assert(kActingArch == 0 || acting_memory() != nullptr,
              "the acting capability's shared memory is not listed");

int acting(cudaDeviceAttr attribute, int real) {
  const SharedMemory* memory = acting_memory();
  if (memory == nullptr) {
    return real;
  }
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      return memory->arch / 10;
    case cudaDevAttrComputeCapabilityMinor:
      return memory->arch % 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return memory->of_block;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return memory->of_sm;
    default:
      return real;
  }
}

}  // namespace

DeviceFailure::DeviceFailure(const std::string& what, cudaError_t code)
    : std::runtime_error(what),
      status(code),
      out_of_memory(code == cudaErrorMemoryAllocation),
      lost(is_sticky(code)) {}

void fail_call(cudaError_t status, const char* call) {
  throw DeviceFailure(
      std::string(call) + ": " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")", status);
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver or no device is an answer, not an error to be found by the next call
    return 0;
  }
  int usable = 0;
  for (int device = 0; device < count; ++device) {
    int major = 0;
    int minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
    usable += 10 * major + minor >= kMinArch ? 1 : 0;
  }
  return usable;
}

int device_attribute(cudaDeviceAttr attribute, const char* name) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&value, attribute, device), name);
  return acting(attribute, value);
}

int device_arch() {
  return 10 * device_attribute(cudaDevAttrComputeCapabilityMajor, "compute capability") +
         device_attribute(cudaDevAttrComputeCapabilityMinor, "compute capability");
}

DeviceInfo use_device(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  const int arch = device_arch();
  if (!runs_device_code(FREELUNCH_CUDA_ARCHS, arch)) {
    throw DeviceFailure(missing_device_code(FREELUNCH_CUDA_ARCHS, arch, properties.name),
                        cudaErrorNoKernelImageForDevice);
  }
  check(cudaDeviceSetLimit(cudaLimitStackSize, kStackBytes), "stack of the device's threads");
  DeviceInfo info;
  info.name = properties.name;
  info.device = device;
  info.arch = arch;
  info.n_sms = properties.multiProcessorCount;
  info.l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  info.max_shared_per_block =
      device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, "shared memory of a block");
  info.max_shared_per_sm =
      device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, "shared memory of an SM");
  const int kilohertz = device_attribute(cudaDevAttrMemoryClockRate, "clock of the memory");
  const int bits = device_attribute(cudaDevAttrGlobalMemoryBusWidth, "width of the memory");
  info.memory_bandwidth = 2e3 * kilohertz * bits / 8;  // two transfers a clock
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  info.free_memory = free_bytes;
  info.total_memory = total_bytes;
  return info;
}

DeviceBuffer::DeviceBuffer(uint64_t bytes) : bytes_(bytes) {
  if (bytes > 0) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "device memory");
    data_ = static_cast<std::byte*>(memory);
  }
}

DeviceBuffer::~DeviceBuffer() {
  cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(uint64_t bytes) : bytes_(bytes) {
  if (bytes == 0) {
    return;
  }
  void* memory = nullptr;
  registered_ = bytes >= kLargePinned && kernels_read_registered_memory();
  if (!registered_) {
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "page-locked memory");
  } else {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      fail_call(cudaErrorMemoryAllocation, "page-locked memory");
    }
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice only
    touch(static_cast<std::byte*>(memory), bytes);
    if (const cudaError_t status = cudaHostRegister(memory, bytes, cudaHostRegisterMapped);
        status != cudaSuccess) {
      munmap(memory, bytes);
      fail_call(status, "page-locked memory");
    }
  }
  data_ = static_cast<std::byte*>(memory);
}

PinnedBuffer::~PinnedBuffer() {
  if (registered_ && data_ != nullptr) {
    cudaHostUnregister(data_);
    munmap(data_, bytes_);
  } else if (data_ != nullptr) {
    cudaFreeHost(data_);
  }
}

Event::Event(bool timed) {
  check(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming),
        "cudaEventCreate");
}

Event::~Event() {
  if (event_ != nullptr) {
    cudaEventDestroy(event_);
  }
}

void Event::record(cudaStream_t stream) {
  check(cudaEventRecord(event_, stream), "cudaEventRecord");
}

void Event::synchronize() {
  check(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

bool Event::done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    return false;
  }
  check(status, "cudaEventQuery");
  return true;
}

float Event::ms_since(const Event& start) const {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, start.event_, event_), "cudaEventElapsedTime");
  return ms;
}

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

Stream::~Stream() {
  if (stream_ != nullptr) {
    cudaStreamDestroy(stream_);
  }
}

void Stream::synchronize() {
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void Stream::wait(const Event& event) {
  check(cudaStreamWaitEvent(stream_, event.get(), 0), "cudaStreamWaitEvent");
}

Graph Graph::capture(Stream& stream, const std::function<void()>& enqueue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) {
      cudaGraphDestroy(graph);
    }
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  Graph result;
  const cudaError_t status = cudaGraphInstantiate(&result.exec_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  check(cudaGraphUpload(result.exec_, stream), "cudaGraphUpload");
  return result;
}

Graph::~Graph() {
  if (exec_ != nullptr) {
    cudaGraphExecDestroy(exec_);
  }
}

void Graph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(exec_, stream), "cudaGraphLaunch");
}

}  // namespace fl::cuda

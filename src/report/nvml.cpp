#include "report/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>

namespace fl::report {
namespace {

// The parts of nvml.h that are used (NVML API reference, stable since driver 450).
using Device = void*;
constexpr int kSuccess = 0;
constexpr unsigned kClockSm = 1;
constexpr unsigned kClockMemory = 2;
constexpr unsigned kMaxDevices = 16;
constexpr unsigned kMaxProcesses = 128;
constexpr unsigned kNameBytes = 96;

struct MemoryInfo {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct ProcessInfo {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance;
  unsigned compute_instance;
};

constexpr unsigned long long kNotAvailable = ~0ULL;

struct Reason {
  unsigned long long bit;
  const char* name;
};
constexpr std::array<Reason, 5> kReasons{{{0x4, "power cap"},
                                          {0x8, "hardware slowdown"},
                                          {0x20, "thermal (software)"},
                                          {0x40, "thermal (hardware)"},
                                          {0x80, "power brake"}}};

}  // namespace

struct Nvml::Library {
  void* handle = nullptr;
  std::vector<Device> devices;

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*by_index)(unsigned, Device*) = nullptr;
  int (*name)(Device, char*, unsigned) = nullptr;
  int (*uuid)(Device, char*, unsigned) = nullptr;
  int (*driver)(char*, unsigned) = nullptr;
  int (*memory)(Device, MemoryInfo*) = nullptr;
  int (*processes)(Device, unsigned*, ProcessInfo*) = nullptr;
  int (*energy)(Device, unsigned long long*) = nullptr;
  int (*reasons)(Device, unsigned long long*) = nullptr;
  int (*max_clock)(Device, unsigned, unsigned*) = nullptr;
  int (*power_limit)(Device, unsigned*) = nullptr;

  ~Library() {
    if (shutdown != nullptr && !devices.empty()) {
      shutdown();
    }
    if (handle != nullptr) {
      ::dlclose(handle);
    }
  }

  template <typename F>
  void find(F*& function, const char* symbol) {
    function = reinterpret_cast<F*>(::dlsym(handle, symbol));
  }
};

Nvml::Nvml(std::unique_ptr<Library> library) : library_(std::move(library)) {}
Nvml::~Nvml() = default;

std::unique_ptr<Nvml> Nvml::open(const std::string& name) {
  auto library = std::make_unique<Library>();
  library->handle = ::dlopen(name.empty() ? "libnvidia-ml.so.1" : name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library->handle == nullptr) {
    return nullptr;
  }
  Library& l = *library;
  l.find(l.init, "nvmlInit_v2");
  l.find(l.shutdown, "nvmlShutdown");
  l.find(l.count, "nvmlDeviceGetCount_v2");
  l.find(l.by_index, "nvmlDeviceGetHandleByIndex_v2");
  l.find(l.name, "nvmlDeviceGetName");
  l.find(l.uuid, "nvmlDeviceGetUUID");
  l.find(l.driver, "nvmlSystemGetDriverVersion");
  l.find(l.memory, "nvmlDeviceGetMemoryInfo");
  l.find(l.processes, "nvmlDeviceGetComputeRunningProcesses_v3");
  l.find(l.energy, "nvmlDeviceGetTotalEnergyConsumption");
  l.find(l.reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
  l.find(l.max_clock, "nvmlDeviceGetMaxClockInfo");
  l.find(l.power_limit, "nvmlDeviceGetPowerManagementLimit");
  unsigned n = 0;
  if (l.init == nullptr || l.count == nullptr || l.by_index == nullptr || l.memory == nullptr ||
      l.init() != kSuccess) {
    return nullptr;
  }
  l.count(&n);
  for (unsigned i = 0; i < std::min(n, kMaxDevices); ++i) {
    Device device = nullptr;
    if (l.by_index(i, &device) == kSuccess) {
      l.devices.push_back(device);
    }
  }
  if (l.devices.empty()) {
    if (l.shutdown != nullptr) {
      l.shutdown();
    }
    return nullptr;
  }
  return std::unique_ptr<Nvml>(new Nvml(std::move(library)));
}

std::vector<Gpu> Nvml::devices() const {
  const Library& l = *library_;
  std::vector<Gpu> out;
  for (Device device : l.devices) {
    Gpu gpu;
    std::array<char, kNameBytes> text{};
    if (l.name != nullptr && l.name(device, text.data(), text.size()) == kSuccess) {
      gpu.name = text.data();
    }
    if (l.uuid != nullptr && l.uuid(device, text.data(), text.size()) == kSuccess) {
      gpu.uuid = text.data();
    }
    if (l.driver != nullptr && l.driver(text.data(), text.size()) == kSuccess) {
      gpu.driver = text.data();
    }
    MemoryInfo memory{};
    if (l.memory(device, &memory) == kSuccess) {
      gpu.memory_bytes = static_cast<int64_t>(memory.total);
    }
    unsigned value = 0;
    if (l.max_clock != nullptr && l.max_clock(device, kClockSm, &value) == kSuccess) {
      gpu.sm_clock_max_mhz = value;
    }
    if (l.max_clock != nullptr && l.max_clock(device, kClockMemory, &value) == kSuccess) {
      gpu.memory_clock_max_mhz = value;
    }
    if (l.power_limit != nullptr && l.power_limit(device, &value) == kSuccess) {
      gpu.power_limit_watts = value / 1000.0;
    }
    out.push_back(std::move(gpu));
  }
  return out;
}

Nvml::Usage Nvml::usage(const std::vector<pid_t>& processes) const {
  const Library& l = *library_;
  Usage out;
  for (Device device : l.devices) {
    MemoryInfo memory{};
    if (l.memory(device, &memory) == kSuccess) {
      out.total_used += static_cast<int64_t>(memory.used);
    }
    std::array<ProcessInfo, kMaxProcesses> running{};
    unsigned n = kMaxProcesses;
    if (l.processes == nullptr || l.processes(device, &n, running.data()) != kSuccess) {
      continue;
    }
    for (unsigned i = 0; i < std::min(n, kMaxProcesses); ++i) {
      const ProcessInfo& process = running[i];
      if (std::find(processes.begin(), processes.end(), static_cast<pid_t>(process.pid)) == processes.end()) {
        ++out.n_foreign;
      } else if (process.used != kNotAvailable) {
        out.by_processes += static_cast<int64_t>(process.used);
      }
    }
  }
  return out;
}

std::optional<double> Nvml::joules() const {
  const Library& l = *library_;
  if (l.energy == nullptr) {
    return std::nullopt;
  }
  double sum = 0;
  for (Device device : l.devices) {
    unsigned long long millijoules = 0;
    if (l.energy(device, &millijoules) != kSuccess) {
      return std::nullopt;
    }
    sum += static_cast<double>(millijoules) / 1000.0;
  }
  return sum;
}

std::string Nvml::throttle_reasons() const {
  const Library& l = *library_;
  std::string out;
  for (Device device : l.devices) {
    unsigned long long bits = 0;
    if (l.reasons == nullptr || l.reasons(device, &bits) != kSuccess) {
      continue;
    }
    for (const Reason& reason : kReasons) {
      if ((bits & reason.bit) != 0 && out.find(reason.name) == std::string::npos) {
        out += out.empty() ? reason.name : std::string(", ") + reason.name;
      }
    }
  }
  return out;
}

}  // namespace fl::report

// NVIDIA's management library, opened at run time: memory, energy, clocks and other users of the devices.
// A machine without it has no devices to watch, which is an answer and not an error.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "report/document.h"

namespace fl::report {

class Nvml {
 public:
  /// `library`: empty: libnvidia-ml.so.1. nullptr when there is no library or no device.
  static std::unique_ptr<Nvml> open(const std::string& library = "");
  ~Nvml();

  std::vector<Gpu> devices() const;

  struct Usage {
    int64_t by_processes =
        0;                   ///< bytes held by the given processes; 0: the driver does not tell (containers)
    int64_t total_used = 0;  ///< bytes in use on all devices
    int64_t n_foreign = 0;   ///< other compute processes on the devices
  };
  Usage usage(const std::vector<pid_t>& processes) const;

  /// Of all devices since the driver was loaded; absent: not supported (before Volta).
  std::optional<double> joules() const;
  /// "power cap", "thermal", …: why clocks are held down now; empty: they are not, or nothing runs.
  std::string throttle_reasons() const;

 private:
  struct Library;
  explicit Nvml(std::unique_ptr<Library> library);
  std::unique_ptr<Library> library_;
};

}  // namespace fl::report

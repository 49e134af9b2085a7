// The machine: what it is (for the record), and what happens on it while a cell is measured.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "report/document.h"
#include "report/nvml.h"

namespace fl::report {

/// From /proc, /sys, uname and NVML (`nvml` may be null).
Machine describe_machine(const Nvml* nvml);

/// The process and all that it started, now.
std::vector<pid_t> process_tree(pid_t root);
/// Who listens on that TCP port of this machine; -1: nobody that we may see.
pid_t process_listening(uint16_t port);

/// Over this share of the machine's CPU time other programs flag the cell.
inline constexpr double kMaxForeignCpu = 0.05;

/// What was seen between start and stop.
struct Watched {
  std::optional<int64_t> memory_bytes;  ///< highest
  std::string memory_basis;
  std::string memory_reason;
  std::optional<double> joules;  ///< of the devices
  /// Share of the machine's CPU time that others used. Clocks of processes and of the machine tick apart:
  /// over a short time it may be below zero or too high, and only sums over longer ones mean something.
  double foreign_cpu = 0;
  int64_t n_foreign_gpu = 0;  ///< other compute processes seen on the devices
  std::string throttled;      ///< reasons; empty: none
};

/// Samples the machine on a thread of its own while a batch of requests runs.
class Watch {
 public:
  /// `server`: its process, or -1 when it runs elsewhere.
  Watch(const Nvml* nvml, pid_t server);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  Watched stop();

 private:
  void run();
  void end();
  void look();

  const Nvml* nvml_;
  pid_t server_;
  Watched seen_;
  std::optional<double> joules_at_start_;
  double busy_at_start_ = 0;
  double total_at_start_ = 0;
  double ours_at_start_ = 0;
  double cpu_throttles_at_start_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace fl::report

// A stand-in for libnvidia-ml.so: one device, two processes (the caller and a stranger), energy that rises
// with every question, clocks held down by the power cap.
#include <unistd.h>

#include <cstdio>

namespace {
struct MemoryInfo {
  unsigned long long total, free, used;
};
struct ProcessInfo {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};
constexpr unsigned long long kGiB = 1ULL << 30;
unsigned long long millijoules = 1000;
}  // namespace

extern "C" {
int nvmlInit_v2() {
  return 0;
}
int nvmlShutdown() {
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* n) {
  *n = 1;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned, void** device) {
  *device = &millijoules;
  return 0;
}
int nvmlDeviceGetName(void*, char* text, unsigned size) {
  std::snprintf(text, size, "Fake GPU");
  return 0;
}
int nvmlSystemGetDriverVersion(char* text, unsigned size) {
  std::snprintf(text, size, "580.1");
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, MemoryInfo* memory) {
  *memory = {24 * kGiB, 4 * kGiB, 20 * kGiB};
  return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* n, ProcessInfo* processes) {
  processes[0] = {static_cast<unsigned>(getpid()), 18 * kGiB, 0, 0};
  processes[1] = {1, 2 * kGiB, 0, 0};
  *n = 2;
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* out) {
  *out = millijoules += 500;
  return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void*, unsigned long long* bits) {
  *bits = 0x4;
  return 0;
}
int nvmlDeviceGetPowerManagementLimit(void*, unsigned* milliwatts) {
  *milliwatts = 450000;
  return 0;
}
}

// Buffers for kernel tests: filled with NaN before use, ending exactly at an inaccessible page, with canaries
// in front. A kernel that forgets an element leaves a NaN; one that reads or writes past the end faults; one
// that writes before the start is found by intact().
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <span>
#include <vector>

namespace fl::test {

template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t n) : n_(n) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    mapped_ = (bytes + kCanary + page - 1) / page * page + page;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::bad_alloc();
    }
    base_ = static_cast<unsigned char*>(memory);
    mprotect(base_ + mapped_ - page, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(base_ + mapped_ - page - bytes);
    std::memset(base_, kCanaryByte, mapped_ - page);
    poison();
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return n_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  std::span<T> span() { return {data_, static_cast<size_t>(n_)}; }

  void poison() {
    std::memset(data_, 0xFF, static_cast<size_t>(n_) * sizeof(T));
  }  // all ones: NaN in every float type
  bool intact() const {
    for (const unsigned char* p = base_; p < reinterpret_cast<const unsigned char*>(data_); ++p) {
      if (*p != kCanaryByte) {
        return false;
      }
    }
    return true;
  }
  void fill(std::mt19937& random, float low, float high) {
    std::uniform_real_distribution<float> draw(low, high);
    for (int64_t i = 0; i < n_; ++i) {
      data_[i] = static_cast<T>(draw(random));
    }
  }

 private:
  static constexpr size_t kCanary = 256;
  static constexpr unsigned char kCanaryByte = 0xA5;
  int64_t n_;
  size_t mapped_ = 0;
  unsigned char* base_ = nullptr;
  T* data_ = nullptr;
};

template <typename Range>
std::vector<double> to_double(const Range& values, int64_t n) {
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(static_cast<double>(values[i]));
  }
  return out;
}

/// ||got - want|| / ||want||; NaN anywhere gives infinity.
template <typename Got, typename Want>
double relative_error(const Got& got, const Want& want, int64_t n) {
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    difference += d * d;
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  if (!(difference >= 0)) {
    return std::numeric_limits<double>::infinity();
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace fl::test

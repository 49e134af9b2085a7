#include "model/weight_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace fl::model {
namespace {

constexpr uint64_t kMaxProbe = 1U << 13U;  ///< pages of which a range's place is asked at once

/// Whether the page cache holds at least half of a mapped range. Where the system does not say (a file of
/// somebody else), it counts as held: the mapping reads it anyway.
bool cached(const std::byte* from, uint64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uint64_t before = reinterpret_cast<uintptr_t>(from) % page;  // the page starts before the range
  const std::byte* const begin = from - before;
  const uint64_t span = before + bytes;
  std::array<unsigned char, kMaxProbe> in{};
  uint64_t held = 0;
  uint64_t all = 0;
  for (uint64_t at = 0; at < span; at += kMaxProbe * page) {
    const uint64_t length = std::min<uint64_t>(span - at, kMaxProbe * page);
    if (mincore(const_cast<std::byte*>(begin + at), length, in.data()) != 0) {
      return true;
    }
    const uint64_t pages = (length + page - 1) / page;
    held += static_cast<uint64_t>(std::count_if(in.begin(), in.begin() + static_cast<int64_t>(pages),
                                                [](unsigned char state) { return (state & 1U) != 0; }));
    all += pages;
  }
  return 2 * held >= all;
}

// Asks for a mapped range's pages at once: from a cold file that is one long read instead of a fault every
// few pages. Advice only: anonymous memory and old kernels refuse it, and who reads does without.
void populate(const std::byte* from, uint64_t bytes) {
#ifdef MADV_POPULATE_READ
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uint64_t before = reinterpret_cast<uintptr_t>(from) % page;  // the page starts before the range
  madvise(const_cast<std::byte*>(from - before), before + bytes, MADV_POPULATE_READ);
#endif
}

/// The bytes [begin, end) of the file, multiples of kBlock but for a file's end; false when the disk or the
/// file system does not want to.
bool read_direct(int fd, uint64_t begin, uint64_t end, uint64_t file_bytes, std::byte* to) {
  uint64_t at = begin;
  while (at < std::min(end, file_bytes)) {
    const ssize_t n = pread(fd, to + (at - begin), end - at, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    const bool whole = n > 0 && (static_cast<uint64_t>(n) % WeightReader::kBlock == 0 ||
                                 at + static_cast<uint64_t>(n) >= file_bytes);
    if (!whole) {
      return false;
    }
    at += static_cast<uint64_t>(n);
  }
  return true;
}

}  // namespace

WeightReader::WeightReader(const std::vector<Weights::Source>& sources, bool direct) {
  for (const Weights::Source& source : sources) {
    const int fd = direct ? ::open(source.path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
    files_.push_back({source.bytes.data(), source.bytes.size(), fd});
  }
}

WeightReader::~WeightReader() {
  for (const File& file : files_) {
    if (file.fd >= 0) {
      ::close(file.fd);
    }
  }
}

const std::byte* WeightReader::read(const std::byte* from, uint64_t bytes, std::byte* buffer) const {
  const auto file = std::ranges::find_if(files_, [&](const File& f) {
    return from >= f.begin && from < f.begin + f.bytes &&
           bytes <= f.bytes - static_cast<uint64_t>(from - f.begin);
  });
  if (file != files_.end() && file->fd >= 0 && !cached(from, bytes)) {
    const auto offset = static_cast<uint64_t>(from - file->begin);
    const uint64_t begin = offset / kBlock * kBlock;
    const uint64_t end = (offset + bytes + kBlock - 1) / kBlock * kBlock;
    if (read_direct(file->fd, begin, end, file->bytes, buffer)) {
      return buffer + (offset - begin);
    }
  }
  populate(from, bytes);
  return from;
}

}  // namespace fl::model

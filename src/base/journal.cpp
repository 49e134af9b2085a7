#include "base/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <xxhash.h>

namespace fl {
namespace {

constexpr size_t kSumChars = 16;  // hexadecimal digits of the XXH3 sum in front of a record
constexpr size_t kMaxJournalBytes = size_t{1} << 30;

std::string line_of(std::string_view record) {
  return fmt::format("{:016x} {}\n", XXH3_64bits(record.data(), record.size()), record);
}

bool is_whole(std::string_view line) {
  return line.size() > kSumChars && line[kSumChars] == ' ' &&
         line.substr(0, kSumChars) ==
             fmt::format("{:016x}", XXH3_64bits(line.data() + kSumChars + 1, line.size() - kSumChars - 1));
}

Result<std::string> read_all(int fd, const std::string& path) {
  std::string text;
  std::array<char, 65536> buffer;
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0) {
      return fail(ErrorCode::io, fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
    }
    if (n == 0) {
      return text;
    }
    text.append(buffer.data(), static_cast<size_t>(n));
    if (text.size() > kMaxJournalBytes) {
      return fail(ErrorCode::bad_file, fmt::format("'{}' is larger than {} bytes", path, kMaxJournalBytes));
    }
  }
}

}  // namespace

Journal::Journal(Journal&& other) noexcept {
  *this = std::move(other);
}

Journal& Journal::operator=(Journal&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(failed_, other.failed_);
  std::swap(path_, other.path_);
  return *this;
}

Journal::~Journal() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

Result<Journal> Journal::open(const std::filesystem::path& path, std::string_view manifest,
                              std::vector<std::string>& records) {
  Journal journal;
  journal.path_ = path.string();
  journal.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (journal.fd_ < 0) {
    return fail(ErrorCode::io, fmt::format("cannot open '{}': {}", journal.path_, std::strerror(errno)));
  }
  if (::flock(journal.fd_, LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::unavailable, fmt::format("'{}' is in use by another process", journal.path_));
  }
  FL_ASSIGN(const std::string text, read_all(journal.fd_, journal.path_));
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = text.find('\n', at);
    const bool last = end == std::string::npos || end + 1 == text.size();
    const std::string_view line =
        std::string_view(text).substr(at, end == std::string::npos ? end : end - at);
    if (end == std::string::npos || !is_whole(line)) {
      if (!last) {
        return fail(ErrorCode::bad_file, fmt::format("'{}' is damaged at byte {}", journal.path_, at));
      }
      break;
    }
    records.emplace_back(line.substr(kSumChars + 1));
    at = end + 1;
  }
  journal.size_ = static_cast<int64_t>(at);
  if (::ftruncate(journal.fd_, journal.size_) != 0 ||
      ::lseek(journal.fd_, journal.size_, SEEK_SET) != journal.size_) {
    return fail(ErrorCode::io,
                fmt::format("cannot cut the torn end of '{}': {}", journal.path_, std::strerror(errno)));
  }
  if (records.empty()) {
    FL_TRY(journal.append(manifest));
    return journal;
  }
  if (records.front() != manifest) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("'{}' records another run and is not continued: expected {}, found {}",
                            journal.path_, manifest, records.front()));
  }
  records.erase(records.begin());
  return journal;
}

Status Journal::append(std::string_view record) {
  FL_CHECK(record.find('\n') == std::string_view::npos, "a journal record is one line");
  if (failed_) {
    return fail(ErrorCode::io, fmt::format("'{}' took no record since its last error", path_));
  }
  const std::string line = line_of(record);
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      break;
    }
    done += static_cast<size_t>(n);
  }
  // After a failed sync the pages' fate is unknown: the record counts as lost, and no later one may stand
  // behind it.
  if (done < line.size() || ::fdatasync(fd_) != 0) {
    const int error = errno;
    failed_ = true;
    if (::ftruncate(fd_, size_) == 0) {
      ::lseek(fd_, size_, SEEK_SET);
    }
    return fail(ErrorCode::io, fmt::format("cannot write '{}': {}; {} bytes of whole records are kept", path_,
                                           std::strerror(error), size_));
  }
  size_ += static_cast<int64_t>(line.size());
  return {};
}

}  // namespace fl

#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace fl {

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) {
    ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // Not blocking: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const ErrorCode code = errno == ENOENT || errno == ENOTDIR ? ErrorCode::not_found : ErrorCode::io;
    return fail(code, fmt::format("cannot open '{}': {}", path.string(), std::strerror(errno)));
  }
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  MappedFile file;
  std::string problem;
  if (!known) {
    problem = std::strerror(errno);
  } else if (!S_ISREG(info.st_mode)) {
    problem = "not a regular file";
  } else if (info.st_size == 0) {
    problem = "the file is empty";
  } else {
    void* address = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
      problem = fmt::format("cannot map it: {}", std::strerror(errno));
    } else {
      file.bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(info.st_size)};
    }
  }
  ::close(fd);
  if (!problem.empty()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': {}", path.string(), problem));
  }
  return file;
}

}  // namespace fl

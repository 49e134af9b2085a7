#include "report/write.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "report/forms.h"

namespace fl::report {
namespace {

bool write_all(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return false;
    }
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

Status replace_file(const std::string& path, const std::string& text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const bool written = fd >= 0 && write_all(fd, text) && ::fsync(fd) == 0;
  int error = errno;
  if (fd >= 0) {
    ::close(fd);
  }
  if (written && ::rename(temporary.c_str(), path.c_str()) == 0) {
    return {};
  }
  error = written ? errno : error;
  ::unlink(temporary.c_str());
  return fail(ErrorCode::io, fmt::format("cannot write '{}': {}", path, std::strerror(error)));
}

Status write_report(const std::string& dir, const Document& document) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  FL_TRY(replace_file(dir + "/report.json", to_json(document)));
  FL_TRY(replace_file(dir + "/report.md", markdown_report(document)));
  return replace_file(dir + "/report.html", html_report(document));
}

}  // namespace fl::report

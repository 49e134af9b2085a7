// An append-only record file that survives kill -9 and power loss: one checked line a record, synced before
// the next. A torn last line (the write that was cut) is dropped when the file is opened again; damage
// anywhere else is an error.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fl {

class Journal {
 public:
  /// Opens or creates. The first record is `manifest`, one line of text that says what is recorded; a file
  /// with another manifest is refused (invalid_argument, with both). Another process that holds the file:
  /// unavailable. Damage: bad_file with the offset. `records` gets what is already there, in order.
  static Result<Journal> open(const std::filesystem::path& path, std::string_view manifest,
                              std::vector<std::string>& records);

  Journal(Journal&& other) noexcept;
  Journal& operator=(Journal&& other) noexcept;
  ~Journal();

  /// `record` has no line break. On an error (disk full) the file is cut back to its last whole record, and
  /// the journal takes no more.
  Status append(std::string_view record);

 private:
  Journal() = default;
  int fd_ = -1;
  int64_t size_ = 0;  ///< of the whole records
  bool failed_ = false;
  std::string path_;
};

}  // namespace fl

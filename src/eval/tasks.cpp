#include "eval/tasks.h"

#include <openssl/evp.h>
#include <zlib.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fl::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kWhereHumanEval =
    "get HumanEval.jsonl.gz from the data folder of the repository openai/human-eval on GitHub";

// Reads plain and gzip files alike.
Result<std::string> read_file(const fs::path& path) {
  const std::unique_ptr<gzFile_s, decltype(&gzclose)> file(::gzopen(path.c_str(), "rb"), gzclose);
  if (!file) {
    return fail(ErrorCode::not_found, fmt::format("cannot open the task file '{}'", path.string()));
  }
  std::string text;
  std::array<char, 65536> buffer;
  int n = 0;
  while ((n = ::gzread(file.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(n));
    if (text.size() > kMaxTaskFileBytes) {
      return fail(ErrorCode::bad_file,
                  fmt::format("'{}': more than {} bytes", path.string(), kMaxTaskFileBytes));
    }
  }
  if (n < 0) {
    return fail(ErrorCode::bad_file,
                fmt::format("'{}': damaged gzip data after {} bytes", path.string(), text.size()));
  }
  return text;
}

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += fmt::format("{:02x}", digest[i]);
  }
  return hex;
}

Result<Task> parse_task(std::string_view line, const std::string& where) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) {
    return fail(ErrorCode::bad_file, fmt::format("{}: expected a JSON object", where));
  }
  Task task;
  for (auto [name, field] :
       {std::pair{"task_id", &task.id}, std::pair{"prompt", &task.prompt},
        std::pair{"entry_point", &task.entry_point}, std::pair{"canonical_solution", &task.solution},
        std::pair{"test", &task.test}}) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_string() || found->get_ref<const std::string&>().empty()) {
      return fail(ErrorCode::bad_file, fmt::format("{}: expected a text in '{}'", where, name));
    }
    *field = found->get<std::string>();
  }
  return task;
}

Result<TaskSet> parse_tasks(std::string name, const fs::path& path, std::string_view text) {
  TaskSet set;
  set.name = std::move(name);
  set.sha256 = sha256_hex(text);
  std::set<std::string> ids;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \r\t") == std::string_view::npos) {
      continue;
    }
    const std::string where = fmt::format("'{}', line {}", path.string(), number);
    FL_ASSIGN(Task task, parse_task(line, where));
    if (!ids.insert(task.id).second) {
      return fail(ErrorCode::bad_file, fmt::format("{}: the task '{}' is there twice", where, task.id));
    }
    set.tasks.push_back(std::move(task));
  }
  if (set.tasks.empty()) {
    return fail(ErrorCode::bad_file, fmt::format("'{}': no tasks", path.string()));
  }
  return set;
}

}  // namespace

Result<fs::path> data_dir() {
  std::vector<fs::path> places;
  if (const char* dir = std::getenv("FREELUNCH_DATA")) {
    places.emplace_back(dir);
  } else {
    std::error_code ignored;
    const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
    places = {program / ".." / "share" / "freelunch", fs::path(FREELUNCH_SOURCE_DIR) / "data"};
  }
  for (const fs::path& place : places) {
    if (fs::exists(place / "tasks" / "builtin.jsonl")) {
      return place;
    }
  }
  return fail(ErrorCode::not_found,
              fmt::format("tasks/builtin.jsonl is not in '{}'; set FREELUNCH_DATA", places.back().string()));
}

Result<TaskSet> load_tasks(const std::string& what) {
  if (what == "builtin") {
    FL_ASSIGN(const fs::path dir, data_dir());
    const fs::path path = dir / "tasks" / "builtin.jsonl";
    FL_ASSIGN(const std::string text, read_file(path));
    return parse_tasks("builtin", path, text);
  }
  const size_t equals = what.find('=');
  const std::string kind = what.substr(0, equals);
  if (equals == std::string::npos || (kind != "humaneval" && kind != "file")) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("tasks: expected builtin, humaneval=FILE or file=FILE, found '{}'", what));
  }
  const fs::path path = what.substr(equals + 1);
  auto text = read_file(path);
  if (!text) {
    return kind == "humaneval"
               ? fail(text.error().code, fmt::format("{}; {}", text.error().message, kWhereHumanEval))
               : tl::unexpected<Error>(text.error());
  }
  if (kind == "humaneval") {
    if (const std::string found = sha256_hex(*text); found != kHumanEvalSha256) {
      return fail(ErrorCode::bad_file, fmt::format("'{}' is not HumanEval: expected SHA-256 {}, found {}; {}",
                                                   path.string(), kHumanEvalSha256, found, kWhereHumanEval));
    }
  }
  return parse_tasks(kind == "humaneval" ? kind : path.filename().string(), path, *text);
}

}  // namespace fl::eval

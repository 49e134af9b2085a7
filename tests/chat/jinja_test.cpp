// The template engine against python3-jinja2 itself: conversations through real templates, and a snippet for
// each feature of the language. The reference output is made when the test runs.
#include <sys/wait.h>

#include <cstdio>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "chat/chat.h"
#include "tests/support/fixtures.h"

namespace fl::chat {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int kConversations = 300;
constexpr int kWantedRenderings = 200;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The rows of conversations.py, nothing if jinja2 is not installed.
std::optional<std::vector<Json>> reference(const std::string& arguments) {
  const fs::path script = fs::path(FL_SOURCE_DIR) / "tests" / "chat" / "conversations.py";
  const std::string command = fmt::format("python3 -B '{}' {}", script.string(), arguments);
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) {
    return std::nullopt;
  }
  std::string out;
  std::string block(size_t{1} << 16, '\0');
  while (const size_t n = std::fread(block.data(), 1, block.size(), pipe)) {
    out.append(block, 0, n);
  }
  if (::pclose(pipe) != 0) {
    return std::nullopt;
  }
  std::vector<Json> rows;
  for (size_t pos = 0; pos < out.size();) {
    const size_t end = out.find('\n', pos);
    rows.push_back(Json::parse(out.substr(pos, end - pos)));
    pos = end + 1;
  }
  rows.pop_back();  // the version
  return rows;
}

#define FL_NEED_JINJA2(rows)                     \
  if (!(rows)) {                                 \
    if (std::getenv("CI") != nullptr) {          \
      FAIL() << "python3-jinja2 is missing";     \
    }                                            \
    GTEST_SKIP() << "python3-jinja2 is missing"; \
  }                                              \
  static_assert(true)

Result<std::string> render(const Template& compiled, const Json& data) {
  RenderInput input;
  input.messages = &data["messages"];
  input.tools = data.contains("tools") ? &data["tools"] : nullptr;
  input.kwargs = &data["kwargs"];
  input.add_generation_prompt = data["add_generation_prompt"].get<bool>();
  FL_ASSIGN(const std::vector<Segment> segments, compiled.render(input));
  return join(segments);
}

// Same text, same words of raise_exception, or both an error.
void expect_same(const Result<std::string>& ours, const Json& row, const std::string& what) {
  if (row.contains("expected")) {
    ASSERT_TRUE(ours) << what << "\n" << ours.error().message;
    ASSERT_EQ(*ours, row["expected"].get<std::string>()) << what;
  } else {
    ASSERT_FALSE(ours) << what << "\nrendered: " << *ours << "\nexpected the error: " << row;
    EXPECT_EQ(ours.error().code, ErrorCode::invalid_argument);
    if (row.contains("raised")) {
      EXPECT_EQ(ours.error().message, row["raised"].get<std::string>());
    }
  }
}

void compare_conversations(const fs::path& path, int wanted_renderings) {
  const auto rows = reference(fmt::format("{} '{}'", kConversations, path.string()));
  FL_NEED_JINJA2(rows);
  const Template compiled = Template::compile(read_file(path)).value();
  int rendered = 0;
  for (const Json& row : *rows) {
    expect_same(render(compiled, row["input"]), row, row["input"].dump());
    rendered += row.contains("expected") ? 1 : 0;
  }
  EXPECT_GE(rendered, wanted_renderings);
}

TEST(Jinja, FamilyTemplateAsJinja2Renders) {
  FL_FIXTURE(path, "chat/Qwen3.5-4B.jinja");
  compare_conversations(path, kWantedRenderings);
}

TEST(Jinja, DemoTemplateAsJinja2Renders) {
  compare_conversations(fs::path(FL_SOURCE_DIR) / "tests" / "chat" / "demo_template.jinja",
                        kWantedRenderings);
}

TEST(Jinja, EveryFeatureAsJinja2Renders) {
  const auto rows = reference("--snippets");
  FL_NEED_JINJA2(rows);
  EXPECT_GT(rows->size(), 150U);
  for (const Json& row : *rows) {
    const auto source = row["source"].get<std::string>();
    SCOPED_TRACE(source);
    const auto compiled = Template::compile(source);
    if (!compiled) {
      EXPECT_TRUE(row.contains("error")) << compiled.error().message;
      continue;
    }
    const auto ours = render(*compiled, row["input"]);
    if (row.contains("expected")) {
      EXPECT_EQ(ours ? *ours : ours.error().message, row["expected"].get<std::string>());
    } else {
      EXPECT_FALSE(ours) << *ours << "\nexpected the error: " << row;
    }
  }
}

}  // namespace
}  // namespace fl::chat

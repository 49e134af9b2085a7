// The document's JSON: round trip, the published schema, and what is refused.
#include "report/document.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "report/forms.h"

namespace fl::report {
namespace {

const std::string kSample = std::string(FL_SOURCE_DIR) + "/tests/report/data/sample.json";

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

TEST(Document, SampleSurvivesTheRoundTrip) {
  const auto document = read_document(kSample);
  ASSERT_TRUE(document) << document.error().message;
  EXPECT_EQ(document->cells.size(), 45U);
  const std::string once = to_json(*document);
  const auto again = document_from_json(once);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(to_json(*again), once);
  EXPECT_EQ(nlohmann::json::parse(once), nlohmann::json::parse(read(kSample)));
}

// Reports that were made before the newest optional fields.
TEST(Document, KeptReportsStayReadable) {
  int n = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(FL_SOURCE_DIR) + "/docs/reports")) {
    const std::filesystem::path file = entry.path() / "report.json";
    if (std::filesystem::exists(file)) {
      const auto document = read_document(file.string());
      ASSERT_TRUE(document) << file << ": " << document.error().message;
      EXPECT_EQ(document->cells.size(), 45U) << file;
      EXPECT_THAT(terminal_card(*document, {}), testing::HasSubstr("tok/s")) << file;
      ++n;
    }
  }
  EXPECT_GT(n, 0);
}

TEST(Document, PublishedSchemaIsTheFieldList) {
  EXPECT_EQ(read(std::string(FL_SOURCE_DIR) + "/docs/report-schema.json"), report_schema());
}

TEST(Document, RefusesAnotherVersionAndWrongTypesByPath) {
  auto json = nlohmann::json::parse(read(kSample));
  const auto error_of = [](const nlohmann::json& value) {
    const auto read = document_from_json(value.dump());
    return read ? std::string() : read.error().message;
  };
  auto other = json;
  other["schema_version"] = 2;
  EXPECT_THAT(error_of(other), testing::HasSubstr("version 2"));
  other = json;
  other["cells"][3]["ctx"] = "many";
  EXPECT_THAT(error_of(other), testing::HasSubstr("/cells/3/ctx: expected a whole number, found string"));
  other = json;
  other["run"].erase("id");
  EXPECT_THAT(error_of(other), testing::HasSubstr("/run/id is missing"));
  EXPECT_FALSE(document_from_json("[1"));
  EXPECT_FALSE(document_from_json("[]"));
}

TEST(Document, FindsACell) {
  const auto document = read_document(kSample);
  ASSERT_TRUE(document);
  ASSERT_NE(find_cell(*document, 16384, 2, "half"), nullptr);
  EXPECT_EQ(find_cell(*document, 16384, 2, "half")->id, "16384x2 half");
  EXPECT_EQ(find_cell(*document, 16384, 3, "half"), nullptr);
}

}  // namespace
}  // namespace fl::report

// docs/api.md is the table of fields.
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "server/server.h"

namespace fl::server {
namespace {

TEST(Docs, ApiPageIsTheTable) {
  const std::string path = std::string(FL_SOURCE_DIR) + "/docs/api.md";
  if (std::getenv("FREELUNCH_UPDATE_DOCS") != nullptr) {
    std::ofstream(path) << api_docs();
  }
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == api_docs()) << "run test_server with FREELUNCH_UPDATE_DOCS=1";
}

}  // namespace
}  // namespace fl::server

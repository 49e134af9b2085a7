// Chat completions: streamed and whole, reasoning, tools, usage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::chat;
using test::Json;
using test::Response;
using test::spoken;
using test::Spoken;
using test::TestServer;
using test::World;
using testing::HasSubstr;

TEST(Chat, FirstLight) {
  World world;
  world.scripts = {"I think so.\n</think>\n\nHello, world!"};
  TestServer server(world);
  EXPECT_EQ(server.get("/health").body, R"({"status":"ok"})");
  EXPECT_EQ(server.get("/v1/models").json()["data"][0]["id"], "tiny");

  const Response whole = server.post("/v1/chat/completions", chat("say #0"));
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json message = whole.json()["choices"][0]["message"];
  EXPECT_EQ(message["content"], "Hello, world!");
  EXPECT_EQ(message["reasoning_content"], "I think so.\n");
  EXPECT_EQ(whole.json()["choices"][0]["finish_reason"], "stop");

  Json body = chat("say #0");
  body["stream"] = true;
  const Response stream = server.post("/v1/chat/completions", body);
  ASSERT_EQ(stream.status, 200) << stream.body;
  EXPECT_EQ(stream.header("content-type"), "text/event-stream");
  const Spoken heard = spoken(stream.body);
  EXPECT_EQ(heard.content, "Hello, world!");
  EXPECT_EQ(heard.reasoning, "I think so.\n");
  EXPECT_EQ(heard.finish, "stop");
  EXPECT_TRUE(heard.done);
}

}  // namespace
}  // namespace fl::server

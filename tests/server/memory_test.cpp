// What a server keeps of requests that are over: nothing.
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::chat;
using test::Json;
using test::RawClient;
using test::TestServer;
using test::World;

int64_t anonymous_kib() {
  std::ifstream status("/proc/self/status");
  std::string name;
  while (status >> name) {
    if (name == "RssAnon:") {
      int64_t kib = 0;
      status >> kib;
      return kib;
    }
  }
  return -1;
}

// Whole and streamed, refused, with probabilities, and left in the middle.
void ask(const TestServer& server, int i) {
  RawClient client(server.port());
  Json body = chat("question " + std::to_string(i) + std::string(static_cast<size_t>(i % 50), 'x'));
  body.update({{"max_tokens", 6}, {"stream", i % 2 == 0}});
  if (i % 5 == 3) {
    body["temperature"] = "hot";
  } else if (i % 7 == 4) {
    body.update({{"logprobs", true}, {"top_logprobs", 5}});
  }
  client.send(RawClient::bytes("POST", "/v1/chat/completions", body.dump()));
  if (i % 6 != 5) {
    EXPECT_EQ(client.response().status, i % 5 == 3 ? 400 : 200);
  }
}

TEST(Memory, DoesNotGrowWithRequests) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps what was freed; AddressSanitizer looks for leaks itself";
#endif
  constexpr int kWarm = 1000;      // caches and buffers find their size
  constexpr int kRequests = 2000;  // 128 bytes of each would show
  constexpr int64_t kSlackKib = 256;
  World world;
  world.engine.n_ctx_slot = 256;
  const TestServer server(world);
  for (int i = 0; i < kWarm; ++i) {
    ask(server, i);
  }
  const int64_t before = anonymous_kib();
  ASSERT_GT(before, 0);
  for (int i = 0; i < kRequests; ++i) {
    ask(server, kWarm + i);
  }
  EXPECT_TRUE(server.idle_within(5000));
  EXPECT_LE(anonymous_kib() - before, kSlackKib);
}

}  // namespace
}  // namespace fl::server

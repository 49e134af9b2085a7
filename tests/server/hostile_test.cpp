// Clients that send what no client should. The server answers, or closes, and goes on.
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::Json;
using test::RawClient;
using test::Response;
using test::TestServer;
using test::World;
using testing::AnyOf;
using testing::HasSubstr;
using namespace std::string_literals;

Limits quick() {
  Limits limits;
  limits.header_seconds = 0.3;
  limits.body_seconds = 0.3;
  limits.idle_seconds = 0.5;
  limits.write_seconds = 0.5;
  return limits;
}

std::string repeat(const std::string& text, size_t n) {
  std::string out;
  out.reserve(text.size() * n);
  for (size_t i = 0; i < n; ++i) {
    out += text;
  }
  return out;
}

class Hostile : public testing::Test {
 protected:
  Hostile() {
    World world;
    world.scripts = {"fine"};
    world.options.limits = quick();
    server_ = std::make_unique<TestServer>(world);
  }
  ~Hostile() override {
    // Whatever came before, the next one is served.
    const Response response = server_->post("/completion", {{"prompt", "#0"}});
    EXPECT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(response.json()["content"], "fine");
    EXPECT_TRUE(server_->idle_within(2000));
  }
  uint16_t port() const { return server_->port(); }
  // The status that raw bytes get; 0: closed without one.
  int status(const std::string& bytes) const {
    RawClient client(port());
    client.send(bytes);
    return client.response().status;
  }

  std::unique_ptr<TestServer> server_;
};

TEST_F(Hostile, BodiesThatAreTooLarge) {
  RawClient client(port());
  client.send("POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n");
  const Response declared = client.response();
  EXPECT_EQ(declared.status, 413);
  EXPECT_THAT(declared.json()["error"]["message"].get<std::string>(), HasSubstr("67108864"));
  // All 100 MB are on their way before anything is read back.
  const std::string body = R"({"prompt":")" + std::string(100'000'000, 'a') + "\"}";
  RawClient sender(port());
  sender.send("POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n");
  sender.send(body);
  EXPECT_EQ(sender.response().status, 413);
  // Without a declared length.
  RawClient chunked(port());
  chunked.send("POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string megabyte = "100000\r\n" + std::string(1 << 20, ' ') + "\r\n";
  bool open = true;
  for (int i = 0; i < 100 && open; ++i) {
    open = chunked.send(megabyte);
  }
  EXPECT_EQ(chunked.response().status, 413);
}

TEST_F(Hostile, ManyLargeBodiesAtOnceAreBounded) {
  World world;
  world.options.limits.max_bodies_bytes = 1 << 20;
  world.options.limits.body_seconds = 5;
  const TestServer small(world);
  RawClient first(small.port());
  first.send("POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  RawClient second(small.port());
  second.send("POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n");
  const Response refused = second.response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.header("retry-after"), "");
  first.close();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(small.post("/completion", {{"prompt", std::string(900'000, 'x')}}).status,
            400);  // read, and too long
}

TEST_F(Hostile, JsonThatIsDeepOrNoJson) {
  const auto post = [&](const std::string& body) {
    const Response response = server_->post_text("/v1/chat/completions", body);
    EXPECT_EQ(response.json()["error"]["type"], "invalid_request_error") << response.body;
    return response.status;
  };
  EXPECT_EQ(post(R"({"messages":)" + repeat("[", 10'000) + repeat("]", 10'000) + "}"), 400);
  EXPECT_EQ(post(repeat(R"({"a":)", 10'000) + "1" + repeat("}", 10'000)), 400);
  EXPECT_EQ(post(repeat("[", 1'000'000)), 400);
  EXPECT_EQ(post("{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}"), 400);
  EXPECT_EQ(post(R"({"messages":[{"role":"user","content":"\ud800"}]})"), 400);
  EXPECT_EQ(post(R"({"temperature":NaN,"messages":[]})"), 400);
  EXPECT_EQ(post(R"({"temperature":1e308,"messages":[{"role":"user","content":"x"}]})"), 400);
  EXPECT_EQ(post(R"({"temperature":1e999,"messages":[{"role":"user","content":"x"}]})"), 400);
  EXPECT_EQ(post(R"({"n":1000000000,"messages":[{"role":"user","content":"x"}]})"), 400);
  EXPECT_EQ(post(R"({"n":1,"n":2,"messages":[{"role":"user","content":"x"}]})"), 400);
  EXPECT_EQ(post(""), 400);
  EXPECT_EQ(post("null"), 400);
  EXPECT_EQ(post("[1]"), 400);
  EXPECT_EQ(post("\"text\""), 400);
  EXPECT_EQ(post(std::string(1000, '\0')), 400);
}

TEST_F(Hostile, ControlCharactersAndZeroBytesInText) {
  const Response response = server_->post("/completion", {{"prompt", std::string("a\0\x01\x7f#0", 6)}});
  EXPECT_EQ(response.status, 200);
}

TEST_F(Hostile, RequestsThatAreNoHttp) {
  const std::string body = R"({"prompt":"#0"})";
  const std::string length = "Content-Length: " + std::to_string(body.size()) + "\r\n";
  const std::string head = "POST /completion HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(status("hello\r\n\r\n"), 400);
  EXPECT_EQ(status("GET\r\n\r\n"), 400);
  EXPECT_EQ(status("GET /health HTTP/9.9\r\n\r\n"), 400);
  EXPECT_EQ(status("GET health HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(status("GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400);
  EXPECT_EQ(status("GET /he\0alth HTTP/1.1\r\nHost: x\r\n\r\n"s), 400);
  EXPECT_EQ(status("GET /health HTTP/1.1\r\nHo st: x\r\n\r\n"), 400);
  // Smuggling: two lengths, a length and chunks, signs and other notations.
  EXPECT_EQ(status(head + length + "Transfer-Encoding: chunked\r\n\r\n" + body), 400);
  EXPECT_EQ(status(head + "Transfer-Encoding: chunked\r\n" + length + "\r\n" + body), 400);
  EXPECT_EQ(status(head + length + "Content-Length: 3\r\n\r\n" + body), 400);
  EXPECT_EQ(status(head + "Content-Length: +5\r\n\r\n" + body), 400);
  EXPECT_EQ(status(head + "Content-Length: -2\r\n\r\n" + body), 400);
  EXPECT_EQ(status(head + "Content-Length: 0x5\r\n\r\n" + body), 400);
  EXPECT_EQ(status(head + "Content-Length: 99999999999999999999999\r\n\r\n" + body), 400);
  for (const char* size : {"-2", "0x5", "10000000000000000", "ffffffffffffffffff", "zz", ""}) {
    EXPECT_THAT(status(head + "Transfer-Encoding: chunked\r\n\r\n" + size + "\r\n" + body + "\r\n0\r\n\r\n"),
                AnyOf(400, 413))
        << size;
  }
}

TEST_F(Hostile, HeadersWithoutEnd) {
  EXPECT_EQ(status("GET /health HTTP/1.1\r\nHost: x\r\nX: " + std::string(1'000'000, 'a') + "\r\n\r\n"), 431);
  EXPECT_EQ(status("GET /health HTTP/1.1\r\n" + repeat("X: y\r\n", 100'000) + "\r\n"), 431);
  EXPECT_EQ(status("GET /" + std::string(1'000'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"), 431);
}

TEST_F(Hostile, AMillionChunks) {
  World world;
  world.scripts = {"fine"};
  const TestServer server(world);
  RawClient client(server.port());
  const std::string body = R"({"prompt":"#0")" + std::string(300'000, ' ') + "}";
  std::string bytes = "POST /completion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char c : body) {
    bytes += "1\r\n";
    bytes += c;
    bytes += "\r\n";
  }
  client.send(bytes + "0\r\n\r\n");
  EXPECT_EQ(client.response().json()["content"], "fine");
}

TEST_F(Hostile, SlowHeadersBodiesAndIdleConnections) {
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<RawClient>(port()));
    clients.back()->send(i % 3 == 0   ? "GET /heal"
                         : i % 3 == 1 ? "POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
                                      : "");
  }
  for (int tick = 0; tick < 8; ++tick) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    for (size_t i = 0; i < clients.size(); ++i) {
      if (i % 3 != 2) {
        clients[i]->send(" ");  // a byte now and then prolongs nothing
      }
    }
    EXPECT_EQ(server_->get("/health").status, 200);
  }
  for (size_t i = 0; i < clients.size(); ++i) {
    EXPECT_TRUE(clients[i]->closed_within(3000)) << i;
    if (i % 3 != 2) {
      EXPECT_THAT(clients[i]->buffer(), HasSubstr("408"));
    }
  }
}

TEST_F(Hostile, RequestsCutAtEveryByte) {
  const std::string bytes = RawClient::bytes("POST", "/completion", R"({"prompt":"#0","stream":true})");
  for (size_t n = 0; n < bytes.size(); ++n) {
    RawClient client(port());
    client.send(bytes.substr(0, n));
    if (n % 2 == 0) {
      client.reset();
    }
  }
}

TEST_F(Hostile, RandomBytes) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string bytes =
        i % 2 == 0 ? ""
                   : RawClient::bytes("POST", "/v1/chat/completions",
                                      R"({"messages":[{"role":"user","content":"#0"}],"stream":true})");
    if (bytes.empty()) {
      bytes.resize(random() % 500);
      for (char& c : bytes) {
        c = static_cast<char>(random());
      }
    } else {
      for (int k = 0; k < 3; ++k) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
    }
    RawClient client(port());
    client.send(bytes);
    client.half_close();
    client.closed_within(1000);
  }
}

TEST_F(Hostile, ExpectContinue) {
  RawClient client(port());
  const std::string body = R"({"prompt":"#0"})";
  client.send("POST /completion HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n");
  ASSERT_TRUE(client.receive_until("100 Continue\r\n\r\n"));
  client.send(body);
  EXPECT_EQ(client.response().json()["content"], "fine");
  // Refused before a byte of the body is asked for.
  RawClient refused(port());
  refused.send(
      "POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(refused.response().status, 404);
}

TEST_F(Hostile, HeadersCannotBeInjected) {
  const Response response = server_->ask("GET", "/health", "", "Origin: http://a\tb\r\n");
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.headers.contains("x-injected"));
  const Response path = server_->get("/%0d%0aX-Injected:%201");
  EXPECT_EQ(path.status, 404);
  EXPECT_FALSE(path.headers.contains("x-injected"));
}

TEST_F(Hostile, InternalErrorsShowNoInsides) {
  server_->controls().broken = true;
  const Response response = server_->post("/completion", {{"prompt", "#0"}});
  EXPECT_EQ(response.status, 500);
  EXPECT_THAT(response.body, testing::Not(HasSubstr("secret")));
  server_->controls().broken = false;
}

TEST(LostDevice, EndsRequestsWith500AndThenTheServer) {
  World world;
  world.scripts = {"fine"};
  TestServer server(world);
  ASSERT_EQ(server.get("/health").status, 200);
  // Four run, one waits for a slot.
  server.controls().held = true;
  std::vector<std::unique_ptr<RawClient>> clients;
  const std::string body = Json{{"prompt", "#0"}}.dump();
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.port()));
    ASSERT_TRUE(clients.back()->send("POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                                     std::to_string(body.size()) + "\r\n\r\n" + body));
  }
  for (int i = 0; i < 5000 && server.busy_slots() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_GT(server.busy_slots(), 0);
  server.controls().lost = true;
  server.controls().held = false;
  int failed = 0;
  for (const auto& client : clients) {
    const Response response = client->response();
    EXPECT_TRUE(response.status == 500 || response.status == 503) << response.status;  // 503: came too late
    EXPECT_THAT(response.body, testing::Not(HasSubstr("secret")));
    failed += response.status == 500 ? 1 : 0;
  }
  EXPECT_GT(failed, 0);
  EXPECT_EQ(server.join(), 0);  // nobody asked it to stop
  EXPECT_TRUE(server.server().device_lost());
}

TEST(Connections, AreBounded) {
  World world;
  world.scripts = {"fine"};
  world.options.limits.max_connections = 20;
  const TestServer server(world);
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.port()));
    ASSERT_EQ(clients.back()->ask("GET", "/health").status, 200);
  }
  RawClient extra(server.port());
  const Response refused = extra.response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.header("retry-after"), "");
  clients.pop_back();
  for (int i = 0; i < 200; ++i) {
    RawClient again(server.port());
    if (again.ask("GET", "/health").status == 200) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL() << "a place that became free was not given away";
}

}  // namespace
}  // namespace fl::server

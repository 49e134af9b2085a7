// Everything that is not a generation: information, keys, CORS, methods, the two phases of the server's life.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/un.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::chat;
using test::Json;
using test::RawClient;
using test::Response;
using test::TestServer;
using test::World;
using testing::HasSubstr;

TEST(Routes, WhileTheModelLoads) {
  World world;
  world.load = false;
  TestServer server(world);
  for (const char* path : {"/health", "/v1/models", "/nowhere"}) {
    const Response response = server.get(path);
    EXPECT_EQ(response.status, 503);
    EXPECT_EQ(response.json()["error"]["message"], "Loading model");
    EXPECT_EQ(response.json()["error"]["type"], "unavailable_error");
    EXPECT_NE(response.header("retry-after"), "");
  }
  EXPECT_EQ(server.post("/v1/chat/completions", chat("x")).status, 503);
  EXPECT_EQ(server.ask("OPTIONS", "/v1/models").status, 200);
  ASSERT_TRUE(server.server().set_model(server.loaded()).has_value());
  EXPECT_EQ(server.get("/health").status, 200);
}

TEST(Routes, ATemplateThatCannotRenderIsSaidAtTheStart) {
  World world;
  world.load = false;
  TestServer server(world);
  LoadedModel model = server.loaded();
  model.chat_template = chat::Template::compile("{{ raise_exception('never') }}").value();
  const Status set = server.server().set_model(std::move(model));
  ASSERT_FALSE(set.has_value());
  EXPECT_THAT(set.error().message, HasSubstr("never"));
  EXPECT_EQ(server.get("/health").status, 503);
}

TEST(Routes, PropsHoldTheLimitsWhenTheyWereMeasured) {
  World world;
  world.load = false;
  TestServer server(world);
  LoadedModel model = server.loaded();
  model.limits = {3e12, 5e14};
  ASSERT_TRUE(server.server().set_model(std::move(model)).has_value());
  const Json limits = server.get("/props").json()["limits"];
  EXPECT_EQ(limits["read_bytes_per_second"], 3e12);
  EXPECT_EQ(limits["operations_per_second"], 5e14);
  EXPECT_NE(limits["device"], "");
  EXPECT_EQ(TestServer().get("/props").json()["limits"], Json::object());
}

TEST(Routes, APortInUseIsSaidBeforeAnyModel) {
  const TestServer server;
  ServerOptions options;
  options.port = server.port();
  const auto second = Server::listen(options);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, ErrorCode::address);
  EXPECT_THAT(second.error().message, HasSubstr(std::to_string(server.port())));
  options.hosts = {"no.such.host.invalid"};
  EXPECT_EQ(Server::listen(options).error().code, ErrorCode::address);
  options.hosts = {};
  EXPECT_EQ(Server::listen(options).error().code, ErrorCode::invalid_argument);
  options = {};
  options.port = 0;
  options.defaults.sampling.top_p = 2;
  EXPECT_EQ(Server::listen(options).error().code, ErrorCode::invalid_argument);
  options.defaults.sampling.top_p = 1;
  options.api_prefix = "no-slash";
  EXPECT_EQ(Server::listen(options).error().code, ErrorCode::invalid_argument);
}

TEST(Routes, Models) {
  World world;
  world.options.aliases = {"qwen35", "a-name"};
  const TestServer server(world);
  for (const char* path : {"/models", "/v1/models"}) {
    const Json list = server.get(path).json();
    EXPECT_EQ(list["data"][0]["id"], "a-name");  // the first in the alphabet
    EXPECT_EQ(list["data"][0]["aliases"], Json::array({"a-name", "qwen35"}));
    EXPECT_EQ(list["data"][0]["meta"]["n_ctx"], 1024);
    EXPECT_EQ(list["data"][0]["meta"]["n_params"], 1234);
    EXPECT_EQ(list["models"][0]["capabilities"], Json::array({"completion"}));
  }
  EXPECT_EQ(server.get("/v1/models/qwen35").status, 200);
  EXPECT_EQ(server.get("/v1/models/q%77en35").status, 200);
  EXPECT_EQ(server.get("/v1/models/other").status, 404);
}

TEST(Routes, PropsAndSlots) {
  World world;
  world.scripts = {"hi"};
  const TestServer server(world);
  const Json props = server.get("/props").json();
  EXPECT_EQ(props["total_slots"], 4);
  EXPECT_EQ(props["default_generation_settings"]["n_ctx"], 1024);
  EXPECT_EQ(props["default_generation_settings"]["params"]["temperature"], 0.0);
  EXPECT_EQ(props["eos_token"], "<|im_end|>");
  EXPECT_THAT(props["chat_template"].get<std::string>(), HasSubstr("<|im_start|>"));
  EXPECT_EQ(props["chat_template_caps"]["supports_tools"], true);
  EXPECT_EQ(props["chat_template_caps"]["supports_parallel_tool_calls"], true);
  EXPECT_EQ(props["chat_template_caps"]["supports_reasoning_effort"], false);
  EXPECT_EQ(server.post("/props", Json::object()).status, 501);

  Json slots = server.get("/slots").json();
  ASSERT_EQ(slots.size(), 4U);
  EXPECT_FALSE(slots[1].contains("params"));
  EXPECT_EQ(server.post("/completion", {{"prompt", "#0"}, {"id_slot", 1}, {"temperature", 0.5}}).status, 200);
  ASSERT_TRUE(server.idle_within(1000));
  slots = server.get("/slots").json();
  EXPECT_EQ(slots[1]["is_processing"], false);
  EXPECT_EQ(slots[1]["params"]["temperature"], 0.5);
  EXPECT_EQ(slots[1]["next_token"][0]["n_remain"], -1);
  EXPECT_EQ(slots[1]["next_token"][0]["n_decoded"], 0);
  EXPECT_EQ(slots[1]["n_prompt_tokens_processed"], 2);
  EXPECT_EQ(slots[1]["n_prompt_tokens_cache"], 0);
  EXPECT_EQ(server.get("/slots?fail_on_no_slot=1").status, 200);
  world.options.slots = false;
  world.options.props = true;
  const TestServer other(world);
  EXPECT_EQ(other.get("/slots").status, 501);
  EXPECT_EQ(other.post("/props", Json::object()).json(), Json({{"success", true}}));
}

TEST(Routes, SlotsOfABusyServer) {
  World world;
  world.engine.n_slots = 1;
  TestServer server(world);
  server.controls().held = true;
  RawClient client(server.port());
  client.send(RawClient::bytes("POST", "/completion", R"({"prompt":"abc","n_predict":5})"));
  for (int i = 0; i < 1000 && server.busy_slots() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(server.get("/slots?fail_on_no_slot=1").status, 503);
  EXPECT_EQ(server.get("/health").status, 200);
  server.controls().held = false;
  EXPECT_EQ(client.response().status, 200);
}

TEST(Routes, EraseASlot) {
  World world;
  world.scripts = {"hi"};
  {
    const TestServer server(world);
    EXPECT_EQ(server.post("/slots/0?action=erase", Json::object()).status, 501);
  }
  world.options.slot_erase = true;
  const TestServer server(world);
  const std::string prompt = std::string(200, 'x') + "#0";
  const auto cached = [&] {
    return server.post("/completion", {{"prompt", prompt}, {"id_slot", 2}})
        .json()["timings"]["cache_n"]
        .get<int>();
  };
  EXPECT_EQ(cached(), 0);
  EXPECT_GT(cached(), 0);
  ASSERT_TRUE(server.idle_within(1000));
  const Response erased = server.ask("POST", "/slots/2?action=erase");
  EXPECT_EQ(erased.status, 200) << erased.body;
  EXPECT_EQ(erased.json()["id_slot"], 2);
  EXPECT_GT(erased.json()["n_erased"], 0);
  EXPECT_EQ(cached(), 0);
  EXPECT_EQ(server.post("/slots/9?action=erase", Json::object()).status, 400);
  EXPECT_EQ(server.post("/slots/-1?action=erase", Json::object()).status, 400);
  EXPECT_EQ(server.post("/slots/x?action=erase", Json::object()).status, 400);
  EXPECT_EQ(server.post("/slots/1?action=burn", Json::object()).status, 400);
  EXPECT_EQ(server.post("/slots/1", Json::object()).status, 400);
  EXPECT_EQ(server.post("/slots/1?action=save", Json::object()).status, 501);
  EXPECT_EQ(server.get("/slots/1").status, 405);
}

TEST(Routes, TokenizeAndBack) {
  const TestServer server;
  const Json ids = server.post("/tokenize", {{"content", "the <|im_end|> lo"}}).json()["tokens"];
  EXPECT_EQ(ids.size(), 5U);  // the, space, <|im_end|>, space, lo
  EXPECT_EQ(server.post("/detokenize", {{"tokens", ids}}).json()["content"], "the <|im_end|> lo");
  EXPECT_GT(
      server.post("/tokenize", {{"content", "<|im_end|>"}, {"parse_special", false}}).json()["tokens"].size(),
      5U);
  const Json pieces = server.post("/tokenize", {{"content", "é"}, {"with_pieces", true}}).json()["tokens"];
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0]["piece"], Json::array({0xC3}));  // no text by itself
  EXPECT_EQ(server.post("/tokenize", Json::object()).json()["tokens"], Json::array());
  EXPECT_EQ(server.post("/detokenize", Json::object()).json()["content"], "");
  EXPECT_EQ(server.post("/tokenize", {{"content", Json::array({"a", 7})}}).json()["tokens"].size(), 2U);
  EXPECT_EQ(server.post("/detokenize", {{"tokens", Json::array({1, "a"})}}).status, 400);
  EXPECT_EQ(server.post("/detokenize", {{"tokens", Json::array({1 << 20})}}).status, 400);
  EXPECT_EQ(server.post("/detokenize", {{"tokens", Json::array({0xC3})}}).status, 200);
}

TEST(Routes, Metrics) {
  World world;
  world.scripts = {"hello"};
  {
    const TestServer server(world);
    EXPECT_EQ(server.get("/metrics").status, 501);
  }
  world.options.metrics = true;
  const TestServer server(world);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(server.post("/completion", {{"prompt", "ab#0"}, {"cache_prompt", false}}).status, 200);
  }
  ASSERT_TRUE(server.idle_within(1000));
  const Response response = server.get("/metrics");
  EXPECT_THAT(response.header("content-type"), HasSubstr("text/plain; version=0.0.4"));
  const std::string& text = response.body;
  EXPECT_THAT(text, HasSubstr("llamacpp:prompt_tokens_total 12\n"));
  EXPECT_THAT(text, HasSubstr("llamacpp:tokens_predicted_total 15\n"));
  EXPECT_THAT(text, HasSubstr("llamacpp:requests_processing 0\n"));
  EXPECT_THAT(text, HasSubstr("llamacpp:requests_deferred 0\n"));
  EXPECT_THAT(text, HasSubstr("llamacpp:time_to_first_token_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("llamacpp:inter_token_seconds_count 9\n"));
  for (const char* name :
       {"prompt_tokens_cached_total", "prompt_seconds_total", "tokens_predicted_seconds_total",
        "n_decode_total", "n_tokens_max", "prompt_tokens_seconds", "predicted_tokens_seconds",
        "n_busy_slots_per_decode", "kv_cache_usage_ratio"}) {
    EXPECT_THAT(text, HasSubstr(std::string("# TYPE llamacpp:") + name + " ")) << name;
  }
  EXPECT_THAT(text, HasSubstr("http_responses_total{class=\"2xx\"}"));
  // The rates cover the time since the last look.
  EXPECT_THAT(server.get("/metrics").body, HasSubstr("llamacpp:predicted_tokens_seconds 0\n"));
}

TEST(Routes, Keys) {
  World world;
  world.options.api_keys = {"sekret", "other"};
  world.scripts = {"hi"};
  const TestServer server(world);
  const auto status = [&](const std::string& headers, const std::string& path = "/v1/models") {
    return server.ask("GET", path, "", headers).status;
  };
  EXPECT_EQ(status(""), 401);
  EXPECT_EQ(status("Authorization: Bearer sekret\r\n"), 200);
  EXPECT_EQ(status("Authorization: Bearer other\r\n"), 200);
  EXPECT_EQ(status("Authorization: sekret\r\n"), 200);
  EXPECT_EQ(status("X-Api-Key: other\r\n"), 200);
  EXPECT_EQ(status("Authorization: Bearer wrong\r\nX-Api-Key: other\r\n"), 401);  // the first header counts
  EXPECT_EQ(status("Authorization: Bearer sekre\r\n"), 401);
  EXPECT_EQ(status("Authorization: Bearer sekrett\r\n"), 401);
  EXPECT_EQ(status("Authorization: Bearer \r\n"), 401);
  EXPECT_EQ(status("Authorization: Bearer sekret\r\nAuthorization: Bearer x\r\n"), 400);
  EXPECT_EQ(status("", "/health"), 200);
  EXPECT_EQ(status("", "/v1/health"), 200);
  EXPECT_EQ(status("", "/"), 200);
  EXPECT_EQ(status("", "/nowhere"), 401);
  const Response refused = server.get("/props");
  EXPECT_EQ(refused.json()["error"]["type"], "authentication_error");
  EXPECT_EQ(refused.json()["error"]["message"], "Invalid API Key");

  // Chats of two keys share no cached text.
  const std::string body = Json({{"prompt", std::string(300, 'x') + "#0"}, {"id_slot", 0}}).dump();
  const auto cached = [&](const char* key) {
    const Response response =
        server.ask("POST", "/completion", body, std::string("X-Api-Key: ") + key + "\r\n");
    return response.json()["timings"]["cache_n"].get<int>();
  };
  EXPECT_EQ(cached("sekret"), 0);
  EXPECT_GT(cached("sekret"), 0);
  EXPECT_EQ(cached("other"), 0);
}

TEST(Routes, KeyFiles) {
  const std::string path = testing::TempDir() + "/freelunch_keys_" + std::to_string(::getpid());
  std::ofstream(path) << "# comment\nfirst\r\n\nsecond \n";
  EXPECT_EQ(read_api_keys(path).value(), (std::vector<std::string>{"first", "second"}));
  std::ofstream(path) << "# only\n";
  EXPECT_FALSE(read_api_keys(path).has_value());
  ::unlink(path.c_str());
  EXPECT_FALSE(read_api_keys(path).has_value());
}

TEST(Routes, Cors) {
  {
    const TestServer server;
    EXPECT_EQ(server.ask("GET", "/health", "", "Origin: http://a.example\r\n")
                  .header("access-control-allow-origin"),
              "http://a.example");
    const Response preflight =
        server.ask("OPTIONS", "/v1/chat/completions", "", "Origin: http://a.example\r\n");
    EXPECT_EQ(preflight.status, 200);
    EXPECT_EQ(preflight.body, "");
    EXPECT_THAT(preflight.header("content-type"), HasSubstr("text/html"));
    EXPECT_EQ(preflight.header("access-control-allow-credentials"), "true");
    EXPECT_EQ(preflight.header("access-control-allow-methods"), "GET, POST, DELETE, OPTIONS");
    EXPECT_EQ(preflight.header("access-control-allow-headers"), "*");
  }
  World world;
  world.options.cors.origins = "localhost";
  const TestServer local(world);
  EXPECT_EQ(local.ask("GET", "/health", "", "Origin: http://localhost:3000\r\n")
                .header("access-control-allow-origin"),
            "http://localhost:3000");
  for (const char* origin : {"http://localhost.evil.example", "http://evil.example", "null"}) {
    EXPECT_FALSE(local.ask("GET", "/health", "", std::string("Origin: ") + origin + "\r\n")
                     .headers.contains("access-control-allow-origin"));
  }
  world.options.cors.origins = "https://my.site";
  const TestServer fixed(world);
  EXPECT_EQ(fixed.ask("GET", "/health", "", "Origin: http://b\r\n").header("access-control-allow-origin"),
            "https://my.site");
}

TEST(Routes, MethodsPrefixAndWhatIsNotThere) {
  World world;
  const TestServer server(world);
  const Response missing = server.get("/nowhere");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(missing.json()["error"]["type"], "not_found_error");
  const Response wrong = server.get("/completion");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.header("allow"), "POST");
  EXPECT_EQ(wrong.json()["error"]["code"], 405);
  EXPECT_EQ(server.ask("DELETE", "/v1/models").status, 405);
  EXPECT_EQ(server.ask("BREW", "/v1/models").status, 405);
  EXPECT_EQ(server.ask("HEAD", "/health").status, 200);
  EXPECT_EQ(server.ask("HEAD", "/health").header("content-length"),
            std::to_string(std::string(R"({"status":"ok"})").size()));
  EXPECT_EQ(server.get("http://some.host/health").status, 200);
  EXPECT_EQ(server.get("/health/").status, 200);
  for (const char* path : {"/v1/embeddings", "/infill", "/v1/responses", "/v1/messages", "/rerank"}) {
    const Response response = server.post(path, Json::object());
    EXPECT_EQ(response.status, 501) << path;
    EXPECT_EQ(response.json()["error"]["type"], "not_supported_error");
  }
  EXPECT_THAT(server.get("/").body, testing::StartsWith("<!doctype html>"));
  world.options.ui = false;
  world.options.api_prefix = "/llm";
  const TestServer prefixed(world);
  EXPECT_EQ(prefixed.get("/llm/").status, 404);
  EXPECT_EQ(prefixed.get("/llm/health").status, 200);
  EXPECT_EQ(prefixed.get("/health").status, 404);
}

TEST(Routes, KeepAliveAndPipelining) {
  World world;
  world.scripts = {"abc"};
  const TestServer server(world);
  RawClient client(server.port());
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(client.ask("GET", "/health").status, 200);
    EXPECT_EQ(client.ask("POST", "/completion", R"({"prompt":"#0"})").json()["content"], "abc");
  }
  // Three requests at once, answered in order; the second while the first is still being made.
  client.send(RawClient::bytes("POST", "/completion", R"({"prompt":"#0","stream":true})") +
              RawClient::bytes("GET", "/health") +
              RawClient::bytes("POST", "/completion", R"({"prompt":"#0"})"));
  EXPECT_THAT(client.response().body, HasSubstr("data: "));
  EXPECT_EQ(client.response().body, R"({"status":"ok"})");
  EXPECT_EQ(client.response().json()["content"], "abc");
  EXPECT_EQ(client.ask("GET", "/health", "", "Connection: close\r\n").header("connection"), "close");
  EXPECT_TRUE(client.closed_within(2000));
}

TEST(Routes, OldClientsGetStreamsThatEndWithTheConnection) {
  World world;
  world.scripts = {"abc"};
  const TestServer server(world);
  RawClient client(server.port());
  const std::string body = R"({"prompt":"#0","stream":true})";
  client.send("POST /completion HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
              body);
  const Response response = client.response();
  EXPECT_FALSE(response.headers.contains("transfer-encoding"));
  EXPECT_EQ(response.header("connection"), "close");
  std::string text;
  for (const Json& event : test::events(response.body)) {
    text += event["content"].get<std::string>();
  }
  EXPECT_EQ(text, "abc");
}

TEST(Routes, UnixSockets) {
  const std::string path = testing::TempDir() + "/freelunch_" + std::to_string(::getpid()) + ".sock";
  World world;
  world.options.hosts = {path};
  {
    const TestServer server(world);
    EXPECT_EQ(server.port(), 0);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string request = RawClient::bytes("GET", "/health", "", "Connection: close\r\n");
    ASSERT_EQ(::send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
    char bytes[4096] = {};
    ASSERT_GT(::recv(fd, bytes, sizeof bytes - 1, 0), 0);
    EXPECT_THAT(bytes, testing::StartsWith("HTTP/1.1 200"));
    ::close(fd);
    ServerOptions second;
    second.hosts = {path};
    EXPECT_EQ(Server::listen(second).error().code, ErrorCode::address);
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0);  // removed at the end
}

}  // namespace
}  // namespace fl::server

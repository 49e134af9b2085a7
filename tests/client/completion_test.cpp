#include "client/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/scripted_server.h"

namespace fl::client {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using test::ok_head;
using test::ScriptedServer;
using testing::HasSubstr;

std::string event(const Json& json) {
  return "data: " + json.dump() + "\n\n";
}
std::string delta(const Json& fields) {
  return event({{"choices", {{{"index", 0}, {"delta", fields}}}}});
}
std::string finish(const char* reason) {
  return event({{"choices", {{{"index", 0}, {"delta", Json::object()}, {"finish_reason", reason}}}}});
}

Completion ask(const ScriptedServer& server, const CompletionOptions& options = {}) {
  const Endpoint endpoint = parse_endpoint(server.url() + "/v1/", "").value();
  return complete(endpoint, "/v1/chat/completions", {{"stream", true}, {"messages", Json::array()}}, options);
}

TEST(Completion, AStreamWithReasoningUsageAndTimings) {
  const ScriptedServer server([](const std::string& request) {
    EXPECT_THAT(request, HasSubstr("POST /v1/chat/completions "));
    return std::vector<ScriptedServer::Piece>{
        {ok_head("text/event-stream") + delta({{"role", "assistant"}, {"content", nullptr}})},
        {delta({{"reasoning_content", "hm"}}), milliseconds(40)},
        {delta({{"content", "Hello"}}), milliseconds(40)},
        {delta({{"content", " you"}}) + finish("stop")},
        {event({{"choices", Json::array()},
                {"usage",
                 {{"prompt_tokens", 11},
                  {"completion_tokens", 3},
                  {"prompt_tokens_details", {{"cached_tokens", 4}}}}},
                {"timings",
                 {{"prompt_ms", 7.5},
                  {"prompt_n", 7},
                  {"predicted_n", 3},
                  {"predicted_ms", 30.0},
                  {"cache_n", 4}}}}) +
         "data: [DONE]\n\n"}};
  });
  const Completion got = ask(server);
  EXPECT_EQ(got.outcome, Outcome::ok) << got.error;
  EXPECT_EQ(got.reasoning, "hm");
  EXPECT_EQ(got.content, "Hello you");
  EXPECT_EQ(got.chunk_seconds.size(), 3U);
  EXPECT_GE(got.first_token, 0.040);
  EXPECT_GE(got.first_answer, got.first_token + 0.040);
  EXPECT_GE(got.total, got.first_answer);
  EXPECT_EQ(got.usage.prompt_tokens, 11);
  EXPECT_EQ(got.usage.completion_tokens, 3);
  EXPECT_EQ(got.usage.cached_tokens, 4);
  ASSERT_TRUE(got.timings);
  EXPECT_EQ(got.timings->prompt_n, 7);
}

TEST(Completion, AServerThatAnswers500) {
  const ScriptedServer server([](const std::string&) {
    return std::vector<ScriptedServer::Piece>{
        {"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n{\"error\":{\"message\":\"out of luck\"}}"}};
  });
  const Completion got = ask(server);
  EXPECT_EQ(got.outcome, Outcome::error);
  EXPECT_EQ(got.http_status, 500);
  EXPECT_THAT(got.error, HasSubstr("out of luck"));
}

TEST(Completion, AStreamThatStopsInTheMiddle) {
  const ScriptedServer server([](const std::string&) {
    return std::vector<ScriptedServer::Piece>{{ok_head("text/event-stream") + delta({{"content", "Half"}})}};
  });
  const Completion got = ask(server);
  EXPECT_EQ(got.outcome, Outcome::truncated);
  EXPECT_EQ(got.content, "Half");
}

TEST(Completion, AnErrorEventAndGarbage) {
  for (const std::string& tail :
       {std::string("data: {\"error\":{\"message\":\"died\"}}\n\n"), std::string("data: {nonsense\n\n")}) {
    const ScriptedServer server([&](const std::string&) {
      return std::vector<ScriptedServer::Piece>{
          {ok_head("text/event-stream") + delta({{"content", "x"}}) + tail}};
    });
    const Completion got = ask(server);
    EXPECT_EQ(got.outcome, Outcome::error);
    EXPECT_FALSE(got.error.empty());
  }
}

TEST(Completion, LengthIsTruncatedUnlessAskedFor) {
  const ScriptedServer server([](const std::string&) {
    return std::vector<ScriptedServer::Piece>{
        {ok_head("text/event-stream") + delta({{"content", "x"}}) + finish("length")}};
  });
  EXPECT_EQ(ask(server).outcome, Outcome::truncated);
  CompletionOptions options;
  options.length_is_ok = true;
  EXPECT_EQ(ask(server, options).outcome, Outcome::ok);
}

TEST(Completion, ASilentServerTimesOut) {
  const ScriptedServer server([](const std::string&) {
    return std::vector<ScriptedServer::Piece>{{ok_head("text/event-stream")},
                                              {finish("stop"), milliseconds(900)}};
  });
  CompletionOptions options;
  options.limits.total_seconds = 0.2;
  EXPECT_EQ(ask(server, options).outcome, Outcome::timeout);
}

TEST(Completion, ACancelledRequestEnds) {
  const ScriptedServer server([](const std::string&) {
    return std::vector<ScriptedServer::Piece>{{ok_head("text/event-stream") + delta({{"content", "x"}})},
                                              {finish("stop"), milliseconds(3000)}};
  });
  std::atomic<bool> cancel = false;
  CompletionOptions options;
  options.limits.cancel = &cancel;
  options.on_text = [&](std::string_view, bool) { cancel = true; };
  EXPECT_EQ(ask(server, options).outcome, Outcome::cancelled);
}

TEST(Completion, AnEndlessAnswerIsCut) {
  const ScriptedServer server([](const std::string&) {
    std::vector<ScriptedServer::Piece> pieces{{ok_head("text/event-stream")}};
    for (int i = 0; i < 100; ++i) {
      pieces.push_back({delta({{"content", std::string(10000, 'x')}})});
    }
    return pieces;
  });
  CompletionOptions options;
  options.limits.max_bytes = 100000;
  const Completion got = ask(server, options);
  EXPECT_EQ(got.outcome, Outcome::error);
  EXPECT_THAT(got.error, HasSubstr("longer than 100000 bytes"));
}

TEST(Completion, NobodyThere) {
  const Completion got = complete({"http://127.0.0.1:9", ""}, "/v1/completions", {{"prompt", "x"}}, {});
  EXPECT_EQ(got.outcome, Outcome::error);
  EXPECT_THAT(got.error, HasSubstr("127.0.0.1:9"));
}

TEST(Endpoint, UrlsAreChecked) {
  EXPECT_EQ(parse_endpoint("http://a:1/v1/", "k").value().url, "http://a:1");
  EXPECT_EQ(parse_endpoint("https://a/openai/v1", "").value().url, "https://a/openai");
  for (const char* url : {"", "a:80", "ftp://a", "http://", "file:///etc/passwd"}) {
    EXPECT_FALSE(parse_endpoint(url, "")) << url;
  }
}

}  // namespace
}  // namespace fl::client

// /completion and /v1/completions: prompts, stop strings, probabilities, shapes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::Json;
using test::Response;
using test::TestServer;
using test::World;
using testing::HasSubstr;

Json with(Json body, const Json& more) {
  body.update(more);
  return body;
}

struct Native {
  std::string content;
  std::vector<int32_t> tokens;
  Json last;
};

Native native(const std::string& body) {
  Native out;
  for (const Json& event : test::events(body)) {
    out.content += event["content"].get<std::string>();
    for (const Json& id : event["tokens"]) {
      out.tokens.push_back(id.get<int32_t>());
    }
    out.last = event;
  }
  return out;
}

TEST(Completion, ReplyAndStream) {
  World world;
  world.scripts = {"the thing lo and behold\nend"};
  const TestServer server(world);
  const Json body = {{"prompt", "say #0"}, {"return_tokens", true}};
  const Response whole = server.post("/completion", body);
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json reply = whole.json();
  EXPECT_EQ(reply["content"], "the thing lo and behold\nend");
  EXPECT_EQ(reply["stop"], true);
  EXPECT_EQ(reply["stop_type"], "eos");
  EXPECT_EQ(reply["stopping_word"], "");
  EXPECT_EQ(reply["has_new_line"], true);
  EXPECT_EQ(reply["truncated"], false);
  EXPECT_EQ(reply["prompt"], "say #0");
  EXPECT_EQ(reply["model"], "tiny");
  EXPECT_EQ(reply["tokens_evaluated"], 6);
  EXPECT_EQ(reply["tokens_cached"], 6 + reply["tokens"].size());
  EXPECT_EQ(reply["generation_settings"]["temperature"], 0.0);
  const Response stream = server.post("/completion", with(body, {{"stream", true}}));
  const Native heard = native(stream.body);
  EXPECT_EQ(heard.content, reply["content"]);
  EXPECT_EQ(Json(heard.tokens), reply["tokens"]);
  EXPECT_EQ(heard.last["stop"], true);
  EXPECT_EQ(heard.last["content"], "");
  EXPECT_EQ(heard.last["tokens"], Json::array());
  EXPECT_THAT(stream.body, testing::Not(HasSubstr("[DONE]")));
  EXPECT_EQ(server.post("/completions", body).json()["content"], reply["content"]);
  EXPECT_EQ(server.post("/completion", {{"prompt", "say #0"}}).json()["tokens"], Json::array());
}

TEST(Completion, OpenAiShapes) {
  World world;
  world.scripts = {"the end"};
  const TestServer server(world);
  const Json reply = server.post("/v1/completions", {{"prompt", "#0"}}).json();
  EXPECT_EQ(reply["choices"][0]["text"], "the end");
  EXPECT_EQ(reply["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(reply["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(reply["object"], "text_completion");
  EXPECT_EQ(reply["usage"]["prompt_tokens"], 2);
  const auto list = test::events(server.post("/v1/completions", {{"prompt", "#0"}, {"stream", true}}).body);
  std::string text;
  for (size_t i = 0; i + 1 < list.size(); ++i) {
    text += list[i]["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(list[i].contains("usage"), i + 2 == list.size());
    EXPECT_EQ(list[i]["choices"][0]["finish_reason"].is_null(), i + 2 != list.size());
  }
  EXPECT_EQ(text, "the end");
  EXPECT_EQ(list.back(), "[DONE]");
}

TEST(Completion, PromptsInAllForms) {
  World world;
  world.scripts = {"zero", "one"};
  const TestServer server(world);
  const auto content = [&](const Json& prompt) {
    const Response response = server.post("/completion", {{"prompt", prompt}, {"n_predict", 10}});
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json();
  };
  const Json ids = server.post("/tokenize", {{"content", "#1"}}).json()["tokens"];
  EXPECT_EQ(content("#1")["content"], "one");
  EXPECT_EQ(content(ids)["content"], "one");
  EXPECT_EQ(content(Json::array({"#", ids[1]}))["content"], "one");
  EXPECT_EQ(content({{"prompt_string", "#1"}})["content"], "one");
  const Json several = content(Json::array({"#0", "#1", "#0"}));
  ASSERT_EQ(several.size(), 3U);
  EXPECT_EQ(several[0]["content"], "zero");
  EXPECT_EQ(several[1]["content"], "one");
  EXPECT_EQ(several[2]["index"], 2);
  const Json mixed = content(Json::array({"#0", ids, Json::array({"#", ids[1]})}));
  EXPECT_EQ(mixed[1]["content"], "one");
  EXPECT_EQ(mixed[2]["content"], "one");
  // Special tokens written in a raw prompt are parsed.
  EXPECT_EQ(content("<|im_start|>#0")["tokens_evaluated"], 3);

  const auto param = [&](const Json& body) {
    const Response response = server.post("/completion", body);
    EXPECT_EQ(response.status, 400) << response.body;
    return response.json()["error"].value("param", "");
  };
  EXPECT_EQ(param(Json::object()), "prompt");
  EXPECT_EQ(param({{"prompt", nullptr}}), "prompt");
  EXPECT_EQ(param({{"prompt", ""}}), "prompt");
  EXPECT_EQ(param({{"prompt", 5}}), "prompt");
  EXPECT_EQ(param({{"prompt", true}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array()}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array({1, -1})}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array({1, 100000})}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array({1, 1.5})}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array({1, 1e300})}}), "prompt");
  EXPECT_EQ(param({{"prompt", Json::array({"a", Json::array({-5})})}}), "prompt[1]");
  EXPECT_EQ(param({{"prompt", {{"prompt_string", "a"}, {"multimodal_data", Json::array({"aaaa"})}}}}),
            "prompt.multimodal_data");
  EXPECT_EQ(param({{"prompt", std::vector<std::string>(100, "a")}}), "prompt");
}

// A stop string is found wherever the tokens are cut, and never shows.
TEST(Completion, StopStringsAtEveryBorder) {
  const std::string text = "one STOP two";
  World world;
  for (size_t cut = 0; cut < 10; ++cut) {
    // Tokens of one and two bytes: "th", "the" and "lo" are the only longer ones, so the cuts are made by the
    // text.
    world.tokens.push_back({text.substr(0, cut), text.substr(cut)});
  }
  const TestServer server(world);
  for (size_t cut = 0; cut < 10; ++cut) {
    for (const bool stream : {false, true}) {
      const Json body = {{"prompt", "#" + std::to_string(cut)}, {"stop", {"STOP"}}, {"stream", stream}};
      const Response response = server.post("/completion", body);
      const Json last = stream ? native(response.body).last : response.json();
      const std::string content = stream ? native(response.body).content : last["content"].get<std::string>();
      EXPECT_EQ(content, "one ");
      EXPECT_EQ(last["stop_type"], "word");
      EXPECT_EQ(last["stopping_word"], "STOP");
    }
  }
  const auto content = [&](const Json& stop) {
    return server.post("/completion", {{"prompt", "#0"}, {"stop", stop}}).json();
  };
  EXPECT_EQ(content("STOP")["content"], "one ");
  EXPECT_EQ(content("STOPPED")["content"], text);  // a beginning that is none comes out in the end
  EXPECT_EQ(content("two!")["content"], text);
  EXPECT_EQ(content(Json::array({"two", "TOP"}))["content"], "one S");
  EXPECT_EQ(content(Json::array({""}))["content"], text);
  EXPECT_EQ(content("o")["content"], "");
}

TEST(Completion, ServersStopStringsCountWhenARequestHasNone) {
  World world;
  world.scripts = {"a b c d"};
  world.options.defaults.stop = {"c"};
  const TestServer server(world);
  EXPECT_EQ(server.post("/completion", {{"prompt", "#0"}}).json()["content"], "a b ");
  EXPECT_EQ(server.post("/completion", {{"prompt", "#0"}, {"stop", "b"}}).json()["content"], "a ");
}

TEST(Completion, BytesThatAreNoTextYet) {
  World world;
  // The four bytes of a character one by one, then a byte that is never text.
  world.tokens.push_back({"a", "🙂", "b"});
  TestServer server(world);
  const Json body = {{"prompt", "#0"}, {"stream", true}};
  const Response response = server.post("/completion", body);
  std::vector<std::string> texts;
  for (const Json& event : test::events(response.body)) {
    if (event["content"] != "") {
      texts.push_back(event["content"]);
    }
  }
  EXPECT_EQ(texts, (std::vector<std::string>{"a", "🙂", "b"}));
  // Cut in the middle: the rest of the character never comes.
  const Json cut = server.post("/completion", {{"prompt", "#0"}, {"n_predict", 3}}).json();
  EXPECT_EQ(cut["content"], "a\xEF\xBF\xBD");
  EXPECT_EQ(cut["stop_type"], "limit");
}

TEST(Completion, Probabilities) {
  World world;
  world.scripts = {"the end STOP"};
  const TestServer server(world);
  const Json body = {{"prompt", "#0"}, {"n_probs", 3}, {"stop", {" STOP"}}};
  const Json reply = server.post("/completion", body).json();
  const Json probs = reply["completion_probabilities"];
  std::string text;
  for (const Json& entry : probs) {
    text += entry["token"].get<std::string>();
    EXPECT_EQ(entry["top_logprobs"].size(), 3U);
  }
  EXPECT_EQ(text, "the end");  // those of the stop string are dropped
  const Json after = server.post("/completion", with(body, {{"post_sampling_probs", true}}))
                         .json()["completion_probabilities"][0];
  EXPECT_EQ(after["prob"], 1.0);  // greedy
  EXPECT_GE(after["top_probs"].size(), 1U);
  const Json oai = server.post("/v1/completions", {{"prompt", "#0"}, {"logprobs", 2}}).json();
  EXPECT_EQ(oai["choices"][0]["logprobs"]["content"][0]["top_logprobs"].size(), 2U);
}

TEST(Completion, LimitsProgressAndSelection) {
  World world;
  world.scripts = {"0123456789"};
  world.engine.n_ctx_slot = 1024;
  world.engine.max_step_tokens = 128;
  const TestServer server(world);
  const Json limited = server.post("/completion", {{"prompt", "#0"}, {"n_predict", 4}}).json();
  EXPECT_EQ(limited["content"], "0123");
  EXPECT_EQ(limited["stop_type"], "limit");
  EXPECT_EQ(limited["tokens_predicted"], 4);
  const Json selected =
      server
          .post("/completion", {{"prompt", "#0"},
                                {"response_fields", {"content", "generation_settings/n_predict", "nope/x"}}})
          .json();
  EXPECT_EQ(selected, Json({{"content", "0123456789"}, {"generation_settings/n_predict", -1}}));

  const Response stream = server.post(
      "/completion", {{"prompt", std::string(500, 'x') + "#0"}, {"stream", true}, {"return_progress", true}});
  int64_t before = -1;
  int64_t total = 0;
  for (const Json& event : test::events(stream.body)) {
    if (event.contains("prompt_progress")) {
      EXPECT_GE(event["prompt_progress"]["processed"].get<int64_t>(), before);
      before = event["prompt_progress"]["processed"];
      total = event["prompt_progress"]["total"];
    }
  }
  EXPECT_EQ(before, total);
  EXPECT_EQ(total, 502);

  const Response full = server.post("/completion", {{"prompt", std::string(1000, 'x')}});
  EXPECT_EQ(full.json()["truncated"], true);
  EXPECT_EQ(full.json()["stop_type"], "limit");
  const Response over = server.post("/completion", {{"prompt", std::string(1024, 'x')}});
  EXPECT_EQ(over.status, 400);
  EXPECT_EQ(over.json()["error"]["n_prompt_tokens"], 1024);
}

TEST(Completion, TimingsAreFiniteAndAddUp) {
  World world;
  world.scripts = {"0123456789"};
  const TestServer server(world);
  for (const int n : {1, 5, 50}) {
    const Json t = server.post("/completion", {{"prompt", "#0"}, {"n_predict", n}}).json()["timings"];
    for (const auto& [key, value] : t.items()) {
      EXPECT_TRUE(value.is_number()) << key;
    }
    const double n_steps = t["predicted_n"].get<double>() - 1;
    if (n == 1) {
      EXPECT_EQ(t["predicted_per_second"], 0.0);
    } else {
      EXPECT_NEAR(t["predicted_per_second"].get<double>(), 1000 / t["predicted_ms"].get<double>() * n_steps,
                  1e-6);
    }
  }
}

TEST(Completion, SlotsAreChosenModuloTheirNumber) {
  World world;
  world.scripts = {"x"};
  const TestServer server(world);
  for (const int wanted : {0, 3, 6}) {
    EXPECT_EQ(server.post("/completion", {{"prompt", "#0"}, {"id_slot", wanted}}).json()["id_slot"],
              wanted % 4);
  }
}

TEST(Completion, SeedsAndBias) {
  const TestServer server;
  const auto ask = [&](const Json& more) {
    return server.post("/completion", with({{"prompt", "hello"}, {"n_predict", 20}}, more)).json();
  };
  const Json warm = {{"temperature", 50.0}, {"top_k", 0}, {"top_p", 1.0}, {"min_p", 0.0}};
  EXPECT_EQ(ask(with(warm, {{"seed", 7}}))["content"], ask(with(warm, {{"seed", 7}}))["content"]);
  EXPECT_NE(ask(with(warm, {{"seed", 7}}))["content"], ask(with(warm, {{"seed", 8}}))["content"]);
  EXPECT_EQ(ask(with(warm, {{"seed", 7}}))["generation_settings"]["seed"], 7);
  EXPECT_NE(ask(with(warm, {{"seed", -1}}))["content"], ask(with(warm, {{"seed", -1}}))["content"]);
  for (const char* seed : {"18446744073709551615", "-9223372036854775808", "4294967296", "1.0"}) {
    const Response response =
        server.post_text("/completion", std::string(R"({"prompt":"a","n_predict":1,"seed":)") + seed + "}");
    EXPECT_EQ(response.status, 200) << seed << response.body;
  }
  EXPECT_THAT(ask({{"logit_bias", Json::array({Json::array({"z", 1000})})}})["content"].get<std::string>(),
              testing::MatchesRegex("z+"));
  EXPECT_THAT(ask({{"logit_bias", {{"z", 1000}}}})["content"].get<std::string>(),
              testing::MatchesRegex("z+"));
  const Json plain = ask(Json::object());
  const std::string first = plain["content"].get<std::string>().substr(0, 1);
  EXPECT_NE(
      ask({{"logit_bias", Json::array({Json::array({first, false})})}})["content"].get<std::string>().substr(
          0, 1),
      first);
  EXPECT_EQ(ask({{"logit_bias", {{"99999999", 5}}}})["content"], plain["content"]);  // no such token
}

TEST(Completion, IgnoreEos) {
  World world;
  world.scripts = {"short"};
  const TestServer server(world);
  const Json reply =
      server.post("/completion", {{"prompt", "#0"}, {"ignore_eos", true}, {"n_predict", 30}}).json();
  EXPECT_EQ(reply["tokens_predicted"], 30);
  EXPECT_EQ(reply["stop_type"], "limit");
  const Json bias = reply["generation_settings"]["logit_bias"];
  ASSERT_FALSE(bias.empty());
  EXPECT_EQ(bias[0]["bias"], nullptr);
}

TEST(Completion, SamplersByNameAndLetter) {
  const TestServer server;
  for (const Json& samplers :
       {Json::array({"top_k", "temperature"}), Json("kt"), Json::array({"top-k", "temp"})}) {
    const Json reply =
        server.post("/completion", {{"prompt", "a"}, {"n_predict", 1}, {"samplers", samplers}}).json();
    EXPECT_EQ(reply["generation_settings"]["samplers"], Json::array({"top_k", "temperature"}));
  }
}

TEST(Completion, TimeLimitStopsAtANewLine) {
  World world;
  world.scripts = {"one\ntwo three four five six seven eight nine ten"};
  TestServer server(world);
  server.controls().step_us = 3000;
  const Json reply = server.post("/completion", {{"prompt", "#0"}, {"t_max_predict_ms", 20}}).json();
  EXPECT_EQ(reply["stop_type"], "limit");
  EXPECT_THAT(reply["content"].get<std::string>(), testing::StartsWith("one\n"));
  EXPECT_LT(reply["content"].get<std::string>().size(), 45U);
}

}  // namespace
}  // namespace fl::server

// Chat completions: streamed and whole, reasoning, tools, usage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::chat;
using test::Json;
using test::Response;
using test::Spoken;
using test::spoken;
using test::TestServer;
using test::World;
using testing::HasSubstr;

constexpr const char* kChat = "/v1/chat/completions";

Json with(Json body, const Json& more) {
  body.update(more);
  return body;
}

Json message(const Response& response, size_t choice = 0) {
  EXPECT_EQ(response.status, 200) << response.body;
  return response.json().at("choices").at(choice).at("message");
}

// The streamed answer; checks that it adds up to the one that is not streamed.
Spoken both(const TestServer& server, const Json& body) {
  const Response whole = server.post(kChat, body);
  const Response stream = server.post(kChat, with(body, {{"stream", true}}));
  EXPECT_EQ(whole.status, 200) << whole.body;
  EXPECT_EQ(stream.status, 200) << stream.body;
  const Spoken heard = spoken(stream.body);
  const Json said = message(whole);
  EXPECT_EQ(heard.content, said.at("content"));
  EXPECT_EQ(heard.reasoning, said.value("reasoning_content", ""));
  EXPECT_EQ(heard.finish, whole.json()["choices"][0]["finish_reason"]);
  EXPECT_TRUE(heard.done);
  const Json calls = said.value("tool_calls", Json::array());
  EXPECT_EQ(heard.names.size(), calls.size());
  for (size_t i = 0; i < std::min(calls.size(), heard.names.size()); ++i) {
    EXPECT_EQ(heard.names[i], calls[i]["function"]["name"]);
    EXPECT_EQ(heard.arguments[i], calls[i]["function"]["arguments"]);
  }
  return heard;
}

Json weather_tool() {
  return Json::parse(R"([{"type":"function","function":{"name":"weather","description":"d","parameters":
      {"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}}}])");
}

TEST(Chat, WholeAndStreamedAnswersAreTheSame) {
  World world;
  world.scripts = {"I think so.\n</think>\n\nHello, world!", "only thought", "</think>\n\nQuick",
                   "a\n</think>\n\nüöä → 漢字 🙂 the end"};
  const TestServer server(world);
  EXPECT_EQ(both(server, chat("#0")).content, "Hello, world!");
  EXPECT_EQ(both(server, chat("#0")).reasoning, "I think so.\n");
  EXPECT_EQ(both(server, chat("#1")).content, "");
  EXPECT_EQ(both(server, chat("#1")).reasoning, "only thought");
  EXPECT_EQ(both(server, chat("#2")).content, "Quick");
  EXPECT_EQ(both(server, chat("#3")).content, "üöä → 漢字 🙂 the end");
}

TEST(Chat, ShapesOfTheReply) {
  World world;
  world.scripts = {"</think>\n\nHi"};
  const TestServer server(world);
  const Response whole = server.post(kChat, with(chat("#0"), {{"model", "another"}}));
  const Json reply = whole.json();
  EXPECT_EQ(whole.header("content-type"), "application/json; charset=utf-8");
  EXPECT_EQ(reply["model"], "tiny");  // the server's own name
  EXPECT_EQ(reply["object"], "chat.completion");
  EXPECT_THAT(reply["id"].get<std::string>(), testing::StartsWith("chatcmpl-"));
  EXPECT_THAT(reply["system_fingerprint"].get<std::string>(), testing::StartsWith("b"));
  EXPECT_FALSE(reply["choices"][0]["message"].contains("reasoning_content"));  // absent, not empty
  const Json usage = reply["usage"];
  EXPECT_EQ(usage["completion_tokens"], 6);  // </think>, two line breaks, H, i, and the end
  EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int>() + usage["completion_tokens"].get<int>());
}

TEST(Chat, ShapesOfTheStream) {
  World world;
  world.scripts = {"</think>\n\nHi"};
  const TestServer server(world);
  Json body = with(chat("#0"), {{"stream", true}});
  const Response plain = server.post(kChat, body);
  EXPECT_EQ(plain.header("x-accel-buffering"), "no");
  auto list = test::events(plain.body);
  ASSERT_GE(list.size(), 4U);
  EXPECT_EQ(list[0]["choices"][0]["delta"], Json({{"role", "assistant"}, {"content", nullptr}}));
  EXPECT_EQ(list[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(list.back(), "[DONE]");
  const Json& last = list[list.size() - 2];
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(last["choices"][0]["delta"], Json::object());
  EXPECT_TRUE(last.contains("timings"));
  for (size_t i = 0; i + 2 < list.size(); ++i) {
    EXPECT_EQ(list[i]["id"], list[0]["id"]);
    EXPECT_TRUE(list[i]["choices"][0]["finish_reason"].is_null());
    EXPECT_EQ(list[i].contains("timings"), false);
    EXPECT_EQ(list[i]["choices"][0]["delta"].contains("role"), i == 0);
  }
  body["stream_options"] = {{"include_usage", true}};
  list = test::events(server.post(kChat, body).body);
  const Json& usage = list[list.size() - 2];
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_TRUE(usage.contains("timings"));
  EXPECT_GT(usage["usage"]["completion_tokens"], 0);
  EXPECT_EQ(list[list.size() - 3]["choices"][0]["finish_reason"], "stop");
  body["timings_per_token"] = true;
  list = test::events(server.post(kChat, body).body);
  EXPECT_TRUE(list[1].contains("timings"));
}

TEST(Chat, ReasoningFormats) {
  World world;
  world.scripts = {"why\n</think>\n\nanswer"};
  const TestServer server(world);
  const Spoken none = both(server, with(chat("#0"), {{"reasoning_format", "none"}}));
  EXPECT_EQ(none.content, "<think>\nwhy\n</think>\n\nanswer");  // the prompt's own opening in front
  for (const char* format : {"deepseek", "auto", "deepseek-legacy"}) {
    const Spoken split = both(server, with(chat("#0"), {{"reasoning_format", format}}));
    EXPECT_EQ(split.content, "answer");
    EXPECT_EQ(split.reasoning, "why\n");
  }
}

TEST(Chat, ThinkingIsTurnedOffByFlagKwargOrEffort) {
  World world;
  world.scripts = {"answer"};
  for (const Json& more :
       {Json{{"chat_template_kwargs", {{"enable_thinking", false}}}}, Json{{"reasoning_effort", "none"}}}) {
    const TestServer server(world);
    EXPECT_EQ(both(server, with(chat("#0"), more)).content, "answer");
    const Response prompt = server.post("/apply-template", with(chat("#0"), more));
    EXPECT_THAT(prompt.json()["prompt"].get<std::string>(), testing::EndsWith("<think>\n\n</think>\n\n"));
  }
  world.options.defaults.reasoning = Reasoning::off;
  {
    const TestServer server(world);
    EXPECT_EQ(both(server, chat("#0")).content, "answer");
    EXPECT_EQ(both(server, with(chat("#0"), {{"reasoning_format", "none"}})).content,
              "<think>\n\n</think>\n\nanswer");
  }
  world.options.defaults.reasoning = Reasoning::on;
  {
    // Unlike upstream, the request's word counts in front of the flag.
    const TestServer server(world);
    EXPECT_EQ(both(server, with(chat("#0"), {{"reasoning_effort", "none"}})).content, "answer");
    EXPECT_EQ(server.post(kChat, with(chat("#0"), {{"chat_template_kwargs", {{"enable_thinking", "false"}}}}))
                  .status,
              400);
  }
}

TEST(Chat, ReasoningBudget) {
  World world;
  world.scripts = {"one two three four five six seven eight nine ten</think>\n\nanswer"};
  const TestServer server(world);
  // The script's text goes on where it is after the forced tokens; what counts is where the thought ends.
  const Spoken free = both(server, chat("#0"));
  EXPECT_THAT(free.reasoning, HasSubstr("ten"));
  const Spoken tight = both(server, with(chat("#0"), {{"reasoning_budget_tokens", 5}}));
  EXPECT_EQ(tight.reasoning, "one \n");  // the prompt's line break is the first of the five
  const Spoken zero = both(server, with(chat("#0"), {{"thinking_budget_tokens", 0}}));
  EXPECT_EQ(zero.reasoning, "");
  EXPECT_FALSE(zero.content.empty());
  const Spoken message = both(
      server, with(chat("#0"), {{"reasoning_budget_tokens", 5}, {"reasoning_budget_message", " Enough."}}));
  EXPECT_EQ(message.reasoning, "one  Enough.\n");
  world.options.defaults.reasoning_budget = 5;
  const TestServer strict(world);
  EXPECT_EQ(both(strict, with(chat("#0"), {{"reasoning_budget_tokens", 500}})).reasoning, "one \n");
}

TEST(Chat, ToolCalls) {
  World world;
  const std::string call =
      "<tool_call>\n<function=weather>\n<parameter=city>\nParis "
      "\"x\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
      "</function>\n</tool_call>";
  world.scripts = {"hm\n</think>\n\nLet me look.\n" + call, "</think>\n\n" + call + "\n" + call,
                   "</think>\n\nno call"};
  const TestServer server(world);
  const Json tools = {{"tools", weather_tool()}};
  const Spoken one = both(server, with(chat("#0"), tools));
  ASSERT_EQ(one.names, std::vector<std::string>{"weather"});
  EXPECT_EQ(Json::parse(one.arguments[0]), Json::parse(R"({"city":"Paris \"x\"","days":3})"));
  EXPECT_EQ(one.finish, "tool_calls");
  EXPECT_EQ(one.reasoning, "hm\n");
  EXPECT_THAT(one.content, HasSubstr("Let me look."));
  const Json said = message(server.post(kChat, with(chat("#0"), tools)));
  EXPECT_EQ(said["tool_calls"][0]["type"], "function");
  EXPECT_EQ(said["tool_calls"][0]["id"].get<std::string>().size(), 32U);

  EXPECT_EQ(both(server, with(chat("#1"), tools)).names.size(), 2U);
  const Spoken single = both(server, with(chat("#1"), with(tools, {{"parallel_tool_calls", false}})));
  EXPECT_EQ(single.names.size(), 1U);
  EXPECT_EQ(single.finish, "tool_calls");
  EXPECT_EQ(Json::parse(single.arguments[0])["days"], 3);

  EXPECT_EQ(both(server, with(chat("#2"), tools)).finish, "stop");
  const Spoken text = both(server, with(chat("#0"), with(tools, {{"tool_choice", "none"}})));
  EXPECT_TRUE(text.names.empty());
  EXPECT_THAT(text.content, HasSubstr("<tool_call>"));
  for (const Json& choice :
       {Json("required"), Json{{"type", "function"}, {"function", {{"name", "weather"}}}}}) {
    const Response refused = server.post(kChat, with(chat("#0"), with(tools, {{"tool_choice", choice}})));
    EXPECT_EQ(refused.status, 400);
    EXPECT_EQ(refused.json()["error"]["param"], "tool_choice");
  }
}

TEST(Chat, EveryDeltaOfACallCarriesItsIndexAndTheIdComesOnce) {
  World world;
  world.scripts = {
      "</think>\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</"
      "tool_call>"};
  const TestServer server(world);
  Json body = with(chat("#0"), {{"stream", true}, {"tools", weather_tool()}});
  int n_ids = 0;
  int n_names = 0;
  for (const Json& event : test::events(server.post(kChat, body).body)) {
    if (event == "[DONE]") {
      continue;
    }
    const Json delta = event["choices"][0]["delta"];
    for (const Json& call : delta.value("tool_calls", Json::array())) {
      EXPECT_EQ(call["index"], 0);
      n_ids += call.contains("id") ? 1 : 0;
      n_names += call["function"].contains("name") ? 1 : 0;
      EXPECT_TRUE(call["function"].contains("arguments"));
    }
  }
  EXPECT_EQ(n_ids, 1);
  EXPECT_EQ(n_names, 1);
}

TEST(Chat, ConversationsWithToolResultsAndParts) {
  World world;
  world.scripts = {"</think>\n\nok"};
  const TestServer server(world);
  const Json body = Json::parse(R"({"messages":[
      {"role":"developer","content":"Be brief."},
      {"role":"user","content":[{"type":"text","text":"Weather"},{"type":"text","text":"?"}]},
      {"role":"assistant","content":null,"reasoning_content":"look","tool_calls":[{"id":"a","type":"function",
        "function":{"name":"weather","arguments":"{\"city\":\"Paris\"}"}}]},
      {"role":"tool","tool_call_id":"a","content":"sunny #0"}]})");
  const std::string prompt = server.post("/apply-template", body).json()["prompt"];
  EXPECT_THAT(prompt, HasSubstr("<|im_start|>system\nBe brief.<|im_end|>"));
  EXPECT_THAT(prompt, HasSubstr("Weather?"));
  EXPECT_THAT(prompt, HasSubstr("<parameter=city>\nParis\n</parameter>"));
  EXPECT_THAT(prompt, HasSubstr("<tool_response>\nsunny #0\n</tool_response>"));
  EXPECT_EQ(both(server, body).content, "ok");
}

TEST(Chat, UserTextIsNeverAControlToken) {
  World world;
  world.scripts = {"</think>\n\nok"};
  const TestServer server(world);
  const auto count = [&](const std::string& text) {
    return server.post("/v1/chat/completions/input_tokens", chat(text)).json()["input_tokens"].get<int>();
  };
  EXPECT_EQ(count("<|im_end|>") - count(""), 10);  // ten bytes, not one token
}

TEST(Chat, LengthAndContext) {
  World world;
  world.scripts = {"</think>\n\n0123456789"};
  world.engine.n_ctx_slot = 128;
  const TestServer server(world);
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"}) {
    const Spoken heard = both(server, with(chat("#0"), {{name, 6}}));
    EXPECT_EQ(heard.content, "012");
    EXPECT_EQ(heard.finish, "length");
  }
  // n_predict counts before max_completion_tokens, that before max_tokens.
  EXPECT_EQ(both(server, with(chat("#0"), {{"max_tokens", 3}, {"max_completion_tokens", 5}})).content, "01");
  // -1 is the server's own limit: here the context.
  const Spoken babble = both(server, with(chat("x"), {{"max_tokens", -1}}));
  EXPECT_EQ(babble.finish, "length");
  const Response none = server.post(kChat, with(chat("#0"), {{"max_tokens", 0}}));
  EXPECT_EQ(message(none)["content"], "");
  EXPECT_EQ(none.json()["usage"]["completion_tokens"], 0);

  const Response tooLong = server.post(kChat, with(chat(std::string(500, 'x')), {{"stream", true}}));
  EXPECT_EQ(tooLong.status, 400);
  const Json error = tooLong.json()["error"];
  EXPECT_EQ(error["type"], "exceed_context_size_error");
  EXPECT_EQ(error["n_ctx"], 128);
  EXPECT_GT(error["n_prompt_tokens"], 500);
  EXPECT_EQ(error["reason"], "context_length_exceeded");
}

TEST(Chat, SeveralAnswers) {
  World world;
  world.scripts = {"</think>\n\nsame"};
  const TestServer server(world);
  const Response whole = server.post(kChat, with(chat("#0"), {{"n", 3}}));
  ASSERT_EQ(whole.json()["choices"].size(), 3U) << whole.body;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(whole.json()["choices"][i]["index"], i);
    EXPECT_EQ(message(whole, i)["content"], "same");
  }
  const int one = server.post(kChat, chat("#0")).json()["usage"]["completion_tokens"];
  EXPECT_EQ(whole.json()["usage"]["completion_tokens"], 3 * one);
  const Response stream = server.post(kChat, with(chat("#0"), {{"n", 3}, {"stream", true}}));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(spoken(stream.body, i).content, "same");
    EXPECT_EQ(spoken(stream.body, i).finish, "stop");
  }
  const Response many = server.post(kChat, with(chat("#0"), {{"n", 5}}));
  EXPECT_EQ(many.status, 400);
  EXPECT_EQ(many.json()["error"]["param"], "n");
}

TEST(Chat, Logprobs) {
  World world;
  world.scripts = {"</think>\n\nHello"};
  const TestServer server(world);
  EXPECT_EQ(server.post(kChat, with(chat("#0"), {{"top_logprobs", 2}})).json()["error"]["param"],
            "top_logprobs");
  const Json body = with(chat("#0"), {{"logprobs", true}, {"top_logprobs", 2}});
  const Json content = server.post(kChat, body).json()["choices"][0]["logprobs"]["content"];
  ASSERT_FALSE(content.empty());
  std::string text;
  for (const Json& token : content) {
    text += token["token"].get<std::string>();
    EXPECT_EQ(token["top_logprobs"].size(), 2U);
    EXPECT_EQ(token["top_logprobs"][0]["id"], token["id"]);  // greedy
    EXPECT_LE(token["logprob"].get<double>(), 0);
    std::string bytes;
    for (const Json& byte : token["bytes"]) {
      bytes += static_cast<char>(byte.get<int>());
    }
    EXPECT_EQ(bytes, token["token"]);
  }
  EXPECT_EQ(text, "</think>\n\nHello");
  Json streamed = Json::array();
  for (const Json& event : test::events(server.post(kChat, with(body, {{"stream", true}})).body)) {
    if (event != "[DONE]" && event["choices"][0].contains("logprobs")) {
      for (const Json& token : event["choices"][0]["logprobs"]["content"]) {
        streamed.push_back(token);
      }
    }
  }
  EXPECT_EQ(streamed, content);
}

TEST(Chat, ContinuesALastAssistantMessage) {
  World world;
  world.scripts = {"go on", "and so\n</think>\n\ndone"};
  const TestServer server(world);
  Json body = chat("#0");
  body["messages"].push_back({{"role", "assistant"}, {"content", "It is"}});
  EXPECT_THAT(server.post("/apply-template", body).json()["prompt"].get<std::string>(),
              testing::EndsWith("<|im_start|>assistant\n<think>\n\n</think>\n\nIt is"));
  EXPECT_EQ(both(server, body).content, "go on");
  EXPECT_EQ(both(server, with(body, {{"reasoning_format", "none"}})).content, "go on");
  Json thought = chat("#1");
  thought["messages"].push_back({{"role", "assistant"}, {"content", ""}, {"reasoning_content", "I see"}});
  EXPECT_THAT(server.post("/apply-template", thought).json()["prompt"].get<std::string>(),
              testing::EndsWith("<|im_start|>assistant\n<think>\nI see"));
  EXPECT_EQ(both(server, thought).reasoning, "and so\n");
  EXPECT_EQ(both(server, thought).content, "done");
  EXPECT_EQ(
      server.post(kChat, with(body, {{"add_generation_prompt", true}, {"continue_final_message", true}}))
          .status,
      400);
  EXPECT_EQ(server.post(kChat, with(chat("#0"), {{"continue_final_message", true}})).status, 400);
  EXPECT_THAT(server.post("/apply-template", with(body, {{"continue_final_message", false}}))
                  .json()["prompt"]
                  .get<std::string>(),
              testing::EndsWith("<|im_start|>assistant\n<think>\n"));
}

TEST(Chat, BadMessagesAreNamed) {
  const TestServer server;
  const auto error = [&](const char* text) {
    const Response response = server.post_text(kChat, text);
    EXPECT_EQ(response.status, 400) << text << response.body;
    return response.json()["error"].value("param", "");
  };
  EXPECT_EQ(error("{}"), "messages");
  EXPECT_EQ(error(R"({"messages":[]})"), "messages");
  EXPECT_EQ(error(R"({"messages":"x"})"), "messages");
  EXPECT_EQ(error(R"({"messages":[1]})"), "messages[0]");
  EXPECT_EQ(error(R"({"messages":[{"content":"x"}]})"), "messages[0].role");
  EXPECT_EQ(error(R"({"messages":[{"role":"user"}]})"), "messages[0].content");
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":7}]})"), "messages[0].content");
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":[{"type":"poem"}]}]})"),
            "messages[0].content[0].type");
  EXPECT_EQ(error(R"({"messages":[{"role":"wizard","content":"x"}]})"), "messages");  // the template's word
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":"x"},{"role":"system","content":"y"}]})"),
            "messages");
  EXPECT_EQ(error(R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})"),
            "tools[0].function");
  EXPECT_EQ(
      error(
          R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"function":{"name":"f",
      "arguments":"not json"}}]}]})"),
      "messages[1].tool_calls[0].function.arguments");
  for (const char* type : {"image_url", "input_audio", "input_video"}) {
    const Json body = {
        {"messages", Json::array({{{"role", "user"}, {"content", Json::array({{{"type", type}}})}}})}};
    const Response response = server.post(kChat, body);
    EXPECT_EQ(response.status, 400);
    EXPECT_THAT(response.json()["error"]["message"].get<std::string>(), HasSubstr("not built"));
  }
}

TEST(Chat, WithoutJinjaOrTemplateTheChatMlFrame) {
  World world;
  world.scripts = {"plain"};
  world.with_template = false;
  const TestServer server(world);
  EXPECT_EQ(both(server, chat("#0")).content, "plain");
  world.with_template = true;
  world.options.defaults.jinja = false;
  const TestServer without(world);
  EXPECT_EQ(both(without, chat("#0")).content, "plain");
  EXPECT_EQ(without.post(kChat, with(chat("#0"), {{"tools", weather_tool()}})).json()["error"]["param"],
            "tools");
}

TEST(Chat, SkippingTheParserLeavesTheText) {
  World world;
  world.scripts = {"why\n</think>\n\nanswer"};
  world.options.defaults.skip_chat_parsing = true;
  const TestServer server(world);
  EXPECT_EQ(both(server, chat("#0")).content, "why\n</think>\n\nanswer");
}

TEST(Chat, CacheIsCounted) {
  World world;
  world.scripts = {"</think>\n\nok"};
  const TestServer server(world);
  const Json body = chat(std::string(300, 'y') + "#0");
  EXPECT_EQ(server.post(kChat, body).json()["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  const Json second = server.post(kChat, body).json();
  EXPECT_GT(second["usage"]["prompt_tokens_details"]["cached_tokens"], 200);
  EXPECT_EQ(second["timings"]["cache_n"], second["usage"]["prompt_tokens_details"]["cached_tokens"]);
  EXPECT_EQ(second["timings"]["cache_n"].get<int>() + second["timings"]["prompt_n"].get<int>(),
            second["usage"]["prompt_tokens"].get<int>());
  const Json off = server.post(kChat, with(body, {{"cache_prompt", false}})).json();
  EXPECT_EQ(off["timings"]["cache_n"], 0);
}

}  // namespace
}  // namespace fl::server

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "chat/chat.h"

namespace fl::chat {
namespace {

using Json = nlohmann::ordered_json;

const Json& tools() {
  static const Json json = Json::parse(R"([
    {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {
      "text": {"type": "string"}, "n": {"type": "integer"}, "flag": {"type": "boolean"},
      "list": {"type": "array"}, "object": {"type": "object"}, "any": {}, "maybe": {"type": ["string", "null"]},
      "choice": {"enum": ["a", "b"]}, "either": {"anyOf": [{"type": "string"}, {"type": "number"}]}}}}},
    {"type": "function", "function": {"name": "now"}}])");
  return json;
}

struct Answer {
  std::string content, reasoning;
  std::vector<ToolCall> calls;

  void add(const Delta& delta) {
    content += delta.content;
    reasoning += delta.reasoning;
    for (const Delta::Call& call : delta.calls) {
      if (static_cast<size_t>(call.index) == calls.size()) {
        EXPECT_FALSE(call.name.empty()) << "the name comes first";
        calls.push_back({call.id, call.name, {}});
      } else {
        EXPECT_TRUE(call.name.empty()) << "the name comes once";
      }
      calls.at(static_cast<size_t>(call.index)).arguments += call.arguments;
    }
  }

  std::string dump() const {
    Json json{{"content", content}, {"reasoning", reasoning}};
    for (const ToolCall& call : calls) {
      json["calls"].push_back({{"name", call.name}, {"arguments", call.arguments}});
    }
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
};

ParseOptions options(ReasoningFormat format, std::string prefilled, bool with_tools) {
  ParseOptions out;
  out.reasoning = format;
  out.prefilled = std::move(prefilled);
  out.tools = with_tools;
  out.tool_schemas = with_tools ? &tools() : nullptr;
  return out;
}

Answer parse(const ParseOptions& how, std::initializer_list<std::string_view> pieces) {
  OutputParser parser(how);
  Answer answer;
  for (const std::string_view piece : pieces) {
    answer.add(parser.push(piece));
  }
  answer.add(parser.finish());
  EXPECT_EQ(static_cast<size_t>(parser.n_calls()), answer.calls.size());
  return answer;
}

const std::string kThinking = "<think>\n";
const std::string kNotThinking = "<think>\n\n</think>\n\n";

std::string call(const std::string& name, const std::string& parameters) {
  return "<tool_call>\n<function=" + name + ">\n" + parameters + "</function>\n</tool_call>";
}
std::string parameter(const std::string& key, const std::string& value) {
  return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
}

Answer deepseek(std::string_view text, const std::string& prefilled = kThinking) {
  return parse(options(ReasoningFormat::deepseek, prefilled, true), {text});
}

TEST(OutputParser, ReasoningFormats) {
  const std::string text = "let me see\n</think>\n\nThe answer.";
  Answer a = deepseek(text);
  EXPECT_EQ(a.reasoning, "let me see\n");
  EXPECT_EQ(a.content, "The answer.");
  a = parse(options(ReasoningFormat::automatic, kThinking, false), {text});
  EXPECT_EQ(a.reasoning, "let me see\n");
  a = parse(options(ReasoningFormat::none, kThinking, false), {text});
  EXPECT_EQ(a.reasoning, "");
  EXPECT_EQ(a.content, kThinking + text);
  a = parse(options(ReasoningFormat::none, kNotThinking, false), {"Hi"});
  EXPECT_EQ(a.content, kNotThinking + "Hi");
  a = parse(options(ReasoningFormat::none, kThinking, false), {});
  EXPECT_EQ(a.content, kThinking);
}

TEST(OutputParser, ReasoningEdges) {
  Answer a = deepseek("Hello", kNotThinking);
  EXPECT_EQ(a.content, "Hello");
  EXPECT_EQ(a.reasoning, "");
  a = deepseek("never closed </thin");
  EXPECT_EQ(a.reasoning, "never closed </thin");
  EXPECT_EQ(a.content, "");
  a = deepseek("\n \n</think>\n\nx");
  EXPECT_EQ(a.reasoning, "") << "a thought of white space is none";
  EXPECT_EQ(a.content, "x");
  a = deepseek("<think>\nagain</think>x");
  EXPECT_EQ(a.reasoning, "again") << "the tag a second time";
  a = deepseek("<think>\nby itself\n</think>\nx", "");
  EXPECT_EQ(a.reasoning, "by itself\n") << "a template that does not open the thought";
  EXPECT_EQ(a.content, "x");
  a = deepseek("a <think> b </think> c", "");
  EXPECT_EQ(a.content, "a <think> b </think> c");
}

TEST(OutputParser, KnowsWhetherItThinks) {
  for (const ReasoningFormat format : {ReasoningFormat::none, ReasoningFormat::deepseek}) {
    OutputParser parser(options(format, kThinking, false));
    EXPECT_TRUE(parser.in_reasoning());
    parser.push("hm </thi");
    EXPECT_TRUE(parser.in_reasoning());
    parser.push("nk>x");
    EXPECT_FALSE(parser.in_reasoning());
  }
}

TEST(OutputParser, Calls) {
  const Answer a =
      deepseek("thought\n</think>\n\nI look.\n" +
               call("get", parameter("text", "a\n  b\n") + parameter("n", "5")) + "\n" + call("now", ""));
  EXPECT_EQ(a.reasoning, "thought\n");
  EXPECT_EQ(a.content, "I look.\n");
  ASSERT_EQ(a.calls.size(), 2U);
  EXPECT_EQ(a.calls[0].name, "get");
  EXPECT_EQ(a.calls[0].arguments, R"({"text":"a\n  b\n","n":5})");
  EXPECT_EQ(a.calls[1].name, "now");
  EXPECT_EQ(a.calls[1].arguments, "{}");
}

TEST(OutputParser, ACallEndsTheThought) {
  const Answer a = deepseek("I call\n" + call("now", ""));
  EXPECT_EQ(a.reasoning, "I call\n");
  EXPECT_EQ(a.content, "");
  ASSERT_EQ(a.calls.size(), 1U);
}

TEST(OutputParser, WithoutToolsACallIsText) {
  const std::string text = call("get", parameter("n", "5"));
  EXPECT_EQ(parse(options(ReasoningFormat::deepseek, kNotThinking, false), {text}).content, text);
}

TEST(OutputParser, TypesComeFromTheSchema) {
  const std::pair<const char*, std::pair<const char*, const char*>> kCases[] = {
      {"text", {"5", R"("5")"}},
      {"text", {"True", R"("True")"}},
      {"text", {"\"q\" \\ \x01", R"("\"q\" \\ \u0001")"}},
      {"text", {"", R"("")"}},
      {"n", {"5", "5"}},
      {"n", {" 7 ", "7"}},
      {"n", {"five", R"("five")"}},
      {"flag", {"True", "true"}},
      {"flag", {"false", "false"}},
      {"list", {"[1, 'a', None]", R"([1, "a", null])"}},
      {"list", {"[1, 2", R"("[1, 2")"}},
      {"object", {R"({"a": {"b": "it's"}})", R"({"a": {"b": "it's"}})"}},
      {"object", {R"({'a': 'say "x"', 'b': True})", R"({"a": "say \"x\"", "b": true})"}},
      {"any", {"12", "12"}},
      {"any", {"twelve", R"("twelve")"}},
      {"any", {"\"quoted\"", R"("\"quoted\"")"}},
      {"any", {"{\"a\": 1}", "{\"a\": 1}"}},
      {"maybe", {"null", "null"}},
      {"maybe", {"x", R"("x")"}},
      {"choice", {"1", R"("1")"}},
      {"either", {"1.5", "1.5"}},
      {"either", {"one", R"("one")"}},
      {"unknown", {"1", "1"}},
      {"unknown", {"x y", R"("x y")"}},
  };
  for (const auto& [key, value] : kCases) {
    const Answer a = deepseek(call("get", parameter(key, value.first)), kNotThinking);
    ASSERT_EQ(a.calls.size(), 1U);
    EXPECT_EQ(a.calls[0].arguments, "{\"" + std::string(key) + "\":" + value.second + "}");
    EXPECT_TRUE(Json::accept(a.calls[0].arguments));
  }
}

TEST(OutputParser, MarkupInsideAValueIsText) {
  for (const std::string value : {"a</parameter>b", "x\n</parameter>\ny", "<parameter=n>", "</function>",
                                  "<tool_call>", "</tool_call>\nmore", "</param", "<", "\n\n"}) {
    const Answer a = deepseek(call("get", parameter("text", value) + parameter("n", "1")), kNotThinking);
    ASSERT_EQ(a.calls.size(), 1U) << value;
    EXPECT_EQ(Json::parse(a.calls[0].arguments)["text"], value);
    EXPECT_EQ(a.content, "");
  }
}

TEST(OutputParser, ForgivesMissingBreaksAndEnds) {
  EXPECT_EQ(deepseek("<tool_call><function=get><parameter=n>5</parameter></function></tool_call>", "")
                .calls[0]
                .arguments,
            R"({"n":5})");
  EXPECT_EQ(deepseek("<tool_call>\n<function=get>\n<parameter=text>\nx</parameter>\n</tool_call>", "")
                .calls[0]
                .arguments,
            R"({"text":"x"})");
  EXPECT_EQ(deepseek("<tool_call>\n<function=get>\n<parameter=n>\n5\n</parameter>\n</function>", "")
                .calls[0]
                .arguments,
            R"({"n":5})");
  EXPECT_EQ(deepseek("<tool_call>\n<function=get>\n<parameter=n>\n5\n</parameter>", "").calls[0].arguments,
            R"({"n":5})");
  const Answer a = deepseek(call("now", "") + "\n\nDone.", "");
  EXPECT_EQ(a.calls.size(), 1U);
  EXPECT_EQ(a.content, "\n\nDone.");
}

TEST(OutputParser, WhatIsMalformedStaysText) {
  for (const std::string text :
       {"<tool_call>\nhello", "<tool_call>", "<tool_call>\n<function=", "<tool_call>\n<function=get>",
        "<tool_call>{\"name\": 1}</tool_call>", "<tool_call>\n<function=get>\nfree text\n</function>",
        "<tool_call>\n<function=>\n</function>", "<tool_call>\n<function=a\nb>", "a <tool_call> b <tool_cal",
        "<tool_call><tool_call>x"}) {
    const Answer a = deepseek(text, kNotThinking);
    EXPECT_EQ(a.content, text);
    EXPECT_TRUE(a.calls.empty());
    const Answer thought = deepseek("so " + text);
    EXPECT_EQ(thought.reasoning, "so " + text);
  }
  const Answer swallowed = deepseek("<tool_call>\n<function=get>\n<parameter=n>\n5\n</parameter>\noops", "");
  EXPECT_EQ(swallowed.calls.at(0).arguments, "{\"n\":5\n</parameter>\noops") << "no close tag: all is value";
  const Answer after = deepseek("<tool_call>\n<function=now>\n</function>oops</tool_call>", "");
  EXPECT_EQ(after.calls.at(0).arguments, "{}");
  EXPECT_EQ(after.content, "oops</tool_call>");
}

TEST(OutputParser, ACutCallKeepsItsArgumentsUnterminated) {
  const std::string whole = call("get", parameter("text", "rm -r /home/me/tmp"));
  for (size_t n = whole.find("rm "); n < whole.find("\n</parameter>") + 5; ++n) {
    const Answer a = deepseek(whole.substr(0, n), kNotThinking);
    ASSERT_EQ(a.calls.size(), 1U);
    EXPECT_FALSE(Json::accept(a.calls[0].arguments)) << a.calls[0].arguments;
  }
}

const std::vector<std::string>& samples() {
  static const std::vector<std::string> texts{
      "let me see\n</think>\n\nThe answer é🦙.",
      "a\n</think>\n\n" + call("get", parameter("text", "v</parameter>w\n") + parameter("n", "5")) + "\n" +
          call("now", "") + " x",
      "no close <tool_call>\n<function=x y>\n</function>",
      call("get", parameter("any", "{'a': [1, 'b']}")) + "\n<tool_call>\nbroken</think>t",
      "<think>\n\n</think>\n<tool_call><function=get><parameter=text>i</parameter></function></tool_call>",
      "<tool_call>\n<function=get>\n<parameter=text>\ncut",
      "<tool_call>\n<function=get>\n<parameter=n>\n5\n</parameter>\noops</function>",
  };
  return texts;
}

TEST(OutputParser, EverySplitGivesTheSame) {
  for (const std::string& text : samples()) {
    for (const ReasoningFormat format : {ReasoningFormat::none, ReasoningFormat::deepseek}) {
      for (const std::string& prefilled : {kThinking, kNotThinking, std::string()}) {
        const ParseOptions how = options(format, prefilled, true);
        const std::string whole = parse(how, {text}).dump();
        const std::string_view t = text;
        for (size_t a = 0; a <= t.size(); ++a) {
          ASSERT_EQ(parse(how, {t.substr(0, a), t.substr(a)}).dump(), whole)
              << t.substr(0, a) << "|" << t.substr(a);
          for (size_t b = a; b <= t.size(); b += 3) {
            ASSERT_EQ(parse(how, {t.substr(0, a), t.substr(a, b - a), t.substr(b)}).dump(), whole);
          }
        }
        OutputParser parser(how);
        Answer one_by_one;
        for (const char& c : text) {
          one_by_one.add(parser.push(std::string_view(&c, 1)));
        }
        one_by_one.add(parser.finish());
        ASSERT_EQ(one_by_one.dump(), whole);
      }
    }
  }
}

// Random markup: any cut gives the same, and where no call is found every byte comes back.
TEST(OutputParser, RandomMarkup) {
  const std::vector<std::string> parts{"<tool_call>",
                                       "</tool_call>",
                                       "<function=get>",
                                       "</function>",
                                       "<parameter=text>",
                                       "<parameter=n>",
                                       "</parameter>",
                                       "\n",
                                       "\n",
                                       " ",
                                       "x",
                                       "5",
                                       "<think>",
                                       "</think>",
                                       "<",
                                       "é",
                                       "</"};
  std::mt19937 random(4);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t i = random() % 16; i > 0; --i) {
      text += parts[random() % parts.size()];
    }
    const auto format = random() % 2 == 0 ? ReasoningFormat::none : ReasoningFormat::deepseek;
    const ParseOptions how = options(format, random() % 2 == 0 ? kThinking : "", true);
    const Answer whole = parse(how, {text});
    OutputParser parser(how);
    Answer pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + random() % 7;
      pieces.add(parser.push(std::string_view(text).substr(at, n)));
      at += n;
    }
    pieces.add(parser.finish());
    ASSERT_EQ(pieces.dump(), whole.dump()) << text;
    if (whole.calls.empty() && format == ReasoningFormat::none) {
      ASSERT_EQ(whole.content, how.prefilled + text);
    }
  }
}

TEST(OutputParser, LongOutputsStayCheap) {
  constexpr size_t kLength = size_t{1} << 20;
  for (const std::string& unit : {std::string("<tool_call>"), std::string("<"), std::string("</parameter>\n"),
                                  std::string("<tool_call>\n<function=a>x"), std::string("\n")}) {
    std::string text = "<tool_call>\n<function=get>\n<parameter=any>\n";
    while (text.size() < kLength) {
      text += unit;
    }
    const std::string_view all = text;
    for (const std::string_view start : {all, all.substr(43)}) {
      parse(options(ReasoningFormat::deepseek, kThinking, true), {start});
      OutputParser parser(options(ReasoningFormat::deepseek, kThinking, true));
      for (size_t at = 0; at < start.size(); at += 4) {
        parser.push(start.substr(at, 4));
      }
      parser.finish();
    }
  }
}

TEST(GenerationPrefix, IsWhatTheTemplateWrote) {
  EXPECT_EQ(generation_prefix({{"<|im_start|>user\n", true},
                               {"hi", false},
                               {"<|im_end|>\n<|im_start|>assistant\n<think>\n", true}}),
            "<think>\n");
  EXPECT_EQ(
      generation_prefix(
          {{"<|im_start|>user\n", true}, {"<|im_start|>assistant\n<think>", false}, {"<|im_end|>\n", true}}),
      "");
  EXPECT_EQ(generation_prefix({}), "");
  EXPECT_TRUE(ends_in_reasoning("<think>\n"));
  EXPECT_FALSE(ends_in_reasoning(kNotThinking));
  EXPECT_FALSE(ends_in_reasoning(""));
}

}  // namespace
}  // namespace fl::chat

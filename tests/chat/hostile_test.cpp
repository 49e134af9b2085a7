// Templates that would not end, and text from a request that would be a control token.
#include <random>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "chat/chat.h"
#include "chat/jinja/parser.h"
#include "tests/support/fixtures.h"
#include "tests/tokenizer/small_vocabulary.h"

#include <fstream>

namespace fl::chat {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

std::string repeat(std::string_view unit, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) {
    out += unit;
  }
  return out;
}

// What comes of a template: its text, or its error.
std::string outcome(const std::string& source, const Json& messages = Json::array()) {
  const auto compiled = Template::compile(source);
  if (!compiled) {
    return compiled.error().message;
  }
  RenderInput input;
  input.messages = &messages;
  const auto segments = compiled->render(input);
  return segments ? join(*segments) : segments.error().message;
}

TEST(Hostile, TemplatesThatDoNotEnd) {
  for (const std::string source : {
           "{% for i in range(1000000000) %}{% endfor %}",
           "{% for i in range(10 ** 18) %}{% endfor %}",
           "{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}",
           "{{ range(10 ** 12) | list }}",
           "{{ range(10 ** 12) | join }}",
           "{{ range(10 ** 12) | sum }}",
           "{{ [0] * 10 ** 15 }}",
       }) {
    EXPECT_THAT(outcome(source), HasSubstr("step budget")) << source;
  }
  for (const std::string source : {
           "{{ 'x' * 10 ** 15 }}",
           "{{ ('x' * 1000000) * 1000000 }}",
           "{{ 'x'.center(10 ** 15) }}",
           "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
           "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
           "endfor %}",
           "{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{% if x == 'a' * 1000000 %}{% endif %}{% "
           "endfor %}",
           "{% set x %}{{ 'a' * 1000000 }}{% endset %}{% for i in range(1000) %}{% set y = x | upper %}{% "
           "endfor %}",
           "{{ (['x' * 100000] * 100000) | join }}",
       }) {
    EXPECT_THAT(outcome(source), HasSubstr("byte budget")) << source;
  }
  EXPECT_THAT(outcome("{{ 'x' * 2000000 }}"), HasSubstr("were expected from this input"));
}

TEST(Hostile, TemplatesThatGoDeep) {
  const std::string macro = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
  EXPECT_THAT(outcome(macro), HasSubstr("recurses deeper"));
  EXPECT_THAT(outcome("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
              HasSubstr("recurses deeper"));
  EXPECT_THAT(
      outcome("{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}"
              "{% endmacro %}{{ g() }}"),
      HasSubstr("recurses deeper"));
  const std::string lists =
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}";
  EXPECT_THAT(outcome(lists), HasSubstr("nested deeper"));
  const std::string dicts =
      "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}";
  EXPECT_THAT(outcome(dicts), HasSubstr("nested deeper"));
  const std::string macros =
      "{% set ns = namespace(m=1) %}{% for i in range(20000) %}{% set p = ns.m %}{% macro m() %}{{ p }}{% "
      "endmacro %}"
      "{% set ns.m = m %}{% endfor %}ok";
  EXPECT_EQ(outcome(macros), "ok");
  EXPECT_EQ(
      outcome(
          "{% set ns = namespace() %}{% set ns.self = ns %}{% set ns.l = [ns] %}{{ ns.self.l | length }}"),
      "1");
  EXPECT_EQ(outcome("{% set ns = namespace() %}{% for x in [1] recursive %}{% set ns.l = loop %}{% endfor "
                    "%}{{ ns.l.index }}"),
            "1");
  EXPECT_THAT(outcome("{% set ns = namespace() %}{% for x in [1] recursive %}{% set ns.l = loop %}{% endfor "
                      "%}{{ ns.l([1]) }}"),
              HasSubstr("not callable"));
}

TEST(Hostile, SourcesThatGoDeep) {
  constexpr size_t kMany = 60000;
  for (const std::string& source : {
           "{{ " + repeat("(", kMany) + repeat(")", kMany) + " }}",
           "{{ " + repeat("[", kMany),
           "{{ " + repeat("{1:", kMany),
           "{{ " + repeat("-", kMany) + "1 }}",
           "{{ " + repeat("not ", kMany) + "1 }}",
           "{{ a" + repeat("[a", kMany),
           repeat("{% if 1 %}", kMany),
           repeat("{% for x in y %}", kMany),
           "{{ 1" + repeat(" + 1", kMany) + " }}",
           "{{ a" + repeat(".a", kMany) + " }}",
           "{{ a" + repeat("|list", kMany) + " }}",
           "{{ a" + repeat("()", kMany) + " }}",
           "{{ " + repeat("1 if 1 else ", kMany) + "1 }}",
           "{{ 1" + repeat(" if 1", kMany) + " }}",
           "{{ 1" + repeat(" or 1", kMany) + " }}",
           "{{ 1" + repeat(" ** 1", kMany) + " }}",
           "{{ x" + repeat(" is string", kMany) + " }}",
           "{% set " + repeat("(", kMany),
           "{% if 1 %}" + repeat("{% elif 1 %}{% for x in y %}", kMany),
       }) {
    EXPECT_FALSE(Template::compile(source)) << source.substr(0, 40);
  }
  EXPECT_EQ(outcome("{% if 0 %}" + repeat("{% elif 0 %}", kMany) + "{% else %}x{% endif %}"), "x")
      << "long, but flat";
  EXPECT_EQ(outcome("{{ '' " + repeat("~ ''", kMany) + " }}"), "");
  EXPECT_THAT(outcome(std::string(jinja::kMaxSourceBytes + 1, 'x')), HasSubstr("at most"));
}

TEST(Hostile, MessagesThatGoDeep) {
  Json deep = "x";
  for (int i = 0; i < 10000; ++i) {
    Json around = Json::array();
    around.push_back(std::move(deep));
    deep = std::move(around);
  }
  EXPECT_THAT(outcome("{{ messages | tojson }}", deep), HasSubstr("nested deeper"));
}

TEST(Hostile, LongConversationsStayWithinTheBudget) {
  FL_FIXTURE(path, "chat/Qwen3.5-4B.jinja");
  std::ifstream file(path, std::ios::binary);
  const std::string source{std::istreambuf_iterator<char>(file), {}};
  Json messages = Json::array();
  for (int i = 0; i < 20000; ++i) {
    messages.push_back({{"role", "user"}, {"content", "question"}});
    messages.push_back({{"role", "assistant"}, {"content", "<think>t</think>answer"}});
  }
  EXPECT_THAT(outcome(source, messages), HasSubstr("<|im_start|>assistant\nanswer<|im_end|>"));
  const std::string large(size_t{8} << 20, 'x');
  EXPECT_THAT(outcome(source, Json::array({{{"role", "user"}, {"content", large}}})), HasSubstr(large));
}

// Any bytes as a template: an error or a text, never more.
TEST(Hostile, RandomTemplates) {
  const std::vector<std::string> parts{"{{",      "}}",         "{%",
                                       "%}",      "{#",         "#}",
                                       "-",       "+",          " ",
                                       "\n",      "'",          "\"",
                                       "(",       ")",          "[",
                                       "]",       "{",          "}",
                                       ".",       "|",          ",",
                                       ":",       "=",          "==",
                                       "~",       "*",          "**",
                                       "%",       "//",         "for x in messages",
                                       "endfor",  "if",         "endif",
                                       "else",    "elif",       "set x",
                                       "endset",  "macro m(a)", "endmacro",
                                       "call",    "endcall",    "filter",
                                       "with",    "raw",        "endraw",
                                       "x",       "m",          "messages",
                                       "loop",    "loop.index", "namespace",
                                       "ns",      "range",      "1",
                                       "0",       "-1",         "2.5",
                                       "none",    "true",       "not",
                                       "and",     "or",         "in",
                                       "is",      "defined",    "string",
                                       "odd",     "tojson",     "list",
                                       "join",    "map",        "sort",
                                       "groupby", "int",        "round",
                                       "indent",  "replace",    "truncate",
                                       "batch",   "format",     "items",
                                       "split",   "strip",      "upper",
                                       "get",     "\\",         "\xFF",
                                       "é",       "a",          "recursive",
                                       "break",   "continue",   "raise_exception",
                                       "1:",      "::-1"};
  std::mt19937 random(12);
  const Json messages =
      Json::parse(R"([{"role": "user", "content": "hi"}, {"a": [1, 2.5, null, {"b": "c"}]}, 3])");
  for (int round = 0; round < 30000; ++round) {
    std::string source = random() % 2 == 0 ? "{{ " : "";
    for (size_t i = random() % 14; i > 0; --i) {
      source += parts[random() % parts.size()] + (random() % 3 == 0 ? "" : " ");
    }
    source += random() % 2 == 0 ? " }}" : "";
    outcome(source, messages);
  }
}

// Random changes of the real template keep it from crashing, too.
TEST(Hostile, BrokenRealTemplate) {
  FL_FIXTURE(path, "chat/Qwen3.5-4B.jinja");
  std::ifstream file(path, std::ios::binary);
  const std::string source{std::istreambuf_iterator<char>(file), {}};
  const Json messages = Json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]},
      {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1]}}}]}, {"role": "tool", "content": "r"}])");
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    std::string broken = source;
    for (size_t i = 1 + random() % 3; i > 0; --i) {
      const size_t at = random() % broken.size();
      const size_t n = random() % 30;
      switch (random() % 3) {
        case 0:
          broken.erase(at, n);
          break;
        case 1:
          broken.insert(at, broken.substr(random() % broken.size(), n));
          break;
        default:
          broken[at] = static_cast<char>(random());
      }
    }
    outcome(broken, messages);
  }
}

// -- origins

struct Family {
  tokenizer::test::SmallVocabulary vocabulary;
  std::vector<std::string> special{"<|im_start|>",  "<|im_end|>",     "<|endoftext|>",   "<|vision_start|>",
                                   "<|image_pad|>", "<|vision_end|>", "<think>",         "</think>",
                                   "<tool_call>",   "</tool_call>",   "<tool_response>", "</tool_response>"};

  Family() {
    vocabulary.merge("a", "b");
    vocabulary.merge("!", "Ċ");
    for (const std::string& text : special) {
      vocabulary.add(text,
                     text[1] == '|' ? tokenizer::TokenType::control : tokenizer::TokenType::user_defined);
    }
  }
};

int count_special(const tokenizer::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  return static_cast<int>(std::count_if(ids.begin(), ids.end(), [&](int32_t id) {
    return tokenizer.type(id) == tokenizer::TokenType::control ||
           tokenizer.type(id) == tokenizer::TokenType::user_defined;
  }));
}

Json conversation(const std::string& text) {
  return {
      {{"role", "system"}, {"content", text}},
      {{"role", "user"},
       {"content", Json::array({{{"type", "text"}, {"text", text}}, {{"type", "text"}, {"text", text}}})}},
      {{"role", "assistant"},
       {"content", text},
       {"reasoning_content", text},
       {"tool_calls",
        Json::array({{{"function", {{"name", text}, {"arguments", {{text, text}, {"list", {text}}}}}}}})}},
      {{"role", "tool"}, {"content", text}}};
}

Json tools(const std::string& text) {
  return Json::array(
      {{{"type", "function"},
        {"function", {{"name", text}, {"description", text}, {"parameters", {{text, text}}}}}}});
}

TEST(Origins, TextOfARequestIsNeverSpecial) {
  const Family family;
  const auto tokenizer = family.vocabulary.build().value();
  FL_FIXTURE(path, "chat/Qwen3.5-4B.jinja");
  for (const auto& template_path :
       {path, std::filesystem::path(FL_SOURCE_DIR) / "tests" / "chat" / "demo_template.jinja"}) {
    std::ifstream file(template_path, std::ios::binary);
    const Template compiled =
        Template::compile(std::string{std::istreambuf_iterator<char>(file), {}}).value();
    const auto ids_of = [&](const std::string& text) {
      const Json messages = conversation(text);
      const Json tool_list = tools(text);
      const Json kwargs{{"enable_thinking", true}, {"note", text}};
      RenderInput input;
      input.messages = &messages;
      input.tools = &tool_list;
      input.kwargs = &kwargs;
      const auto segments = compiled.render(input).value();
      const std::vector<int32_t> ids = encode(tokenizer, segments);
      EXPECT_EQ(tokenizer.decode(ids, true), join(segments));
      return ids;
    };
    const int honest = count_special(tokenizer, ids_of("plain"));
    EXPECT_GT(honest, 8);
    for (const std::string& attack : family.special) {
      EXPECT_EQ(count_special(tokenizer, ids_of("x" + attack + "y")), honest) << attack;
      EXPECT_EQ(count_special(tokenizer, ids_of(attack + attack)), honest) << attack;
      // Halves, so that a value and the text around it, or two values, would make it together.
      EXPECT_EQ(count_special(tokenizer,
                              ids_of(attack.substr(attack.size() / 2) + attack.substr(0, attack.size() / 2))),
                honest);
    }
  }
}

// Every operation that moves text keeps its origin: nothing of `messages` is trusted at the end.
TEST(Origins, SurviveEveryOperation) {
  const Json messages = Json::array({{{"t", "USER user"}, {"l", {"USER", "user"}}, {"USER", 1}}});
  for (const std::string expression : {
           "m.t",
           "m.t + ''",
           "'' ~ m.t",
           "m.t | upper",
           "m.t | lower | upper",
           "m.t | title",
           "m.t.title()",
           "m.t | capitalize",
           "m.t | trim",
           "m.t.strip()",
           "m.t.split(' ') | join('')",
           "m.t.split()[0]",
           "m.t[0:4]",
           "m.t[::-1]",
           "m.t | reverse",
           "m.t | list | join",
           "m.t | replace('x', 'y')",
           "m.t.replace('user', '')",
           "m.t | tojson",
           "m | tojson",
           "m | string",
           "m.l | string",
           "m.l | join(' ')",
           "' '.join(m.l)",
           "m.l | map('upper') | join",
           "m.l | sort | join",
           "m.l | first",
           "m.l | unique | join",
           "m | list | join",
           "m | items | list | string",
           "'%s' % m.t",
           "'%s' | format(m.t)",
           "'{}'.format(m.t)",
           "m.t | indent(2, true)",
           "m.t | truncate(6, true, '', 0)",
           "m.t | center(20)",
           "m.t.center(20)",
           "m.t * 2",
           "m.t | e",
           "m.t | default('x')",
           "m.t.partition(' ')[0]",
           "m.t.splitlines()[0]",
           "m.t | safe",
           "f(m.t)",
           "m.t.swapcase()",
           "m.t.ljust(20)",
           "m.keys() | list | last",
           "namespace(a=m.t).a",
           "dict(a=m.t).a",
           "{'a': m.t}.a",
           "[m.t][0]",
           "(m.t, 1) | string",
           "m.t | batch(4) | list | string",
           "m.l | groupby(0) | map(attribute='grouper') | join",
           "m.t if m.t else ''",
           "m.t.removeprefix('z')",
           "cycler(m.t).next()",
           "m.t | wordcount ~ m.t",
           "m.l | max",
           "m.l | dictsort if false else m.t",
           "joiner(m.t)() ~ m.t",
       }) {
    const std::string source =
        "{% set m = messages[0] %}{% macro f(x) %}{{ x }}{% endmacro %}{{ " + expression + " }}";
    const auto compiled = Template::compile(source);
    ASSERT_TRUE(compiled) << expression << compiled.error().message;
    RenderInput input;
    input.messages = &messages;
    const auto segments = compiled->render(input);
    ASSERT_TRUE(segments) << expression << ": " << segments.error().message;
    size_t untrusted = 0;
    for (const Segment& segment : *segments) {
      const bool looks_like_user = segment.text.find_first_of("USERuser") != std::string::npos;
      EXPECT_FALSE(segment.trusted && looks_like_user) << expression << " -> " << segment.text;
      untrusted += segment.trusted ? 0 : segment.text.size();
    }
    EXPECT_GT(untrusted, 0U) << expression;
  }
}

TEST(Origins, HonestTextMergesAcrossSegments) {
  const Family family;
  const auto tokenizer = family.vocabulary.build().value();
  const std::vector<Segment> segments{{"<|im_start|>a", true}, {"b!", false}, {"\n<|im_end|>", true}};
  EXPECT_EQ(encode(tokenizer, segments), tokenizer.encode(join(segments), tokenizer::Special::parse));
  EXPECT_EQ(encode(tokenizer, segments).size(), 4U);
  EXPECT_TRUE(encode(tokenizer, {}).empty());
  EXPECT_EQ(encode(tokenizer, {{"<think>", false}}).size(), 7U);
  EXPECT_EQ(encode(tokenizer, {{"<thi", true}, {"nk>", false}}).size(), 7U);
  EXPECT_EQ(encode(tokenizer, {{"<thi", true}, {"nk>", true}}).size(), 1U);
}

TEST(Chatml, IsTheFamilysFrame) {
  const Json messages = Json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null}])");
  RenderInput input;
  input.messages = &messages;
  EXPECT_EQ(join(Template::chatml().render(input).value()),
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n<|im_"
            "end|>\n<|im_start|>assistant\n");
  input.add_generation_prompt = false;
  const Json image = Json::parse(R"([{"role": "user", "content": [{"type": "image"}]}])");
  input.messages = &image;
  EXPECT_THAT(Template::chatml().render(input).error().message, HasSubstr("text parts only"));
}

TEST(Template, StrftimeNowAndTokensOfTheModel) {
  const auto compiled =
      Template::compile(
          "{{ bos_token }}{{ strftime_now('%Y') | length }}{{ eos_token }}{{ strftime_now('') }}")
          .value();
  RenderInput input;
  input.bos_token = "<|b|>";
  input.eos_token = "<|e|>";
  const auto segments = compiled.render(input).value();
  EXPECT_EQ(join(segments), "<|b|>4<|e|>");
  EXPECT_EQ(segments.size(), 1U);
  EXPECT_TRUE(segments[0].trusted);
}

TEST(Template, ErrorsSayWhere) {
  EXPECT_THAT(outcome("a\nb\n{{ 1 + }}"), HasSubstr("line 3"));
  EXPECT_THAT(outcome("a\n{% if true %}\n{{ x.y }}{% endif %}"), HasSubstr("line 3: 'x' is undefined"));
  EXPECT_EQ(outcome("{{ raise_exception('only this') }}"), "only this");
}

}  // namespace
}  // namespace fl::chat

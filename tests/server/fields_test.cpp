// Every field of the table: wrong types, below and above its range, null, absurd values.
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fields.h"
#include "tests/server/test_server.h"

namespace fl::server {
namespace {

using test::Response;
using test::TestServer;
using testing::HasSubstr;

struct Target {
  uint8_t route;
  const char* path;
  const char* base;  ///< the start of a valid body
};

constexpr Target kTargets[] = {
    {kCompletion, "/completion", R"({"n_predict":1,"prompt":"a")"},
    {kOaiCompletion, "/v1/completions", R"({"max_tokens":1,"prompt":"a")"},
    {kChat, "/v1/chat/completions", R"({"max_tokens":1,"messages":[{"role":"user","content":"a"}])"},
    {kTokenize, "/tokenize", R"({"x":1)"},
    {kDetokenize, "/detokenize", R"({"x":1)"},
};

// A body with the field; fields of the base are replaced by leaving the base out.
std::string with_field(const Target& target, std::string_view name, const std::string& value) {
  std::string base = target.base;
  const std::string key = "\"" + std::string(name) + "\":";
  if (base.find(key) != std::string::npos) {
    base = base.substr(0, 1) + R"("x":1)";
  }
  return base + ",\"" + std::string(name) + "\":" + value + "}";
}

std::vector<std::string> names(const Field& field) {
  std::vector<std::string> out{std::string(field.name)};
  for (const std::string_view alias : field.aliases) {
    if (!alias.empty()) {
      out.emplace_back(alias);
    }
  }
  return out;
}

std::string number(double x) {
  return fmt::format("{}", x);
}

class Fields : public testing::Test {
 protected:
  // A 400 that names the field, with what was expected and found.
  void expect_refused(const Target& target, const std::string& name, const std::string& value) {
    const Response response = server_.post_text(target.path, with_field(target, name, value));
    ASSERT_EQ(response.status, 400) << target.path << " " << name << " = " << value << ": "
                                    << response.body.substr(0, 300);
    const test::Json error = response.json()["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("'" + name)) << value;
    ++n_refused_;
  }
  template <typename F>
  void each(F f) {
    for (const Target& target : kTargets) {
      for (const Field& field : fields()) {
        if ((field.routes & target.route) == 0) {
          continue;
        }
        for (const std::string& name : names(field)) {
          f(target, field, name);
        }
      }
    }
  }

  TestServer server_;
  int n_refused_ = 0;
};

TEST_F(Fields, WrongTypes) {
  each([&](const Target& target, const Field& field, const std::string& name) {
    switch (field.type) {
      case FieldType::boolean:
        for (const char* value : {"1", "\"true\"", "[1]", "{\"a\":1}", "0.5"}) {
          expect_refused(target, name, value);
        }
        break;
      case FieldType::integer:
        for (const char* value : {"true", "\"7\"", "[1]", "{\"a\":1}", "0.5", "1e-3", "1e308"}) {
          expect_refused(target, name, value);
        }
        break;
      case FieldType::number:
        for (const char* value : {"true", "\"0.5\"", "[1]", "{\"a\":1}", "1e308", "-1e308"}) {
          expect_refused(target, name, value);
        }
        break;
      case FieldType::string:
        if (field.state == FieldState::ignored || field.state == FieldState::built) {
          for (const char* value : {"true", "7", "[\"a\"]", "{\"a\":1}"}) {
            expect_refused(target, name, value);
          }
        }
        break;
      case FieldType::array:
        for (const char* value : {"true", "7", "\"a\"", "{\"a\":1}"}) {
          expect_refused(target, name, value);
        }
        break;
      case FieldType::object:
        for (const char* value : {"true", "7", "\"a\"", "[1]"}) {
          expect_refused(target, name, value);
        }
        break;
      case FieldType::any:
        expect_refused(target, name, "0.25");
        break;
    }
  });
  EXPECT_GT(n_refused_, 400);
}

TEST_F(Fields, BelowAndAboveTheRange) {
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it one less is the same double
  each([&](const Target& target, const Field& field, const std::string& name) {
    if (field.type != FieldType::integer && field.type != FieldType::number) {
      return;
    }
    if (std::abs(field.min) < kExact) {
      expect_refused(target, name, number(field.min - 1));
      expect_refused(target, name, number(field.min - 1e9));
    }
    if (field.max < kExact) {
      expect_refused(target, name, number(field.max + 1));
      expect_refused(target, name, number(field.max * 2 + 1e9));
    }
    expect_refused(target, name, "1e300");
    expect_refused(target, name, "-1e300");
    expect_refused(target, name, "18446744073709551616");  // 2^64
    expect_refused(target, name, "-18446744073709551616");
  });
  EXPECT_GT(n_refused_, 300);
}

// The ends of each range are served, or refused by name where the value needs more; nothing dies.
TEST_F(Fields, TheEndsOfTheRange) {
  each([&](const Target& target, const Field& field, const std::string& name) {
    if ((field.type != FieldType::integer && field.type != FieldType::number) || field.name == "n_predict") {
      return;
    }
    for (const double end : {field.min, field.max}) {
      const bool whole = field.type == FieldType::integer;
      const std::string value =
          whole && std::abs(end) < 1e18 ? std::to_string(static_cast<int64_t>(end)) : number(end);
      const Response response = server_.post_text(target.path, with_field(target, name, value));
      EXPECT_TRUE(response.status == 200 || response.status == 400)
          << name << value << response.status << response.body.substr(0, 300);
      if (response.status == 400) {
        EXPECT_THAT(response.json()["error"]["message"].get<std::string>(), HasSubstr(std::string(name)))
            << response.body.substr(0, 300);
      }
    }
  });
}

TEST_F(Fields, NullMeansTheDefault) {
  each([&](const Target& target, const Field& field, const std::string& name) {
    if (field.default_text == "required") {
      return;
    }
    const Response response = server_.post_text(target.path, with_field(target, name, "null"));
    const bool base_field = std::string(target.base).find("\"" + name + "\"") != std::string::npos;
    if (!base_field) {
      EXPECT_EQ(response.status, 200) << name << response.body.substr(0, 300);
    }
  });
}

TEST_F(Fields, WhatIsKnownAndNotBuiltIsRefusedByName) {
  int n = 0;
  each([&](const Target& target, const Field& field, const std::string& name) {
    if (field.state != FieldState::refused) {
      return;
    }
    const char* value = field.type == FieldType::boolean   ? "true"
                        : field.type == FieldType::integer ? "3"
                        : field.type == FieldType::array   ? "[1]"
                        : field.type == FieldType::object  ? R"({"a":1})"
                                                           : "\"x\"";
    const Response response = server_.post_text(target.path, with_field(target, name, value));
    EXPECT_EQ(response.status, 400) << name << response.body.substr(0, 300);
    EXPECT_THAT(response.json()["error"]["message"].get<std::string>(), HasSubstr("not built")) << name;
    ++n;
  });
  EXPECT_GT(n, 15);
  for (const char* format : {"json_object", "json_schema", "xml"}) {
    const Response response = server_.post("/v1/chat/completions", [&] {
      test::Json body = test::chat("a");
      body["response_format"] = {{"type", format}};
      return body;
    }());
    EXPECT_EQ(response.status, 400) << format;
    EXPECT_THAT(response.json()["error"]["param"].get<std::string>(), HasSubstr("response_format"));
  }
}

TEST_F(Fields, UnknownFieldsAreIgnored) {
  const Response response = server_.post_text(
      "/completion", R"({"prompt":"a","n_predict":1,"no_such_field":{"deep":[1,2,{"x":null}]}})");
  EXPECT_EQ(response.status, 200) << response.body.substr(0, 300);
}

TEST_F(Fields, ListsAreBounded) {
  const auto list = [](size_t n, const std::string& item) {
    std::string out = "[";
    for (size_t i = 0; i < n; ++i) {
      out += (i == 0 ? "" : ",") + item;
    }
    return out + "]";
  };
  const Target& target = kTargets[0];
  expect_refused(target, "stop", list(33, "\"a\""));
  expect_refused(target, "stop", "[\"" + std::string(1025, 'a') + "\"]");
  expect_refused(target, "stop", "[1]");
  expect_refused(target, "samplers", list(33, "\"top_k\""));
  expect_refused(target, "samplers", "[\"nucleon\"]");
  expect_refused(target, "samplers", "\"kq\"");
  expect_refused(target, "logit_bias", list(1025, "[1,1]"));
  expect_refused(target, "logit_bias", "[[1]]");
  expect_refused(target, "logit_bias", "[[1,\"x\"]]");
  expect_refused(target, "logit_bias", "[[1,1e300]]");
  expect_refused(target, "logit_bias", "[[true,1]]");
  expect_refused(target, "logit_bias", "[[1,true]]");
  expect_refused(target, "dry_sequence_breakers", "[]");
  expect_refused(target, "dry_sequence_breakers", list(65, "\"a\""));
  expect_refused(target, "dry_sequence_breakers", "[7]");
  expect_refused(target, "response_fields", list(65, "\"a\""));
  expect_refused(target, "mirostat", "1");
  expect_refused(kTargets[2], "stream_options", R"({"include_usage":1})");
  expect_refused(kTargets[2], "reasoning_format", "\"martian\"");
  expect_refused(kTargets[2], "tool_choice", "\"maybe\"");
}

TEST(FieldTable, NamesAreUniqueOnEachRoute) {
  for (const Target& target : kTargets) {
    std::vector<std::string> all;
    for (const Field& field : fields()) {
      if ((field.routes & target.route) != 0) {
        for (const std::string& name : names(field)) {
          EXPECT_EQ(std::ranges::count(all, name), 0) << name;
          all.push_back(name);
        }
        EXPECT_FALSE(field.doc.empty()) << field.name;
        EXPECT_LE(field.min, field.max) << field.name;
        EXPECT_TRUE(field.type != FieldType::any || !field.expected.empty()) << field.name;
      }
    }
  }
}

TEST(FieldTable, ChecksTheCommandLinesDefaults) {
  const auto message = [](auto change) {
    RequestDefaults defaults;
    change(defaults);
    const Status checked = check(defaults);
    return checked ? "" : checked.error().message;
  };
  EXPECT_EQ(message([](RequestDefaults&) {}), "");
  EXPECT_THAT(message([](RequestDefaults& d) { d.sampling.top_p = 7; }),
              HasSubstr("top_p: expected a number from 0 to 1, found 7"));
  EXPECT_THAT(message([](RequestDefaults& d) { d.sampling.temperature = NAN; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](RequestDefaults& d) { d.n_predict = -2; }), HasSubstr("n_predict"));
  EXPECT_THAT(message([](RequestDefaults& d) { d.reasoning_budget = -2; }), HasSubstr("reasoning_budget"));
  EXPECT_THAT(message([](RequestDefaults& d) { d.logit_bias = {"x"}; }), HasSubstr("--logit-bias"));
  EXPECT_THAT(message([](RequestDefaults& d) { d.chat_template_kwargs = "[1]"; }),
              HasSubstr("--chat-template-kwargs"));
}

}  // namespace
}  // namespace fl::server

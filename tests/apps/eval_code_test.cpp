// `freelunch eval code` against a server that solves every other task.
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "eval/code_eval.h"
#include "eval/tasks.h"
#include "tests/support/scripted_server.h"

namespace fl::apps {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class EvalCode : public testing::Test {
 protected:
  EvalCode() : server_([this](const std::string& request) { return answer(request); }) {
    std::filesystem::remove_all(dir_);
  }
  ~EvalCode() override { std::filesystem::remove_all(dir_); }

  struct Ran {
    int exit_code;
    std::string out;
    std::string err;
    Json json() const { return Json::parse(out); }
  };
  static Ran run(std::vector<std::string> words) {
    words.insert(words.begin(), {"eval", "code"});
    std::vector<char*> argv;
    for (std::string& word : words) {
      argv.push_back(word.data());
    }
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = run_eval(static_cast<int>(argv.size()), argv.data());
    std::fflush(stdout);
    return {code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
  }

  std::vector<test::ScriptedServer::Piece> answer(const std::string& request) {
    if (request.starts_with("GET /v1/models")) {
      return {{test::ok_head("application/json") + R"({"data":[{"id":"\u001b[31mclown"}]})"}};
    }
    const Json body = Json::parse(request.substr(request.find("\r\n\r\n") + 4));
    ++asked_;
    const std::string said = body.contains("messages") ? body["messages"][0]["content"] : body["prompt"];
    if (fail_) {
      return {{"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n"}};
    }
    std::string text = "I do not know.";
    for (size_t i = 0; i < tasks_.tasks.size(); i += 2) {
      const eval::Task& task = tasks_.tasks[i];
      if (said.find("def " + task.entry_point + "(") != std::string::npos) {
        text =
            body.contains("messages") ? "```python\n" + task.prompt + task.solution + "```" : task.solution;
      }
    }
    const Json delta = body.contains("messages")
                           ? Json{{"delta", {{"content", text}}}, {"finish_reason", "stop"}}
                           : Json{{"text", text}, {"finish_reason", "stop"}};
    return {{test::ok_head("text/event-stream") + "data: " + Json{{"choices", {delta}}}.dump() +
             "\n\ndata: [DONE]\n\n"}};
  }

  const std::filesystem::path dir_ =
      std::filesystem::temp_directory_path() / ("freelunch_eval_" + std::to_string(::getpid()));
  const eval::TaskSet tasks_ = eval::load_tasks("builtin").value();
  std::atomic<int> asked_ = 0;
  std::atomic<bool> fail_ = false;
  test::ScriptedServer server_;
};

TEST_F(EvalCode, ScoresWhatTheServerAnswers) {
  const Ran ran = run({"--url", server_.url(), "--limit", "4", "--json"});
  ASSERT_EQ(ran.exit_code, kOk) << ran.err;
  const Json json = ran.json();
  EXPECT_EQ(json["tasks"]["n_tasks"], 4);
  EXPECT_EQ(json["score"]["n_solved"], 2);
  EXPECT_EQ(json["score"]["n_no_code"], 2);
  EXPECT_EQ(json["score"]["pass_at_1"], 0.5);
  EXPECT_NEAR(json["score"]["low"], 0.15, 0.01);
  EXPECT_TRUE(json["complete"]);
  EXPECT_TRUE(json["self_check"]["ok"]);
  EXPECT_THAT(json["sandbox"].get<std::string>(), HasSubstr("seccomp"));
}

TEST_F(EvalCode, CompletionsAreContinuedStubs) {
  const Ran ran = run({"--url", server_.url(), "--limit", "1", "--mode", "completion", "--json"});
  ASSERT_EQ(ran.exit_code, kOk) << ran.err;
  EXPECT_EQ(ran.json()["score"]["n_solved"], 1);
}

TEST_F(EvalCode, TheTextNamesWhatFailedAndNoControlCharacters) {
  const Ran ran = run({"--url", server_.url(), "--limit", "2"});
  ASSERT_EQ(ran.exit_code, kOk) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("solved 1 of 2: pass@1 50.0 %"));
  EXPECT_THAT(ran.out, HasSubstr(tasks_.tasks[1].id + ": no code in the answer"));
  EXPECT_EQ(ran.out.find('\x1b'), std::string::npos);
}

TEST_F(EvalCode, ASecondRunAsksNothingTwice) {
  EXPECT_EQ(run({"--url", server_.url(), "--limit", "2", "--out", dir_, "-q"}).exit_code, kOk);
  EXPECT_EQ(asked_, 2);
  const Ran more = run({"--url", server_.url(), "--limit", "3", "--out", dir_, "--json", "-q"});
  EXPECT_EQ(asked_, 3);
  EXPECT_EQ(more.json()["score"]["n_solved"], 2);
  // Other settings are another run.
  const Ran other = run({"--url", server_.url(), "--limit", "3", "--out", dir_, "--temp", "1"});
  EXPECT_EQ(other.exit_code, kUsage);
  EXPECT_EQ(asked_, 3);
}

TEST_F(EvalCode, AnswersAreKeptNowAndScoredLater) {
  const Ran kept = run({"--url", server_.url(), "--limit", "2", "--answers-only", "--out", dir_});
  EXPECT_EQ(kept.exit_code, kOk) << kept.err;
  EXPECT_THAT(kept.out, HasSubstr("nothing was executed"));
  const Ran scored = run({"--score", "--limit", "2", "--out", dir_, "--json"});
  EXPECT_EQ(scored.exit_code, kOk) << scored.err;
  EXPECT_EQ(scored.json()["score"]["n_solved"], 1);
  EXPECT_EQ(asked_, 2);
}

TEST_F(EvalCode, SelfCheckNeedsNoServer) {
  const Ran ran = run({"--limit", "3", "--self-check", "--json"});
  EXPECT_EQ(ran.exit_code, kOk) << ran.err;
  EXPECT_EQ(ran.json()["self_check"]["solutions_passed"], 3);
  EXPECT_EQ(ran.json()["self_check"]["broken_passed"], 0);
}

TEST_F(EvalCode, ATaskWhoseSolutionFailsStopsTheRun) {
  std::filesystem::create_directories(dir_);
  std::ofstream(dir_ / "bad.jsonl") << Json{{"task_id", "x"},
                                            {"prompt", "def f():\n    \"\"\"One.\"\"\"\n"},
                                            {"entry_point", "f"},
                                            {"canonical_solution", "    return 2\n"},
                                            {"test", "def check(candidate):\n    assert candidate() == 1\n"}}
                                           .dump();
  const std::string tasks = fmt::format("file={}", (dir_ / "bad.jsonl").string());
  EXPECT_EQ(run({"--tasks", tasks, "--self-check"}).exit_code, kIntegrity);
  EXPECT_EQ(run({"--tasks", tasks, "--url", server_.url()}).exit_code, kIntegrity);
  EXPECT_EQ(asked_, 0);
}

TEST_F(EvalCode, FailuresHaveTheirExitCodesAndLeaveAPartialResult) {
  EXPECT_EQ(run({"--url", "http://127.0.0.1:1"}).exit_code, kNetwork);
  EXPECT_EQ(run({"--url", "ftp://x"}).exit_code, kUsage);
  EXPECT_EQ(run({"--unsafe-no-sandbox"}).exit_code, kUsage);
  EXPECT_EQ(run({"--answers-only"}).exit_code, kUsage);
  EXPECT_EQ(run({"--tasks", "humaneval=/none", "--self-check"}).exit_code, kModelUnusable);
  fail_ = true;
  const Ran ran = run({"--url", server_.url(), "--json"});
  EXPECT_EQ(ran.exit_code, kNetwork);
  EXPECT_EQ(ran.json()["score"]["n_failed"], eval::kMaxTransportErrors);
  EXPECT_FALSE(ran.json()["complete"]);
  EXPECT_THAT(ran.err, HasSubstr("in a row failed"));
}

}  // namespace
}  // namespace fl::apps

#include "eval/tasks.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/code_eval.h"
#include "eval/extract.h"
#include "eval/score.h"
#include "tests/support/fixtures.h"

namespace fl::eval {
namespace {

using testing::HasSubstr;

TEST(Tasks, HumanEvalIsCheckedByItsHash) {
  FL_FIXTURE(path, "humaneval/HumanEval.jsonl.gz");
  const auto set = load_tasks("humaneval=" + path.string());
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(set->tasks.size(), 164U);
  EXPECT_EQ(set->sha256, kHumanEvalSha256);
}

TEST(Tasks, EveryHumanEvalSolutionPassesAndEveryBrokenOneFails) {
  FL_FIXTURE(path, "humaneval/HumanEval.jsonl.gz");
  const TaskSet set = load_tasks("humaneval=" + path.string()).value();
  const auto sandbox = Sandbox::open();
  ASSERT_TRUE(sandbox) << sandbox.error().message;
  const SelfCheck check = self_check(set, *sandbox, 2, {});
  EXPECT_THAT(check.surprises, testing::IsEmpty());
  EXPECT_EQ(check.solutions_passed, 164);
  EXPECT_EQ(check.broken_passed, 0);
}

TEST(Tasks, EveryBuiltinSolutionPassesAndEveryBrokenOneFails) {
  const auto set = load_tasks("builtin");
  ASSERT_TRUE(set) << set.error().message;
  ASSERT_EQ(set->tasks.size(), 20U);
  const auto sandbox = Sandbox::open();
  ASSERT_TRUE(sandbox) << sandbox.error().message;
  const SelfCheck check = self_check(*set, *sandbox, 2, {});
  EXPECT_THAT(check.surprises, testing::IsEmpty());
  EXPECT_EQ(check.solutions_passed, 20);
  EXPECT_EQ(check.broken_passed, 0);
}

TEST(Tasks, BadFilesAreNamedWithLineAndField) {
  const auto dir = std::filesystem::temp_directory_path() / ("freelunch_tasks_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  const auto write = [&](const std::string& text) {
    std::ofstream(dir / "t.jsonl") << text;
    return load_tasks("file=" + (dir / "t.jsonl").string());
  };
  const std::string good =
      R"({"task_id":"a","prompt":"p","entry_point":"f","canonical_solution":"s","test":"t"})";
  EXPECT_EQ(write(good + "\n\n").value().tasks.size(), 1U);
  EXPECT_THAT(write(good + "\n{\n").error().message, HasSubstr("line 2"));
  EXPECT_THAT(write(R"({"task_id":"a","prompt":1})").error().message, HasSubstr("'prompt'"));
  EXPECT_THAT(write(good + "\n" + good).error().message, HasSubstr("twice"));
  EXPECT_THAT(write("").error().message, HasSubstr("no tasks"));
  std::ofstream(dir / "h.jsonl") << good;
  EXPECT_THAT(load_tasks("humaneval=" + (dir / "h.jsonl").string()).error().message, HasSubstr("SHA-256"));
  EXPECT_THAT(load_tasks("humaneval=" + (dir / "none").string()).error().message,
              HasSubstr("openai/human-eval"));
  EXPECT_FALSE(load_tasks("tasks"));
  std::filesystem::remove_all(dir);
}

Task add_task() {
  Task task;
  task.id = "t";
  task.entry_point = "add";
  task.prompt = "import math\n\n\ndef helper(x):\n    return x\n\n\ndef add(a, b):\n    \"\"\"Add.\"\"\"\n";
  return task;
}

TEST(Extract, ChatAnswersInManyShapes) {
  const Task task = add_task();
  const auto has = [&](const std::string& answer, const std::string& part) {
    const auto program = program_from_chat(task, answer);
    ASSERT_TRUE(program) << answer;
    EXPECT_THAT(*program, HasSubstr(part)) << answer;
    EXPECT_THAT(*program, HasSubstr("import math")) << answer;
  };
  has("Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", "return a + b");
  has("```\ndef add(a, b):\n    return a + b", "return a + b");
  has("  ```py\ndef add (a, b):\n    return 1\n  ```", "return 1");
  has("~~~python\ndef add(a, b):\n    return 2\n~~~", "return 2");
  has("<think>\n```python\ndef add(a, b):\n    return 0\n```\n</think>\n```python\ndef add(a, b):\n    "
      "return 3\n```",
      "return 3");
  has("```python\ndef add(a, b):\n    return 4\n```\nUse it:\n```python\nprint(add(1, 2))\n```", "return 4");
  has("def add(a, b):\n    return 5\n", "return 5");
  has("```python\n    return 6\n```", "return 6");
  has("    return 7\n", "return 7");
  has("```python\nadd = lambda a, b: 8\n```", "lambda");
  has("```python\ndef plus(a, b):\n    return 9\n```", "def plus");  // runs, and fails as "no function add"
}

TEST(Extract, NoCodeIsNoCode) {
  const Task task = add_task();
  for (const char* answer : {"", "I cannot do that.", "```python\nprint(1)\n```", "<think>\ndef add(a, b): 1",
                             "Use `add(a, b)`."}) {
    EXPECT_FALSE(program_from_chat(task, answer)) << answer;
  }
}

TEST(Extract, ACompletionEndsWhereTheFunctionEnds) {
  const Task task = add_task();
  EXPECT_EQ(program_from_completion(task, "    x = 1\n\n    return x\n\n\ndef other():\n    pass\n"),
            task.prompt + "    x = 1\n\n    return x\n\n\n");
  EXPECT_EQ(program_from_completion(task, "    return [\n        1,\n    ]\nprint(add(1, 2))\n"),
            task.prompt + "    return [\n        1,\n    ]\n");
}

TEST(Score, WilsonAndPassAtK) {
  EXPECT_NEAR(wilson95(19, 20).low, 0.7639, 1e-4);
  EXPECT_NEAR(wilson95(19, 20).high, 0.9911, 1e-4);
  EXPECT_EQ(wilson95(0, 20).low, 0);
  EXPECT_EQ(wilson95(20, 20).high, 1);
  EXPECT_DOUBLE_EQ(pass_at_k(10, 3, 1), 0.3);
  EXPECT_DOUBLE_EQ(pass_at_k(5, 0, 5), 0);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 2, 2), 1 - 1.0 / 6);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 3, 2), 1);
}

TEST(Score, KindsAreCountedApartAndTooManyFailuresMakeItInvalid) {
  std::vector<Answer> answers(100);
  for (size_t i = 0; i < answers.size(); ++i) {
    answers[i].task = std::to_string(i);
    answers[i].outcome = client::Outcome::ok;
    answers[i].extracted = true;
    answers[i].verdict = VerdictKind::passed;
  }
  answers[0].verdict = VerdictKind::wrong;
  answers[1].extracted = false;
  answers[2].outcome = client::Outcome::truncated;
  answers[3].outcome = client::Outcome::timeout;
  Score result = score(answers);
  EXPECT_EQ(result.solved, 96);
  EXPECT_EQ(result.wrong, 1);
  EXPECT_EQ(result.no_code, 1);
  EXPECT_EQ(result.truncated, 1);
  EXPECT_EQ(result.failed, 1);
  EXPECT_TRUE(result.valid());
  EXPECT_NEAR(result.pass_at_1, 0.96, 1e-12);
  answers[4].outcome = client::Outcome::error;
  EXPECT_FALSE(score(answers).valid());
}

TEST(Score, SeveralSamplesOfATaskAreNoIndependentDraws) {
  const std::vector<double> one_each{1, 1, 0, 1};
  EXPECT_NEAR(clustered_interval95(one_each, 4).low, wilson95(3, 4).low, 0.03);
  // Ten samples that always agree say no more than one.
  const Interval agree = clustered_interval95(one_each, 40);
  EXPECT_LT(agree.low, wilson95(30, 40).low);
  // Ten samples that differ within every task say as much as 40 draws.
  const std::vector<double> mixed(4, 0.75);
  EXPECT_GE(clustered_interval95(mixed, 40).low, wilson95(3, 4).low);
  EXPECT_EQ(clustered_interval95(std::vector<double>(20, 1.0), 20).high, 1);
  EXPECT_EQ(clustered_interval95({}, 0).high, 1);
}

TEST(Score, WhatTheSandboxCouldNotJudgeIsNoWrongAnswer) {
  std::vector<Answer> answers(2);
  for (Answer& answer : answers) {
    answer.task = "t";
    answer.outcome = client::Outcome::ok;
    answer.extracted = true;
  }
  answers[1].verdict = VerdictKind::harness;
  const Score result = score(answers);
  EXPECT_EQ(result.not_run, 1);
  EXPECT_EQ(result.harness, 1);
  EXPECT_EQ(result.wrong + result.other, 0);
  EXPECT_FALSE(result.valid());
}

TEST(Tasks, TheBuiltInOnesCheckThemselves) {
  const auto set = load_tasks("builtin");
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(set->tasks.size(), 20U);
  const auto sandbox = Sandbox::open();
  ASSERT_TRUE(sandbox) << sandbox.error().message;
  const SelfCheck check = self_check(*set, *sandbox, 2, {});
  EXPECT_THAT(check.surprises, testing::IsEmpty());
  EXPECT_TRUE(check.ok());
}

TEST(Answers, KeptAnswersAreRunLater) {
  const TaskSet set = load_tasks("builtin").value();
  std::vector<Answer> answers(3);
  answers[0].task = answers[1].task = set.tasks[0].id;
  answers[0].extracted = answers[1].extracted = true;
  answers[0].program = set.tasks[0].prompt + set.tasks[0].solution;
  answers[1].program = set.tasks[0].prompt + "    return None\n";
  answers[2].task = "of another set";
  answers[2].extracted = true;
  const auto sandbox = Sandbox::open();
  ASSERT_TRUE(sandbox) << sandbox.error().message;
  run_answers(set, answers, *sandbox, 2, nullptr, {});
  EXPECT_EQ(answers[0].verdict, VerdictKind::passed);
  EXPECT_NE(answers[1].verdict, VerdictKind::passed);
  EXPECT_EQ(answers[2].verdict, VerdictKind::not_run);
}

TEST(Answers, SurviveTheirJsonLine) {
  Answer answer;
  answer.task = "HumanEval/1";
  answer.sample = 2;
  answer.outcome = client::Outcome::truncated;
  answer.text = "line\n\"quoted\" \xff";
  answer.verdict = VerdictKind::output_limit;
  const std::string line = to_json_line(answer);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const Answer back = answer_from_json(line).value();
  EXPECT_EQ(to_json_line(back), line);
  EXPECT_EQ(back.verdict, VerdictKind::output_limit);
  EXPECT_FALSE(answer_from_json("{}"));
}

}  // namespace
}  // namespace fl::eval

// Chats with long filled windows at the default number of spare rows: what a follow-up has to read again.
#include <gtest/gtest.h>

#include "tests/engine/harness.h"

namespace fl::engine {
namespace {

using test::FakeModel;
using test::FakeRunner;
using test::Recorder;

constexpr int32_t kVocab = 61;
constexpr int32_t kContext = 32768;
constexpr int32_t kWindow = 24000;  ///< tokens of a chat's first prompt
constexpr int32_t kHeader = 3;      ///< of the answer: the next turn's prompt has others in its place
constexpr int32_t kAnswer = 200;
/// A checkpoint lies on the grid, at least four tokens before the prompt's end.
constexpr int32_t kGrid = 64 + 4;

std::vector<int32_t> text(int n, int salt) {
  return test::hashed_text(n, salt, kVocab);
}

void append(std::vector<int32_t>& tokens, const std::vector<int32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

struct Turn {
  std::vector<int32_t> prompt;
  int32_t max_tokens = kAnswer;
};

class LongChats : public ::testing::Test {
 protected:
  void make(int32_t n_slots) {
    EngineOptions options;  // the default of eight spare rows
    options.n_slots = n_slots;
    options.n_ctx_slot = kContext;
    model::RunnerOptions wishes = runner_options(options, {});
    wishes.n_blocks = 4 * kContext / model::kBlockTokens;
    loop_ = std::make_unique<Loop>(std::make_unique<FakeRunner>(model_, wishes, 1, 0), options);
  }
  /// Runs requests at once (n_slots at most) or one after the other; the tokens that each computed of its
  /// prompt.
  std::vector<int32_t> run(const std::vector<Turn>& turns, bool together) {
    std::vector<int32_t> computed;
    if (!together) {
      for (const Turn& turn : turns) {
        computed.push_back(run(turn.prompt, turn.max_tokens));
      }
      return computed;
    }
    std::vector<std::shared_ptr<Recorder>> sinks;
    for (const Turn& turn : turns) {
      Request request;
      request.prompt = turn.prompt;
      request.max_tokens = turn.max_tokens;
      request.sampling.seed = 3;
      sinks.push_back(std::make_shared<Recorder>());
      request.sink = sinks.back();
      EXPECT_TRUE(loop_->start(test::ticket(++id_, request)));
    }
    while (!loop_->idle()) {
      loop_->round();
    }
    answers_.clear();
    for (const auto& sink : sinks) {
      EXPECT_EQ(sink->done.finish, Finish::length);
      computed.push_back(sink->done.timings.prompt_n);
      answers_.push_back(sink->tokens);
    }
    return computed;
  }
  int32_t run(const std::vector<int32_t>& prompt, int32_t max_tokens = kAnswer) {
    return run({Turn{prompt, max_tokens}}, true).front();
  }

  /// Four chats, eight turns each: the thought that each answer begins with is left out of the next prompt.
  void dropped_thoughts(bool together);
  /// Four windows are filled, then asked eight questions each that know nothing of one another.
  void questions(bool together, int32_t n_window = kWindow, int32_t n_question = 400);

  FakeModel model_{kVocab};
  std::unique_ptr<Loop> loop_;
  std::vector<std::vector<int32_t>> answers_;
  RequestId id_ = 0;
};

void LongChats::dropped_thoughts(bool together) {
  std::vector<std::vector<int32_t>> chats;
  for (int c = 0; c < 4; ++c) {
    chats.push_back(text(kWindow + 100 * c, c + 1));
  }
  for (int turn = 0; turn < 8; ++turn) {
    std::vector<Turn> turns;
    std::vector<int32_t> fresh;  // tokens that no earlier prompt had
    for (int c = 0; c < 4; ++c) {
      std::vector<int32_t>& chat = chats[c];
      const auto before = static_cast<int32_t>(chat.size());
      if (turn > 0) {
        chat.resize(chat.size() - kHeader);
        append(chat, text(90, 1000 + 10 * turn + c));  // the answer without its thought
        append(chat, text(150, 2000 + 10 * turn + c));
        append(chat, text(kHeader, 5));
      }
      turns.push_back({chat});
      fresh.push_back(turn == 0 ? before : static_cast<int32_t>(chat.size()) - before + kHeader);
    }
    const std::vector<int32_t> computed = run(turns, together);
    for (int c = 0; c < 4; ++c) {
      EXPECT_LE(computed[c], fresh[c] + kGrid) << "chat " << c << ", turn " << turn;
    }
  }
}

TEST_F(LongChats, FollowUpsThatDropTheThoughtReadOnlyWhatIsNew) {
  make(4);
  dropped_thoughts(false);
}

TEST_F(LongChats, FollowUpsThatComeTogetherReadOnlyWhatIsNew) {
  make(4);
  dropped_thoughts(true);
}

TEST_F(LongChats, FollowUpsInOneSlotReadOnlyWhatIsNew) {
  make(1);
  dropped_thoughts(false);
}

TEST_F(LongChats, FollowUpsOfTheWholeAnswerReadOnlyWhatIsNew) {
  make(4);
  std::vector<std::vector<int32_t>> chats;
  for (int c = 0; c < 4; ++c) {
    chats.push_back(text(kWindow + 100 * c, c + 1));
  }
  for (int turn = 0; turn < 8; ++turn) {
    for (int c = 0; c < 4; ++c) {
      const int32_t computed = run(chats[c]);
      if (turn > 0) {
        EXPECT_EQ(computed, 151) << "chat " << c << ", turn "
                                 << turn;  // the answer's last token was never fed
      }
      append(chats[c], answers_.front());
      append(chats[c], text(150, 2000 + 10 * turn + c));
    }
  }
}

void LongChats::questions(bool together, int32_t n_window, int32_t n_question) {
  std::vector<std::vector<int32_t>> windows;
  for (int c = 0; c < 4; ++c) {
    windows.push_back(text(n_window + 100 * c, c + 1));
    auto fill = windows.back();
    append(fill, text(kHeader, 5));
    EXPECT_EQ(run(fill, 1), static_cast<int32_t>(fill.size()));
  }
  for (int round = 0; round < 8; ++round) {
    std::vector<Turn> turns;
    for (int c = 0; c < 4; ++c) {
      auto question = windows[c];
      append(question, text(n_question, 100 + 10 * round + c));
      append(question, text(kHeader, 5));
      turns.push_back({question});
    }
    const std::vector<int32_t> computed = run(turns, together);
    for (int c = 0; c < 4; ++c) {
      EXPECT_LE(computed[c], n_question + kHeader + kGrid) << "window " << c << ", question " << round;
    }
  }
}

TEST_F(LongChats, QuestionsAboutFilledWindowsReadOnlyTheQuestion) {
  make(4);
  questions(false);
}

TEST_F(LongChats, QuestionsThatComeTogetherReadOnlyTheQuestion) {
  make(4);
  questions(true);
}

// A window that is not much larger than its questions: the second one shows that it is shared, and until then
// its state competes with those at the ends of all first questions.
TEST_F(LongChats, QuestionsAboutSmallWindowsReadOnlyTheQuestion) {
  make(4);
  questions(false, 1200, 200);
}

TEST_F(LongChats, QuestionsAboutSmallWindowsThatComeTogetherReadOnlyTheQuestion) {
  make(4);
  questions(true, 1200, 200);
}

TEST_F(LongChats, ManySmallRequestsDoNotPushALongChatOut) {
  make(4);
  auto chat = text(kWindow, 1);
  run(chat);
  for (int i = 0; i < 60; ++i) {
    run(text(300, 100 + i), 8);
  }
  chat.resize(chat.size() - kHeader);
  append(chat, text(100, 7));
  EXPECT_LE(run(chat), 100 + kGrid);
}

TEST_F(LongChats, ALongChatThatNobodyGoesOnWithMakesRoom) {
  make(1);
  run(text(kWindow, 1));
  const auto held = [&](int salt) { return loop_->prefix().find(text(kWindow, salt), 0).n_tokens; };
  EXPECT_GT(held(1), kWindow - 100);
  // Nine chats of a third of its length come and go on, twice as many as the rows hold with their tails.
  for (int round = 0; round < 12; ++round) {
    for (int c = 0; c < 9; ++c) {
      run(text(kWindow / 3 + 70 * round, 10 + c), 8);
    }
  }
  EXPECT_LT(held(1), kWindow - 100);
}

TEST_F(LongChats, AnEditOfTheTurnBeforeDoesNotReadTheWindow) {
  make(4);
  std::vector<std::vector<int32_t>> chats;
  for (int c = 0; c < 4; ++c) {
    chats.push_back(text(kWindow + 100 * c, c + 1));
    run(chats[c]);
  }
  for (int turn = 1; turn < 4; ++turn) {
    for (int c = 0; c < 4; ++c) {
      const auto before = chats[c];
      append(chats[c], text(300, 50 + 10 * turn + c));
      run(chats[c]);
      if (c == turn) {
        chats[c] = before;
        append(chats[c], text(300, 500 + c));
        EXPECT_LE(run(chats[c]), 300 * (turn + 1) + kGrid) << "chat " << c;
      }
    }
  }
}

}  // namespace
}  // namespace fl::engine

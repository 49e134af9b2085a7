#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace fl::engine {
namespace {

struct World {
  KvCache blocks{16};
  StateCache rows{2, 6};
  PrefixCache cache{blocks, rows};

  /// Publishes the full blocks of `tokens` as one sequence that ends at once; a checkpoint after the last if
  /// `state`.
  int32_t add(const std::vector<int32_t>& tokens, bool state, uint64_t salt = 0, bool exact = true,
              PrefixCache::Claim claim = {Worth::latest, 1}) {
    std::vector<int32_t> path;
    int32_t parent = PrefixCache::kRoot;
    for (size_t at = 0; at + 64 <= tokens.size(); at += 64) {
      const auto part = std::span(tokens).subspan(at, 64);
      int32_t node = cache.child(parent, part, salt);
      if (node == PrefixCache::kNone) {
        while (blocks.free() == 0) {
          EXPECT_TRUE(cache.evict_block());
        }
        const int32_t block = blocks.allocate();
        node = cache.insert(parent, part, block, exact, salt);
        blocks.release(block);
      }
      cache.pin(node);
      path.push_back(node);
      parent = node;
    }
    if (state) {
      cache.set_checkpoint(parent, rows.allocate_spare(), exact, claim);
    }
    cache.unpin(path);
    return parent;
  }
  int32_t park(int32_t node, const std::vector<int32_t>& tail, uint64_t salt = 0, uint64_t conversation = 1) {
    return cache.park(node, tail, blocks.allocate(), rows.allocate_spare(), salt,
                      PrefixCache::Claim::of_answer(conversation, Answers::unknown));
  }
  /// Frees the spare row of least priority but for `left_out`.
  bool evict_row(int32_t left_out = -1) {
    const int32_t row = cache.least_row(true, left_out);
    if (row >= 0) {
      cache.evict_row(row);
    }
    return row >= 0;
  }
  /// Evicts all spare rows; of each of `nodes` (in this order) the place in the queue at which it went.
  std::vector<int> order(const std::vector<int32_t>& nodes) {
    std::vector<int> places(nodes.size(), -1);
    for (int n = 0; evict_row(); ++n) {
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (places[i] < 0 && cache.checkpoint(nodes[i]) < 0) {
          places[i] = n;
        }
      }
    }
    return places;
  }
  ~World() {
    cache.clear();
    EXPECT_EQ(blocks.free(), blocks.total());
    EXPECT_EQ(rows.free(), rows.total());
  }
};

std::vector<int32_t> text(int n, int from = 0) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(PrefixCache, NeedsBothBlocksAndState) {
  World w;
  w.add(text(192), false);
  PrefixCache::Match m = w.cache.find(text(192), 0);
  EXPECT_EQ(m.n_tokens, 0);
  EXPECT_EQ(m.n_blocked, 192);
  w.add(text(128), true);
  m = w.cache.find(text(192), 0);
  EXPECT_EQ(m.n_tokens, 128);
  EXPECT_TRUE(m.exact);
  // At least one token is left to compute.
  EXPECT_EQ(w.cache.find(text(128), 0).n_tokens, 0);
  EXPECT_EQ(w.cache.find(text(129), 0).n_tokens, 128);
  EXPECT_EQ(w.cache.find(text(127), 0).n_tokens, 0);
  // Another token anywhere before it: no hit.
  for (const int at : {0, 63, 64, 127}) {
    std::vector<int32_t> other = text(192);
    other[at] = 999;
    EXPECT_LT(w.cache.find(other, 0).n_tokens, 128);
  }
}

TEST(PrefixCache, SaltsDoNotMix) {
  World w;
  w.add(text(128), true, 1);
  w.park(PrefixCache::kRoot, text(30), 1);
  EXPECT_EQ(w.cache.find(text(130), 0).n_tokens, 0);
  EXPECT_EQ(w.cache.find(text(40), 0).n_tokens, 0);
  EXPECT_EQ(w.cache.find(text(130), 2).n_tokens, 0);
  EXPECT_EQ(w.cache.find(text(130), 1).n_tokens, 128);
  EXPECT_EQ(w.cache.find(text(40), 1).n_tokens, 30);
  EXPECT_EQ(w.cache.erase(text(128), 0), 0);
  EXPECT_EQ(w.cache.erase(text(128), 1), 128);
}

TEST(PrefixCache, TailsContinueOnlyTheirOwnPath) {
  World w;
  const int32_t a = w.add(text(64), false);
  const int32_t b = w.add(text(64, 500), false);
  const int32_t tail = w.park(a, text(20, 64));
  PrefixCache::Match m = w.cache.find(text(100), 0);
  EXPECT_EQ(m.n_tokens, 84);
  EXPECT_EQ(m.tail, tail);
  EXPECT_FALSE(m.exact);
  EXPECT_EQ(w.cache.find(text(64, 500) + text(40, 64), 0).n_tokens, 0);
  EXPECT_EQ(w.cache.find(text(84), 0).n_tokens, 0);  // nothing would be left to compute
  EXPECT_EQ(w.cache.find(text(85), 0).n_tokens, 84);
  const PrefixCache::Parked parked = w.cache.take_tail(tail);
  EXPECT_EQ(w.cache.find(text(100), 0).n_tokens, 0);
  w.blocks.release(parked.block);
  w.rows.release(parked.row);
  (void)b;
}

TEST(PrefixCache, TheLongestWins) {
  World w;
  w.add(text(64), true);
  const int32_t deep = w.add(text(128), true);
  w.park(deep, text(10, 128));
  EXPECT_EQ(w.cache.find(text(200), 0).n_tokens, 138);
  EXPECT_EQ(w.cache.find(text(138), 0).n_tokens, 128);
  EXPECT_EQ(w.cache.find(text(128), 0).n_tokens, 64);
}

TEST(PrefixCache, GivesBackTheLeastRecentlyUsedLeafFirst) {
  World w;
  w.add(text(64 * 3), true);
  w.add(text(64 * 2, 1000), true);
  EXPECT_EQ(w.cache.n_nodes(), 5);
  ASSERT_TRUE(w.cache.evict_block());  // the last block of the older path, with its state
  EXPECT_EQ(w.cache.find(text(200), 0).n_blocked, 128);
  EXPECT_EQ(w.cache.n_checkpoints(), 1);
  w.add(text(64), false);  // touch
  ASSERT_TRUE(w.cache.evict_block());
  EXPECT_EQ(w.cache.find(text(200), 0).n_blocked, 64);  // its leaf was not touched
  ASSERT_TRUE(w.cache.evict_block());
  EXPECT_EQ(w.cache.find(text(200, 1000), 0).n_blocked, 64);
  EXPECT_EQ(w.cache.find(text(200), 0).n_blocked, 64);
}

TEST(PrefixCache, PinnedNodesStay) {
  World w;
  const int32_t node = w.add(text(128), false);
  std::vector<int32_t> path;
  std::vector<int32_t> blocks;
  w.cache.acquire(node, path, blocks);
  EXPECT_EQ(path.size(), 2U);
  EXPECT_EQ(w.blocks.refs(blocks[0]), 2);
  EXPECT_FALSE(w.cache.evict_block());
  w.cache.unpin(path);
  EXPECT_TRUE(w.cache.evict_block());
  for (const int32_t block : blocks) {
    w.blocks.release(block);
  }
}

TEST(PrefixCache, RowsOfEqualWorthGoByLastUse) {
  World w;
  const int32_t a = w.add(text(64), true, 0, true, {Worth::latest, 1});
  const int32_t b = w.add(text(64, 200), true, 0, true, {Worth::latest, 2});
  w.park(PrefixCache::kRoot, text(5, 400), 0, 3);
  w.cache.join_checkpoint(a, {Worth::latest, 1});
  ASSERT_TRUE(w.evict_row());  // the tail: five tokens
  EXPECT_EQ(w.cache.find(text(6, 400), 0).n_tokens, 0);
  ASSERT_TRUE(w.evict_row());
  EXPECT_EQ(w.cache.checkpoint(b), -1);
  EXPECT_FALSE(w.evict_row(w.cache.checkpoint(a)));
  ASSERT_TRUE(w.evict_row());
  EXPECT_FALSE(w.evict_row());
}

TEST(PrefixCache, RowsGoByTheTokensThatTheySave) {
  World w;
  const int32_t small = w.add(text(64), true, 0, true, {Worth::latest, 1});
  const int32_t large = w.add(text(256, 300), true, 0, true, {Worth::latest, 2});
  const int32_t near = w.add(text(256, 300) + text(128, 900), true, 0, true, {Worth::latest, 3});
  w.cache.join_checkpoint(small, {Worth::latest, 1});
  EXPECT_EQ(w.order({small, near, large}), (std::vector<int>{0, 1, 2}));
}

TEST(PrefixCache, AStateIsWorthMoreOnceTheOneBeforeItIsGone) {
  World w;
  const int32_t before = w.add(text(128), true, 0, true, {Worth::passing, 1});
  const int32_t last = w.add(text(192), true, 0, true, {Worth::latest, 1});
  const uint64_t of_last = w.cache.priority(w.cache.checkpoint(last));
  EXPECT_EQ(of_last, w.cache.priority_at(last, Worth::latest));
  ASSERT_TRUE(w.evict_row());
  EXPECT_EQ(w.cache.checkpoint(before), -1);
  EXPECT_EQ(w.cache.priority(w.cache.checkpoint(last)), 3 * of_last);
}

TEST(PrefixCache, ALongerStateOfTheSameConversationTakesThePlaceOfTheOneBefore) {
  World w;
  const int32_t other = w.add(text(64, 700), true, 0, true, {Worth::latest, 2});
  const int32_t first = w.add(text(128), true, 0, true, {Worth::latest, 1});
  w.cache.step_down(1);
  const int32_t second = w.add(text(192), true, 0, true, {Worth::latest, 1});
  w.cache.step_down(1);
  const int32_t third = w.add(text(256), true, 0, true, {Worth::latest, 1});
  EXPECT_EQ(w.order({second, first, other, third}), (std::vector<int>{1, 0, 2, 3}));
}

TEST(PrefixCache, WhatAnotherRequestComesBackToIsShared) {
  World w;
  const int32_t system = w.add(text(128), true, 0, true, {Worth::passing, 1});
  const int32_t chat = w.add(text(192), true, 0, true, {Worth::latest, 1});
  EXPECT_EQ(w.cache.resume(w.cache.checkpoint(chat), 9).conversation, 1U);  // its own next turn
  EXPECT_EQ(w.cache.resume(w.cache.checkpoint(system), 9).conversation,
            9U);  // another conversation begins here
  w.cache.step_down(1);
  EXPECT_EQ(w.order({chat, system}), (std::vector<int>{0, 1}));
}

TEST(PrefixCache, AnAnswerThatTheNextTurnDropsIsPassed) {
  World w;
  const int32_t prompt = w.add(text(64), true, 0, true, PrefixCache::Claim::of_prompt(1, Answers::unknown));
  const int32_t answer = w.add(text(256), true, 0, false, PrefixCache::Claim::of_answer(1, Answers::unknown));
  const int32_t other = w.add(text(128, 700), true, 0, true, {Worth::latest, 2});
  const PrefixCache::Resumed talk = w.cache.resume(w.cache.checkpoint(prompt), 9);
  EXPECT_EQ(talk.conversation, 1U);
  EXPECT_EQ(talk.answers, Answers::dropped);
  EXPECT_EQ(PrefixCache::Claim::of_answer(1, talk.answers).worth, Worth::second);
  EXPECT_EQ(PrefixCache::Claim::of_prompt(1, talk.answers).worth, Worth::latest);
  EXPECT_EQ(w.order({answer, prompt, other}), (std::vector<int>{0, 1, 2}));
}

TEST(PrefixCache, AnAnswerThatTheNextTurnKeepsIsTheConversationsPlace) {
  World w;
  w.add(text(64), true, 0, true, PrefixCache::Claim::of_prompt(1, Answers::dropped));
  const int32_t answer = w.add(text(256), true, 0, false, PrefixCache::Claim::of_answer(1, Answers::dropped));
  const PrefixCache::Resumed talk = w.cache.resume(w.cache.checkpoint(answer), 9);
  EXPECT_EQ(talk.conversation, 1U);
  EXPECT_EQ(talk.answers, Answers::kept);
  EXPECT_EQ(PrefixCache::Claim::of_answer(1, talk.answers).worth, Worth::latest);
  EXPECT_EQ(PrefixCache::Claim::of_prompt(1, talk.answers).worth, Worth::second);
}

TEST(PrefixCache, AStateThatNobodyUsesIsTheLeastAtLast) {
  World w;
  const int32_t large = w.add(text(512), true, 0, true, {Worth::latest, 1});
  int n = 0;
  for (; w.cache.checkpoint(large) >= 0 && n < 100; ++n) {
    while (w.rows.free() > 2) {  // 2 step rows
      w.add(text(64, 1000 + 64 * n), true, 0, true, {Worth::latest, 2U + n});
      n += 1;
    }
    ASSERT_TRUE(w.evict_row());
  }
  EXPECT_GT(n, 8);
  EXPECT_LT(n, 100);
}

TEST(PrefixCache, StatesMoveFromStepRowsToSpareOnes) {
  World w;
  const int32_t node = w.add(text(64), false);
  const int32_t ended = w.rows.allocate_step();
  w.cache.set_checkpoint(node, ended, true, {Worth::latest, 1});
  const int32_t parked = w.rows.allocate_step();
  w.cache.park(node, text(5, 64), w.blocks.allocate(), parked, 0,
               PrefixCache::Claim::of_answer(1, Answers::unknown));
  EXPECT_EQ(w.cache.least_row(true, -1), -1);
  EXPECT_EQ(w.cache.least_row(false, -1), parked);
  EXPECT_EQ(w.cache.least_row(false, parked), ended);
  EXPECT_LT(w.cache.priority(parked), w.cache.priority(ended));
  EXPECT_EQ(w.rows.free_step(), 0);
  for (const int32_t row : {ended, parked}) {
    const uint64_t priority = w.cache.priority(row);
    const int32_t spare = w.rows.allocate_spare();
    ASSERT_TRUE(w.rows.is_spare(spare));
    w.cache.move_row(row, spare);
    EXPECT_EQ(w.cache.priority(spare), priority);
  }
  EXPECT_EQ(w.rows.free_step(), 2);
  EXPECT_EQ(w.cache.least_row(false, -1), -1);
  const PrefixCache::Match match = w.cache.find(text(70), 0);
  EXPECT_EQ(match.n_tokens, 69);
  EXPECT_EQ(w.cache.least_row(true, -1), w.cache.tail_row(match.tail));
  EXPECT_TRUE(w.rows.is_spare(w.cache.tail_row(match.tail)));
  EXPECT_EQ(w.cache.find(text(69), 0).n_tokens, 64);
}

TEST(PrefixCache, AnotherBlockTakesTheStatesBelowWithIt) {
  World w;
  const int32_t a = w.add(text(64), true, 0, false);
  const int32_t b = w.add(text(128), true, 0, false);
  w.park(b, text(3, 128));
  const int32_t other = w.add(text(64, 700), true);
  const int32_t block = w.blocks.allocate();
  w.cache.replace_block(a, block, true);
  w.blocks.release(block);
  EXPECT_EQ(w.cache.block(a), block);
  EXPECT_EQ(w.cache.checkpoint(a), -1);
  EXPECT_EQ(w.cache.checkpoint(b), -1);
  EXPECT_EQ(w.cache.find(text(140), 0).n_tokens, 0);
  EXPECT_GE(w.cache.checkpoint(other), 0);
}

TEST(PrefixCache, ErasesWhatNobodyElseNeeds) {
  World w;
  w.add(text(128), true);
  const int32_t mine = w.add(text(192), true);
  w.add(text(128) + text(64, 900), true);
  w.park(mine, text(7, 192));
  EXPECT_EQ(w.cache.erase(text(199), 0), 71);
  EXPECT_EQ(w.cache.find(text(199), 0).n_tokens, 128);
  EXPECT_EQ(w.cache.find(text(128) + text(65, 900), 0).n_tokens, 192);
}

}  // namespace
}  // namespace fl::engine
